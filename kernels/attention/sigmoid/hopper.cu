// Sigmoid attention forward on the tensor cores of Hopper: y = sigma(scale q k^T + b) v, number type float16 or bfloat16.
//
// A block of GROUPS warpgroups takes GROUPS * 64 queries of one head. Keys and values come by the tensor copy engine in
// tiles of BN, STAGES of them in shared memory, zeros past the end (their weight meets v = 0, so there is no mask). Each
// warpgroup goes its own way over the tiles: wgmma S = q k^T into registers, weights from S in registers, wgmma
// total += p v with p straight from registers. While one warpgroup takes sigmoids, others keep the tensor cores busy.
//
// Work a weight: 4 D operations on the tensor cores, 4096 a clock and multiprocessor, and special functions, 16 a clock:
// 1 / (1 + exp(-x)) asks for two. Here SHARE weights (2 or 4) have one reciprocal, 1/a = b (1/ab), which makes 1.5 or
// 1.25. Products of SHARE terms must not leave the exponent's range, so that p 2^C = 1 / (2^-C + 2^u) is
// computed, u = -x log2(e) - C at most LIMIT: exact down to weights of 2^-(C + LIMIT), less count as that. SHARE 0 takes
// no reciprocal at all: two bfloat16 in one register, a guess by subtracting exponents, and one step of third order.
//
// Defined by the compiler's command line: D 64 or 128; BN; GROUPS; STAGES; BLOCKS a multiprocessor; TYPE 0 float16,
// 1 bfloat16; CAUSAL; SHARE; ORDER 1 asks for the next S before this tile's product with v.

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int HALVES = D / 64;
constexpr int LIMIT = SHARE == 4 ? 30 : 60;
constexpr int C = TYPE == 0 ? 15 : SHARE < 2 ? 0 : LIMIT;
constexpr u32 TINY = (127 - C) << 23;
constexpr u32 TILE = BN * D * 2;
constexpr u32 ROWS = GROUPS * 64;

struct alignas(64) Map {
    char opaque[128];
};

struct Problem {
    int heads, queries, keys;
    float scale, shift;
};

__device__ __forceinline__ u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

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

// S += a b over 16 channels; the first time S = a b.
__device__ __forceinline__ void multiply_keys(float (&s)[BN / 2], u64 a, u64 b, int accumulate) { KEYS_PRODUCT }

// total += p b over 16 keys.
__device__ __forceinline__ void multiply_values(float (&total)[D / 2], const u32* p, u64 b) { VALUES_PRODUCT }

__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void finish() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ float exp2_(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// NaN stays NaN.
__device__ __forceinline__ float at_most(float x, float most) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(most));
    return y;
}

__device__ __forceinline__ float inverse(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 bits;
    if (TYPE == 0) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// Logits to 2^-C + 2^u, in place.
__device__ __forceinline__ void raise(float (&s)[BN / 2], float scale, float shift) {
#pragma unroll
    for (int i = 0; i < BN / 2; i++) {
        float u = __fmaf_rn(s[i], scale, shift);
        s[i] = exp2_(SHARE < 2 ? u : at_most(u, (float)LIMIT)) + __uint_as_float(TINY);
    }
}

// The reciprocals of those, in place; SHARE 0 leaves that to `rounded`.
__device__ __forceinline__ void invert(float (&s)[BN / 2]) {
#pragma unroll
    for (int i = 0; i < BN / 2; i += 4) {
        if (SHARE == 1) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[i + e] = inverse(s[i + e]);
        } else if (SHARE > 1) {
            float ab = s[i] * s[i + 1], cd = s[i + 2] * s[i + 3], by_ab, by_cd;
            if (SHARE == 4) {
                float all = inverse(ab * cd);
                by_ab = all * cd;
                by_cd = all * ab;
            } else {
                by_ab = inverse(ab);
                by_cd = inverse(cd);
            }
            float a = s[i], c = s[i + 2];
            s[i] = by_ab * s[i + 1];
            s[i + 1] = by_ab * a;
            s[i + 2] = by_cd * s[i + 3];
            s[i + 3] = by_cd * c;
        }
    }
}

// Two of them as factors of the second product; of SHARE 0, their reciprocals times -1.
__device__ __forceinline__ u32 rounded(float low, float high) {
    u32 a = pack(low, high), guess, off;
    if (SHARE) return a;
    asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(a) : "r"(0x7E007E00));
    guess = 0xFEF2FEF2 - a;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(off) : "r"(a), "r"(guess), "r"(0x3F803F80));
    asm("fma.rn.bf16x2 %0, %0, %0, %0;" : "+r"(off));
    asm("fma.rn.bf16x2 %0, %0, %1, %0;" : "+r"(guess) : "r"(off));
    return guess;
}

extern "C" __global__ void __launch_bounds__(GROUPS * 128 + (LAG < 0 ? 32 : 0), BLOCKS)
attend(const __grid_constant__ Map q, const __grid_constant__ Map k, const __grid_constant__ Map v, void* y, const float* bias, const __grid_constant__ Problem problem) {
    extern __shared__ char memory[];
    const u32 base = (shared_address(memory) + 1023) / 1024 * 1024;
    const u32 queries_at = base, keys_at = base + ROWS * D * 2, values_at = keys_at + STAGES * TILE;
    const u32 full = values_at + STAGES * TILE, empty = full + 8 * STAGES, ready = empty + 8 * STAGES;
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128;
    const int block = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int head = blockIdx.y % problem.heads, batch = blockIdx.y / problem.heads;
    const int first = block * ROWS;
    // The last rows to the group that fetches, as where causal it must be the last to end.
    const int mine = first + (GROUPS - 1 - group) * 64;
    const int end = CAUSAL ? min(problem.keys, first + (int)ROWS) : problem.keys;
    const int tiles = (end + BN - 1) / BN;
    // Of those, with keys for this group's queries.
    const int own = CAUSAL ? min(tiles, (mine + 63) / BN + 1) : tiles;
    const float shift = (bias ? -1.4426950408889634f * bias[head] : problem.shift) - C, scale = problem.scale;

    auto load = [&](int tile, u32 stage) {
        u32 barrier = full + 8 * stage;
        expect(barrier, 2 * TILE);
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            fetch(keys_at + stage * TILE + half * (TILE / HALVES), k, barrier, half * 64, tile * BN, head, batch);
            fetch(values_at + stage * TILE + half * (TILE / HALVES), v, barrier, half * 64, tile * BN, head, batch);
        }
    };
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(ready) : "memory");
        for (int i = 0; i < STAGES; i++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full + 8 * i) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * i), "r"(GROUPS) : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        expect(ready, ROWS * D * 2);
#pragma unroll
        for (int half = 0; half < HALVES; half++) fetch(queries_at + half * (ROWS * 128), q, ready, half * 64, first, head, batch);
        for (int tile = 0; tile < min(STAGES, tiles); tile++) load(tile, tile);
    }
    __syncthreads();
    if (LAG < 0 && group == GROUPS) {
        if (thread == 0)
            for (int tile = STAGES; tile < tiles; tile++) {
                await(empty + 8 * (tile % STAGES), tile / STAGES - 1 & 1);
                load(tile, tile % STAGES);
            }
        return;
    }

    float s[BN / 2], total[D / 2];
    u32 p[BN / 4];
#pragma unroll
    for (int i = 0; i < D / 2; i++) total[i] = 0.f;
    const u64 a = descriptor(queries_at + (mine - first) * 128, 0), b = descriptor(keys_at, 0), c = descriptor(values_at, TILE / HALVES);
    const int lane = threadIdx.x % 32, row = mine + thread / 32 * 16 + lane / 4;

    // Products of the tile in a stage, when it has come for the `round`th time.
    auto ask = [&](u32 stage, u32 round) {
        await(full + 8 * stage, round & 1);
        u64 from = b + stage * (TILE >> 4);
        fence();
#pragma unroll
        for (int step = 0; step < D / 16; step++)
            multiply_keys(s, a + step / 4 * (ROWS * 128 >> 4) + step % 4 * 2, from + step / 4 * (TILE / HALVES >> 4) + step % 4 * 2, step > 0);
        commit();
    };
    auto add = [&](u32 stage) {
        u64 from = c + stage * (TILE >> 4);
        fence();
#pragma unroll
        for (int step = 0; step < BN / 16; step++) multiply_values(total, p + 4 * step, from + step * (2048 >> 4));
        commit();
    };
    auto mask = [&](int tile) {
        if (CAUSAL && tile * BN + BN - 1 > mine) {
#pragma unroll
            for (int i = 0; i < BN / 2; i++)
                if (tile * BN + i / 4 * 8 + lane % 4 * 2 + i % 2 > row + i / 2 % 2 * 8) s[i] = SHARE ? 0.f : 1e38f;
        }
    };
    // This group has read the tile. Whoever fetches fills the place of the one LAG before it, which the others have read
    // by now, most likely.
    auto leave = [&](int tile, u32 stage, u32 round) {
        if (thread == 0) {
            arrive(empty + 8 * stage);
            int next = tile - LAG + STAGES;
            if (LAG >= 0 && group == 0 && tile >= LAG && next < tiles) {
                u32 old = stage < LAG ? stage + STAGES - LAG : stage - LAG;
                await(empty + 8 * old, (stage < LAG ? round - 1 : round) & 1);
                load(next, old);
            }
        }
    };
    u32 stage = 0, round = 0;
    auto advance = [&]() {
        if (++stage == STAGES) stage = 0, round++;
    };
    auto weigh = [&](int tile) {
        raise(s, scale, shift);
        if (SHARE) invert(s);
        mask(tile);
    };
    auto finish_weights = [&]() {
#pragma unroll
        for (int i = 0; i < BN / 4; i++) p[i] = rounded(s[2 * i], s[2 * i + 1]);
    };

    await(ready, 0);
    if (ORDER == 0) {
        for (int tile = 0; tile < own; tile++) {
            ask(stage, round);
            finish<0>();
            weigh(tile);
            finish_weights();
            add(stage);
            finish<0>();
            leave(tile, stage, round);
            advance();
        }
    } else {
        ask(stage, round);
        finish<0>();
        weigh(0);
        finish_weights();
        for (int tile = 1; tile < own; tile++) {
            u32 before = stage, round_before = round;
            advance();
            ask(stage, round);
            add(before);
            finish<1>();
            weigh(tile);
            finish<0>();
            leave(tile - 1, before, round_before);
            finish_weights();
        }
        add(stage);
        finish<0>();
        leave(own - 1, stage, round);
        advance();
    }
    // Tiles beyond this group's diagonal are only given back.
    for (int tile = own; tile < tiles; tile++) {
        leave(tile, stage, round);
        advance();
    }
    const float back = SHARE ? __uint_as_float(TINY) : -1.f;
    u32* out = (u32*)y + ((long)blockIdx.y * problem.queries + row) * (D / 2) + lane % 4;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
        if (row < problem.queries) out[4 * i] = pack(total[4 * i] * back, total[4 * i + 1] * back);
        if (row + 8 < problem.queries) out[4 * D + 4 * i] = pack(total[4 * i + 2] * back, total[4 * i + 3] * back);
    }
}
