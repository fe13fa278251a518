/*
 * Step 43, the gradient of attention on the GPU: the formulas as they are written, in four kernels, with P and dS in memory.
 *
 *     P = exp(scale Q K^T - lse), dP = dO V^T     a block owns a tile of 32 queries x 32 keys of both, a thread one element
 *     D = sum P dP, dS = P (dP - D + dlse)        a block owns a row, which takes dP's place
 *     dQ = scale dS K                             a block owns a tile of 32 queries x 32 dims of dQ
 *     dK = scale dS^T Q, dV = P^T dO              a block owns a tile of 32 keys x 32 dims of both, for all heads that share them
 *
 * The products are those of step 11: an element loaded once is used by 32 threads, out of shared memory.
 *
 * FLOPs: 10 seq_q seq_k dim a head. P and dP: written, read; dS: written, read twice; P: read once more. With a causal mask,
 * half of all.
 */
#include "gpu.cuh"
#include "steps.h"

#define SIDE 32       /* queries, keys or dims of a square; a block has SIDE x SIDE threads */
#define THREADS 256   /* that have a row of P */

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

/* P, dP: (batch, heads, seq_q, seq_k), where a query sees the key; tiles that no query sees are left out. */
static __global__ void __launch_bounds__(SIDE *SIDE)
    weights_kernel(float *P, float *dP, const float *Q, const float *K, const float *V, const float *lse, const float *dO,
                   struct attention p)
{
    __shared__ float q[SIDE][SIDE], k[SIDE][SIDE + 1], o[SIDE][SIDE], v[SIDE][SIDE + 1];
    int64_t tile = blockIdx.x, x = threadIdx.x, y = threadIdx.y;
    int64_t first_key = tile % squares(p.seq_k) * SIDE;
    int64_t first_query = tile / squares(p.seq_k) % squares(p.seq_q) * SIDE;
    int64_t head = tile / squares(p.seq_k) / squares(p.seq_q), kv = attention_kv_head(p, head);
    if (first_key >= visible_to_square(p, first_query))
        return;
    Q += head * p.seq_q * p.dim, dO += head * p.seq_q * p.dim;
    K += kv * p.seq_k * p.dim, V += kv * p.seq_k * p.dim;

    float score = 0.0f, change = 0.0f;
    for (int64_t first_dim = 0; first_dim < p.dim; first_dim += SIDE) {
        q[y][x] = at(Q, first_query + y, first_dim + x, p.seq_q, p.dim);
        o[y][x] = at(dO, first_query + y, first_dim + x, p.seq_q, p.dim);
        k[y][x] = at(K, first_key + y, first_dim + x, p.seq_k, p.dim);
        v[y][x] = at(V, first_key + y, first_dim + x, p.seq_k, p.dim);
        __syncthreads();
        for (int d = 0; d < SIDE; d++) {
            score += q[y][d] * k[x][d];
            change += o[y][d] * v[x][d];
        }
        __syncthreads();
    }
    int64_t query = first_query + y, key = first_key + x, row = head * p.seq_q + query;
    if (query < p.seq_q && key < attention_visible(p, query)) {
        P[row * p.seq_k + key] = __expf(p.scale * score - lse[row]);
        dP[row * p.seq_k + key] = change;
    }
}

/* Each row of dP becomes the row of dS (step 42). What its query does not see is never written or read. */
static __global__ void __launch_bounds__(THREADS)
    differentiate_kernel(float *dP, const float *P, const float *dlse, struct attention p)
{
    __shared__ float of_warp[THREADS / 32];
    int64_t row = blockIdx.x, visible = attention_visible(p, row % p.seq_q);
    P += row * p.seq_k, dP += row * p.seq_k;
    float D = 0.0f;
    for (int64_t key = threadIdx.x; key < visible; key += THREADS)
        D += P[key] * dP[key];
    D = warp_sum(D);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = D;
    __syncthreads();
    D = warp_sum<THREADS / 32>(of_warp[threadIdx.x % (THREADS / 32)]) - (dlse ? dlse[row] : 0.0f);
    for (int64_t key = threadIdx.x; key < visible; key += THREADS)
        dP[key] = P[key] * (dP[key] - D);
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

/* dK, dV: (batch, kv_heads, seq_k, dim) = scale dS^T Q, P^T dO, summed over the heads of a group. */
static __global__ void __launch_bounds__(SIDE *SIDE)
    keys_kernel(float *dK, float *dV, const float *P, const float *dS, const float *Q, const float *dO, struct attention p)
{
    __shared__ float w[SIDE][SIDE], ds[SIDE][SIDE], q[SIDE][SIDE], o[SIDE][SIDE]; /* w: a tile of P */
    int64_t tile = blockIdx.x, x = threadIdx.x, y = threadIdx.y;
    int64_t first_dim = tile % squares(p.dim) * SIDE;
    int64_t first_key = tile / squares(p.dim) % squares(p.seq_k) * SIDE;
    int64_t kv = tile / squares(p.dim) / squares(p.seq_k), group = attention_group(p);

    float of_k = 0.0f, of_v = 0.0f;
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int64_t first = first_to_see(p, first_key) / SIDE * SIDE; first < p.seq_q; first += SIDE) {
            int64_t query = first + y, key = first_key + x, row = head * p.seq_q + query;
            bool seen = query < p.seq_q && key < attention_visible(p, query);
            w[y][x] = seen ? P[row * p.seq_k + key] : 0.0f;
            ds[y][x] = seen ? dS[row * p.seq_k + key] : 0.0f;
            q[y][x] = at(Q + head * p.seq_q * p.dim, query, first_dim + x, p.seq_q, p.dim);
            o[y][x] = at(dO + head * p.seq_q * p.dim, query, first_dim + x, p.seq_q, p.dim);
            __syncthreads();
            for (int i = 0; i < SIDE; i++) {
                of_k += ds[i][y] * q[i][x];
                of_v += w[i][y] * o[i][x];
            }
            __syncthreads();
        }
    int64_t key = first_key + y;
    if (key < p.seq_k && first_dim + x < p.dim) {
        dK[(kv * p.seq_k + key) * p.dim + first_dim + x] = p.scale * of_k;
        dV[(kv * p.seq_k + key) * p.dim + first_dim + x] = of_v;
    }
}

/* P and dS, of all heads. */
size_t attention_backward_workspace(struct attention p, enum dtype)
{
    return 2 * (size_t)(p.batch * p.heads * p.seq_q * p.seq_k) * sizeof(float);
}

void attention_backward_gpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *,
                            const float *lse, const float *dO, const float *dlse, struct attention p, void *workspace,
                            cudaStream_t stream)
{
    int64_t heads = p.batch * p.heads, kv_heads = p.batch * p.kv_heads;
    float *P = (float *)workspace, *dS = P + heads * p.seq_q * p.seq_k;
    dim3 square(SIDE, SIDE);
    weights_kernel<<<(unsigned)(heads * squares(p.seq_q) * squares(p.seq_k)), square, 0, stream>>>(P, dS, Q, K, V, lse, dO, p);
    differentiate_kernel<<<(unsigned)(heads * p.seq_q), THREADS, 0, stream>>>(dS, P, dlse, p);
    queries_kernel<<<(unsigned)(heads * squares(p.seq_q) * squares(p.dim)), square, 0, stream>>>(dQ, dS, K, p);
    keys_kernel<<<(unsigned)(kv_heads * squares(p.seq_k) * squares(p.dim)), square, 0, stream>>>(dK, dV, P, dS, Q, dO, p);
}
