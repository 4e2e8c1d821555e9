// Depthwise convolution of Hopper's tensor cores: a two-dimensional Toeplitz product whose operands are never built.
//
// One warpgroup computes D[m, n] += A[m, k] B[k, n] with wgmma, fp32 accumulators. n runs over patches of E x PY output
// pixels (8 x 8, for tf32 4 x 16), m over the 64 pixels of a patch, k over the input pixels under it: ROWS = KH + PY - 1
// rows of J chunks of E pixels. A[m, k] is the weight that input pixel k has in output pixel m: a Toeplitz matrix, most
// of its blocks repeated. B[k, n] is the picture.
//
// How the plain picture in shared memory serves as B is told in `pictures.cu`. In the same way a table of one row of blocks
// for each weight row serves as A: going one pixel down in the patch is going one weight row back, so patch rows are
// numbered from below and the descriptor's stride is one row of the table.
//
// Work: 2 * 64 * ROWS * J * E operations a patch, against 2 * 64 * KH * KW that count: 1.58 times for 31 x 31. Shared
// memory: 2 KB of A and 32 bytes times N of B a product of 64 x N x 32 bytes. Device memory: each picture once and its
// halo, each output once.
//
// Defined by the compiler's command line, beyond `pictures.cu`: N patches of a pass; GROUPS warpgroups of a block, each
// with passes of its own; FLIP 1 turns the kernel by 180 degrees (input gradient).

__device__ __forceinline__ void multiply(float (&d)[N / 2], u64 a, u64 b, int accumulate) {
    WGMMA
}

constexpr int TABLE_ROWS = KH + 2 * PY - 2;
constexpr int TAPS = E * J + E;

// The kernel's taps as the blocks of A: block (r, j) has the weights of input chunk j in output row r - (PY - 1).
__device__ void build_table(const void* weight, char* table, char* scratch) {
    const int first = KW / 2 - E * L - (E - 1);
    for (int i = threadIdx.x; i < (TABLE_ROWS + 1) * TAPS; i += blockDim.x) {
        int ky = i / TAPS - (PY - 1), kx = i % TAPS + first;
        u32 tap = 0;
        if (ky >= 0 && ky < KH && kx >= 0 && kx < KW) {
            tap = element(weight, FLIP ? (KH - 1 - ky) * KW + KW - 1 - kx : ky * KW + kx);
            if (TYPE == 2) tap = to_tf32(tap);
        }
        if (TYPE == 2) ((u32*)scratch)[i] = tap;
        else ((u16*)scratch)[i] = (u16)tap;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TABLE_ROWS * J * 8; i += blockDim.x) {
        int row = i % 8, block = i / 8;
        int from = (block / J + row / E) * TAPS + E * (block % J) - row % E + E - 1;
        u32 out[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (TYPE == 2) out[e] = ((u32*)scratch)[from + e];
            else out[e] = ((u16*)scratch)[from + 2 * e] | (u32)((u16*)scratch)[from + 2 * e + 1] << 16;
        }
        ((uint4*)table)[i] = make_uint4(out[0], out[1], out[2], out[3]);
    }
    __syncthreads();
}

// Ends what `load` began.
__device__ __forceinline__ void finish_load(char* picture, const Geometry& g, int thread) {
    int pitch = g.units * g.pitch_unit, rows = PY * g.groups;
    // The last pictures' padding on the right.
    if (thread < L) ((uint4*)picture)[rows * pitch + thread] = make_uint4(0, 0, 0, 0);
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (TYPE == 2) {
        // The tensor cores cut off what tf32 does not hold; rounding first halves the error and takes its bias. Each
        // thread rounds what it brought itself.
        Walk walk(thread, 128, pitch);
        for (int column = walk.column; column < pitch; column += walk.columns)
            for (int row = walk.row; row < rows; row += walk.step) {
                uint4* at = (uint4*)picture + row * pitch + column;
                uint4 v = *at;
                *at = make_uint4(to_tf32(v.x), to_tf32(v.y), to_tf32(v.z), to_tf32(v.w));
            }
    }
    // What ordinary stores wrote, the tensor cores read through another door.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// All products of a pass. Chunks are taken in pairs, as a product is two chunks deep: neighbours in a row, and where J
// leaves one over, two rows' last ones.
__device__ __forceinline__ void convolve(float (&d)[N / 2], const char* table, const char* picture, int pitch, int groups) {
    constexpr u32 BLOCK = 128, TABLE_ROW = J * BLOCK;
    u32 a0 = (u32)__cvta_generic_to_shared(table), b0 = (u32)__cvta_generic_to_shared(picture);
    u32 line = pitch * 16, slab = groups * line;
    u64 a_side = descriptor(a0, BLOCK, 8 / E * TABLE_ROW), a_below = descriptor(a0, TABLE_ROW, 8 / E * TABLE_ROW);
    u64 b_side = descriptor(b0, 16, 128), b_below = descriptor(b0, slab, 128);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int group = 0; group * PY < ROWS; group++) {
#pragma unroll
        for (int inner = 0; inner < PY; inner += 2) {
            int row = group * PY + inner;
            if (row < ROWS) {
                u32 b = (inner * slab + group * line) >> 4, a = row * (TABLE_ROW >> 4);
#pragma unroll
                for (int j = 0; j + 1 < J; j += 2) {
                    multiply(d, a_side + a + j * (BLOCK >> 4), b_side + b + j, j || row);
                    multiply(d, a_side + a + (j * BLOCK + TABLE_ROW >> 4), b_side + b + j + (slab >> 4), 1);
                }
                multiply(d, a_below + a + ((J - 1) * BLOCK >> 4), b_below + b + J - 1, J > 1 || row);
            }
        }
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// Accumulators to shared memory, as chunks of a row of pixels: [row of the patch, from below][patch][E].
__device__ __forceinline__ void stage(const float (&d)[N / 2], char* picture, float bias, int thread) {
    int warp = thread / 32, lane = thread % 32;
    u32 to = (u32)__cvta_generic_to_shared(picture);
    if (TYPE == 2) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            int m = warp * 16 + lane / 4 + (i / 2 % 2) * 8, n = i / 4 * 8 + lane % 4 * 2 + i % 2;
            ((float*)picture)[(m / E * N + n) * E + m % E] = d[i] + bias;
        }
    } else {
        // Each lane gives the place of one patch's 8 pixels; the matrices of a patch row and the one above alternate.
        u32 at = to + ((warp * 2 + lane / 8 % 2) * N + lane / 16 * 8 + lane % 8) * 16;
#pragma unroll
        for (int nb = 0; nb < N / 8; nb += 2) {
            u32 low0 = pack(d[nb * 4] + bias, d[nb * 4 + 1] + bias), low1 = pack(d[nb * 4 + 2] + bias, d[nb * 4 + 3] + bias);
            if (nb + 1 < N / 8) {
                int next = nb + 1 < N / 8 ? nb * 4 + 4 : 0;
                u32 high0 = pack(d[next] + bias, d[next + 1] + bias), high1 = pack(d[next + 2] + bias, d[next + 3] + bias);
                asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at + nb * 128),
                             "r"(low0), "r"(low1), "r"(high0), "r"(high1)
                             : "memory");
            } else {
                asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at + nb * 128),
                             "r"(low0), "r"(low1)
                             : "memory");
            }
        }
    }
}

// From shared memory to the output: y = act(conv + bias + residual + gate |x|).
__device__ __forceinline__ void store(const char* picture, const void* x, const void* residual, const float* gate, void* y,
                                      const Geometry& g, int pass, int channel, int thread) {
    int pitch = g.units * g.pitch_unit;
    Walk walk(thread, 128, pitch);
    for (int column = walk.column; column < pitch; column += walk.columns) {
        int within = column % g.pitch_unit, number = pass * g.units + column / g.pitch_unit;
        Unit unit = unit_at(g, number, channel);
        int x0 = unit.x + within * E;
        if (within >= g.tile_w || unit.plane < 0 || x0 >= g.width) continue;
        float scale = gate ? gate[number / (g.tiles_x * g.tiles_y) * g.channels + channel] : 0.f;
        for (int row = walk.row; row < PY * g.tile_h; row += walk.step) {
            int y0 = unit.y + row;
            if (y0 >= g.height) break;
            int patch = row / PY * pitch + column, below = PY - 1 - row % PY;
            u32 v[4];
            *(uint4*)v = ((const uint4*)picture)[below * N + patch];
            long at = unit.plane + (long)y0 * g.width + x0;
            if (residual || gate || g.activation) {
                float values[E];
                u32 centre[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
                if (gate) read_chunk(centre, x, at, g.width - x0, g.aligned);
                if (residual) read_chunk(more, residual, at, g.width - x0, g.aligned);
#pragma unroll
                for (int e = 0; e < E; e++) {
                    float value = value_at(v, e) + scale * fabsf(value_at(centre, e)) + value_at(more, e);
                    values[e] = activate(value, g.activation);
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i] = TYPE == 2 ? __float_as_uint(values[i % E]) : pack(values[2 * i % E], values[(2 * i + 1) % E]);
            }
            if (g.aligned) {
                *(uint4*)((char*)y + at * BYTES) = *(uint4*)v;
            } else {
#pragma unroll
                for (int e = 0; e < E; e++)
                    if (x0 + e < g.width) {
                        if (TYPE == 2) ((u32*)y)[at + e] = v[e % 4];
                        else ((u16*)y)[at + e] = (u16)(v[e / 2 % 4] >> (e % 2 * 16));
                    }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(GROUPS * 128) depthwise(const void* x, const void* weight, const void* bias,
                                                                     const void* residual, const float* gate, void* y,
                                                                     const Geometry g) {
    extern __shared__ __align__(128) char shared[];
    constexpr int TABLE = TABLE_ROWS * J * 128;
    int channel = blockIdx.y, group = threadIdx.x / 128, thread = threadIdx.x % 128;
    int pitch = g.units * g.pitch_unit, pass = blockIdx.x * GROUPS + group;
    char* picture = shared + TABLE + group * g.room;
    // The first pictures are on their way while the table is built.
    if (pass < g.passes) load(x, picture, g, pass, channel, thread, 128);
    build_table((const char*)weight + (long)channel * KH * KW * BYTES, shared, shared + TABLE + GROUPS * g.room);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    float offset = bias ? to_float(element(bias, channel)) : 0.f;
    while (pass < g.passes) {
        float d[N / 2];
        finish_load(picture, g, thread);
        warpgroup_barrier(group);
        convolve(d, shared, picture, pitch, g.groups);
        warpgroup_barrier(group);
        stage(d, picture, offset, thread);
        warpgroup_barrier(group);
        store(picture, x, residual, gate, y, g, pass, channel, thread);
        warpgroup_barrier(group);
        pass += gridDim.x * GROUPS;
        if (pass < g.passes) load(x, picture, g, pass, channel, thread, 128);
    }
}
