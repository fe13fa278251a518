/*
 * Step 45, walked backward on the GPU: a block owns whole rows of dK and dV, walks over their queries, and makes P on the way.
 *
 *     P = exp(scale q k^T - lse), dP = do v^T, dS = P (dP - D)     a thread one element of each; P and dS to shared memory
 *     dV += P^T do, dK += dS^T q                                   a thread some dims of one key
 *
 * A block has BR keys of a head of K and V and walks over their queries, of all heads of Q that share it; its dK and dV stay in
 * registers. P never leaves it. dS does, once: dQ is another sum of it, over keys, and so another kernel's, step 44's.
 *
 * A small kernel before them computes D = sum of dO O - dlse.
 *
 * FLOPs: 10 seq_q seq_k dim a head. Memory: Q and dO once for each block of keys, from L2 as long as a head fits it; dS: written,
 * read. With a causal mask, half of all.
 * Changed since step 44: no P in memory, and a block of keys owns all their dims.
 */
#include "gpu.cuh"
#include "steps.h"

#define SIDE 32     /* queries or dims of a square of dQ; a block of its kernel has SIDE x SIDE threads */
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

static __host__ __device__ int64_t squares(int64_t size)
{
    return (size + SIDE - 1) / SIDE;
}

/* Keys that some query of a square sees, and the first query that sees some key from this one on. */
static __device__ int64_t visible_to_square(struct attention p, int64_t first_query)
{
    return attention_visible(p, min(first_query + SIDE, p.seq_q) - 1);
}

static __device__ int64_t first_to_see(struct attention p, int64_t key)
{
    return p.causal ? max((int64_t)0, key + p.seq_q - p.seq_k) : 0;
}

/* x[row][col] of a (rows, cols) matrix, and 0 outside of it. */
static __device__ float at(const float *x, int64_t row, int64_t col, int64_t rows, int64_t cols)
{
    return row < rows && col < cols ? x[row * cols + col] : 0.0f;
}

/* dQ: (batch, heads, seq_q, dim) = scale dS K. A query that sees no key gets the empty sum, 0. */
static __global__ void __launch_bounds__(SIDE *SIDE)
    queries_kernel(float *dQ, const float *dS, const float *K, struct attention p)
{
    __shared__ float ds[SIDE][SIDE], k[SIDE][SIDE];
    int64_t tile = blockIdx.x, x = threadIdx.x, y = threadIdx.y;
    int64_t first_dim = tile % squares(p.dim) * SIDE;
    int64_t first_query = tile / squares(p.dim) % squares(p.seq_q) * SIDE;
    int64_t head = tile / squares(p.dim) / squares(p.seq_q);
    int64_t query = first_query + y, visible = query < p.seq_q ? attention_visible(p, query) : 0;
    int64_t end = visible_to_square(p, first_query);
    dS += head * p.seq_q * p.seq_k;
    K += attention_kv_head(p, head) * p.seq_k * p.dim;

    float sum = 0.0f;
    for (int64_t first_key = 0; first_key < end; first_key += SIDE) {
        ds[y][x] = first_key + x < visible ? dS[query * p.seq_k + first_key + x] : 0.0f;
        k[y][x] = at(K, first_key + y, first_dim + x, p.seq_k, p.dim);
        __syncthreads();
#if __CUDA_ARCH__ >= 1000
#pragma unroll 16 /* unrolled whole it would take more registers there than a thread has */
#endif
        for (int key = 0; key < SIDE; key++)
            sum += ds[y][key] * k[key][x];
        __syncthreads();
    }
    if (query < p.seq_q && first_dim + x < p.dim)
        dQ[(head * p.seq_q + query) * p.dim + first_dim + x] = p.scale * sum;
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

/* dK and dV of BR keys of a head, for the queries that see them, of all heads that share it, and dS. */
template <int DIM>
static __global__ void __launch_bounds__(TILE<DIM> *TILE<DIM>)
    keys_kernel(float *dK, float *dV, float *dS, const float *Q, const float *K, const float *V, const float *lse,
                const float *dO, const float *D, struct attention p)
{
    constexpr int BR = TILE<DIM>, EACH = DIM / BR; /* dims of a key that a thread holds: x, x + BR, ... */
    extern __shared__ float shared[];
    struct tiles<DIM> *s = (struct tiles<DIM> *)shared;
    int64_t key_tiles = (p.seq_k + BR - 1) / BR, kv = blockIdx.x / key_tiles, first_key = blockIdx.x % key_tiles * BR;
    int64_t group = attention_group(p), key = first_key + threadIdx.x;
    int64_t first = first_to_see(p, first_key) / BR * BR; /* query that sees one of its keys */
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
            if (seen)
                dS[row * p.seq_k + key] = s->dS[y][x];
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
static void launch(float *dQ, float *dK, float *dV, float *dS, const float *Q, const float *K, const float *V,
                   const float *lse, const float *dO, const float *D, struct attention p, cudaStream_t stream)
{
    constexpr int BR = TILE<DIM>;
    static_assert(shared_bytes<DIM>() <= SHARED_SM_80, "more than a block's shared memory");
    size_t bytes = shared_bytes<DIM>(); /* if it is too much (walked_backward_shared() says so before), CUDA refuses it */
    int64_t of_queries = p.batch * p.heads * squares(p.seq_q) * squares(p.dim);
    int64_t blocks = p.batch * p.kv_heads * ((p.seq_k + BR - 1) / BR);
    cudaFuncSetAttribute(keys_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    keys_kernel<DIM><<<(unsigned)blocks, dim3(BR, BR), bytes, stream>>>(dK, dV, dS, Q, K, V, lse, dO, D, p);
    queries_kernel<<<(unsigned)of_queries, dim3(SIDE, SIDE), 0, stream>>>(dQ, dS, K, p);
}

/* dS of all heads, and D. */
size_t walked_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q) * (size_t)(p.seq_k + 1) * sizeof(float);
}

void walked_backward_gpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                         const float *lse, const float *dO, const float *dlse, struct attention p, void *workspace,
                         cudaStream_t stream)
{
    int64_t rows = p.batch * p.heads * p.seq_q;
    float *dS = (float *)workspace, *D = dS + rows * p.seq_k;
    if (p.dim > 256)
        return refuse();
    prepare_kernel<<<(unsigned)((rows * 32 + THREADS - 1) / THREADS), THREADS, 0, stream>>>(D, O, dO, dlse, rows, p.dim);
    BY_DIM(p.dim, launch, dQ, dK, dV, dS, Q, K, V, lse, dO, D, p, stream);
}

size_t walked_backward_shared(int64_t dim)
{
    return BY_DIM(dim, shared_bytes);
}
