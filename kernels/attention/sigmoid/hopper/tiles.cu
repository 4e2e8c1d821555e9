// What the kernels share: tiles that the tensor copy engine brings and wgmma reads, and the order of their coming and going.
//
// A block of GROUPS warpgroups has GROUPS * 64 rows of S = q k^T in one head, or of its transpose; BN columns of it at a
// time stream past, STAGES tiles in shared memory. Tiles are zeros past the end. Matrices lie in shared memory as rows of 128
// bytes (64 channels), 8 of them swizzled: the same tile serves wgmma as b^T (over channels) and as b (over rows).
//
// Loading is the only task of one more warp, or with LENDING of one more warpgroup, which gives its registers to the others
// (they are handed out by the warpgroup, and the compiler's limit is for all threads alike).
//
// Defined by the compiler's command line: D 64 or 128; BN; GROUPS; STAGES; BLOCKS a multiprocessor; LENDING; TYPE 0 float16,
// 1 bfloat16; CAUSAL.

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int HALVES = D / 64;
constexpr u32 TILE = BN * D * 2;    // bytes of a tile
constexpr u32 ROWS = GROUPS * 64;   // of a block
constexpr u32 OWN = ROWS * D * 2;   // their bytes
constexpr int THREADS = GROUPS * 128 + (LENDING ? 128 : 32);
constexpr int REGISTERS = 65536 / BLOCKS / THREADS / 8 * 8;  // of a thread, at first
constexpr int KEPT = 24;
constexpr int GIVEN = ((REGISTERS < 248 ? REGISTERS : 248) * (GROUPS + 1) - KEPT) / GROUPS / 8 * 8;

struct alignas(64) Map {
    char opaque[128];
};

struct Problem {
    int heads, rows, columns;     // of S: rows are the block's own, columns stream past
    float scale, shift, slope;    // u = scale q k + shift; gradient of q k^T in that of S
};

__device__ __forceinline__ u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

__device__ __forceinline__ void initialise(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void await(u32 barrier, u32 parity) {
    asm volatile(
        "{.reg .pred p;\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// A box of 64 channels by rows, to `to`.
__device__ __forceinline__ void fetch(u32 to, const Map& map, u32 barrier, int channel, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(channel), "r"(row), "r"(head), "r"(batch)
        : "memory");
}

// wgmma's picture of a matrix of 128-byte rows in swizzled groups of 8.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading) {
    return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)(leading >> 4 & 0x3FFF) << 16 | (address >> 4 & 0x3FFF);
}

// s += a b^T over 16 channels of 64 rows and BN columns; unless told to accumulate, s = a b^T.
__device__ __forceinline__ void multiply_channels(float (&s)[BN / 2], u64 a, u64 b, int accumulate) { CHANNELS_PRODUCT }

// total += p b over 16 columns of S, p in registers.
__device__ __forceinline__ void multiply_columns(float (&total)[D / 2], const u32* p, u64 b) { COLUMNS_PRODUCT }

__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void finish() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 bits;
    if (TYPE == 0) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// s = a b^T over all channels, left in flight.
__device__ __forceinline__ void ask(float (&s)[BN / 2], u64 a, u64 b) {
#pragma unroll
    for (int step = 0; step < D / 16; step++)
        multiply_channels(s, a + step / 4 * (ROWS * 128 >> 4) + step % 4 * 2, b + step / 4 * (TILE / HALVES >> 4) + step % 4 * 2, step > 0);
    commit();
}

// total += p b over all columns of a tile, left in flight.
__device__ __forceinline__ void add(float (&total)[D / 2], const u32* p, u64 b) {
#pragma unroll
    for (int step = 0; step < BN / 16; step++) multiply_columns(total, p + 4 * step, b + step * (2048 >> 4));
    commit();
}

// The tiles of two matrices, from `begin` to `end`, through STAGES places; each group keeps its own count.
struct Stream {
    const Map *first, *second;
    u32 at, full, empty;
    int head, batch, begin, end;
    int tile;
    u32 stage, round;

    __device__ __forceinline__ void load(int tile, u32 stage) const {
        u32 barrier = full + 8 * stage, to = at + stage * 2 * TILE;
        expect(barrier, 2 * TILE);
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            fetch(to + half * (TILE / HALVES), *first, barrier, half * 64, tile * BN, head, batch);
            fetch(to + TILE + half * (TILE / HALVES), *second, barrier, half * 64, tile * BN, head, batch);
        }
    }

    // By one thread, before all others begin.
    __device__ __forceinline__ void open() const {
        for (int i = 0; i < STAGES; i++) {
            initialise(full + 8 * i, 1);
            initialise(empty + 8 * i, GROUPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        for (int i = 0; i < min(STAGES, end - begin); i++) load(begin + i, i);
    }

    // By the thread whose only task it is.
    __device__ __forceinline__ void serve() const {
        for (int i = STAGES; i < end - begin; i++) {
            await(empty + 8 * (i % STAGES), i / STAGES - 1 & 1);
            load(begin + i, i % STAGES);
        }
    }

    __device__ __forceinline__ void wait() const { await(full + 8 * stage, round & 1); }

    __device__ __forceinline__ u32 place() const { return stage * (2 * TILE >> 4); }

    __device__ __forceinline__ void advance() {
        tile++;
        if (++stage == STAGES) stage = 0, round++;
    }

    // One thread of a group says that the group has read the tile.
    __device__ __forceinline__ void leave() const { arrive(empty + 8 * stage); }
};

__device__ __forceinline__ void give_registers() {
    if (LENDING) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(KEPT));
}

__device__ __forceinline__ void take_registers() {
    if (LENDING) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GIVEN < 240 ? GIVEN : 240));
}

// 64 rows of a gradient or output, contiguous, from the registers of a group.
__device__ __forceinline__ void store(void* to, const float (&total)[D / 2], float factor, long matrix, int rows, int row, int lane) {
    u32* out = (u32*)to + (matrix * rows + row) * (D / 2) + lane % 4;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
        if (row < rows) out[4 * i] = pack(total[4 * i] * factor, total[4 * i + 1] * factor);
        if (row + 8 < rows) out[4 * D + 4 * i] = pack(total[4 * i + 2] * factor, total[4 * i + 3] * factor);
    }
}
