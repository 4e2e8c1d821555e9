// Sigmoid attention forward: y = sigma(scale q k^T + b) v.
//
// A block takes GROUPS * 64 queries; keys and values stream past. Each warpgroup goes its own way over the tiles: wgmma
// S = q k^T into registers, weights from S in registers, wgmma total += p v with p straight from registers. While one
// warpgroup takes sigmoids, others keep the tensor cores busy. Zeros past the end of the keys need no mask: their weight
// meets v = 0.
//
// Work a weight: 4 D operations on the tensor cores, 4096 a clock and multiprocessor; 1 to 2 special functions, 16 a clock;
// about 7 to 9 instructions, 128 a clock. Memory: q, k, v, y once; from the second-level cache k and v once a block.
//
// Defined by the compiler's command line beyond `tiles.cu` and `weights.cu`: ORDER 1 asks for the next S before this tile's
// product with v, which then runs beside the next weights.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attend(const __grid_constant__ Map q, const __grid_constant__ Map k, const __grid_constant__ Map v, void* y, const float* bias, const __grid_constant__ Problem problem) {
    extern __shared__ char memory[];
    const u32 queries_at = (shared_address(memory) + 1023) / 1024 * 1024, tiles_at = queries_at + OWN;
    const u32 full = tiles_at + STAGES * 2 * TILE, empty = full + 8 * STAGES, ready = empty + 8 * STAGES;
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    const int block = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;  // longest first
    const int head = blockIdx.y % problem.heads, batch = blockIdx.y / problem.heads;
    const int first = block * ROWS;
    const int mine = first + group * 64, row = mine + thread / 32 * 16 + lane / 4;
    const int end = ((CAUSAL ? min(problem.columns, first + (int)ROWS) : problem.columns) + BN - 1) / BN;
    const int own = CAUSAL ? min(end, (mine + 63) / BN + 1) : end;
    const float shift = (bias ? -1.4426950408889634f * bias[head] : problem.shift) - C, scale = problem.scale;
    Stream stream{&k, &v, tiles_at, full, empty, head, batch, 0, end, 0, 0, 0};

    if (threadIdx.x == 0) {
        initialise(ready, 1);
        stream.open();
        expect(ready, OWN);
#pragma unroll
        for (int half = 0; half < HALVES; half++) fetch(queries_at + half * (OWN / HALVES), q, ready, half * 64, first, head, batch);
    }
    __syncthreads();
    if (group == GROUPS) {
        give_registers();
        if (thread == 0) stream.serve();
        return;
    }
    take_registers();

    float s[BN / 2], total[D / 2];
    u32 p[BN / 4];
#pragma unroll
    for (int i = 0; i < D / 2; i++) total[i] = 0.f;
    const u64 b = descriptor(tiles_at, 0), c = descriptor(tiles_at + TILE, TILE / HALVES);

    auto weigh = [&](float (&s)[BN / 2]) {
        raise(s, scale, shift);
        invert(s);
    };
    auto settle = [&](int tile, const float (&s)[BN / 2]) {
        round_off(p, s);
        if (CAUSAL && tile * BN + BN - 1 > mine) {
#pragma unroll
            for (int i = 0; i < BN / 4; i++) {
                int column = tile * BN + i / 2 * 8 + lane % 4 * 2, line = row + i % 2 * 8;
                p[i] &= (column <= line ? 0xFFFF : 0) | (column < line ? 0xFFFF0000 : 0);
            }
        }
    };
    auto leave = [&](const Stream& stream) {
        if (thread == 0) stream.leave();
    };

    await(ready, 0);
    const u64 a = descriptor(queries_at + (mine - first) * 128, 0);
    if (ORDER == 0) {
        for (; stream.tile < own; stream.advance()) {
            stream.wait();
            fence();
            ask(s, a, b + stream.place());
            finish<0>();
            weigh(s);
            settle(stream.tile, s);
            fence();
            add(total, p, c + stream.place());
            finish<0>();
            leave(stream);
        }
    } else {
        stream.wait();
        fence();
        ask(s, a, b);
        finish<0>();
        weigh(s);
        settle(0, s);
        while (stream.tile + 1 < own) {
            Stream before = stream;
            stream.advance();
            stream.wait();
            fence();
            ask(s, a, b + stream.place());
            add(total, p, c + before.place());
            finish<1>();
            weigh(s);
            finish<0>();
            leave(before);
            settle(stream.tile, s);
        }
        fence();
        add(total, p, c + stream.place());
        finish<0>();
        leave(stream);
        stream.advance();
    }
    // Tiles beyond this group's diagonal are only given back.
    for (; stream.tile < end; stream.advance()) leave(stream);
    store(y, total, NEGATIVE ? -__uint_as_float(TINY) : __uint_as_float(TINY), blockIdx.y, problem.rows, row, lane);
}
