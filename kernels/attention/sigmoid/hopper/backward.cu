// Gradients of sigmoid attention, without atomics: each block owns the rows whose gradients it writes.
//
// KEYS 1: a block has GROUPS * 64 keys and their values, queries and the gradient of y stream past:
//     S^T = k q^T,  dP^T = v dy^T,  dv += P^T dy,  dS^T = dP^T P^T (1 - P^T),  dk += dS^T q,  db += sum dS.
// KEYS 0: a block has queries and their part of dy, keys and values stream past:
//     S = q k^T,  dP = dy v^T,  dS = dP P (1 - P),  dq += dS k.
// In both the first two products go into registers, and P and dS from there into the others. Weights are computed again
// in each: 8 D and 6 D operations a weight on the tensor cores, against 10 D of one kernel that would have to add up
// dq in memory. Zeros past the end need no mask: they make dP = 0.
//
// Defined by the compiler's command line beyond `tiles.cu` and `weights.cu` (EXACT 8 or 9): KEYS; SUMMED asks for db, a sum for each warp.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
differentiate(const __grid_constant__ Map x, const __grid_constant__ Map x2, const __grid_constant__ Map z, const __grid_constant__ Map z2,
              void* dx, void* dx2, float* db, const float* bias, const __grid_constant__ Problem problem) {
    extern __shared__ char memory[];
    const u32 own_at = (shared_address(memory) + 1023) / 1024 * 1024, tiles_at = own_at + 2 * OWN;
    const u32 full = tiles_at + STAGES * 2 * TILE, empty = full + 8 * STAGES, ready = empty + 8 * STAGES;
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    const int block = CAUSAL && !KEYS ? gridDim.x - 1 - blockIdx.x : blockIdx.x;  // longest first
    const int head = blockIdx.y % problem.heads, batch = blockIdx.y / problem.heads;
    const int first = block * ROWS, mine = first + group * 64, row = mine + thread / 32 * 16 + lane / 4;
    const int begin = CAUSAL && KEYS ? first / BN : 0;
    const int end = ((CAUSAL && !KEYS ? min(problem.columns, first + (int)ROWS) : problem.columns) + BN - 1) / BN;
    const int from = CAUSAL && KEYS ? mine / BN : 0, to = CAUSAL && !KEYS ? min(end, (mine + 63) / BN + 1) : end;
    const float shift = (bias ? -1.4426950408889634f * bias[head] : problem.shift) - C, scale = problem.scale;
    Stream stream{&z, &z2, tiles_at, full, empty, head, batch, begin, end, begin, 0, 0};

    if (threadIdx.x == 0) {
        initialise(ready, 1);
        stream.open();
        expect(ready, 2 * OWN);
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            fetch(own_at + half * (OWN / HALVES), x, ready, half * 64, first, head, batch);
            fetch(own_at + OWN + half * (OWN / HALVES), x2, ready, half * 64, first, head, batch);
        }
    }
    __syncthreads();
    if (group == GROUPS) {
        give_registers();
        if (thread == 0) stream.serve();
        return;
    }
    take_registers();

    float s[BN / 2], t[BN / 2], total[D / 2], total2[D / 2], sum = 0.f;
    u32 p[BN / 4], ds[BN / 4];
#pragma unroll
    for (int i = 0; i < D / 2; i++) total[i] = total2[i] = 0.f;
    const u64 b = descriptor(tiles_at, 0), b2 = b + (TILE >> 4);
    const u64 c = descriptor(tiles_at, TILE / HALVES), c2 = c + (TILE >> 4);

    await(ready, 0);
    const u64 a = descriptor(own_at + (mine - first) * 128, 0), a2 = a + (OWN >> 4);
    // Tiles before this group's diagonal, and below those beyond it, are only given back.
    for (; stream.tile < min(from, end); stream.advance())
        if (thread == 0) stream.leave();
    for (; stream.tile < to; stream.advance()) {
        stream.wait();
        fence();
        ask(s, a, b + stream.place());
        ask(t, a2, b2 + stream.place());
        finish<1>();
        raise(s, scale, shift);
        invert(s);
        if (CAUSAL && (KEYS ? stream.tile * BN < mine + 63 : stream.tile * BN + BN - 1 > mine)) {
#pragma unroll
            for (int i = 0; i < BN / 2; i++) {
                int column = stream.tile * BN + i / 4 * 8 + lane % 4 * 2 + i % 2, line = row + i / 2 % 2 * 8;
                if (KEYS ? column < line : column > line) s[i] = 0.f;
            }
        }
        if (KEYS) {
#pragma unroll
            for (int i = 0; i < BN / 4; i++) p[i] = pack(s[2 * i], s[2 * i + 1]);
            fence();
            add(total2, p, c2 + stream.place());
            finish<1>();
        } else finish<0>();
#pragma unroll
        for (int i = 0; i < BN / 2; i++) {
            float w = C ? s[i] * __uint_as_float(TINY) : s[i];
            t[i] *= __fmaf_rn(-w, w, w);
            if (SUMMED) sum += t[i];
        }
#pragma unroll
        for (int i = 0; i < BN / 4; i++) ds[i] = pack(t[2 * i], t[2 * i + 1]);
        fence();
        add(total, ds, c + stream.place());
        finish<0>();
        if (thread == 0) stream.leave();
    }
    for (; stream.tile < end; stream.advance())
        if (thread == 0) stream.leave();
    store(dx, total, problem.slope, blockIdx.y, problem.rows, row, lane);
    if (KEYS) store(dx2, total2, __uint_as_float(TINY), blockIdx.y, problem.rows, row, lane);
    if (SUMMED) {
#pragma unroll
        for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
        if (lane == 0) db[((long)blockIdx.y * gridDim.x + blockIdx.x) * (GROUPS * 4) + threadIdx.x / 32] = sum;
    }
}
