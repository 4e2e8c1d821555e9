// Maps in memory to vectors with one channel in each lane, and back.
//
// With channels last a vector is there already; planar maps are read LANES pixels at a time from LANES channels and the
// block is turned in registers. Nothing outside a map is read or written.
#include "transform.h"

typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));

// Maps in memory, strides in elements. Plane p is (p / channels, p % channels).
typedef struct {
    float *data;
    int64_t planes, channels, batch, channel, row, column, height, width;
} Maps;

// a[l][k] becomes a[k][l].
INLINE void turn(V *a) {
    _Pragma("GCC unroll 4") for (int s = 1; s < LANES; s *= 2) {
        Mask low, high;
        _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) {
            low[l] = l & s ? LANES + (l ^ s) : l;
            high[l] = l & s ? LANES + l : l ^ s;
        }
        _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) {
            if (l & s) continue;
            V p = a[l], q = a[l | s];
            a[l] = __builtin_shuffle(p, q, low);
            a[l | s] = __builtin_shuffle(p, q, high);
        }
    }
}

// LANES planes; those past the last are zero on reading and left alone on writing.
typedef struct {
    float *at[LANES];
    int64_t count;
} Group;

static Group group_of(const Maps *maps, int64_t group) {
    Group g = {.count = maps->planes - group * LANES};
    if (g.count > LANES) g.count = LANES;
    for (int64_t l = 0; l < LANES; l++) {
        int64_t plane = group * LANES + (l < g.count ? l : 0);
        g.at[l] = maps->data + plane / maps->channels * maps->batch + plane % maps->channels * maps->channel;
    }
    return g;
}

// Pixels [from, to) of row `i` into every second vector of z; nothing outside the map.
static void load(V *z, const Maps *maps, const Group *g, int64_t i, int64_t from, int64_t to) {
    int64_t shift = i * maps->row, j = from;
    if (maps->channel == 1 && g->count == LANES && g->at[LANES - 1] - g->at[0] == LANES - 1) {
        const float *p = g->at[0] + shift;
        for (; j < to; j++) z[2 * (j - from)] = *(const Loose *)(p + j * maps->column);
        return;
    }
    if (maps->column == 1)
        for (; j + LANES <= to; j += LANES) {
            V block[LANES];
            if (g->count == LANES)
                _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) block[l] = *(Loose *)(g->at[l] + shift + j);
            else
                for (int l = 0; l < LANES; l++) {
                    if (l < g->count)
                        block[l] = *(Loose *)(g->at[l] + shift + j);
                    else
                        block[l] = (V){0};
                }
            turn(block);
            _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) z[2 * (j - from + l)] = block[l];
        }
    for (; j < to; j++) {
        V v = {0};
        for (int64_t l = 0; l < g->count; l++) v[l] = g->at[l][shift + j * maps->column];
        z[2 * (j - from)] = v;
    }
}

// Every second vector of z, from the first in steps of `stride`, to row `i`, pixels [from, to).
static void store(const V *z, int64_t stride, V bias, const Maps *maps, const Group *g, int64_t i, int64_t from, int64_t to) {
    int64_t shift = i * maps->row, j = from;
    if (maps->channel == 1 && g->count == LANES && g->at[LANES - 1] - g->at[0] == LANES - 1) {
        float *p = g->at[0] + shift;
        for (; j < to; j++, z += 2 * stride) *(Loose *)(p + j * maps->column) = *z + bias;
        return;
    }
    if (maps->column == 1)
        for (; j + LANES <= to; j += LANES, z += 2 * LANES * stride) {
            V block[LANES];
            _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) block[l] = z[2 * l * stride] + bias;
            turn(block);
            if (g->count == LANES)
                _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) *(Loose *)(g->at[l] + shift + j) = block[l];
            else
                for (int64_t l = 0; l < g->count; l++) *(Loose *)(g->at[l] + shift + j) = block[l];
        }
    for (; j < to; j++, z += 2 * stride) {
        V v = *z + bias;
        for (int64_t l = 0; l < g->count; l++) g->at[l][shift + j * maps->column] = v[l];
    }
}
