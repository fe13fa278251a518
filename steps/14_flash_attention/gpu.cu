/*
 * Step 14, flash attention on the GPU: step 13 in tiles. A tile of queries meets a tile of keys in shared memory, so that a key
 * that was loaded once serves all of the queries.
 *
 *     for each tile of keys:    s = q K^T     m' = max(m, the tile's s)     p = exp(s - m')
 *                               l = l exp(m - m') + the tile's p            o = o exp(m - m') + p V
 *     at the end:               o / l
 *
 * That is the merge of step 13, for a tile of keys instead of one. Nothing is divided by l before the end.
 *
 * A block owns BR queries of a head. A warp owns one of them, as before; its lanes share the work in two ways. In s = q K^T a
 * lane has a key, and adds up a whole score by itself: no shuffles. In p V it has every 32nd dim of o, in registers, and gets the
 * weights from the lanes that have them.
 *
 * Elements moved: 4 L dim from DRAM; from L2, K and V once for each tile of queries. FLOPs: 4 L^2 dim; tiles above the diagonal
 * are skipped. From shared memory two numbers for a multiply-add, as in step 11: an eighth of the FMA ceiling, at best.
 * Changed since step 13: tiles in shared memory; the maximum and the rescaling once a tile, not once a key.
 */
#include "gpu.cuh"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define BR 32  /* queries of a block, a warp each */
#define BC 32  /* keys of a tile, a lane each */

/* Copy `rows` rows of a matrix to shared memory, in rows of `stride` elements. What is missing to 32 rows of DIM becomes 0. */
template <int DIM> static __device__ void load_tile(float *to, int stride, const float *from, int64_t rows, int dim)
{
    int row = threadIdx.x / 32;
    for (int d = threadIdx.x % 32; d < DIM; d += 32)
        to[row * stride + d] = row < rows && d < dim ? from[row * dim + d] : 0.0f;
}

/* 2^(x - m), and 0 where m is the maximum of nothing, -inf: -inf - -inf would be NaN. */
static __device__ float exp2_below(float x, float m)
{
    return ex2(x - (m == -INFINITY ? 0.0f : m));
}

/* The merge of a query's state, (m, l, o), and a tile's scores, which become weights. The lanes of a warp do it together. */
template <int D> static __device__ void merge_scores(struct softmax_state *state, float o[D], float *s)
{
    float m = fmaxf(state->m, warp_max(*s));
    float keep = exp2_below(state->m, m);
    *s = exp2_below(*s, m);
    *state = { m, state->l * keep };
    state->l += *s;
    for (int i = 0; i < D; i++)
        o[i] *= keep;
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. */
template <int DIM> static __global__ void __launch_bounds__(32 * BR, 1)
    flash_attention_kernel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    constexpr int D = DIM / 32;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = (int)p.dim;
    extern __shared__ __align__(16) float shared[];
    float *Q_tile = shared;                  /* [BR][DIM] */
    float *K_tile = Q_tile + BR * DIM;       /* [BC][DIM + 1]: read along its columns, which then lie in 32 banks */
    float *V_tile = K_tile + BC * (DIM + 1); /* [BC][DIM] */

    /* The blocks of a head, which share K and V, follow each other; those with most keys first, so that short ones end last. */
    int64_t tiles = (p.seq_q + BR - 1) / BR, head = blockIdx.x / tiles, first_query = (tiles - 1 - blockIdx.x % tiles) * BR;
    int64_t queries = min((int64_t)BR, p.seq_q - first_query);
    int64_t kv_head = attention_kv_head(p, head), visible = attention_visible(p, first_query + warp);
    int64_t end = attention_visible(p, first_query + queries - 1); /* nobody in the tile sees a key from here on */
    Q += (head * p.seq_q + first_query) * dim;
    O += (head * p.seq_q + first_query) * dim;
    K += kv_head * p.seq_k * dim;
    V += kv_head * p.seq_k * dim;

    float o[D] = {};
    struct softmax_state state = softmax_empty(); /* m is the query's, the same in all lanes; l is of this lane's keys */
    load_tile<DIM>(Q_tile, DIM, Q, queries, dim);
    for (int64_t first_key = 0; first_key < end; first_key += BC) {
        load_tile<DIM>(K_tile, DIM + 1, K + first_key * dim, end - first_key, dim);
        load_tile<DIM>(V_tile, DIM, V + first_key * dim, end - first_key, dim);
        __syncthreads(); /* the tiles are here */

        float s = 0.0f;
        for (int d = 0; d < DIM; d++)
            s += Q_tile[warp * DIM + d] * K_tile[lane * (DIM + 1) + d];
        s = first_key + lane < visible ? p.scale * LOG2E * s : -INFINITY;
        merge_scores<D>(&state, o, &s);
        for (int key = 0; key < BC; key++) {
            float weight = __shfl_sync(ALL_LANES, s, key);
            for (int i = 0; i < D; i++)
                o[i] += weight * V_tile[key * DIM + i * 32 + lane];
        }
        __syncthreads(); /* and nobody needs them any more */
    }

    float l = warp_sum(state.l), inverse = l == 0.0f ? 0.0f : 1.0f / l; /* no weight: zeros */
    for (int i = 0; i < D; i++)
        if (warp < queries && i * 32 + lane < dim)
            O[warp * dim + i * 32 + lane] = o[i] * inverse;
    if (lse && warp < queries && lane == 0)
        lse[head * p.seq_q + first_query + warp] = (state.m + log2f(l)) * LN2;
}

/* Bytes of shared memory that a block of so many warps needs. */
template <int DIM> static constexpr size_t shared_bytes(int warps)
{
    return (warps * DIM + BC * (DIM + 1) + BC * DIM) * sizeof(float);
}

template <int DIM> static void launch(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                                      cudaStream_t stream)
{
    static_assert(shared_bytes<DIM>(BR) <= SHARED_SM_80, "more than a block's shared memory");
    int warps = BR;
    size_t bytes = shared_bytes<DIM>(warps); /* if it is too much (flash_attention_shared() says so before), CUDA refuses it */
    int64_t blocks = p.batch * p.heads * ((p.seq_q + BR - 1) / BR);
    cudaFuncSetAttribute(flash_attention_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    flash_attention_kernel<DIM><<<(unsigned)blocks, 32 * warps, bytes, stream>>>(O, lse, Q, K, V, p);
}

void flash_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                         void *, cudaStream_t stream)
{
    if (p.dim > 256)
        return refuse();
    BY_DIM(p.dim, launch, O, lse, Q, K, V, p, stream);
}

size_t flash_attention_shared(int64_t dim)
{
    return BY_DIM(dim, shared_bytes, BR);
}
