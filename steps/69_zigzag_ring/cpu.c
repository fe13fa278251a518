/*
 * Step 69, zigzag ring: step 68, with causal work that is the same for all ranks.
 *
 * The sequence is cut in 2n pieces, and rank r of n has two of them, piece r and, counted from the other end, piece 2n - 1 - r. A
 * query sees all pieces before its own, so that late ones have much to do, and early ones little; a rank has one of either:
 *
 *     (my early piece, theirs)    (my late piece, their early one)    (my late piece, their late one)
 *
 * Of the four pairs of my pieces and those of a block, a mask leaves two, whichever rank it is from. If that is an earlier rank,
 * both of mine see its early piece; if a later one, my late piece sees both of its. Of my own block, one whole and two halves.
 *
 * A piece sees another whole, or not at all, but for itself: cut where the mask ends, as in step 68.
 * Changed since step 68: two pieces, one behind the other in all tensors, and four pairs of them where there was one.
 */
#include <math.h>

#include "ring/ring.h"
#include "steps.h"

/* O, part_O: (rows, dim), lse, part_lse: (rows). Merges the part into O and lse. A row of no key has an lse of -inf. */
static void merge(float *O, float *lse, const float *part_O, const float *part_lse, int64_t rows, int64_t dim)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        float a = lse[row], b = part_lse[row];
        if (b == -INFINITY) /* of nothing: also where both are, and a - b is NaN */
            continue;
        float e = expf(-fabsf(a - b)), large = 1 / (1 + e), small = e * large;
        lse[row] = (a > b ? a : b) + log1pf(e);
        for (int64_t i = 0; i < dim; i++)
            O[row * dim + i] = O[row * dim + i] * (a > b ? large : small) + part_O[row * dim + i] * (a > b ? small : large);
    }
}

/*
 * Attention of a piece of this rank's queries, whose rows of all heads begin at `row`, to a piece of the block: its K, and behind
 * that its V. The first makes O and lse, others part_O and part_lse, which are merged; of keys behind the mask nothing is read.
 */
static void attend(struct ring *r, struct ring_piece mine, int64_t row, struct ring_piece theirs, const float *K, bool first)
{
    if (r->p.causal && theirs.number > mine.number) /* later keys than any of these queries */
        return;
    struct attention p = r->p;
    p.seq_q = mine.queries;
    p.seq_k = theirs.keys;
    p.causal = r->p.causal && theirs.number == mine.number; /* earlier keys are seen by all */
    const float *V = K + p.batch * p.kv_heads * p.seq_k * p.dim;
    float *O = (first ? r->O : r->part_O) + row * p.dim, *lse = (first ? r->lse : r->part_lse) + row;
    register_tiled_attention_cpu(O, lse, r->Q + row * p.dim, K, V, p);
    if (!first)
        merge(r->O + row * p.dim, r->lse + row, O, lse, p.batch * p.heads * p.seq_q, p.dim);
}

/* Both pieces of this rank's queries to both of the block that began at rank `from`. Its own early keys are what comes first. */
static void attend_pairs(struct ring *r, int from)
{
    const float *K = r->block;
    for (int j = 0; j < 2; j++) {
        struct ring_piece theirs = ring_held(r, from, j);
        int64_t row = 0;
        for (int i = 0; i < 2; i++) {
            struct ring_piece mine = ring_held(r, r->rank, i);
            attend(r, mine, row, theirs, K, from == r->rank && j == 0);
            row += r->p.batch * r->p.heads * mine.queries;
        }
        K += 2 * r->p.batch * r->p.kv_heads * theirs.keys * r->p.dim;
    }
}

/* What one rank does. */
static void zigzag_ring_rank(struct ring *r)
{
    for (int pass = 0; pass < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks;
        attend_pairs(r, from);
        if (pass + 1 < r->ranks) {
            ring_start(r, from);
            ring_finish(r, from);
        }
    }
}

/* As in step 15, on all ranks together. */
void zigzag_ring_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    ring_run(zigzag_ring_rank, 2, O, lse, Q, K, V, p);
}
