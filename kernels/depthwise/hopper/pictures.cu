// What both kernels share: number types, the geometry of passes, and pictures in shared memory.
//
// Shared memory holds pictures in the form that wgmma's unswizzled descriptors read: matrices of 8 rows by 16 bytes, each
// 128 bytes in a row, two strides between them free. As patches are one chunk of 16 bytes apart, 8 neighbouring patches
// read 128 bytes in a row of the plain picture, from any chunk on: the picture itself serves as the matrix of all its
// overlapping patches. For that its rows lie sorted by y mod PY, so that in a fixed row of all patches n is one linear
// index, over patch rows, too. Gaps of L zero chunks between pictures are the padding of both neighbours.
//
// Defined by the compiler's command line: KH, KW; TYPE 0 float16, 1 bfloat16, 2 float32 (as tf32).

constexpr int E = TYPE == 2 ? 4 : 8;
constexpr int BYTES = 16 / E;
constexpr int PY = 64 / E;
constexpr int L = (KW / 2 + E - 1) / E;
constexpr int J = 2 * L + 1;
constexpr int ROWS = KH + PY - 1;

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct Geometry {
    int batch, channels, height, width;
    int tile_w, tile_h;    // output patches of a unit: one picture, or one tile of it
    int tiles_x, tiles_y;  // units of a picture
    int pitch_unit;        // chunks of a row of a unit, gap included
    int units;             // units of a pass, side by side
    int groups;            // rows of shared memory for each y mod PY
    int passes;            // of one channel
    int room;              // bytes of shared memory of a warpgroup
    int aligned;           // rows of the picture begin at multiples of 16 bytes
    int activation;        // 0 none, 1 relu, 2 gelu
};

__device__ __forceinline__ float to_float(u32 bits) {
    float value;
    if (TYPE == 0) asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((u16)bits));
    else if (TYPE == 1) value = __uint_as_float(bits << 16);
    else value = __uint_as_float(bits);
    return value;
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 bits;
    if (TYPE == 0) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ u32 to_tf32(u32 bits) {
    u32 rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}

// One element as it lies in memory.
__device__ __forceinline__ u32 element(const void* array, long index) {
    return TYPE == 2 ? ((const u32*)array)[index] : ((const u16*)array)[index];
}

// E elements of a row, zeros beyond the first `count`.
__device__ __forceinline__ void read_chunk(u32 (&v)[4], const void* array, long index, int count, bool aligned) {
    if (aligned) {
        *(uint4*)v = *(const uint4*)((const char*)array + index * BYTES);
        return;
    }
    v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll
    for (int e = 0; e < E; e++)
        if (e < count) v[e * BYTES / 4] |= element(array, index + e) << (e * BYTES % 4 * 8);
}

__device__ __forceinline__ float value_at(const u32 (&v)[4], int e) {
    return to_float(TYPE == 2 ? v[e % 4] : v[e / 2 % 4] >> (e % 2 * 16) & 0xFFFF);
}

__device__ __forceinline__ float activate(float value, int activation) {
    if (activation == 1) return value < 0.f ? 0.f : value;  // as written, NaN stays NaN
    if (activation == 2) return 0.5f * value * (1.f + erff(value * 0.70710678118654752f));
    return value;
}

__device__ __forceinline__ void warpgroup_barrier(int group) {
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

__device__ __forceinline__ u64 descriptor(u32 address, u32 k_stride, u32 mn_stride) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)(k_stride >> 4) << 16 | (u64)(mn_stride >> 4) << 32;
}

struct Unit {
    long plane;  // first element of the picture, or below 0 where there is none
    int x, y;    // first output pixel
};

__device__ __forceinline__ Unit unit_at(const Geometry& g, int index, int channel) {
    int tiles = g.tiles_x * g.tiles_y, picture = index / tiles, tile = index % tiles;
    Unit unit;
    unit.plane = picture < g.batch ? ((long)picture * g.channels + channel) * g.height * g.width : -1;
    unit.x = tile % g.tiles_x * g.tile_w * E;
    unit.y = tile / g.tiles_x * g.tile_h * PY;
    return unit;
}

// Where a thread begins, and how far it goes, in a room of `rows` by `pitch` chunks: it keeps its column where the threads
// are enough for whole rows.
struct Walk {
    int column, row, columns, step;
    __device__ __forceinline__ Walk(int thread, int threads, int pitch) {
        columns = pitch < threads ? pitch : threads;
        step = threads / columns;
        column = thread < columns * step ? thread % columns : pitch;
        row = thread / columns;
    }
};

// Begins to bring one chunk of a picture into shared memory; zeros where it is not there.
__device__ __forceinline__ void bring(u32 to, const void* x, const Geometry& g, bool here, long from, int x0) {
    if (g.aligned) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                     "l"((const char*)x + (here ? from * BYTES : 0)), "r"(here ? 16 : 0)
                     : "memory");
    } else {
        u32 v[4];
        read_chunk(v, x, from, here ? g.width - x0 : 0, false);
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                     : "memory");
    }
}

// Begins to bring the pictures of a pass into shared memory, with zeros around them: [y mod PY][y / PY][chunk].
__device__ __forceinline__ void load(const void* x, char* picture, const Geometry& g, int pass, int channel, int thread,
                                     int threads) {
    int pitch = g.units * g.pitch_unit, rows = PY * g.groups;
    u32 to = (u32)__cvta_generic_to_shared(picture);
    Walk walk(thread, threads, pitch);
    for (int column = walk.column; column < pitch; column += walk.columns) {
        Unit unit = unit_at(g, pass * g.units + column / g.pitch_unit, channel);
        int x0 = unit.x + (column % g.pitch_unit - L) * E;
        bool inside = unit.plane >= 0 && x0 >= 0 && x0 < g.width;
        // Row `group` of those with y mod PY = `rest`, kept without dividing.
        int rest = walk.row / g.groups, group = walk.row % g.groups;
        for (int row = walk.row; row < rows; row += walk.step, group += walk.step) {
            while (group >= g.groups) group -= g.groups, rest++;
            int y = unit.y + group * PY + rest - KH / 2;
            bring(to + (row * pitch + column) * 16, x, g, inside && y >= 0 && y < g.height,
                  unit.plane + (long)y * g.width + x0, x0);
        }
    }
}
