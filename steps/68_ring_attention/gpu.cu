/*
 * Step 68, ring attention: a rank on each GPU, in 16 bits. Needs sm_90a.
 *
 * As in cpu.c. Attention of one block is step 32, which gives O in 16 bits, and an lse; parts are merged in fp32:
 *
 *     the first merge    O of the own block, and a part   -> sum
 *     another            sum, and a part                  -> sum
 *     the last           sum (or O, where it is the first, too), and a part -> O
 *
 * so that each part is rounded once, and O once more. A thread merges a pack of a row, and its neighbours the others of that row.
 * All is launched, in order; the host waits for nothing.
 */
#include "gpu.cuh"
#include "ring/ring.h"
#include "steps.h"

#define THREADS 256

/* ---- merging */

template <class T> struct merging {
    T *O;                  /* (rows, dim) */
    float *sum, *lse;      /* (rows, dim), (rows) */
    const T *part_O;       /* (rows, dim) */
    const float *part_lse; /* (rows) */
    int64_t rows;
    int dim;
    bool first, last;
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
    int64_t pack = (int64_t)(gridDim.x - 1 - blockIdx.x) * THREADS + threadIdx.x, row = pack / packs, at = 8 * pack;
    if (row >= m.rows)
        return;
    float x[8], y[8], a = m.lse[row], b = m.part_lse[row];
    load_eight(x, m, at, !m.first);
    unpack(y, load_pack(m.part_O + at));
    bool more = a > b || b == -INFINITY; /* of nothing: also where both are, and a - b is NaN */
    float e = b == -INFINITY ? 0.0f : expf(-fabsf(a - b)), large = 1.0f / (1.0f + e), small = e * large;
    for (int i = 0; i < 8; i++)
        x[i] = x[i] * (more ? large : small) + y[i] * (more ? small : large);
    store_eight(m, at, x, !m.last);
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

static void local(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p, void *workspace)
{
    optimistic_attention_fp16_gpu(O, lse, Q, K, V, p, workspace, NULL);
}

static void local(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p, void *workspace)
{
    optimistic_attention_bf16_gpu(O, lse, Q, K, V, p, workspace, NULL);
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

/* Attention of this rank's queries to r->block, which began at rank `from`: the first, its own, makes O and lse, and others are
   merged into them by way of part_O and part_lse. Of a block behind the mask nothing is read. */
template <class T> static void attend(struct ring *r, int from)
{
    struct ring_piece mine = ring_piece(r->p, r->rank, r->ranks), theirs = ring_piece(r->p, from, r->ranks);
    bool own = from == r->rank;
    int pass = (r->rank + r->ranks - from) % r->ranks;
    if (mine.queries == 0 || (r->p.causal && from > r->rank)) /* later keys than any of these queries */
        return;
    struct attention p = r->p;
    p.seq_q = mine.queries;
    p.seq_k = theirs.keys;
    p.causal = r->p.causal && own; /* earlier keys are seen by all */
    int64_t rows = p.batch * p.heads * p.seq_q;
    const T *K = (const T *)r->block, *V = K + p.batch * p.kv_heads * p.seq_k * p.dim;
    T *O = (T *)(own ? r->O : r->part_O);
    float *lse = own ? r->lse : r->part_lse;
    if (p.seq_k)
        local(O, lse, (const T *)r->Q, K, V, p, r->workspace);
    else
        no_keys(O, lse, rows, p.dim);
    if (!own)
        merge<T>({ (T *)r->O, r->sum, r->lse, O, lse, rows, (int)p.dim, pass == 1,
                   pass == (r->p.causal ? r->rank : r->ranks - 1) });
}

/* What one rank does. */
template <class T> static void ring_attention_rank(struct ring *r)
{
    for (int pass = 0; pass < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks;
        attend<T>(r, from);
        if (pass + 1 < r->ranks) {
            ring_start(r, from);
            ring_finish(r, from);
        }
    }
}

/* As in step 32, on all ranks together: tensors are cut and put together by way of the host, which waits. */
void ring_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p, void *,
                             cudaStream_t)
{
    ring_run_gpu(ring_attention_rank<fp16>, 1, FP16, O, lse, Q, K, V, p);
}

void ring_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p, void *,
                             cudaStream_t)
{
    ring_run_gpu(ring_attention_rank<bf16>, 1, BF16, O, lse, Q, K, V, p);
}
