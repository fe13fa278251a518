/*
 * Step 48, mixed backward: step 47 for elements of 16 bits. Products, sums, scores and weights in fp32.
 *
 * A block owns BR keys of a head of K and V, for all heads of Q that share it, and walks over their queries, BR at a time. Its
 * dK and dV stay in registers. Per tile:
 *
 *     P = 2^(c q k^T - lse), dP = do v^T, dS = P (dP - D)          a thread one element of each; P and dS to shared memory
 *     dV += P^T do, dK += dS^T q                                   a thread some dims of one key
 *     dQ += dS k                                                   a thread some dims of one query: added to memory
 *
 * What is added up in 16 bits stops growing: beside a sum of 2048, fp16 has no place for a 1. dK and dV are in registers, where a
 * sum is fp32 anyway, and are rounded once, when they are stored. dQ is added up in memory, so it gets fp32 sums there, in a
 * workspace.
 *
 * A small kernel before it computes D = sum of dO O - dlse, scales lse, and makes the sums 0; another behind it makes dQ of them.
 *
 * Changed since step 47: types; dQ's sums are not dQ itself; exponentials of 2. Heads have 64 or 128 dims, and blocks a grid of
 * two dimensions.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define THREADS 256                     /* of a block of the small kernels */
#define MAX_GRID_Y INT64_C(65535)       /* blocks in a grid's second dimension: the hardware's limit */

/* ---- before: D and the like, and sums of 0 */

/*
 * rows: a query's lse, times log2(e), and its sum of dO O, less its dlse where there is one. sums: (rows, dim), zeros. Queries
 * that see no key get an lse of infinity: all weights are 0. A warp has a row.
 */
template <class T> static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float2 *rows, float *sums, const T *O, const float *lse, const T *dO, const float *dlse, int64_t queries,
                   int64_t dim)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (row >= queries)
        return;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < dim; i += 32) {
        sum += to_float(dO[row * dim + i]) * to_float(O[row * dim + i]);
        sums[row * dim + i] = 0.0f;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        rows[row] = make_float2(lse[row] == -INFINITY ? INFINITY : lse[row] * LOG2E, sum - (dlse ? dlse[row] : 0.0f));
}

/* ---- the kernel */

/* Queries, and keys, of a tile: a block has so many by so many threads. */
template <int DIM> static constexpr int TILE = DIM <= 64 ? 32 : 16;

/* What a block has in shared memory. A row is one number longer: threads that read one column then have banks of their own. */
template <int DIM> struct tiles {
    float q[TILE<DIM>][DIM + 1], o[TILE<DIM>][DIM + 1], k[TILE<DIM>][DIM + 1], v[TILE<DIM>][DIM + 1];
    float P[TILE<DIM>][TILE<DIM> + 1], dS[TILE<DIM>][TILE<DIM> + 1];
};

/* A tile of rows of DIM elements. Rows from `there` on become zeros. */
template <int DIM, class T> static __device__ void load_tile(float (*tile)[DIM + 1], const T *from, int there)
{
    for (int i = threadIdx.x; i < DIM; i += TILE<DIM>)
        tile[threadIdx.y][i] = (int)threadIdx.y < there ? to_float(from[threadIdx.y * DIM + i]) : 0.0f;
}

/* A thread's element of P and dS: query y, key x of the tile, from q, k, o and v. 0 where the key is not seen. */
template <int DIM> static __device__ void weigh(struct tiles<DIM> *s, bool seen, float c, float lse, float D)
{
    int x = threadIdx.x, y = threadIdx.y;
    float score = 0.0f, change = 0.0f;
    for (int i = 0; i < DIM; i++) {
        score += s->q[y][i] * s->k[x][i];
        change += s->o[y][i] * s->v[x][i];
    }
    float P = seen ? ex2(c * score - lse) : 0.0f;
    s->P[y][x] = P;
    s->dS[y][x] = P * (change - D);
}

/*
 * As attention_backward_fp16_gpu_fn in types.h, for p.dim == DIM, heads of K and V from first_head on. sums, rows: as
 * prepare_kernel left them. c: scale log2(e); group: attention_group(p).
 */
template <int DIM, class T> static __global__ void __launch_bounds__(TILE<DIM> *TILE<DIM>)
    mixed_backward_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO, const float2 *rows,
                          struct attention p, float c, unsigned first_head, unsigned group)
{
    constexpr int BR = TILE<DIM>, EACH = DIM / BR; /* queries of a tile, and keys; dims that a thread holds: x, x + BR, ... */
    extern __shared__ float shared[];
    struct tiles<DIM> *s = (struct tiles<DIM> *)shared;

    /* Which keys; and which queries see some of them: from one on, of each of the group's heads. */
    const int64_t kv = first_head + blockIdx.y;
    const int seq_q = (int)p.seq_q, seq_k = (int)p.seq_k, block_key = (int)blockIdx.x * BR;
    const int first = p.causal ? max(0, block_key + seq_q - seq_k) / BR * BR : 0;
    const int slope = p.causal, limit = p.causal ? seq_k - seq_q + 1 : seq_k; /* query i sees the first limit + slope i keys */
    int x = threadIdx.x, y = threadIdx.y;

    const int64_t from = (kv * seq_k + block_key) * DIM;
    load_tile<DIM>(s->k, K + from, seq_k - block_key);
    load_tile<DIM>(s->v, V + from, seq_k - block_key);
    float of_k[EACH] = { 0 }, of_v[EACH] = { 0 };
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int at = first; at < seq_q; at += BR) {
            const int64_t query = head * seq_q + at;
            const float2 row = y < seq_q - at ? rows[query + y] : make_float2(INFINITY, 0.0f);
            load_tile<DIM>(s->q, Q + query * DIM, seq_q - at);
            load_tile<DIM>(s->o, dO + query * DIM, seq_q - at);
            __syncthreads();
            weigh<DIM>(s, block_key + x < limit + slope * (at + y), c, row.x, row.y);
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
                if (y < seq_q - at)
                    atomicAdd(&sums[(query + y) * DIM + i * BR + x], of_q);
            }
            __syncthreads(); /* before the next tile takes the place of this one */
        }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (y < seq_k - block_key) {
            from_float(&dK[from + y * DIM + i * BR + x], p.scale * of_k[i]);
            from_float(&dV[from + y * DIM + i * BR + x], of_v[i]);
        }
}

/* ---- behind: dQ from its sums */

/* dQ = scale times the sums, `count` of them. */
template <class T> static __global__ void __launch_bounds__(THREADS)
    convert_kernel(T *dQ, const float *sums, float scale, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        from_float(&dQ[i], scale * sums[i]);
}

/* ---- launchers */

template <int DIM, class T> static void launch_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO,
                                                      const float2 *rows, struct attention p, cudaStream_t stream)
{
    constexpr int BR = TILE<DIM>, BYTES = sizeof(struct tiles<DIM>);
    static_assert(BYTES <= SHARED_UNASKED, "more than a block's shared memory");
    float c = scale_sign(p.scale) * exponent_scale(p.scale);
    for (int64_t head = 0; head < p.batch * p.kv_heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_k + BR - 1) / BR), (unsigned)min(p.batch * p.kv_heads - head, MAX_GRID_Y));
        mixed_backward_kernel<DIM, T><<<blocks, dim3(BR, BR), BYTES, stream>>>(
            sums, dK, dV, Q, K, V, dO, rows, p, c, (unsigned)head, (unsigned)attention_group(p));
    }
}

template <class T, int DIM>
static void launch_for(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                       const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    int64_t rows = p.batch * p.heads * p.seq_q;
    float *sums = (float *)workspace;
    float2 *row = (float2 *)(sums + rows * DIM);
    prepare_kernel<<<(unsigned)ceil_div(rows * 32, THREADS), THREADS, 0, stream>>>(row, sums, O, lse, dO, dlse, rows, DIM);
    launch_kernel<DIM, T>(sums, dK, dV, Q, K, V, dO, row, p, stream);
    convert_kernel<<<(unsigned)ceil_div(rows * DIM, THREADS), THREADS, 0, stream>>>(dQ, sums, p.scale, rows * DIM);
}

/* A float for each element of dQ, and two for each query. */
size_t mixed_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q) * ((size_t)p.dim + 2) * sizeof(float);
}

template <class T>
static void launch(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                   const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p) || !takes_16_bits(dO, dQ, dK, dV, p))
        return;
    if (p.dim == 64)
        launch_for<T, 64>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
    else
        launch_for<T, 128>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void mixed_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                             const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                             cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void mixed_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                             const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                             cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}
