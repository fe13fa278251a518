/*
 * Step 11, library attention on the GPU: the two products by cuBLAS, the best matrix product there is, and between them a
 * softmax that reads S once and writes it once.
 *
 *     S = scale Q K^T     cuBLAS
 *     P = softmax(S)      in place: a row stays in registers between the read and the write, step 07
 *     O = P V             cuBLAS
 *
 * cuBLAS multiplies batches of matrices at equal distances. Query heads that share a key-value head lie behind each other in
 * Q, so that they are one matrix with more rows. Of causal masks it knows nothing: queries go to it in panels of 512, each with
 * the keys that its last query sees, and the softmax makes zeros of what is above the diagonal in a panel.
 *
 * In the softmax a row has just enough threads for each to hold PACKS packs of 16 bytes: 32 to 1024. What 1024 threads cannot
 * hold, past 16384 keys in fp32 or 32768 in 16 bits, is read again.
 *
 * Trips over S: written, read, written, read. 4 L^2 + 4 L dim elements moved; L^2 elements of workspace, of the type of Q. In
 * 16 bits, S and P are rounded to 16 bits on their way, and a score above 65504 overflows in fp16.
 * Changed since step 10: products by the library, one read of S less, fp16 and bf16 on tensor cores.
 */
#include "blas.h"
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define PANEL 512      /* queries that are multiplied at a time under a causal mask */
#define PACKS 4        /* packs of 16 bytes that a thread holds */
#define MIN_BLOCK 128  /* threads of a block, at least: rows of fewer threads share one */
#define ROW_ALIGN 8    /* rows of S start on a multiple of so many elements: 16 bytes, or 32 */

/* The number of keys that are multiplied for a query: what the last of its panel sees, and at least one. */
static __host__ __device__ int64_t panel_keys(struct attention p, int64_t query)
{
    int64_t last = query - query % PANEL + PANEL - 1;
    int64_t keys = attention_visible(p, last < p.seq_q ? last : p.seq_q - 1);
    return keys < 1 ? 1 : keys;
}

/* Elements from a row of S to the next. */
static __host__ __device__ int64_t row_length(struct attention p)
{
    return (p.seq_k + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
}

/* exp(x - m), and 0 where m is the maximum of nothing, -inf: exp(-inf - -inf) would be NaN. */
static __device__ float exp_below(float x, float m)
{
    return __expf(x - (m == -INFINITY ? 0.0f : m));
}

/* v: the elements of the pack. Those from the visible-th on count for nothing. */
template <class T> static __device__ void unpack_visible(float *v, pack<T> from, int visible)
{
    unpack(v, from);
    if (visible < PER<T>)
        for (int k = 0; k < PER<T>; k++)
            if (k >= visible)
                v[k] = -INFINITY;
}

/* The merge of a state and the visible elements of a pack. */
template <class T> static __device__ struct softmax_state merge_pack(struct softmax_state s, pack<T> from, int visible)
{
    float v[PER<T>], m = s.m;
    unpack_visible(v, from, visible);
    for (int k = 0; k < PER<T>; k++)
        m = fmaxf(m, v[k]);
    float l = s.l * exp_below(s.m, m);
    for (int k = 0; k < PER<T>; k++)
        l += exp_below(v[k], m);
    return { m, l };
}

/* The merge of the states of LANES neighbouring lanes, in each of them. */
template <int LANES> static __device__ struct softmax_state warp_merge(struct softmax_state s)
{
    float m = warp_max<LANES>(s.m);
    return { m, warp_sum<LANES>(s.l * exp_below(s.m, m)) };
}

/* The merge of the states of a row's THREADS threads, in each of them: first every warp by itself, then every warp all warps. */
template <int THREADS> static __device__ struct softmax_state row_merge(struct softmax_state s)
{
    constexpr int WARPS = THREADS / 32;
    __shared__ struct softmax_state of_warp[WARPS];
    s = warp_merge<32>(s);
    if (THREADS == 32)
        return s;
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    return warp_merge<WARPS>(of_warp[threadIdx.x % WARPS]);
}

/* exp(x - m) * inverse, for the visible elements of a pack, and 0 for the others. */
template <class T> static __device__ pack<T> normalise(pack<T> from, int visible, float m, float inverse)
{
    float v[PER<T>];
    unpack_visible(v, from, visible);
    for (int k = 0; k < PER<T>; k++)
        v[k] = exp_below(v[k], m) * inverse;
    return make_pack<T>(v);
}

/* S: (batch, heads, seq_q, seq_k), in rows of row_length elements. THREADS threads own a row. */
template <class T, int THREADS> static __global__ void __launch_bounds__(THREADS < MIN_BLOCK ? MIN_BLOCK : THREADS)
    softmax_kernel(T *S, float *lse, struct attention p)
{
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    int t = threadIdx.x % THREADS;
    if (row >= p.batch * p.heads * p.seq_q)
        return;
    S += row * row_length(p);
    int64_t query = p.causal ? row % p.seq_q : 0; /* without a mask, all queries see the same: spare the division */
    int visible = (int)attention_visible(p, query);    /* an int, as all sizes are for cuBLAS */
    int packs = (int)((panel_keys(p, query) + PER<T> - 1) / PER<T>);

    pack<T> held[PACKS];
    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs)
            held[i] = load_pack(S + (i * THREADS + t) * PER<T>);

    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs)
            s = merge_pack(s, held[i], visible - (i * THREADS + t) * PER<T>);
    for (int j = PACKS * THREADS + t; j < packs; j += THREADS)
        s = merge_pack(s, load_pack(S + j * PER<T>), visible - j * PER<T>);
    s = row_merge<THREADS>(s);

    float inverse = s.l == 0.0f ? 0.0f : 1.0f / s.l; /* no weight: zeros */
    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs)
            store_pack(S + (i * THREADS + t) * PER<T>, normalise(held[i], visible - (i * THREADS + t) * PER<T>, s.m, inverse));
    for (int j = PACKS * THREADS + t; j < packs; j += THREADS)
        store_pack(S + j * PER<T>, normalise(load_pack(S + j * PER<T>), visible - j * PER<T>, s.m, inverse));
    if (lse && t == 0)
        lse[row] = s.m + logf(s.l);
}

template <class T, int THREADS> static void softmax_for(T *S, float *lse, struct attention p, cudaStream_t stream)
{
    constexpr int BLOCK = THREADS < MIN_BLOCK ? MIN_BLOCK : THREADS, ROWS = BLOCK / THREADS;
    int64_t rows = p.batch * p.heads * p.seq_q;
    softmax_kernel<T, THREADS><<<(unsigned)((rows + ROWS - 1) / ROWS), BLOCK, 0, stream>>>(S, lse, p);
}

template <class T> static void softmax(T *S, float *lse, struct attention p, cudaStream_t stream)
{
    int64_t threads = p.seq_k / PER<T> / PACKS; /* that a row needs */
    if (threads <= 32)
        softmax_for<T, 32>(S, lse, p, stream);
    else if (threads <= 128)
        softmax_for<T, 128>(S, lse, p, stream);
    else if (threads <= 256)
        softmax_for<T, 256>(S, lse, p, stream);
    else if (threads <= 512)
        softmax_for<T, 512>(S, lse, p, stream);
    else
        softmax_for<T, 1024>(S, lse, p, stream);
}

/*
 * Both products, for `rows` rows of each key-value head's queries from the first-th on, against the first `keys` keys: before
 * the softmax S = scale Q K^T, after it O = P V.
 */
template <class T> static void multiply(T *S, T *Q_or_O, const T *K_or_V, bool before, int64_t first, int64_t rows, int64_t keys,
                                        struct attention p, enum dtype dtype, void *workspace, cudaStream_t stream)
{
    int64_t sharing = attention_group(p) * p.seq_q; /* queries that share a key-value head */
    struct matrices s = { S + first * row_length(p), row_length(p), sharing * row_length(p) };
    struct matrices q = { Q_or_O + first * p.dim, p.dim, sharing * p.dim };
    struct matrices k = { (void *)K_or_V, p.dim, p.seq_k * p.dim };
    int64_t count = p.batch * p.kv_heads;

    if (before)
        blas_products_gpu(s, q, k, true, { rows, keys, p.dim, count }, p.scale, dtype, workspace, stream);
    else
        blas_products_gpu(q, s, k, false, { rows, p.dim, keys, count }, 1.0f, dtype, workspace, stream);
}

/* The same for all queries: at once, or panel by panel. */
template <class T> static void multiply_all(T *S, T *Q_or_O, const T *K_or_V, bool before, struct attention p, enum dtype dtype,
                                            void *workspace, cudaStream_t stream)
{
    int64_t sharing = attention_group(p) * p.seq_q;
    if (!p.causal) {
        multiply(S, Q_or_O, K_or_V, before, 0, sharing, p.seq_k, p, dtype, workspace, stream);
        return;
    }
    for (int64_t head = 0; head < sharing; head += p.seq_q)
        for (int64_t query = 0; query < p.seq_q; query += PANEL) {
            int64_t rows = query + PANEL < p.seq_q ? PANEL : p.seq_q - query;
            multiply(S, Q_or_O, K_or_V, before, head + query, rows, panel_keys(p, query), p, dtype, workspace, stream);
        }
}

template <class T> static void attend(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, enum dtype dtype,
                                      void *workspace, cudaStream_t stream)
{
    T *S = (T *)((char *)workspace + BLAS_WORKSPACE_BYTES);
    multiply_all(S, (T *)Q, K, true, p, dtype, workspace, stream);
    softmax(S, lse, p, stream);
    multiply_all(S, O, V, false, p, dtype, workspace, stream);
}

size_t library_attention_workspace(struct attention p, enum dtype dtype)
{
    size_t element_bytes = dtype == FP32 ? 4 : 2;
    return BLAS_WORKSPACE_BYTES + (size_t)(p.batch * p.heads * p.seq_q * row_length(p)) * element_bytes;
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
