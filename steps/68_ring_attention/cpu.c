/*
 * Step 68, ring attention: a sequence that no memory holds is cut among ranks, and keys and values travel round a ring.
 *
 * Rank r of n has piece r of Q, K and V, and makes piece r of O. Its queries need all keys that they see, and it never has more
 * than a block of them, which is one rank's K and V:
 *
 *     n times:    O, lse  merged with  attention(my queries, the block that is here)
 *                 the block goes to the next rank, and that of the rank before comes here
 *
 * Two results over different keys become one by their lse alone, the logarithm of the sum of exp(score): it is m + log(l), and
 * O is what the sums of weights times V are after the division by l. In units of the larger sum the smaller one is
 * e = exp(-|a - b|), at most 1, and so O = (O_large + e O_small) / (1 + e), lse = max(a, b) + log(1 + e).
 *
 * Memory of a rank: Q, O, two blocks, and what one block makes. A block that lies wholly behind the mask is passed on unread.
 * Attention of one block is step 15.
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

/* Attention of this rank's queries to r->block, which began at rank `from`: the first, its own, makes O and lse, and others are
   merged into them by way of part_O and part_lse. Of a block behind the mask nothing is read. */
static void attend(struct ring *r, int from)
{
    struct ring_piece mine = ring_piece(r->p, r->rank, r->ranks), theirs = ring_piece(r->p, from, r->ranks);
    bool own = from == r->rank;
    if (r->p.causal && from > r->rank) /* later keys than any of these queries */
        return;
    struct attention p = r->p;
    p.seq_q = mine.queries;
    p.seq_k = theirs.keys;
    p.causal = r->p.causal && own; /* earlier keys are seen by all */
    const float *K = r->block, *V = K + p.batch * p.kv_heads * p.seq_k * p.dim;
    register_tiled_attention_cpu(own ? r->O : r->part_O, own ? r->lse : r->part_lse, r->Q, K, V, p);
    if (!own)
        merge(r->O, r->lse, r->part_O, r->part_lse, p.batch * p.heads * p.seq_q, p.dim);
}

/* What one rank does. */
static void ring_attention_rank(struct ring *r)
{
    for (int pass = 0; pass < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks;
        attend(r, from);
        if (pass + 1 < r->ranks) {
            ring_start(r, from);
            ring_finish(r, from);
        }
    }
}

/* As in step 15, on all ranks together. */
void ring_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    ring_run(ring_attention_rank, 1, O, lse, Q, K, V, p);
}
