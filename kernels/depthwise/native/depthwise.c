// Depthwise convolution by Fourier transforms for a CPU: one channel in each lane of a vector.
//
// LANES maps go through side by side, so every step of a transform is plain vector arithmetic without a shuffle; only
// loading and storing planar maps turns LANES x LANES blocks. Two rows of a map are one complex row. The forward
// transform leaves its frequencies in digit-reversed places, the kernels' spectra lie in the same places and the inverse
// starts from there, so nothing is ever put in order. Down the columns the last step of the transform, the product and
// the first step of the inverse happen in registers. Maps too large for the cache are cut into tiles (overlap-save).
//
// A plane of N x M takes about 5 N M log2(N M) operations for both transforms and 4 N M for the product; it is read once
// and written once, and its half spectrum, 4 N (M + 2) bytes, passes through the second-level cache three times.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "maps.h"

// Tiles of `tile` outputs start at multiples of `tile`; their input starts `before` earlier and is `reach` long; their
// first output is at `cut` of the transform.
typedef struct {
    Axis axis;
    int64_t tiles, tile, before, reach, cut;
} Side;

typedef struct {
    Side y, x;
    int64_t stride, patterns, threads;
} Plan;

int64_t lanes(void) { return LANES; }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows 2 * pair and 2 * pair + 1 of a tile's input, transformed, into column after column of `s`.
static void across(V *s, V *z, const Maps *maps, const Group *g, const Side *y, const Side *x, int64_t ty, int64_t tx, int64_t pair) {
    int64_t n = y->axis.n, m = x->axis.n, half = m / 2;
    int64_t from = tx * x->tile - x->before, start = most(from, 0), stop = least(from + x->reach, maps->width);
    int64_t empty = 1;
    for (int64_t e = 0; e < 2; e++) {
        int64_t i = 2 * pair + e, row = ty * y->tile - y->before + i;
        if (i < y->reach && row >= 0 && row < maps->height && start < stop) {
            for (int64_t j = 0; j < start - from; j++) z[2 * j + e] = (V){0};
            load(z + 2 * (start - from) + e, maps, g, row, start, stop);
            for (int64_t j = stop - from; j < m; j++) z[2 * j + e] = (V){0};
            empty = 0;
        } else
            for (int64_t j = 0; j < m; j++) z[2 * j + e] = (V){0};
    }
    V *to = s + 4 * pair;
    int64_t both = 2 * pair + 1 < n;
    if (empty) {
        for (int64_t k = 0; k <= half; k++, to += 2 * n) {
            to[0] = to[1] = (V){0};
            if (both) to[2] = to[3] = (V){0};
        }
        return;
    }
    transform(z, &x->axis);
    for (int64_t k = 0; k <= half; k++, to += 2 * n) {
        const V *a = z + 2 * x->axis.place[k], *b = z + 2 * x->axis.place[k ? m - k : 0];
        V ar = a[0], ai = a[1], br = b[0], bi = b[1];
        to[0] = ar + br, to[1] = ai - bi;
        if (both) to[2] = ai + bi, to[3] = br - ar;
    }
}

// Rows `first` and `second` of the half spectra back to pixels, interleaved as real and imaginary parts of z.
static void across_back(const V *s, V *z, const Axis *y, const Axis *x, int64_t first, int64_t second) {
    int64_t m = x->n;
    for (int64_t k = 0; k <= m / 2; k++, s += 2 * y->n) {
        V ar = s[2 * first], ai = s[2 * first + 1], br = s[2 * second], bi = s[2 * second + 1];
        V *low = z + 2 * x->place[k], *high = z + 2 * x->place[k ? m - k : 0];
        high[0] = ar + bi, high[1] = br - ai;
        low[0] = ar - bi, low[1] = ai + br;
        if (!k) low[0] = ar, low[1] = br;
    }
    back(z, x);
}

static void clear(V *column, const Side *y) {
    int64_t used = (y->reach + 1) / 2 * 2;
    if (used < y->axis.n) memset(column + 2 * used, 0, 2 * (y->axis.n - used) * sizeof(V));
}

static void rows_out(const V *s, V *z, const Maps *y, const Group *g, const Plan *p, const float *bias, int64_t group, int64_t ty, int64_t tx, int64_t pair) {
    int64_t step = p->stride;
    // The output grid's points of this tile.
    int64_t top = (ty * p->y.tile + step - 1) / step, bottom = least(((ty + 1) * p->y.tile + step - 1) / step, y->height);
    int64_t left = (tx * p->x.tile + step - 1) / step, right = least(((tx + 1) * p->x.tile + step - 1) / step, y->width);
    int64_t i = top + 2 * pair;
    if (i >= bottom || left >= right) return;
    int64_t first = p->y.cut + i * step - ty * p->y.tile, second = i + 1 < bottom ? first + step : first;
    across_back(s, z, &p->y.axis, &p->x.axis, first, second);
    V shift = {0};
    if (bias)
        for (int64_t l = 0; l < LANES; l++) shift[l] = bias[(group * LANES + l) % y->channels];
    const V *from = z + 2 * (p->x.cut + left * step - tx * p->x.tile);
    store(from, step, shift, y, g, i, left, right);
    if (second != first) store(from + 1, step, shift, y, g, i + 1, left, right);
}

// Memory that a thread keeps until it ends: asking the system for it again and again costs more than a small map.
static _Thread_local V *kept;
static _Thread_local int64_t kept_size;
static pthread_key_t at_the_end;
static int no_key;

__attribute__((constructor)) static void prepare(void) { no_key = pthread_key_create(&at_the_end, free); }

static V *room(int64_t vectors) {
    if (vectors > kept_size) {
        free(kept);
        kept_size = 0;
        kept = aligned_alloc(64, ((vectors * sizeof(V) + 63) / 64 + 1) * 64);
        if (kept) kept_size = vectors;
        if (!no_key) pthread_setspecific(at_the_end, kept);
    }
    return kept;
}

// Threads that work on one task together: this one's number among how many.
typedef struct {
    int64_t me, all;
} Team;

static Team team(void) {
#ifdef _OPENMP
    return (Team){omp_get_thread_num(), omp_get_num_threads()};
#else
    return (Team){0, 1};
#endif
}

static void wait(Team t) {
    if (t.all > 1) {
#pragma omp barrier
    }
}

static const Team ALONE = {0, 1};

// Tasks that threads take one by one; the rest, which would leave threads without work, they do together.
static int64_t singly(int64_t tasks, int64_t threads) { return tasks >= 8 * threads ? tasks : tasks / threads * threads; }

// Spectra of kernels (one tile) times `scale`, for every pattern of channels in the lanes.
int kernel_spectra(const Plan *p, const Maps *kernels, float *spectra, float scale) {
    int64_t n = p->y.axis.n, m = p->x.axis.n, size = 2 * n * (m / 2 + 1);
    int failed = 0;
#pragma omp parallel for num_threads(p->threads) schedule(dynamic) reduction(| : failed)
    for (int64_t group = 0; group < p->patterns; group++) {
        V *z = room(2 * m), *s = (V *)spectra + group * size;
        failed |= !z;
        if (!z) continue;
        Group g = group_of(kernels, group);
        for (int64_t pair = 0; 2 * pair < p->y.reach; pair++) across(s, z, kernels, &g, &p->y, &p->x, 0, 0, pair);
        for (int64_t k = 0; k <= m / 2; k++) {
            V *column = s + 2 * n * k;
            clear(column, &p->y);
            transform(column, &p->y.axis);
            for (int64_t i = 0; i < 2 * n; i++) column[i] *= scale;
        }
    }
    return failed;
}

static void convolve_tile(const Plan *p, const Maps *x, const Maps *y, const V *spectra, const float *bias, int64_t task, V *s, V *z, Team t) {
    int64_t n = 2 * p->y.axis.n, half = p->x.axis.n / 2 + 1, tiles = p->y.tiles * p->x.tiles;
    int64_t group = task / tiles, ty = task % tiles / p->x.tiles, tx = task % p->x.tiles;
    Group from = group_of(x, group), to = group_of(y, group);
    spectra += group % p->patterns * n * half;
    for (int64_t pair = t.me; 2 * pair < p->y.reach; pair += t.all) across(s, z, x, &from, &p->y, &p->x, ty, tx, pair);
    wait(t);
    for (int64_t k = t.me; k < half; k += t.all) {
        clear(s + n * k, &p->y);
        through(s + n * k, spectra + n * k, &p->y.axis);
    }
    wait(t);
    for (int64_t pair = t.me; 2 * pair < p->y.tile; pair += t.all) rows_out(s, z, y, &to, p, bias, group, ty, tx, pair);
    wait(t);
}

// y = the convolution of x with the kernels whose spectra these are, plus bias (or NULL). Not 0: no memory.
int convolve(const Plan *p, const Maps *x, const Maps *y, const float *spectra, const float *bias) {
    int64_t m = p->x.axis.n, size = 2 * p->y.axis.n * (m / 2 + 1);
    int64_t tasks = (x->planes + LANES - 1) / LANES * p->y.tiles * p->x.tiles, alone = singly(tasks, p->threads);
    int failed = 0;
    V *shared = NULL;
#pragma omp parallel num_threads(p->threads)
    {
        Team t = team();
        V *own = room(size + 2 * m);
        if (t.me == 0) shared = own;
        if (!own) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < alone; task++) convolve_tile(p, x, y, (const V *)spectra, bias, task, own, own + size, ALONE);
            for (int64_t task = alone; task < tasks; task++) convolve_tile(p, x, y, (const V *)spectra, bias, task, shared, own + size, t);
        }
    }
    return failed;
}

// Sums over all maps with this pattern of channels; `s` holds three half spectra: of x, of the gradient, of the sum.
static void correlate_pattern(const Plan *p, const Side *gy, const Side *gx, const Maps *x, const Maps *grad, const Maps *sums, float scale, int64_t pattern, V *s, V *z, Team t) {
    int64_t n = p->y.axis.n, m = p->x.axis.n, half = m / 2 + 1, size = 2 * n * half;
    V *maps = s, *grads = s + size, *sum = s + 2 * size;
    int64_t groups = (x->planes + LANES - 1) / LANES, fresh = 1;
    for (int64_t group = pattern; group < groups; group += p->patterns) {
        Group from = group_of(x, group), of = group_of(grad, group);
        for (int64_t tile = 0; tile < p->y.tiles * p->x.tiles; tile++, fresh = 0) {
            int64_t ty = tile / p->x.tiles, tx = tile % p->x.tiles;
            for (int64_t pair = t.me; 2 * pair < p->y.reach; pair += t.all) across(maps, z, x, &from, &p->y, &p->x, ty, tx, pair);
            for (int64_t pair = t.me; 2 * pair < gy->reach; pair += t.all) across(grads, z, grad, &of, gy, gx, ty, tx, pair);
            wait(t);
            for (int64_t k = t.me; k < half; k += t.all) {
                V *a = maps + 2 * n * k, *b = grads + 2 * n * k, *c = sum + 2 * n * k;
                clear(a, &p->y);
                clear(b, gy);
                transform(a, &p->y.axis);
                transform(b, &p->y.axis);
                for (int64_t i = 0; i < 2 * n; i += 2) {
                    V r = a[i] * b[i] + a[i + 1] * b[i + 1], e = a[i + 1] * b[i] - a[i] * b[i + 1];
                    c[i] = fresh ? r : c[i] + r;
                    c[i + 1] = fresh ? e : c[i + 1] + e;
                }
            }
            wait(t);
        }
    }
    for (int64_t k = t.me; k < half; k += t.all) {
        back(sum + 2 * n * k, &p->y.axis);
        for (int64_t i = 0; i < 2 * n; i++) sum[2 * n * k + i] *= scale;
    }
    wait(t);
    // Tap j is at shift j - cut, where negative shifts wrap around.
    Group to = group_of(sums, pattern);
    int64_t down = n - p->y.cut, right = m - p->x.cut;
    for (int64_t i = 2 * t.me; i < sums->height; i += 2 * t.all) {
        int64_t other = i + 1 < sums->height ? i + 1 : i;
        across_back(sum, z, &p->y.axis, &p->x.axis, (i + down) % n, (other + down) % n);
        for (int64_t e = 0; e <= other - i; e++) {
            store(z + 2 * right + e, 1, (V){0}, sums, &to, i + e, 0, p->x.cut);
            store(z + e, 1, (V){0}, sums, &to, i + e, p->x.cut, sums->width);
        }
    }
    wait(t);
}

// Gradients of the kernels, one plane for each lane of each pattern. Not 0: no memory.
int correlate(const Plan *p, const Maps *x, const Maps *grad, const Maps *sums, float scale) {
    int64_t m = p->x.axis.n, size = 6 * p->y.axis.n * (m / 2 + 1), alone = singly(p->patterns, p->threads);
    Side gy = p->y, gx = p->x;
    gy.before = gx.before = 0, gy.reach = gy.tile, gx.reach = gx.tile;
    int failed = 0;
    V *shared = NULL;
#pragma omp parallel num_threads(p->threads)
    {
        Team t = team();
        V *own = room(size + 2 * m);
        if (t.me == 0) shared = own;
        if (!own) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(dynamic)
            for (int64_t c = 0; c < alone; c++) correlate_pattern(p, &gy, &gx, x, grad, sums, scale, c, own, own + size, ALONE);
            for (int64_t c = alone; c < p->patterns; c++) correlate_pattern(p, &gy, &gx, x, grad, sums, scale, c, shared, own + size, t);
        }
    }
    return failed;
}
