/*
 * Mutant: rows are rescaled together.
 *
 * Looks like: a rescale is saved as long as the maximum rises little, and the lanes of a warp vote, so that all take
 * the same path: one row that needs it makes all 8 of them rescale. Every result is right within the bound; but
 * whether a row is rescaled depends on what others see.
 * Caught by: "later keys": later keys make later queries vote, and earlier queries change in their last bits.
 */
#include "attention.h"

#define WARP 8 /* rows that vote together */
#define TILE 16
#define LAG 5.0f /* how far the maximum may rise without a rescale */

void attention_vote(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t first = 0; first < query_count(p); first += WARP) {
        int64_t rows = query_count(p) - first < WARP ? query_count(p) - first : WARP;
        float m[WARP], l[WARP] = { 0 }; /* m is set in the first tile */
        for (int64_t tile = 0; tile < p.seq_k; tile += TILE) {
            float top[WARP];
            bool vote = tile == 0;
            for (int64_t r = 0; r < rows; r++) {
                struct query a = query_at(O, Q, K, V, p, first + r);
                top[r] = tile ? m[r] : -INFINITY;
                for (int64_t key = tile; key < tile + TILE && key < a.keys; key++)
                    top[r] = fmaxf(top[r], score(a, key));
                vote |= tile > 0 && top[r] > m[r] + LAG; /* should concern row r alone */
            }
            for (int64_t r = 0; r < rows; r++) {
                struct query a = query_at(O, Q, K, V, p, first + r);
                float keep = tile > 0 && vote && top[r] > m[r] ? exp_below(m[r], top[r]) : 1.0f;
                m[r] = vote ? top[r] : m[r];
                l[r] *= keep;
                for (int64_t i = 0; i < p.dim; i++)
                    a.o[i] = tile > 0 ? a.o[i] * keep : 0.0f;
                for (int64_t key = tile; key < tile + TILE && key < a.keys; key++) {
                    float e = exp_below(score(a, key), m[r]);
                    add_value(a, 1.0f, e, key);
                    l[r] += e;
                }
            }
        }
        for (int64_t r = 0; r < rows; r++)
            finish(query_at(O, Q, K, V, p, first + r), lse, first + r, m[r], l[r]);
    }
}
