/*
 * Step 70, overlapped ring: step 69, and a block travels while it is attended to.
 *
 * Nothing in a block changes on its way, so the next rank may have it before this one is done with it. In a pass
 *
 *     the block    is read by this rank, which attends to it, and by who carries it to the next rank
 *     the other    is written by who carries the next block here, and not touched by this rank
 *
 * and at the end of a pass, when both are done, they change their names. Who carries is a thread beside the rank: a rank that
 * computes carries nothing. Memory is what it was, two blocks; what is computed, and in which order, too: the same bits.
 *
 * Changed since step 69: a pass starts before its block is attended to, and is finished after that.
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

/* What one rank does. From start to finish r->block is read by two, and r->other belongs to who carries. */
static void overlapped_ring_rank(struct ring *r)
{
    for (int pass = 0; pass < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks;
        bool goes_on = pass + 1 < r->ranks;
        if (goes_on)
            ring_start_beside(r, from);
        attend_pairs(r, from);
        if (goes_on)
            ring_finish(r, from);
    }
}

/* As in step 15, on all ranks together. */
void overlapped_ring_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    ring_run(overlapped_ring_rank, 2, O, lse, Q, K, V, p);
}
