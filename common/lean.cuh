/*
 * What steps 25 and 28 take from step 23 as it is, and do not change: a lane's share of 16 rows of O, and their softmax, which
 * step 23's lesson explains. BC: keys of a tile.
 */
#ifndef LEAN_CUH
#define LEAN_CUH

#include "hopper.cuh"

/* What a lane holds of 16 x DIM of O: of rows g and g + 8, the columns 2t and 2t + 1 of every eight. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* what o and l refer to, at most LAG / c below the maximum; this lane's part of the sum */
};

/* Fragments as in these rows, four floats for 8 columns: the registers of a product, one after the other. */
template <int N> INLINE float (&registers(float (&x)[N][4]))[4 * N]
{
    return *(float (*)[4 * N])x;
}

/*
 * Let a row's state refer to the row's maximum m, if that exceeds what it refers to by too much: by LAG, times c. l and O follow.
 * Other rows have no say in it.
 */
template <int DIM> static __device__ void follow(struct rows<DIM> *r, const float *m, float c)
{
    for (int h = 0; h < 2; h++) {
        bool exceeded = (m[h] - r->m[h]) * c > LAG;
        float factor = exceeded ? ex2((r->m[h] - m[h]) * c) : 1.0f;
        r->m[h] = exceeded ? m[h] : r->m[h];
        r->l[h] *= factor;
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                r->o[n][i] *= factor;
    }
}

/*
 * What the exponents c s - base refer to is base = c m, rounded once for all of a row, while no product c s is rounded. Where
 * that would be felt, s becomes s - m, and base 0; and where a row has seen nothing: -inf - -inf would be NaN.
 */
template <int BC> static __device__ void center(float (*s)[4], float *base, const float *m)
{
    for (int h = 0; h < 2; h++) {
        bool far = !(fabsf(base[h]) < FAR);
        float shift = far && m[h] != -INFINITY ? m[h] : 0.0f;
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                s[n][i] -= shift;
        base[h] = far ? 0.0f : base[h];
    }
}

/*
 * Merge the tile's scores s into the rows' states; s becomes exp(scale (s - m)). c: scale log2(e). m moves only by follow(), and
 * only where some row of the warp needs that, or center().
 */
template <int BC, int DIM> static __device__ void softmax(struct rows<DIM> *r, float (*s)[4], float c)
{
    float m[2] = { -INFINITY, -INFINITY }, base[2];
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            m[i / 2] = fmaxf(m[i / 2], s[n][i]);
    bool rare = false;
    for (int h = 0; h < 2; h++) { /* the four lanes of a row are neighbours */
        m[h] = fmaxf(m[h], __shfl_xor_sync(ALL_LANES, m[h], 1));
        m[h] = fmaxf(m[h], __shfl_xor_sync(ALL_LANES, m[h], 2));
        base[h] = r->m[h] * c;
        rare |= (m[h] - r->m[h]) * c > LAG || !(fabsf(base[h]) < FAR);
    }
    if (__any_sync(ALL_LANES, rare)) {
        follow(r, m, c);
        for (int h = 0; h < 2; h++)
            base[h] = r->m[h] * c;
        center<BC>(s, base, r->m);
    }

    for (int h = 0; h < 2; h++)
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = ex2(s[n][i] * c - base[h]);
                r->l[h] += s[n][i];
            }
}

#endif
