/*
 * Step 70, overlapped ring: a rank on each GPU, in 16 bits. Needs sm_90a.
 *
 * As in cpu.c. Attention of one block is step 32, which gives O in 16 bits, and an lse; parts are merged in fp32:
 *
 *     the first merge    O of the own block, and a part   -> sum
 *     another            sum, and a part                  -> sum
 *     the last           sum (or O, where it is the first, too), and a part -> O
 *
 * so that each part is rounded once, and O once more. A thread merges a pack of a row, and its neighbours the others of that row.
 * All is launched, in order; the host waits for nothing.
 *
 * Changed since step 69: a pass starts before its block is attended to, and is finished after that.
 */
#include "gpu.cuh"
#include "ring/ring.h"
#include "steps.h"

#define THREADS 256

/* ---- merging */

template <class T> struct merging {
    T *O;                  /* (heads, queries, dim) */
    float *sum, *lse;      /* (heads, queries, dim), (heads, queries) */
    const T *part_O;       /* (heads, count, dim): of each head's queries from `from` on */
    const float *part_lse; /* (heads, count) */
    int64_t rows;          /* of part_O */
    int64_t count, queries, from;
    int64_t done;          /* of each head's queries: those that nothing more is merged with */
    int dim;
    bool first;
};

/* Eight floats, of O or of sum. */
template <class T> static __device__ void load_eight(float *v, const merging<T> &m, int64_t at, bool from_sum)
{
    if (!from_sum) {
        unpack(v, load_pack(m.O + at));
        return;
    }
    unpack(v, load_pack(m.sum + at));
    unpack(v + 4, load_pack(m.sum + at + 4));
}

template <class T> static __device__ void store_eight(const merging<T> &m, int64_t at, const float *v, bool to_sum)
{
    if (!to_sum) {
        store_pack(m.O + at, make_pack<T>(v));
        return;
    }
    store_pack(m.sum + at, make_pack<float>(v));
    store_pack(m.sum + at + 4, make_pack<float>(v + 4));
}

/* The last blocks begin: with what was written last, and is still in L2. */
template <class T> static __global__ void merge_kernel(merging<T> m)
{
    int packs = m.dim / 8; /* of a row: 8 or 16, so that a warp has whole rows */
    int64_t pack = (int64_t)(gridDim.x - 1 - blockIdx.x) * THREADS + threadIdx.x, part_row = pack / packs;
    if (part_row >= m.rows)
        return;
    int64_t query = m.from + part_row % m.count, row = part_row / m.count * m.queries + query;
    int64_t at = row * m.dim + pack % packs * 8;
    float x[8], y[8], a = m.lse[row], b = m.part_lse[part_row];
    load_eight(x, m, at, !m.first);
    unpack(y, load_pack(m.part_O + 8 * pack));
    bool more = a > b || b == -INFINITY; /* of nothing: also where both are, and a - b is NaN */
    float e = b == -INFINITY ? 0.0f : expf(-fabsf(a - b)), large = 1.0f / (1.0f + e), small = e * large;
    for (int i = 0; i < 8; i++)
        x[i] = x[i] * (more ? large : small) + y[i] * (more ? small : large);
    store_eight(m, at, x, query >= m.done);
    __syncwarp(__activemask()); /* all threads of the row have read its lse */
    if (pack % packs == 0)
        m.lse[row] = (more ? a : b) + log1pf(e);
}

template <class T> static void merge(const merging<T> &m)
{
    int64_t packs = m.rows * (m.dim / 8);
    merge_kernel<T><<<(unsigned)((packs + THREADS - 1) / THREADS), THREADS>>>(m);
}

/* ---- attention to a block */

/* queries, keys: of a head in memory. */
static void local(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p, int64_t queries,
                  int64_t keys, void *workspace)
{
    optimistic_attention_part_fp16_gpu(O, lse, Q, K, V, p, queries, keys, workspace, NULL);
}

static void local(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p, int64_t queries,
                  int64_t keys, void *workspace)
{
    optimistic_attention_part_bf16_gpu(O, lse, Q, K, V, p, queries, keys, workspace, NULL);
}

static __global__ void no_keys_kernel(float *lse, int64_t rows)
{
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row < rows)
        lse[row] = -INFINITY;
}

/* Attention to no key: zeros. */
template <class T> static void no_keys(T *O, float *lse, int64_t rows, int64_t dim)
{
    cudaMemsetAsync(O, 0, (size_t)(rows * dim) * sizeof(T), NULL);
    no_keys_kernel<<<(unsigned)((rows + THREADS - 1) / THREADS), THREADS>>>(lse, rows);
}

/*
 * Attention of this rank's queries to r->block, which began at rank `from`. Pieces lie side by side in each head: one call is
 * enough, whichever rank it is. Both pieces see the own block, by the usual mask, and an earlier rank's early piece; of a later
 * rank's, the late one sees both.
 */
template <class T> static void attend(struct ring *r, int from)
{
    bool own = from == r->rank, earlier = r->p.causal && from < r->rank, later = r->p.causal && from > r->rank;
    int64_t early = ring_queries(r, r->rank, 1), queries = ring_queries(r, r->rank, 2), keys = ring_keys(r, from, 2);
    int64_t first = later ? early : 0; /* of a head's queries, that sees keys here */
    int pass = (r->rank + r->ranks - from) % r->ranks;
    struct attention p = r->p;
    p.seq_q = queries - first;
    p.seq_k = earlier ? ring_keys(r, from, 1) : keys;
    p.causal = r->p.causal && own; /* earlier keys are seen by all */
    int64_t rows = p.batch * p.heads * p.seq_q;
    if (rows == 0)
        return;
    const T *Q = (const T *)r->Q + first * p.dim, *K = (const T *)r->block, *V = K + p.batch * p.kv_heads * keys * p.dim;
    T *O = (T *)(own ? r->O : r->part_O);
    float *lse = own ? r->lse : r->part_lse;
    if (p.seq_k)
        local(O, lse, Q, K, V, p, queries, keys, r->workspace);
    else
        no_keys(O, lse, rows, p.dim);
    /* An early piece has no more to come when rank 0's has come. */
    int64_t done = pass == r->ranks - 1 ? queries : r->p.causal && from == 0 ? early : 0;
    if (!own)
        merge<T>({ (T *)r->O, r->sum, r->lse, O, lse, rows, p.seq_q, queries, first, done, (int)p.dim, pass == 1 });
}

/* What one rank does. What is launched between start and finish runs while blocks travel. */
template <class T> static void overlapped_ring_rank(struct ring *r)
{
    for (int pass = 0; pass < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks;
        bool goes_on = pass + 1 < r->ranks;
        if (goes_on)
            ring_start_beside(r, from);
        attend<T>(r, from);
        if (goes_on)
            ring_finish(r, from);
    }
}

/* As in step 32, on all ranks together: tensors are cut and put together by way of the host, which waits. */
void overlapped_ring_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p, void *,
                             cudaStream_t)
{
    ring_run_gpu(overlapped_ring_rank<fp16>, 2, FP16, O, lse, Q, K, V, p);
}

void overlapped_ring_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p, void *,
                             cudaStream_t)
{
    ring_run_gpu(overlapped_ring_rank<bf16>, 2, BF16, O, lse, Q, K, V, p);
}
