// Weights from logits: p = 1 / (1 + exp(-x)), times 2^C, of all that a thread holds of S, in three steps.
//
// The special function unit gives 16 results a clock and multiprocessor, and this formula asks for two a weight. EXACT says
// how much is left to it:
//   0 to 8  of 8 pairs of weights that many have their reciprocals from there. The others are bfloat16, two in one
//      register, when they get theirs: a guess by subtracting exponents and one step of third order,
//      1/a ~ r (1 + e + e^2) with e = 1 - a r, at the price of one more rounding. 1 to 2 results a weight; bfloat16 only.
//   9  a pair has one reciprocal, 1/a = b (1/ab): 1.5 results a weight. For the product to stay in the exponent's range,
//      u = -x log2(e) - C is at most 60: exact down to weights of 2^-(C + 60), less count as that.
// C brings weights into float16's range, and products of pairs to the middle of float32's.

constexpr bool PAIRS = EXACT == 9;
constexpr int C = TYPE == 0 ? 15 : PAIRS ? 60 : 0;
constexpr u32 TINY = (127 - C) << 23;
constexpr bool NEGATIVE = EXACT < 8;  // Of mixed pairs the result has the sign changed, which saves an instruction.

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

// First: logits to a = 2^-C + 2^u, in place.
__device__ __forceinline__ void raise(float (&s)[BN / 2], float scale, float shift) {
#pragma unroll
    for (int i = 0; i < BN / 2; i++) {
        float u = __fmaf_rn(s[i], scale, shift);
        s[i] = exp2_(PAIRS ? at_most(u, 60.f) : u) + __uint_as_float(TINY);
    }
}

// Second: the reciprocals that the special function unit takes, in place.
__device__ __forceinline__ void invert(float (&s)[BN / 2]) {
#pragma unroll
    for (int i = 0; i < BN / 2; i += 2) {
        if (PAIRS) {
            float both = inverse(s[i] * s[i + 1]), first = s[i];
            s[i] = both * s[i + 1];
            s[i + 1] = both * first;
        } else if (i / 2 % 8 < EXACT) {
            s[i] = inverse(NEGATIVE ? -s[i] : s[i]);
            s[i + 1] = inverse(NEGATIVE ? -s[i + 1] : s[i + 1]);
        }
    }
}

// Third: pairs as factors of the next product, with the reciprocals that were left.
__device__ __forceinline__ void round_off(u32 (&p)[BN / 4], const float (&s)[BN / 2]) {
#pragma unroll
    for (int i = 0; i < BN / 4; i++) {
        p[i] = pack(s[2 * i], s[2 * i + 1]);
        if (i % 8 < EXACT) continue;
        u32 guess, off;
        asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(p[i]) : "r"(0x7E007E00));
        guess = 0xFEF2FEF2 - p[i];
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(off) : "r"(p[i]), "r"(guess), "r"(0x3F803F80));
        asm("fma.rn.bf16x2 %0, %0, %0, %0;" : "+r"(off));
        asm("fma.rn.bf16x2 %0, %1, %2, %1;" : "=r"(p[i]) : "r"(guess), "r"(off));
    }
}
