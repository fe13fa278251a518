/*
 * Step 47, joined backward on the GPU: one kernel, which makes each tile of P and dS once, for all three gradients.
 *
 * A block owns BR keys of a head of K and V, for all heads of Q that share it, and walks over their queries, BR at a time. Its dK
 * and dV stay in registers. Per tile:
 *
 *     P = exp(scale q k^T - lse), dP = do v^T, dS = P (dP - D)     a thread one element of each; P and dS to shared memory
 *     dV += P^T do, dK += dS^T q                                   a thread some dims of one key
 *     dQ += scale dS k                                             a thread some dims of one query: added to memory
 *
 * Every block adds to the dQ of every query that sees its keys. The hardware takes such additions whole (atomicAdd), but in the
 * order in which they come, and the last bits of dQ change with it.
 *
 * A small kernel before it computes D = sum of dO O - dlse, and makes dQ 0.
 *
 * FLOPs: 10 seq_q seq_k dim a head. Memory: Q and dO once for each block of keys, and dQ read and written as often; those are
 * served by L2 as long as a head fits it.
 * Changed since step 46: the kernel of the queries is gone, and dQ is added up by the blocks of the keys.
 */
#include "gpu.cuh"
#include "steps.h"

#define THREADS 256 /* of a block of the small kernel: eight warps, a query each */

/* D: (rows), a query's sum of dO O, less its dlse where there is one; dQ, O, dO: (rows, dim). dQ becomes 0. A warp has a row. */
static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float *D, float *dQ, const float *O, const float *dO, const float *dlse, int64_t rows, int64_t dim)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (row >= rows)
        return;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < dim; i += 32) {
        sum += dO[row * dim + i] * O[row * dim + i];
        dQ[row * dim + i] = 0.0f;
    }
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

template <int DIM>
static __global__ void __launch_bounds__(TILE<DIM> *TILE<DIM>)
    joined_backward_kernel(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *lse,
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
            for (int i = 0; i < EACH; i++) {
                float of_q = 0.0f;
#if __CUDA_ARCH__ >= 1000
#pragma unroll 8 /* unrolled whole it would take more registers there than a thread has */
#endif
                for (int j = 0; j < BR; j++) { /* a query, for the first two; a key, for the last */
                    of_v[i] += s->P[j][y] * s->o[j][i * BR + x];
                    of_k[i] += s->dS[j][y] * s->q[j][i * BR + x];
                    of_q += s->dS[y][j] * s->k[j][i * BR + x];
                }
                if (inside && i * BR + x < p.dim)
                    atomicAdd(dQ + row * p.dim + i * BR + x, p.scale * of_q);
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
    size_t bytes = shared_bytes<DIM>(); /* if it is too much (joined_backward_shared() says so before), CUDA refuses it */
    int64_t blocks = p.batch * p.kv_heads * ((p.seq_k + BR - 1) / BR);
    cudaFuncSetAttribute(joined_backward_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    joined_backward_kernel<DIM><<<(unsigned)blocks, dim3(BR, BR), bytes, stream>>>(dQ, dK, dV, Q, K, V, lse, dO, D, p);
}

/* D, a float a query. */
size_t joined_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q) * sizeof(float);
}

void joined_backward_gpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                         const float *lse, const float *dO, const float *dlse, struct attention p, void *workspace,
                         cudaStream_t stream)
{
    float *D = (float *)workspace;
    int64_t rows = p.batch * p.heads * p.seq_q;
    if (p.dim > 256)
        return refuse();
    prepare_kernel<<<(unsigned)((rows * 32 + THREADS - 1) / THREADS), THREADS, 0, stream>>>(D, dQ, O, dO, dlse, rows, p.dim);
    BY_DIM(p.dim, launch, dQ, dK, dV, Q, K, V, lse, dO, D, p, stream);
}

size_t joined_backward_shared(int64_t dim)
{
    return BY_DIM(dim, shared_bytes);
}
