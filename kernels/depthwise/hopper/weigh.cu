// The gradient of the weights, the convolution's product turned around: dA[m, k] = sum over n of G[m, n] B[k, n].
//
// G is the output's gradient, as patches of PY x E pixels (m) by patches (n); B the same picture that `convolve.cu` reads,
// k the input pixels under a patch. Both lie in shared memory as plain chunks, n 16 bytes apart, and the tensor cores read
// them transposed: neither is rearranged. A warpgroup keeps ROWS_EACH input rows' products, 64 x E J accumulators each,
// and goes through all patches of all pictures. At the end the products of equal taps, the diagonals m + tap = k, are
// summed in a fixed order: the same bits every time. Blocks share the work by channel, by input rows and by pictures; the
// caller adds their parts.
//
// Work: as the convolution's. Shared memory: 2 KB of G and 256 J bytes of B a product of 64 x E J x 16, which limits it.
//
// Defined by the compiler's command line, beyond `pictures.cu`: TYPE 0 or 1; GROUPS warpgroups of a block; ROWS_EACH.

constexpr int WIDE = J * 4;

__device__ __forceinline__ void multiply(float (&d)[WIDE], u64 a, u64 b, int accumulate) {
    WGMMA
}

// The gradient's patches: [row of the patch, from below][patch], zeros in the gaps.
__device__ __forceinline__ void load_gradient(const void* gradient, char* picture, const Geometry& g, int patches, int pass,
                                              int channel, int thread, int threads) {
    int pitch = g.units * g.pitch_unit, lines = (patches + pitch - 1) / pitch;
    u32 to = (u32)__cvta_generic_to_shared(picture);
    Walk walk(thread, threads, pitch);
    for (int column = walk.column; column < pitch; column += walk.columns) {
        int within = column % g.pitch_unit;
        Unit unit = unit_at(g, pass * g.units + column / g.pitch_unit, channel);
        int x0 = unit.x + within * E;
        bool inside = unit.plane >= 0 && within < g.tile_w && x0 < g.width;
        for (int row = walk.row; row < PY * lines; row += walk.step) {
            int line = row / PY, below = row % PY, n = line * pitch + column, y = unit.y + line * PY + PY - 1 - below;
            if (n < patches)
                bring(to + (below * patches + n) * 16, gradient, g, inside && line < g.tile_h && y < g.height,
                      unit.plane + (long)y * g.width + x0, x0);
        }
    }
}

extern "C" __global__ void __launch_bounds__(GROUPS * 128, 1)
    weigh(const void* x, const void* gradient, float* parts, const Geometry g) {
    extern __shared__ __align__(128) char shared[];
    int channel = blockIdx.y, group = threadIdx.x / 128, thread = threadIdx.x % 128;
    int pitch = g.units * g.pitch_unit, patches = (g.tile_h * pitch + 15) / 16 * 16;
    int first = (blockIdx.z * GROUPS + group) * ROWS_EACH;
    u32 line = pitch * 16, slab = g.groups * line, gradient_at = PY * slab + (16 + J) * 16;

    // Beyond the last row of a picture the products read on, times zero: it must hold numbers.
    for (int i = threadIdx.x; i < 2 * (16 + J); i += GROUPS * 128)
        *(uint4*)(shared + i / (16 + J) * g.room + PY * slab + i % (16 + J) * 16) = make_uint4(0, 0, 0, 0);

    float d[ROWS_EACH][WIDE];
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++)
#pragma unroll
        for (int i = 0; i < WIDE; i++) d[r][i] = 0.f;

    // Descriptors but for where their picture begins.
    u32 b_row[ROWS_EACH];
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) {
        int row = first + r < ROWS ? first + r : 0;
        b_row[r] = (u32)descriptor(row % PY * slab + row / PY * line, 128, 16);
    }
    const u64 a_first = descriptor(gradient_at, 128, patches * 16), b_high = descriptor(0, 0, 16);

    int pass = blockIdx.x, turn = 0;
    load(x, shared, g, pass, channel, threadIdx.x, GROUPS * 128);
    load_gradient(gradient, shared + gradient_at, g, patches, pass, channel, threadIdx.x, GROUPS * 128);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (; pass < g.passes; pass += gridDim.x, turn ^= 1) {
        char* here = shared + turn * g.room;
        if (pass + gridDim.x < g.passes) {
            char* there = shared + (turn ^ 1) * g.room;
            load(x, there, g, pass + gridDim.x, channel, threadIdx.x, GROUPS * 128);
            load_gradient(gradient, there + gradient_at, g, patches, pass + gridDim.x, channel, threadIdx.x, GROUPS * 128);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        u32 at = (u32)__cvta_generic_to_shared(here) >> 4;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int step = 0; step < patches / 16; step++, at += 16) {
#pragma unroll
            for (int r = 0; r < ROWS_EACH; r++) multiply(d[r], a_first + at, b_high | (b_row[r] + at), 1);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        __syncthreads();
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();

    // Sums of diagonals, an input row after the other.
    constexpr int SIDE = E * J + 1;
    float* tile = (float*)shared + group * (64 * SIDE + KH * KW);
    float* sums = tile + 64 * SIDE;
    int warp = thread / 32, lane = thread % 32;
    for (int i = thread; i < KH * KW; i += 128) sums[i] = 0.f;
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) {
#pragma unroll
        for (int i = 0; i < WIDE; i++)
            tile[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * SIDE + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[r][i];
        warpgroup_barrier(group);
        for (int i = thread; i < PY * KW; i += 128) {
            int below = i / KW, kx = i % KW, ky = first + r + below - (PY - 1);
            if (first + r < ROWS && ky >= 0 && ky < KH) {
                float sum = 0.f;
#pragma unroll
                for (int xo = 0; xo < E; xo++) sum += tile[(below * E + xo) * SIDE + kx + xo - KW / 2 + E * L];
                sums[ky * KW + kx] += sum;
            }
        }
        warpgroup_barrier(group);
    }
    float* out = parts + (((long)blockIdx.x * gridDim.z + blockIdx.z) * GROUPS + group) * g.channels * KH * KW;
    for (int i = thread; i < KH * KW; i += 128) out[(long)channel * KH * KW + i] = sums[i];
}
