"""The edge pyramid in one pass over the map, forward and backward, in Triton.

A thread owns a strip of the map eight pixels wide and walks down it, a block of 8 x 8 pixels (a cell of E3) after the
other: a row is a load of eight pixels and one neighbour on either side, the smoothed and the differenced row of the
last three are kept in registers, and so the squared gradient costs ten operations a pixel. Maxima of 4, 16 and 64
pixels fall within the thread, and roots are taken of maxima only. With N pixels of b bytes the pass moves
N b (1 + 1/4 + 1/16 + 1/64) = 1.33 N b: for (16, 64, 160, 160) in float16 70 MB, 16 us at 4.3 TB/s. PyTorch's operators
move about 17 N b.

Where a gradient will be asked for, the pass also writes which pixel of each cell won: 2 bits a cell, 21 cells, one
64-bit word a block (N / 8 bytes). The backward pass reads the map, the words and the three gradients, and writes the
map's gradient: 2.33 N b + N / 8. A thread computes the gradient with respect to gx and gy on the pixels of its strip
and one ring around them (nothing is exchanged or added up in memory, so runs agree bit by bit), then applies the
transposed stencil: the stencil itself, with signs mirrored where borders were replicated. Losing pixels have no
gradient; of equal pixels the first, row by row, wins, as in PyTorch.
"""
# ruff: noqa: RUF005 (Triton knows no starred tuples.)
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

# WIDE: rows are multiples of 8 pixels, in NCHW, and are read and written whole. FULL: so are columns. LAST:
# channels_last. A kernel is compiled once for all sizes, as that takes Triton seconds.
SIZES = ("items", "channels", "rows", "columns", "strip")


@triton.jit
def _places(items, channels, rows, columns, strip, N: tl.constexpr, LAST: tl.constexpr):
    """N strips of `strip` blocks, one a thread: which are there; image, channel, block row and column of the first."""
    item = tl.program_id(0) * N + tl.arange(0, N)
    keep = item < items
    item = tl.minimum(item, items - 1)
    down, along = tl.cdiv(tl.cdiv(rows, 8), strip), tl.cdiv(columns, 8)
    if LAST:
        block, channel = item // channels, item % channels
        image = block // (down * along)
    else:
        block, channel = item, item // (down * along) % channels
        image = item // (down * along) // channels
    return keep, (image.to(tl.int64), channel, block // along % down * strip, block % along)


@triton.jit
def _view(p, place, channels, rows, columns, LEVEL: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr):
    """The blocks in a map of some level.

    Pointers to their first elements, elements from row to row and from column to column, their first rows and columns,
    and how many rows and columns the map has.
    """
    COUNT: tl.constexpr = 8 >> LEVEL
    rows, columns = tl.cdiv(rows, 1 << LEVEL), tl.cdiv(columns, 1 << LEVEL)
    row, column = place[2] * COUNT, place[3] * COUNT
    if LAST:
        first = ((place[0] * rows + row) * columns + column) * channels + place[1]
        return p + first, columns * channels, channels, row, column, rows, columns
    else:
        # Multiplied so that the compiler sees that a row of a block can be read at once.
        along = tl.cdiv(columns, COUNT) if WIDE else columns
        column_ = place[3] if WIDE else column
        first = ((place[0] * channels + place[1]) * rows + row) * along + column_
        return p + first * (COUNT if WIDE else 1), along * (COUNT if WIDE else 1), 1, row, column, rows, columns


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
def _number(value):
    """Words as they are, everything else as float32."""
    return value.to(tl.float32) if value.dtype.is_floating() else value


@triton.jit
def _load(
    view, row, N: tl.constexpr, COUNT: tl.constexpr, RING: tl.constexpr, WIDE: tl.constexpr, INSIDE: tl.constexpr
):  # fmt: skip
    """A row of the blocks, COUNT columns and RING more on either side; beyond the map its nearest pixels.

    Rows are counted from the blocks' first. INSIDE: it is known to be on the map.
    """
    p, pitch, step, first_row, first, rows, columns = view
    PART: tl.constexpr = 128 // p.dtype.element_ty.primitive_bitwidth  # elements of 16 bytes
    if not INSIDE:
        row = tl.minimum(tl.maximum(first_row + row, 0), rows - 1) - first_row
    line = ()
    for j in tl.static_range(RING):
        left = p + (tl.maximum(first + (j - RING), 0) - first) * step
        line = line + (_number(tl.load(left + row * pitch)),)
    if WIDE and COUNT > PART:
        for j in tl.static_range(COUNT // PART):
            part = tl.load((p + row * pitch + j * PART)[:, None] + tl.arange(0, PART)[None, :])
            line = line + _apart(_number(part), N, PART)
    elif WIDE:
        wide = tl.load((p + row * pitch)[:, None] + tl.arange(0, COUNT)[None, :])
        line = line + _apart(_number(wide), N, COUNT)
    else:
        for j in tl.static_range(COUNT):
            here = p + (tl.minimum(first + j, columns - 1) - first) * step
            line = line + (_number(tl.load(here + row * pitch)),)
    for j in tl.static_range(RING):
        right = p + (tl.minimum(first + (COUNT + j), columns - 1) - first) * step
        line = line + (_number(tl.load(right + row * pitch)),)
    return line


@triton.jit
def _store(
    view, row, line, keep, N: tl.constexpr, COUNT: tl.constexpr, WIDE: tl.constexpr, INSIDE: tl.constexpr
):  # fmt: skip
    """Stores a row of the blocks, as far as the map goes."""
    p, pitch, step, first_row, first, rows, columns = view
    PART: tl.constexpr = min(COUNT, 128 // p.dtype.element_ty.primitive_bitwidth)
    if not INSIDE:
        keep &= first_row + row < rows
    cast = ()
    for j in tl.static_range(COUNT):
        cast = cast + (line[j].to(p.dtype.element_ty),)
    p += row * pitch
    if WIDE:
        for i in tl.static_range(COUNT // PART):
            part = ()
            for j in tl.static_range(PART):
                part = part + (cast[i * PART + j],)
            to = (p + i * PART)[:, None] + tl.arange(0, PART)[None, :]
            tl.store(to, _together(part, N, PART), mask=keep[:, None])
    else:
        for j in tl.static_range(COUNT):
            tl.store(p + j * step, cast[j], mask=keep & (first + j < columns))


@triton.jit
def _filtered(
    x, row, N: tl.constexpr, RING: tl.constexpr, WIDE: tl.constexpr, INSIDE: tl.constexpr
):  # fmt: skip
    """[-1 0 1] and [1 2 1] along a row of pixels of the blocks, and of RING - 1 columns on either side."""
    line = _load(x, row, N, 8, RING, WIDE, INSIDE)
    differences = ()
    smooth = ()
    for j in tl.static_range(6 + 2 * RING):
        differences = differences + (line[j + 2] - line[j],)
        smooth = smooth + (line[j] + 2 * line[j + 1] + line[j + 2],)
    return differences, smooth


@triton.jit
def _squares(above, here, below, x, row, WIDE: tl.constexpr, FULL: tl.constexpr):
    """(8 gx)^2 + (8 gy)^2 along a row of pixels; beyond the map -1, which loses to any pixel."""
    first_row, first, rows, columns = x[3], x[4], x[5], x[6]
    squares = ()
    for j in tl.static_range(8):
        gx = above[0][j] + 2 * here[0][j] + below[0][j]
        gy = below[1][j] - above[1][j]
        square = gx * gx + gy * gy
        if not FULL:
            square = tl.where(first_row + row < rows, square, -1.0)
        if not WIDE:
            square = tl.where(first + j < columns, square, -1.0)
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


@triton.jit(do_not_specialize=SIZES)
def pyramid_kernel(
    x, e1, e2, e3, words, eps, items, channels, rows, columns,
    N: tl.constexpr, LEVELS: tl.constexpr, WORDS: tl.constexpr, WIDE: tl.constexpr, FULL: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Writes the maps of up to three levels and, if asked, the words that say who won; `items` are all blocks."""
    keep, place = _places(items, channels, rows, columns, 1, N, LAST)
    x = _view(x, place, channels, rows, columns, 0, WIDE, LAST)
    e1 = _view(e1, place, channels, rows, columns, 1, WIDE, LAST)
    e2 = _view(e2, place, channels, rows, columns, 2, WIDE, LAST)
    e3 = _view(e3, place, channels, rows, columns, 3, WIDE, LAST)
    low = tl.zeros((N,), tl.int32)  # The winners of the 16 cells of E1.
    high = tl.zeros((N,), tl.int32)  # Those of the 4 cells of E2, and of the cell of E3.
    above = _filtered(x, -1, N, 1, WIDE, False)
    here = _filtered(x, 0, N, 1, WIDE, True)
    for i in tl.static_range(4):
        below = _filtered(x, 2 * i + 1, N, 1, WIDE, FULL)
        upper = _squares(above, here, below, x, 2 * i, WIDE, FULL)
        above = here
        here = below
        below = _filtered(x, 2 * i + 2, N, 1, WIDE, FULL and i < 3)
        lower = _squares(above, here, below, x, 2 * i + 1, WIDE, FULL)
        above = here
        here = below
        cells, numbers = _pooled(upper, lower, 4)
        low |= numbers << (8 * i)
        _store(e1, i, _roots(cells, eps, 4), keep, N, 4, WIDE, FULL)
        if i % 2 == 0:
            cells_above = cells
        elif LEVELS > 1:
            cells_2, numbers = _pooled(cells_above, cells, 2)
            high |= numbers << (2 * i - 2)
            _store(e2, i // 2, _roots(cells_2, eps, 2), keep, N, 2, WIDE, FULL)
            if i == 1:
                cells_2_above = cells_2
            elif LEVELS > 2:
                cells_3, numbers = _pooled(cells_2_above, cells_2, 1)
                high |= numbers << 8
                _store(e3, 0, _roots(cells_3, eps, 1), keep, N, 1, WIDE, True)
    if WORDS:
        word = (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
        words = _view(words, place, channels, rows, columns, 3, WIDE, LAST)
        _store(words, 0, (word,), keep, N, 1, WIDE, True)


@triton.jit
def _won(word, bit, part):
    """Whether the winner that is noted from a bit of a word on is this part of its cell."""
    return ((word >> bit) & 3) == part


@triton.jit
def _gains(words, g1, g2, g3, cell, N: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr):
    """What the winners of a row of cells get from all levels, for the blocks' four cells and one on either side.

    Rows of cells are counted from the first. Also the winners' numbers, of the blocks on the left, here and on the
    right, and the bit that this row starts from.
    """
    word = _load(words, cell >> 2, N, 1, 1, WIDE, False)
    low = (word[0].to(tl.int32), word[1].to(tl.int32), word[2].to(tl.int32))
    high = ((word[0] >> 32).to(tl.int32), (word[1] >> 32).to(tl.int32), (word[2] >> 32).to(tl.int32))
    gain_1 = _load(g1, cell, N, 4, 1, WIDE, False)
    if LEVELS > 1:
        gain_2 = _load(g2, cell >> 1, N, 2, 1, WIDE, False)
    if LEVELS > 2:
        gain_3 = _load(g3, cell >> 2, N, 1, 1, WIDE, False)
    gains = ()
    for j in tl.static_range(6):
        # Cell j - 1 is cell (j + 3) % 4 of block (j + 3) // 4.
        gain = gain_1[j]
        if LEVELS > 1:
            cell_2 = (cell & 2) + (j + 3) % 4 // 2
            upper = gain_2[(j + 1) // 2]
            if LEVELS > 2:
                upper += tl.where(_won(high[(j + 3) // 4], 8, cell_2), gain_3[(j + 3) // 4], 0.0)
            gain += tl.where(_won(high[(j + 3) // 4], 2 * cell_2, (cell & 1) * 2 + (j + 1) % 2), upper, 0.0)
        gains = gains + (gain,)
    return gains, low, (cell & 3) * 8


@triton.jit
def _transposed_along(above, here, below, gains, eps, first, columns, HALF: tl.constexpr, WIDE: tl.constexpr):
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
            a_left = tl.where(first == 0, -a[j], a_left)
            b_left = tl.where(first == 0, b[j], b_left)
        if j == 8 or not WIDE:
            last = first + j == columns
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


@triton.jit(do_not_specialize=SIZES)
def slope_kernel(
    x, words, g1, g2, g3, slope, eps, items, channels, rows, columns, strip,
    N: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr, FULL: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of the map from those of the levels; `items` are strips of `strip` blocks."""
    keep, place = _places(items, channels, rows, columns, strip, N, LAST)
    x = _view(x, place, channels, rows, columns, 0, WIDE, LAST)
    slope = _view(slope, place, channels, rows, columns, 0, WIDE, LAST)
    g1 = _view(g1, place, channels, rows, columns, 1, WIDE, LAST)
    g2 = _view(g2, place, channels, rows, columns, 2, WIDE, LAST)
    g3 = _view(g3, place, channels, rows, columns, 3, WIDE, LAST)
    words = _view(words, place, channels, rows, columns, 3, WIDE, LAST)
    here = _filtered(x, -2, N, 2, WIDE, False)
    above = here
    nothing = ()
    for _ in tl.static_range(8):
        nothing = nothing + (tl.zeros((N,), tl.float32),)
    t_above = (nothing, nothing)
    t_here = t_above
    # Rows of cells, from the one above the strip to the one below it.
    for i in range(-1, 4 * strip + 1):
        row = 2 * i
        # The same, from the top of the map.
        at = x[3] + row
        gains = _gains(words, g1, g2, g3, i, N, LEVELS, WIDE)
        below = _filtered(x, row + 1, N, 2, WIDE, False)
        t_below = _transposed_along(above, here, below, gains, eps, x[4], columns, 0, WIDE)
        line = _transposed_down(t_above, t_here, t_below, False, at == rows)
        _store(slope, row - 1, line, keep & (at > x[3]), N, 8, WIDE, False)
        above = here
        here = below
        t_above = t_here
        t_here = t_below
        below = _filtered(x, row + 2, N, 2, WIDE, False)
        t_below = _transposed_along(above, here, below, gains, eps, x[4], columns, 1, WIDE)
        line = _transposed_down(t_above, t_here, t_below, at == 0, False if FULL else at == rows - 1)
        _store(slope, row, line, keep & (at >= x[3]) & (at < x[3] + 8 * strip), N, 8, WIDE, False)
        above = here
        here = below
        t_above = t_here
        t_here = t_below
