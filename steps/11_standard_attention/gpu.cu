/*
 * Step 11, standard attention on the GPU: the formula as it is written, in three kernels, with all scores in memory.
 *
 *     S = scale Q K^T        a block owns a tile of 32 queries x 32 keys of S, a thread one score
 *     P = softmax(S)         a block owns a row of S; in place
 *     O = P V                a block owns a tile of 32 queries x 32 dims of O, a thread one element
 *
 * The two products are the textbook's: a block copies a tile of each operand to shared memory, so that an element loaded once is
 * used by 32 threads, and each thread multiplies a row of the one by a column of the other. That is two loads from shared memory
 * for each multiply-add; an SM can do 128 multiply-adds a cycle, but 32 such loads: an eighth of the FMA ceiling, at best.
 *
 * The softmax is that of step 06: a row stays in registers between the read and the write. What they cannot hold, past 16384
 * keys, is read again.
 *
 * FLOPs: 4 seq_q seq_k dim a head. Trips over S: written, read, written, read. 4 L^2 + 4 L dim elements moved, and L^2 elements
 * of workspace. With a causal mask, half of all: tiles above the diagonal are neither computed nor read.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define TILE 32  /* queries, keys or dims of a tile; a block has TILE x TILE threads */
#define HELD 16  /* elements of a row of S that a thread holds; 1024 threads then hold 16384 */

static __host__ __device__ int64_t tiles(int64_t size)
{
    return (size + TILE - 1) / TILE;
}

/* The same for a tile of queries: as many as the last of them sees. */
static __device__ int64_t visible_to_tile(struct attention p, int64_t first_query)
{
    return attention_visible(p, min(first_query + TILE, p.seq_q) - 1);
}

/* x[row][col] of a (rows, cols) matrix, and 0 outside of it. */
static __device__ float at(const float *x, int64_t row, int64_t col, int64_t rows, int64_t cols)
{
    return row < rows && col < cols ? x[row * cols + col] : 0.0f;
}

/* S: (batch, heads, seq_q, seq_k) = scale Q K^T, but for tiles that no query sees. */
static __global__ void __launch_bounds__(TILE *TILE)
    scores_kernel(float *S, const float *Q, const float *K, struct attention p)
{
    __shared__ float q[TILE][TILE], k[TILE][TILE + 1]; /* + 1: k is read along its columns, which then lie in 32 banks */
    int64_t tile = blockIdx.x, x = threadIdx.x, y = threadIdx.y;
    int64_t first_key = tile % tiles(p.seq_k) * TILE;
    int64_t first_query = tile / tiles(p.seq_k) % tiles(p.seq_q) * TILE;
    int64_t head = tile / tiles(p.seq_k) / tiles(p.seq_q);
    if (first_key >= visible_to_tile(p, first_query))
        return;
    S += head * p.seq_q * p.seq_k;
    Q += head * p.seq_q * p.dim;
    K += attention_kv_head(p, head) * p.seq_k * p.dim;

    float sum = 0.0f;
    for (int64_t first_dim = 0; first_dim < p.dim; first_dim += TILE) {
        q[y][x] = at(Q, first_query + y, first_dim + x, p.seq_q, p.dim);
        k[y][x] = at(K, first_key + y, first_dim + x, p.seq_k, p.dim);
        __syncthreads();
        for (int d = 0; d < TILE; d++)
            sum += q[y][d] * k[x][d];
        __syncthreads();
    }
    if (first_query + y < p.seq_q && first_key + x < p.seq_k)
        S[(first_query + y) * p.seq_k + first_key + x] = p.scale * sum;
}

/* The merge of a warp's 32 states, in every lane. */
static __device__ struct softmax_state warp_merge(struct softmax_state s)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        struct softmax_state other = {
            __shfl_xor_sync(ALL_LANES, s.m, distance),
            __shfl_xor_sync(ALL_LANES, s.l, distance),
        };
        s = softmax_merge(s, other);
    }
    return s;
}

/* The merge of the states of a block's threads, in each of them: first every warp by itself, then every warp all warps. */
static __device__ struct softmax_state block_merge(struct softmax_state s)
{
    __shared__ struct softmax_state of_warp[32];
    unsigned lane = threadIdx.x % 32;
    s = warp_merge(s);
    if (lane == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    return warp_merge(lane < blockDim.x / 32 ? of_warp[lane] : softmax_empty());
}

/* exp(x - m), and 0 where m is the maximum of nothing, -inf: exp(-inf - -inf) would be NaN. */
static __device__ float exp_below(float x, float m)
{
    return __expf(x - (m == -INFINITY ? 0.0f : m));
}

/* Each row of S becomes its softmax over the keys that the row's query sees. What it does not see is never written or read. */
static __global__ void __launch_bounds__(1024)
    softmax_kernel(float *S, float *lse, struct attention p)
{
    int threads = (int)blockDim.x, t = (int)threadIdx.x;
    int64_t row = blockIdx.x, visible = attention_visible(p, row % p.seq_q);
    S += row * p.seq_k;

    float x[HELD];
    for (int i = 0; i < HELD; i++)
        x[i] = i * threads + t < visible ? S[i * threads + t] : -INFINITY;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < HELD; i++)
        s.m = fmaxf(s.m, x[i]);
    for (int i = 0; i < HELD; i++)
        s.l += exp_below(x[i], s.m);
#pragma unroll 1
    for (int64_t key = HELD * threads + t; key < visible; key += threads) /* what threads cannot hold is read again */
        s = softmax_merge(s, softmax_one(S[key]));
    s = block_merge(s);

    float inverse = s.l == 0.0f ? 0.0f : 1.0f / s.l; /* no weight: zeros */
    for (int i = 0; i < HELD; i++)
        if (i * threads + t < visible)
            S[i * threads + t] = exp_below(x[i], s.m) * inverse;
    for (int64_t key = HELD * threads + t; key < visible; key += threads)
        S[key] = exp_below(S[key], s.m) * inverse;
    if (lse && threadIdx.x == 0)
        lse[row] = s.m + logf(s.l);
}

/* O: (batch, heads, seq_q, dim) = P V. A query that sees no key gets the empty sum, 0. */
static __global__ void __launch_bounds__(TILE *TILE)
    output_kernel(float *O, const float *P, const float *V, struct attention p)
{
    __shared__ float weight[TILE][TILE], v[TILE][TILE];
    int64_t tile = blockIdx.x, x = threadIdx.x, y = threadIdx.y;
    int64_t first_dim = tile % tiles(p.dim) * TILE;
    int64_t first_query = tile / tiles(p.dim) % tiles(p.seq_q) * TILE;
    int64_t head = tile / tiles(p.dim) / tiles(p.seq_q);
    int64_t query = first_query + y, visible = attention_visible(p, query), end = visible_to_tile(p, first_query);
    O += head * p.seq_q * p.dim;
    P += head * p.seq_q * p.seq_k;
    V += attention_kv_head(p, head) * p.seq_k * p.dim;

    float sum = 0.0f;
    for (int64_t first_key = 0; first_key < end; first_key += TILE) {
        weight[y][x] = at(P, query, first_key + x, p.seq_q, p.seq_k);
        v[y][x] = at(V, first_key + y, first_dim + x, p.seq_k, p.dim);
        __syncthreads();
        int keys = (int)min((int64_t)TILE, visible - first_key);
        for (int key = 0; key < keys; key++)
            sum += weight[y][key] * v[key][x];
        __syncthreads();
    }
    if (query < p.seq_q && first_dim + x < p.dim)
        O[query * p.dim + first_dim + x] = sum;
}

size_t standard_attention_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q * p.seq_k) * sizeof(float);
}

void standard_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                            void *workspace, cudaStream_t stream)
{
    float *S = (float *)workspace;
    int64_t heads = p.batch * p.heads;
    dim3 square(TILE, TILE);
    int threads = (int)min((int64_t)1024, max((int64_t)128, p.seq_k / HELD / 32 * 32)); /* of a row */

    scores_kernel<<<(unsigned)(heads * tiles(p.seq_q) * tiles(p.seq_k)), square, 0, stream>>>(S, Q, K, p);
    softmax_kernel<<<(unsigned)(heads * p.seq_q), threads, 0, stream>>>(S, lse, p);
    output_kernel<<<(unsigned)(heads * tiles(p.seq_q) * tiles(p.dim)), square, 0, stream>>>(O, S, V, p);
}
