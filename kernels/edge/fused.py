"""The edge pyramid in one pass over the map, forward and backward, in Triton.

A cell of E3 is 8 x 8 pixels. A thread owns one such block: it walks down its ten rows (one above, one below), each a
load of eight pixels and one neighbour on either side, keeps the smoothed and the differenced row of the last three in
registers, and so has the squared gradient for ten operations a pixel. Maxima of 4, 16 and 64 pixels fall within the
thread, and roots are taken of maxima only. With N pixels of b bytes the pass moves N b (1 + 1/4 + 1/16 + 1/64) =
1.33 N b: for (16, 64, 160, 160) in float16 70 MB, 16 us at 4.3 TB/s. PyTorch's operators move about 15 N b.

Where a gradient will be asked for, the pass also writes which pixel of each cell won: 2 bits a cell, 21 cells, one
64-bit word a block (N / 8 bytes). The backward pass reads the map, the words and the three gradients, and writes the
map's gradient: 2.33 N b + N / 8. A thread computes the gradient with respect to gx and gy on the pixels of its block
and one ring around them (1.56 times the work, but nothing is exchanged or added up in memory, so runs agree bit by
bit), then applies the transposed stencil: the stencil itself, with signs mirrored where borders were replicated.
Losing pixels have no gradient; of equal pixels the first, row by row, wins, as in PyTorch.
"""
# ruff: noqa: RUF005 (Triton knows no starred tuples.)
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

# Throughout: a place is (image, channel, block row h, block column w) of N blocks, a size (channels, rows, columns) of
# the map. WIDE: rows are multiples of 8 pixels, in NCHW, and are read and written whole. LAST: channels_last.


@triton.jit
def _places(items, size, N: tl.constexpr, LAST: tl.constexpr):
    """The numbers of a program's blocks in the map's own order of memory, which of them are there, their places."""
    item = tl.program_id(0) * N + tl.arange(0, N)
    keep = item < items
    item = tl.minimum(item, items - 1)
    channels, rows, columns = size
    down, along = tl.cdiv(rows, 8), tl.cdiv(columns, 8)
    if LAST:
        block, channel = item // channels, item % channels
        image = block // (down * along)
    else:
        block, channel = item, item // (down * along) % channels
        image = item // (down * along) // channels
    return item, keep, (image, channel, block // along % down, block % along)


@triton.jit
def _row(p, place, size, row, LEVEL: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr):
    """Where a row of a map of some level begins, how many columns it has, and the step between them."""
    rows, columns = tl.cdiv(size[1], 1 << LEVEL), tl.cdiv(size[2], 1 << LEVEL)
    row = tl.minimum(tl.maximum(row, 0), rows - 1)
    if LAST:
        return p + ((place[0].to(tl.int64) * rows + row) * columns * size[0] + place[1]), columns, size[0]
    else:
        row = (place[0].to(tl.int64) * size[0] + place[1]) * rows + row
        # The multiplication shows the compiler that a whole row can be read at once.
        width = tl.cdiv(size[2], 8) * (8 >> LEVEL) if WIDE else columns
        return p + row * width, columns, 1


@triton.jit
def _apart(wide, N: tl.constexpr, COUNT: tl.constexpr):
    """(N, COUNT) as columns, in order. One thread holds them all, so nothing moves."""
    if COUNT == 1:
        return (tl.reshape(wide, (N,)),)
    else:
        even, odd = tl.split(tl.reshape(wide, (N, COUNT // 2, 2)))
        even = _apart(even, N, COUNT // 2)
        odd = _apart(odd, N, COUNT // 2)
        line = ()
        for j in tl.static_range(COUNT // 2):
            line = line + (even[j], odd[j])
        return line


@triton.jit
def _together(line, N: tl.constexpr, COUNT: tl.constexpr):
    """The inverse of `_apart`."""
    if COUNT == 1:
        return tl.reshape(line[0], (N, 1))
    else:
        even = ()
        odd = ()
        for j in tl.static_range(COUNT // 2):
            even = even + (line[2 * j],)
            odd = odd + (line[2 * j + 1],)
        even = _together(even, N, COUNT // 2)
        odd = _together(odd, N, COUNT // 2)
        return tl.reshape(tl.join(even, odd), (N, COUNT))


@triton.jit
def _load(
    p, place, size, row, N: tl.constexpr, LEVEL: tl.constexpr, RING: tl.constexpr, WIDE: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """A row of a block, float32, with RING columns more on either side; beyond the map its nearest pixels."""
    COUNT: tl.constexpr = 8 >> LEVEL
    p, columns, step = _row(p, place, size, row, LEVEL, WIDE, LAST)
    first = place[3] * COUNT
    line = ()
    for j in tl.static_range(RING):
        line = line + (tl.load(p + tl.maximum(first + (j - RING), 0) * step).to(tl.float32),)
    if WIDE:
        wide = tl.load((p + first)[:, None] + tl.arange(0, COUNT)[None, :])
        line = line + _apart(wide.to(tl.float32), N, COUNT)
    else:
        for j in tl.static_range(COUNT):
            line = line + (tl.load(p + tl.minimum(first + j, columns - 1) * step).to(tl.float32),)
    for j in tl.static_range(RING):
        line = line + (tl.load(p + tl.minimum(first + (COUNT + j), columns - 1) * step).to(tl.float32),)
    return line


@triton.jit
def _store(
    p, line, place, size, row, keep, N: tl.constexpr, LEVEL: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr
):
    """Stores a row of a block, as far as the map goes."""
    COUNT: tl.constexpr = 8 >> LEVEL
    p, columns, step = _row(p, place, size, row, LEVEL, WIDE, LAST)
    keep = keep & (row < tl.cdiv(size[1], 1 << LEVEL))
    first = place[3] * COUNT
    if WIDE:
        cast = ()
        for j in tl.static_range(COUNT):
            cast = cast + (line[j].to(p.dtype.element_ty),)
        tl.store((p + first)[:, None] + tl.arange(0, COUNT)[None, :], _together(cast, N, COUNT), mask=keep[:, None])
    else:
        for j in tl.static_range(COUNT):
            tl.store(p + (first + j) * step, line[j].to(p.dtype.element_ty), mask=keep & (first + j < columns))


@triton.jit
def _filtered(x, place, size, row, N: tl.constexpr, RING: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr):
    """[-1 0 1] and [1 2 1] along a row of pixels of the block, and of RING - 1 columns on either side."""
    line = _load(x, place, size, row, N, 0, RING, WIDE, LAST)
    differences = ()
    smooth = ()
    for j in tl.static_range(6 + 2 * RING):
        differences = differences + (line[j + 2] - line[j],)
        smooth = smooth + (line[j] + 2 * line[j + 1] + line[j + 2],)
    return differences, smooth


@triton.jit
def _squares(above, here, below, place, size, row, WIDE: tl.constexpr, FULL: tl.constexpr):
    """(8 gx)^2 + (8 gy)^2 along a row of pixels; beyond the map -1, which loses to any pixel."""
    squares = ()
    for j in tl.static_range(8):
        gx = above[0][j] + 2 * here[0][j] + below[0][j]
        gy = below[1][j] - above[1][j]
        square = gx * gx + gy * gy
        if not FULL:
            square = tl.where(row < size[1], square, -1.0)
        if not WIDE:
            square = tl.where(8 * place[3] + j < size[2], square, -1.0)
        squares = squares + (square,)
    return squares


@triton.jit
def _pooled(upper, lower, COUNT: tl.constexpr):
    """Maxima of COUNT cells of two rows, NaN where there is one; their numbers, 2 bits a cell, the first of equals."""
    largest = ()
    numbers = 0
    for j in tl.static_range(COUNT):
        top = upper[2 * j]
        number = tl.zeros_like(top).to(tl.int32)
        for k in tl.static_range(1, 4):
            other = (upper if k < 2 else lower)[2 * j + k % 2]
            number = tl.where(other > top, k, number)
            top = tl.maximum(top, other, propagate_nan=tl.PropagateNan.ALL)
        largest = largest + (top,)
        numbers |= number << (2 * j)
    return largest, numbers


@triton.jit
def _roots(squares, eps, COUNT: tl.constexpr):
    roots = ()
    for j in tl.static_range(COUNT):
        roots = roots + (tl.sqrt(squares[j] * (1 / 64) + eps),)
    return roots


@triton.jit
def pyramid_kernel(
    x, e1, e2, e3, words, eps, items, channels, rows, columns,
    N: tl.constexpr, LEVELS: tl.constexpr, WORDS: tl.constexpr, WIDE: tl.constexpr, FULL: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Writes the maps of up to three levels and, if asked, the words that say who won."""
    size = (channels, rows, columns)
    item, keep, place = _places(items, size, N, LAST)
    h = place[2]
    low = tl.zeros((N,), tl.int32)  # The winners of the 16 cells of E1.
    high = tl.zeros((N,), tl.int32)  # Those of the 4 cells of E2, and of the cell of E3.
    above = _filtered(x, place, size, 8 * h - 1, N, 1, WIDE, LAST)
    here = _filtered(x, place, size, 8 * h, N, 1, WIDE, LAST)
    for i in tl.static_range(4):
        below = _filtered(x, place, size, 8 * h + (2 * i + 1), N, 1, WIDE, LAST)
        upper = _squares(above, here, below, place, size, 8 * h + 2 * i, WIDE, FULL)
        above = here
        here = below
        below = _filtered(x, place, size, 8 * h + (2 * i + 2), N, 1, WIDE, LAST)
        lower = _squares(above, here, below, place, size, 8 * h + (2 * i + 1), WIDE, FULL)
        above = here
        here = below
        cells, numbers = _pooled(upper, lower, 4)
        low |= numbers << (8 * i)
        _store(e1, _roots(cells, eps, 4), place, size, 4 * h + i, keep, N, 1, WIDE, LAST)
        if i % 2 == 0:
            cells_above = cells
        elif LEVELS > 1:
            cells_2, numbers = _pooled(cells_above, cells, 2)
            high |= numbers << (2 * i - 2)
            _store(e2, _roots(cells_2, eps, 2), place, size, 2 * h + i // 2, keep, N, 2, WIDE, LAST)
            if i == 1:
                cells_2_above = cells_2
            elif LEVELS > 2:
                cells_3, numbers = _pooled(cells_2_above, cells_2, 1)
                high |= numbers << 8
                _store(e3, _roots(cells_3, eps, 1), place, size, h, keep, N, 3, WIDE, LAST)
    if WORDS:
        tl.store(words + item, (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF), mask=keep)


@triton.jit
def _won(word, bit, part):
    """Whether the winner that is noted from a bit of a word on is this part of its cell."""
    return ((word >> bit) & 3) == part


@triton.jit
def _gains(
    words, g1, g2, g3, item, place, size, cell,
    N: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """What the winners of a row of cells get from all levels, for the block's four cells and one on either side.

    Rows of cells are counted from the block's first; -1 and 4 are its neighbours'. Also the winners' numbers, of the
    blocks on the left, here and on the right.
    """
    down, along = tl.cdiv(size[1], 8), tl.cdiv(size[2], 8)
    step = size[0] if LAST else 1
    h, w = place[2], place[3]
    block = tl.minimum(tl.maximum(h + ((cell + 4) // 4 - 1), 0), down - 1)
    at = words + (item + (block - h) * along * step)
    left = tl.load(at - tl.where(w > 0, step, 0))
    here = tl.load(at)
    right = tl.load(at + tl.where(w < along - 1, step, 0))
    low = (left.to(tl.int32), here.to(tl.int32), right.to(tl.int32))
    high = ((left >> 32).to(tl.int32), (here >> 32).to(tl.int32), (right >> 32).to(tl.int32))
    # Which of its block's rows this is.
    inner = (cell + 4) % 4
    gain_1 = _load(g1, place, size, 4 * h + cell, N, 1, 1, WIDE, LAST)
    if LEVELS > 1:
        gain_2 = _load(g2, place, size, 2 * h + ((cell + 2) // 2 - 1), N, 2, 1, WIDE, LAST)
    if LEVELS > 2:
        gain_3 = _load(g3, place, size, h + ((cell + 4) // 4 - 1), N, 3, 1, WIDE, LAST)
    gains = ()
    for j in tl.static_range(6):
        # Cell j - 1 is cell (j + 3) % 4 of block (j + 3) // 4.
        gain = gain_1[j]
        if LEVELS > 1:
            cell_2 = inner // 2 * 2 + (j + 3) % 4 // 2
            upper = gain_2[(j + 1) // 2]
            if LEVELS > 2:
                upper += tl.where(_won(high[(j + 3) // 4], 8, cell_2), gain_3[(j + 3) // 4], 0.0)
            gain += tl.where(_won(high[(j + 3) // 4], 2 * cell_2, inner % 2 * 2 + (j + 1) % 2), upper, 0.0)
        gains = gains + (gain,)
    return gains, low, 8 * inner


@triton.jit
def _transposed_along(above, here, below, gains, eps, place, size, HALF: tl.constexpr, WIDE: tl.constexpr):
    """The transposed [-1 0 1] of the gradient with respect to gx, and [1 2 1] of that to gy, along a row of pixels.

    HALF is the row's number in its cells, whose `gains` are given.
    """
    a = ()
    b = ()
    for j in tl.static_range(10):
        # Pixel j - 1 is in cell (j + 7) % 8 // 2 of block (j + 7) // 8.
        gx = above[0][j] + 2 * here[0][j] + below[0][j]
        gy = below[1][j] - above[1][j]
        won = _won(gains[1][(j + 7) // 8], gains[2] + (j + 7) % 8 // 2 * 2, 2 * HALF + (j + 1) % 2)
        share = tl.where(won, gains[0][(j + 1) // 2] * (1 / 64), 0.0)
        share *= tl.rsqrt((gx * gx + gy * gy) * (1 / 64) + eps)
        a = a + (gx * share,)
        b = b + (gy * share,)
    p = ()
    q = ()
    for j in tl.static_range(1, 9):
        a_left, a_right, b_left, b_right = a[j - 1], a[j + 1], b[j - 1], b[j + 1]
        if j == 1:
            a_left = tl.where(place[3] == 0, -a[j], a_left)
            b_left = tl.where(place[3] == 0, b[j], b_left)
        if j == 8 or not WIDE:
            last = 8 * place[3] + j == size[2]
            a_right = tl.where(last, -a[j], a_right)
            b_right = tl.where(last, b[j], b_right)
        p = p + (a_left - a_right,)
        q = q + (b_left + 2 * b[j] + b_right,)
    return p, q


@triton.jit
def _transposed_down(above, here, below, first, last):
    """[1 2 1] and the transposed [-1 0 1] down the columns; `first` and `last` say where the map begins and ends."""
    slope = ()
    for j in tl.static_range(8):
        smooth = tl.where(first, here[0][j], above[0][j]) + 2 * here[0][j] + tl.where(last, here[0][j], below[0][j])
        difference = tl.where(first, -here[1][j], above[1][j]) - tl.where(last, -here[1][j], below[1][j])
        slope = slope + (smooth + difference,)
    return slope


@triton.jit
def slope_kernel(
    x, words, g1, g2, g3, slope, eps, items, channels, rows, columns,
    N: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of the map from those of the levels."""
    size = (channels, rows, columns)
    item, keep, place = _places(items, size, N, LAST)
    h = place[2]
    above = _filtered(x, place, size, 8 * h - 2, N, 2, WIDE, LAST)
    here = _filtered(x, place, size, 8 * h - 1, N, 2, WIDE, LAST)
    below = _filtered(x, place, size, 8 * h, N, 2, WIDE, LAST)
    gains = _gains(words, g1, g2, g3, item, place, size, -1, N, LEVELS, WIDE, LAST)
    t_above = _transposed_along(above, here, below, gains, eps, place, size, 1, WIDE)
    above = here
    here = below
    below = _filtered(x, place, size, 8 * h + 1, N, 2, WIDE, LAST)
    gains = _gains(words, g1, g2, g3, item, place, size, 0, N, LEVELS, WIDE, LAST)
    t_here = _transposed_along(above, here, below, gains, eps, place, size, 0, WIDE)
    for i in range(4):
        row = 8 * h + 2 * i
        above = here
        here = below
        below = _filtered(x, place, size, row + 2, N, 2, WIDE, LAST)
        t_below = _transposed_along(above, here, below, gains, eps, place, size, 1, WIDE)
        line = _transposed_down(t_above, t_here, t_below, row == 0, row == rows - 1)
        _store(slope, line, place, size, row, keep, N, 0, WIDE, LAST)
        t_above = t_here
        t_here = t_below
        above = here
        here = below
        below = _filtered(x, place, size, row + 3, N, 2, WIDE, LAST)
        gains = _gains(words, g1, g2, g3, item, place, size, i + 1, N, LEVELS, WIDE, LAST)
        t_below = _transposed_along(above, here, below, gains, eps, place, size, 0, WIDE)
        line = _transposed_down(t_above, t_here, t_below, row < 0, row + 1 == rows - 1)
        _store(slope, line, place, size, row + 1, keep, N, 0, WIDE, LAST)
        t_above = t_here
        t_here = t_below
