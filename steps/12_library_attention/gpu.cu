/*
 * Step 12, library attention on the GPU: the two products by cuBLAS, the best matrix product there is, and between them the
 * softmax of step 11.
 *
 *     S = scale Q K^T     cuBLAS
 *     P = softmax(S)      a block owns a row of S; in place
 *     O = P V             cuBLAS
 *
 * cuBLAS multiplies batches of matrices at equal distances. Query heads that share a key-value head lie behind each other in
 * Q, so that they are one matrix with more rows. Of causal masks it knows nothing: it computes all of S, and multiplies by the
 * zeros that the softmax makes of what a query does not see.
 *
 * Trips over S: written, read, written, read. 4 L^2 + 4 L dim elements moved; L^2 elements of workspace, of the type of Q. In
 * 16 bits, S and P are rounded to 16 bits on their way, and a score above 65504 overflows in fp16.
 * Changed since step 11: products by the library; fp16 and bf16, on tensor cores.
 */
#include "blas.h"
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define HELD 16  /* elements of a row of S that a thread holds; 1024 threads then hold 16384 */

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

/* Each row of S becomes its softmax over the keys that the row's query sees. What it does not see gets weight 0. */
template <class T> static __global__ void __launch_bounds__(1024)
    softmax_kernel(T *S, float *lse, struct attention p)
{
    int threads = (int)blockDim.x, t = (int)threadIdx.x;
    int64_t row = blockIdx.x, visible = attention_visible(p, row % p.seq_q);
    S += row * p.seq_k;

    float x[HELD];
    for (int i = 0; i < HELD; i++)
        x[i] = i * threads + t < visible ? to_float(S[i * threads + t]) : -INFINITY;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < HELD; i++)
        s.m = fmaxf(s.m, x[i]);
    for (int i = 0; i < HELD; i++)
        s.l += exp_below(x[i], s.m);
#pragma unroll 1
    for (int64_t key = HELD * threads + t; key < visible; key += threads) /* what threads cannot hold is read again */
        s = softmax_merge(s, softmax_one(to_float(S[key])));
    s = block_merge(s);

    float inverse = s.l == 0.0f ? 0.0f : 1.0f / s.l; /* no weight: zeros */
    for (int i = 0; i < HELD; i++)
        if (i * threads + t < visible)
            from_float(&S[i * threads + t], exp_below(x[i], s.m) * inverse);
    for (int64_t key = HELD * threads + t; key < visible; key += threads)
        from_float(&S[key], exp_below(to_float(S[key]), s.m) * inverse);
    for (int64_t key = visible + t; key < p.seq_k; key += threads)
        from_float(&S[key], 0.0f);
    if (lse && threadIdx.x == 0)
        lse[row] = s.m + logf(s.l);
}

/*
 * O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), of type T, which is dtype. workspace:
 * BLAS_WORKSPACE_BYTES for cuBLAS, then S: (batch, heads, seq_q, seq_k), of type T. Three launches: product, softmax, product.
 */
template <class T> static void attend(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, enum dtype dtype,
                                      void *workspace, cudaStream_t stream)
{
    T *S = (T *)((char *)workspace + BLAS_WORKSPACE_BYTES);
    int64_t count = p.batch * p.kv_heads, rows = attention_group(p) * p.seq_q; /* queries that share a key-value head */
    struct matrices s = { S, p.seq_k, rows * p.seq_k }, q = { (void *)Q, p.dim, rows * p.dim }, o = { O, q.row, q.next };
    struct matrices k = { (void *)K, p.dim, p.seq_k * p.dim }, v = { (void *)V, k.row, k.next };
    int threads = (int)min((int64_t)1024, max((int64_t)128, p.seq_k / HELD / 32 * 32)); /* of a row */

    blas_products_gpu(s, q, k, true, { rows, p.seq_k, p.dim, count }, p.scale, dtype, workspace, stream);
    softmax_kernel<<<(unsigned)(count * rows), threads, 0, stream>>>(S, lse, p);
    blas_products_gpu(o, s, v, false, { rows, p.dim, p.seq_k, count }, 1.0f, dtype, workspace, stream);
}

size_t library_attention_workspace(struct attention p, enum dtype dtype)
{
    size_t element_bytes = dtype == FP32 ? 4 : 2;
    return BLAS_WORKSPACE_BYTES + (size_t)(p.batch * p.heads * p.seq_q * p.seq_k) * element_bytes;
}

void library_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                           void *workspace, cudaStream_t stream)
{
    attend(O, lse, Q, K, V, p, FP32, workspace, stream);
}

void library_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                void *workspace, cudaStream_t stream)
{
    attend(O, lse, Q, K, V, p, FP16, workspace, stream);
}

void library_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                void *workspace, cudaStream_t stream)
{
    attend(O, lse, Q, K, V, p, BF16, workspace, stream);
}
