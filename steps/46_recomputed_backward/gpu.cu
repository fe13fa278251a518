/*
 * Step 46, recomputed backward on the GPU: step 43 without its matrices. Tiles of P and dS are made where they are needed, and
 * never leave the block.
 *
 *     P = exp(scale q k^T - lse), dP = do v^T, dS = P (dP - D)     a thread one element of each; P and dS to shared memory
 *
 * A block that owns queries walks over their keys, and keeps dQ += scale dS k in registers. A block that owns keys of a head of K
 * and V walks over their queries, of all heads of Q that share it, and keeps dV += P^T do and dK += dS^T q. Nobody adds to what
 * another one owns, so each run has the same bits. A tile of P and dS is made twice.
 *
 * A small kernel before them computes D = sum of dO O - dlse.
 *
 * FLOPs: 14 seq_q seq_k dim a head. Memory: K and V once for each block of queries, Q and dO once for each block of keys; those
 * are served by L2 as long as a head fits it.
 * Changed since step 45: no dS in memory either. A block owns whole rows of dQ, too, and makes P and dS of them once more.
 */
#include "gpu.cuh"
#include "steps.h"

#define THREADS 256 /* of a block of the small kernel: eight warps, a query each */

/* D: (rows), a query's sum of dO O, less its dlse where there is one; O, dO: (rows, dim). A warp has a row. */
static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float *D, const float *O, const float *dO, const float *dlse, int64_t rows, int64_t dim)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (row >= rows)
        return;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < dim; i += 32)
        sum += dO[row * dim + i] * O[row * dim + i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        D[row] = sum - (dlse ? dlse[row] : 0.0f);
}

/* Queries, and keys, of a tile: a block has so many by so many threads. */
template <int DIM> static constexpr int TILE = DIM <= 64 ? 32 : 16;

/* What a block has in shared memory. A row is one number longer: threads that read one column then have banks of their own. */
template <int DIM> struct tiles {
    float q[TILE<DIM>][DIM + 1], o[TILE<DIM>][DIM + 1], k[TILE<DIM>][DIM + 1], v[TILE<DIM>][DIM + 1];
    float P[TILE<DIM>][TILE<DIM> + 1], dS[TILE<DIM>][TILE<DIM> + 1];
};

/* Rows first ... of a (rows, dim) matrix, and zeros where it ends. */
template <int DIM>
static __device__ void load_tile(float (*tile)[DIM + 1], const float *x, int64_t first, int64_t rows, int64_t dim)
{
    for (int i = threadIdx.x; i < DIM; i += TILE<DIM>)
        tile[threadIdx.y][i] = first + threadIdx.y < rows && i < dim ? x[(first + threadIdx.y) * dim + i] : 0.0f;
}

/* A thread's element of P and dS: query y, key x of the tile, from q, k, o and v. 0 where the key is not seen. */
template <int DIM> static __device__ void weigh(struct tiles<DIM> *s, bool seen, float scale, float lse, float D)
{
    int x = threadIdx.x, y = threadIdx.y;
    float score = 0.0f, change = 0.0f;
    for (int i = 0; i < DIM; i++) {
        score += s->q[y][i] * s->k[x][i];
        change += s->o[y][i] * s->v[x][i];
    }
    float P = seen ? __expf(scale * score - lse) : 0.0f;
    s->P[y][x] = P;
    s->dS[y][x] = P * (change - D);
}

/* dQ of BR queries of a head, which walk over the keys that the last of them sees. */
template <int DIM>
static __global__ void __launch_bounds__(TILE<DIM> *TILE<DIM>)
    queries_kernel(float *dQ, const float *Q, const float *K, const float *V, const float *lse, const float *dO, const float *D,
                   struct attention p)
{
    constexpr int BR = TILE<DIM>, EACH = DIM / BR; /* dims of a query that a thread holds: x, x + BR, ... */
    extern __shared__ float shared[];
    struct tiles<DIM> *s = (struct tiles<DIM> *)shared;
    int64_t query_tiles = (p.seq_q + BR - 1) / BR, head = blockIdx.x / query_tiles, at = blockIdx.x % query_tiles * BR;
    int64_t kv = attention_kv_head(p, head), end = attention_visible(p, min(at + BR, p.seq_q) - 1);
    int x = threadIdx.x, y = threadIdx.y;
    int64_t query = at + y, row = head * p.seq_q + query, visible = query < p.seq_q ? attention_visible(p, query) : 0;

    load_tile<DIM>(s->q, Q + head * p.seq_q * p.dim, at, p.seq_q, p.dim);
    load_tile<DIM>(s->o, dO + head * p.seq_q * p.dim, at, p.seq_q, p.dim);
    float of_q[EACH] = { 0 };
    for (int64_t first_key = 0; first_key < end; first_key += BR) {
        load_tile<DIM>(s->k, K + kv * p.seq_k * p.dim, first_key, p.seq_k, p.dim);
        load_tile<DIM>(s->v, V + kv * p.seq_k * p.dim, first_key, p.seq_k, p.dim);
        __syncthreads();
        weigh<DIM>(s, first_key + x < visible, p.scale, visible ? lse[row] : 0.0f, visible ? D[row] : 0.0f);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EACH; i++)
#if __CUDA_ARCH__ >= 1000
#pragma unroll 8 /* unrolled whole it would take more registers there than a thread has */
#endif
            for (int j = 0; j < BR; j++) /* a key */
                of_q[i] += s->dS[y][j] * s->k[j][i * BR + x];
        __syncthreads(); /* before the next tile takes the place of this one */
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (query < p.seq_q && i * BR + x < p.dim)
            dQ[row * p.dim + i * BR + x] = p.scale * of_q[i];
}

/* dK and dV of BR keys of a head, for the queries that see them, of all heads that share it. */
template <int DIM>
static __global__ void __launch_bounds__(TILE<DIM> *TILE<DIM>)
    keys_kernel(float *dK, float *dV, const float *Q, const float *K, const float *V, const float *lse,
                const float *dO, const float *D, struct attention p)
{
    constexpr int BR = TILE<DIM>, EACH = DIM / BR; /* dims of a key that a thread holds: x, x + BR, ... */
    extern __shared__ float shared[];
    struct tiles<DIM> *s = (struct tiles<DIM> *)shared;
    int64_t key_tiles = (p.seq_k + BR - 1) / BR, kv = blockIdx.x / key_tiles, first_key = blockIdx.x % key_tiles * BR;
    int64_t group = attention_group(p), key = first_key + threadIdx.x;
    int64_t first = p.causal ? max((int64_t)0, first_key + p.seq_q - p.seq_k) / BR * BR : 0; /* query that sees one of its keys */
    int x = threadIdx.x, y = threadIdx.y;

    load_tile<DIM>(s->k, K + kv * p.seq_k * p.dim, first_key, p.seq_k, p.dim);
    load_tile<DIM>(s->v, V + kv * p.seq_k * p.dim, first_key, p.seq_k, p.dim);
    float of_k[EACH] = { 0 }, of_v[EACH] = { 0 };
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int64_t at = first; at < p.seq_q; at += BR) {
            int64_t query = at + y, row = head * p.seq_q + query;
            bool inside = query < p.seq_q, seen = inside && key < attention_visible(p, query);
            load_tile<DIM>(s->q, Q + head * p.seq_q * p.dim, at, p.seq_q, p.dim);
            load_tile<DIM>(s->o, dO + head * p.seq_q * p.dim, at, p.seq_q, p.dim);
            __syncthreads();
            weigh<DIM>(s, seen, p.scale, inside ? lse[row] : 0.0f, inside ? D[row] : 0.0f);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; i++)
#if __CUDA_ARCH__ >= 1000
#pragma unroll 8 /* unrolled whole it would take more registers there than a thread has */
#endif
                for (int j = 0; j < BR; j++) { /* a query */
                    of_v[i] += s->P[j][y] * s->o[j][i * BR + x];
                    of_k[i] += s->dS[j][y] * s->q[j][i * BR + x];
                }
            __syncthreads(); /* before the next tile takes the place of this one */
        }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first_key + y < p.seq_k && i * BR + x < p.dim) {
            dK[(kv * p.seq_k + first_key + y) * p.dim + i * BR + x] = p.scale * of_k[i];
            dV[(kv * p.seq_k + first_key + y) * p.dim + i * BR + x] = of_v[i];
        }
}

template <int DIM> static constexpr size_t shared_bytes(void)
{
    return sizeof(struct tiles<DIM>);
}

template <int DIM>
static void launch(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V,
                   const float *lse, const float *dO, const float *D, struct attention p, cudaStream_t stream)
{
    constexpr int BR = TILE<DIM>;
    static_assert(shared_bytes<DIM>() <= SHARED_SM_80, "more than a block's shared memory");
    size_t bytes = shared_bytes<DIM>(); /* if it is too much (recomputed_backward_shared() says so before), CUDA refuses it */
    int64_t of_queries = p.batch * p.heads * ((p.seq_q + BR - 1) / BR);
    int64_t blocks = p.batch * p.kv_heads * ((p.seq_k + BR - 1) / BR);
    cudaFuncSetAttribute(queries_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    queries_kernel<DIM><<<(unsigned)of_queries, dim3(BR, BR), bytes, stream>>>(dQ, Q, K, V, lse, dO, D, p);
    cudaFuncSetAttribute(keys_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    keys_kernel<DIM><<<(unsigned)blocks, dim3(BR, BR), bytes, stream>>>(dK, dV, Q, K, V, lse, dO, D, p);
}

/* D, a float a query. */
size_t recomputed_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q) * sizeof(float);
}

void recomputed_backward_gpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                             const float *lse, const float *dO, const float *dlse, struct attention p, void *workspace,
                             cudaStream_t stream)
{
    float *D = (float *)workspace;
    int64_t rows = p.batch * p.heads * p.seq_q;
    if (p.dim > 256)
        return refuse();
    prepare_kernel<<<(unsigned)((rows * 32 + THREADS - 1) / THREADS), THREADS, 0, stream>>>(D, O, dO, dlse, rows, p.dim);
    BY_DIM(p.dim, launch, dQ, dK, dV, Q, K, V, lse, dO, D, p, stream);
}

size_t recomputed_backward_shared(int64_t dim)
{
    return BY_DIM(dim, shared_bytes);
}
