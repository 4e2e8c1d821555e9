// Weights from logits: p = 1 / (1 + exp(-x)), times 2^C, of all that a thread holds of S.
//
// The special function unit gives 16 results a clock and multiprocessor, and this formula asks for two a weight. SHARE
// says how it is done:
//   1  as it stands.
//   2, 4  that many weights have one reciprocal, 1/a = b (1/ab): 1.5 or 1.25 results a weight. For products of them to stay
//      in the exponent's range, u = -x log2(e) - C is at most LIMIT: exact down to weights of 2^-(C + LIMIT), less
//      count as that.
//   0  no reciprocal: two bfloat16 in one register, a guess by subtracting exponents, and one step of third order,
//      1/a ~ r (1 + e + e^2) with e = 1 - a r. Two more roundings of bfloat16.
// C brings weights into float16's range; of wide SHAREs, products to its middle.

constexpr int LIMIT = SHARE == 4 ? 30 : 60;
constexpr int C = TYPE == 0 ? 15 : SHARE < 2 ? 0 : LIMIT;
constexpr u32 TINY = (127 - C) << 23;

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

