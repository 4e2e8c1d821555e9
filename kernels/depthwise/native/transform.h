// Complex Fourier transforms of vectors, in place, in mixed radix 2, 3, 4, 5 and 8.
//
// The forward transform splits its output by frequency modulo the radix (Gentleman and Sande, Fast Fourier transforms for
// fun and profit, 1966) and leaves frequencies in digit-reversed places; the inverse undoes it step by step. A step
// of radix R takes R complex vectors from R places and puts them back, so a transform of n goes log n / log R times over
// 2 n vectors that lie in the first-level cache.
#include <stdint.h>

// One channel in each lane.
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float V __attribute__((vector_size(4 * LANES)));

// One axis: length, factors from the first step of the forward transform to the last, the twiddles of all steps but the
// last one after another, and where each frequency comes to lie.
typedef struct {
    int64_t n, steps, radix[12];
    const float *twiddles;
    const int32_t *place;
} Axis;

// Butterflies, in place, exp(-2 pi i / R). The inverse is the same with real and imaginary parts exchanged.

INLINE void butterfly2(V *r, V *i) {
    V a = r[0] - r[1], b = i[0] - i[1];
    r[0] += r[1], i[0] += i[1], r[1] = a, i[1] = b;
}

INLINE void butterfly3(V *r, V *i) {
    const float s = 0.86602540378443864676f;
    V sr = r[1] + r[2], si = i[1] + i[2], dr = (r[1] - r[2]) * s, di = (i[1] - i[2]) * s;
    V mr = r[0] - 0.5f * sr, mi = i[0] - 0.5f * si;
    r[0] += sr, i[0] += si;
    r[1] = mr + di, i[1] = mi - dr, r[2] = mr - di, i[2] = mi + dr;
}

INLINE void butterfly4(V *r, V *i) {
    V ar = r[0] + r[2], ai = i[0] + i[2], br = r[0] - r[2], bi = i[0] - i[2];
    V cr = r[1] + r[3], ci = i[1] + i[3], dr = r[1] - r[3], di = i[1] - i[3];
    r[0] = ar + cr, i[0] = ai + ci, r[2] = ar - cr, i[2] = ai - ci;
    r[1] = br + di, i[1] = bi - dr, r[3] = br - di, i[3] = bi + dr;
}

INLINE void butterfly5(V *r, V *i) {
    const float c1 = 0.30901699437494742410f, c2 = -0.80901699437494742410f;
    const float s1 = 0.95105651629515357212f, s2 = 0.58778525229247312917f;
    V ar = r[1] + r[4], ai = i[1] + i[4], br = r[2] + r[3], bi = i[2] + i[3];
    V cr = r[1] - r[4], ci = i[1] - i[4], dr = r[2] - r[3], di = i[2] - i[3];
    V pr = r[0] + c1 * ar + c2 * br, pi = i[0] + c1 * ai + c2 * bi;
    V qr = r[0] + c2 * ar + c1 * br, qi = i[0] + c2 * ai + c1 * bi;
    V ur = s1 * cr + s2 * dr, ui = s1 * ci + s2 * di, vr = s2 * cr - s1 * dr, vi = s2 * ci - s1 * di;
    r[0] += ar + br, i[0] += ai + bi;
    r[1] = pr + ui, i[1] = pi - ur, r[4] = pr - ui, i[4] = pi + ur;
    r[2] = qr + vi, i[2] = qi - vr, r[3] = qr - vi, i[3] = qi + vr;
}

INLINE void butterfly8(V *r, V *i) {
    const float h = 0.70710678118654752440f;
    V er[4] = {r[0], r[2], r[4], r[6]}, ei[4] = {i[0], i[2], i[4], i[6]};
    V or[4] = {r[1], r[3], r[5], r[7]}, oi[4] = {i[1], i[3], i[5], i[7]};
    butterfly4(er, ei);
    butterfly4(or, oi);
    V a = (or[1] + oi[1]) * h, b = (oi[1] - or[1]) * h, c = (oi[3] - or[3]) * h, d = (oi[3] + or[3]) * -h;
    r[0] = er[0] + or[0], i[0] = ei[0] + oi[0], r[4] = er[0] - or[0], i[4] = ei[0] - oi[0];
    r[1] = er[1] + a, i[1] = ei[1] + b, r[5] = er[1] - a, i[5] = ei[1] - b;
    r[2] = er[2] + oi[2], i[2] = ei[2] - or[2], r[6] = er[2] - oi[2], i[6] = ei[2] + or[2];
    r[3] = er[3] + c, i[3] = ei[3] + d, r[7] = er[3] - c, i[7] = ei[3] - d;
}

INLINE void butterfly1(V *r, V *i) { (void)r, (void)i; }

// Steps over z, n complex vectors (real part, imaginary part) in blocks of R * m. With m = 1 there are no twiddles.
#define STEPS(R)                                                                                                      \
    static void forward##R(V *z, int64_t n, int64_t m, const float *w) {                                              \
        for (int64_t b = 0; b < n; b += R * m)                                                                        \
            for (int64_t q = 0; q < m; q++) {                                                                         \
                V *p = z + 2 * (b + q), r[R], i[R];                                                                   \
                const float *t = w + 2 * (R - 1) * q;                                                                 \
                _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) r[k] = p[2 * k * m], i[k] = p[2 * k * m + 1];     \
                butterfly##R(r, i);                                                                                   \
                p[0] = r[0], p[1] = i[0];                                                                             \
                _Pragma("GCC unroll 8") for (int k = 1; k < R; k++) {                                                 \
                    float c = t[2 * k - 2], s = t[2 * k - 1];                                                         \
                    p[2 * k * m] = r[k] * c - i[k] * s, p[2 * k * m + 1] = r[k] * s + i[k] * c;                       \
                }                                                                                                     \
            }                                                                                                         \
    }                                                                                                                 \
    static void inverse##R(V *z, int64_t n, int64_t m, const float *w) {                                              \
        for (int64_t b = 0; b < n; b += R * m)                                                                        \
            for (int64_t q = 0; q < m; q++) {                                                                         \
                V *p = z + 2 * (b + q), r[R], i[R];                                                                   \
                const float *t = w + 2 * (R - 1) * q;                                                                 \
                r[0] = p[0], i[0] = p[1];                                                                             \
                _Pragma("GCC unroll 8") for (int k = 1; k < R; k++) {                                                 \
                    float c = t[2 * k - 2], s = t[2 * k - 1];                                                         \
                    V a = p[2 * k * m], e = p[2 * k * m + 1];                                                         \
                    r[k] = a * c + e * s, i[k] = e * c - a * s;                                                       \
                }                                                                                                     \
                butterfly##R(i, r);                                                                                   \
                _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) p[2 * k * m] = r[k], p[2 * k * m + 1] = i[k];     \
            }                                                                                                         \
    }                                                                                                                 \
    static void last##R(V *z, int64_t n) {                                                                            \
        for (V *p = z; p < z + 2 * n; p += 2 * R) {                                                                   \
            V r[R], i[R];                                                                                             \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) r[k] = p[2 * k], i[k] = p[2 * k + 1];                 \
            butterfly##R(r, i);                                                                                       \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) p[2 * k] = r[k], p[2 * k + 1] = i[k];                 \
        }                                                                                                             \
    }                                                                                                                 \
    static void first##R(V *z, int64_t n) {                                                                           \
        for (V *p = z; p < z + 2 * n; p += 2 * R) {                                                                   \
            V r[R], i[R];                                                                                             \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) r[k] = p[2 * k], i[k] = p[2 * k + 1];                 \
            butterfly##R(i, r);                                                                                       \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) p[2 * k] = r[k], p[2 * k + 1] = i[k];                 \
        }                                                                                                             \
    }                                                                                                                 \
    static void product##R(V *z, const V *kernel, int64_t n) {                                                        \
        for (V *p = z; p < z + 2 * n; p += 2 * R, kernel += 2 * R) {                                                  \
            V r[R], i[R];                                                                                             \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) r[k] = p[2 * k], i[k] = p[2 * k + 1];                 \
            butterfly##R(r, i);                                                                                       \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) {                                                     \
                V a = kernel[2 * k], b = kernel[2 * k + 1], c = r[k];                                                 \
                r[k] = c * a - i[k] * b, i[k] = c * b + i[k] * a;                                                     \
            }                                                                                                         \
            butterfly##R(i, r);                                                                                       \
            _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) p[2 * k] = r[k], p[2 * k + 1] = i[k];                 \
        }                                                                                                             \
    }

STEPS(1)
STEPS(2)
STEPS(3)
STEPS(4)
STEPS(5)
STEPS(8)

#define CHOOSE(R, call)              \
    switch (R) {                     \
        case 1: call(1); break;      \
        case 2: call(2); break;      \
        case 3: call(3); break;      \
        case 4: call(4); break;      \
        case 5: call(5); break;      \
        default: call(8);            \
    }

// All steps but the last; the inverse, all but the first.
static void descend(V *z, const Axis *a) {
    int64_t m = a->n;
    const float *w = a->twiddles;
    for (int64_t s = 0; s + 1 < a->steps; s++) {
        int64_t radix = a->radix[s];
        m /= radix;
#define CALL(R) forward##R(z, a->n, m, w)
        CHOOSE(radix, CALL)
#undef CALL
        w += 2 * (radix - 1) * m;
    }
}

static void ascend(V *z, const Axis *a) {
    int64_t m = a->radix[a->steps - 1];
    const float *w = a->twiddles;
    for (int64_t s = 0, left = a->n; s + 1 < a->steps; s++) left /= a->radix[s], w += 2 * (a->radix[s] - 1) * left;
    for (int64_t s = a->steps - 2; s >= 0; s--) {
        int64_t radix = a->radix[s];
        w -= 2 * (radix - 1) * m;
#define CALL(R) inverse##R(z, a->n, m, w)
        CHOOSE(radix, CALL)
#undef CALL
        m *= radix;
    }
}

static void transform(V *z, const Axis *a) {
    descend(z, a);
#define CALL(R) last##R(z, a->n)
    CHOOSE(a->radix[a->steps - 1], CALL)
#undef CALL
}

static void back(V *z, const Axis *a) {
#define CALL(R) first##R(z, a->n)
    CHOOSE(a->radix[a->steps - 1], CALL)
#undef CALL
    ascend(z, a);
}

static void through(V *z, const V *kernel, const Axis *a) {
    descend(z, a);
#define CALL(R) product##R(z, kernel, a->n)
    CHOOSE(a->radix[a->steps - 1], CALL)
#undef CALL
    ascend(z, a);
}
