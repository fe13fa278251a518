/*
 * Element types, and the function types through which steps.h declares every step: a signature that drifts does not compile.
 *
 * GPU functions take device pointers, a workspace of workspace_fn's size (NULL when that is 0), and a stream. They launch; they
 * never allocate, copy, synchronise or end the process. A workspace is zeroed before the first launch, and belongs to one
 * function and one stream from then on. What a function cannot take it does not launch: it leaves an error where a failed launch
 * does, in CUDA's cudaGetLastError(). x and y of a softmax must lie alike: their addresses equal modulo 16 (from cudaMalloc they
 * are); tensors of 16-bit attention on multiples of 16.
 */
#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { FP32, FP16, BF16, FP64 };

typedef struct { uint16_t bits; } fp16; /* IEEE binary16: 5 bits of exponent, 10 of fraction, largest 65504 */
typedef struct { uint16_t bits; } bf16; /* the upper half of a float: 8 bits of exponent, 7 of fraction */

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
typedef struct CUstream_st *cudaStream_t; /* as cuda_runtime.h has it, for plain C */
#endif

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
typedef void softmax_cpu_fn(float *y, const float *x, int64_t rows, int64_t cols);
typedef void softmax_fp16_cpu_fn(fp16 *y, const fp16 *x, int64_t rows, int64_t cols);
typedef void softmax_bf16_cpu_fn(bf16 *y, const bf16 *x, int64_t rows, int64_t cols);

typedef void softmax_gpu_fn(float *y, const float *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream);
typedef void softmax_fp16_gpu_fn(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream);
typedef void softmax_bf16_gpu_fn(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream);

/*
 * The gradient of softmax. y: (rows, cols), the softmax of some x; dy: how a loss changes with each element of y; dx becomes how
 * it changes with each of x. A NaN in y or dy: NaN in all of that row of dx.
 */
typedef void softmax_backward_cpu_fn(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols);
typedef void softmax_backward_fp16_cpu_fn(fp16 *dx, const fp16 *y, const fp16 *dy, int64_t rows, int64_t cols);
typedef void softmax_backward_bf16_cpu_fn(bf16 *dx, const bf16 *y, const bf16 *dy, int64_t rows, int64_t cols);
typedef void softmax_backward_gpu_fn(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols, void *workspace,
                                     cudaStream_t stream);

/*
 * An attention problem. Q and O are (batch, heads, seq_q, dim), K and V (batch, kv_heads, seq_k, dim), all row-major: the layout
 * of PyTorch's scaled_dot_product_attention. Query head h attends to key-value head h / (heads / kv_heads) (GQA).
 *
 * causal: query i sees key j if j <= i + seq_k - seq_q, so that the last query sees the last key (bottom-right alignment).
 */
struct attention {
    int64_t batch, heads, kv_heads, seq_q, seq_k, dim;
    bool causal;
    float scale;  /* the scores are scale * Q K^T; usually 1 / sqrt(dim). Any finite number */
};

/* What the largest |V| times seq_k may be in fp32 and bf16: sums of
   weights times V are divided at the end, and weights reach 2^10. */
#define ATTENTION_VALUES 0x1p117f

#ifdef __CUDACC__
#define ATTENTION_FN static inline __host__ __device__
#else
#define ATTENTION_FN static inline
#endif

/* Heads of Q that share a head of K and V. */
ATTENTION_FN int64_t attention_group(struct attention p)
{
    return p.heads / p.kv_heads;
}

/* The head of K and V that a head of Q attends to, both counted through all batches: groups do not straddle them. */
ATTENTION_FN int64_t attention_kv_head(struct attention p, int64_t head)
{
    return head / attention_group(p);
}

/* The number of keys that a query sees: the first so many. */
ATTENTION_FN int64_t attention_visible(struct attention p, int64_t query)
{
    int64_t visible = query + 1 + p.seq_k - p.seq_q;
    return !p.causal || visible > p.seq_k ? p.seq_k : visible < 0 ? 0 : visible;
}

/*
 * O = softmax(scale Q K^T) V, the softmax along the keys. lse: (batch, heads, seq_q), the natural logarithm of the sum of
 * exp(score) in fp32, or NULL when it is not wanted. Where numbers end, the same in every step and on every device:
 *
 *     no weight    a query that sees no key, or none with a score above -inf: zeros, and an lse of -inf
 *     NaN          in Q or K: NaN in O and lse of the queries that see it, and of no other
 *     scores       below 2^127, and so are all sums on the way to them: an infinity there may become NaN
 *     V            finite, and at most ATTENTION_VALUES / seq_k (docs/numerics.md says what happens otherwise)
 */
typedef void attention_cpu_fn(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p);
typedef void attention_fp16_cpu_fn(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p);
typedef void attention_bf16_cpu_fn(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p);
typedef void attention_gpu_fn(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                              void *workspace, cudaStream_t stream);
typedef void attention_fp16_gpu_fn(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                   void *workspace, cudaStream_t stream);
typedef void attention_bf16_gpu_fn(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                   void *workspace, cudaStream_t stream);
/* The same of queries and keys that are part of each head of larger tensors, with the rows from a head to the next. */
typedef void attention_part_fp16_gpu_fn(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                        int64_t pitch_q, int64_t pitch_k, void *workspace, cudaStream_t stream);
typedef void attention_part_bf16_gpu_fn(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                        int64_t pitch_q, int64_t pitch_k, void *workspace, cudaStream_t stream);
/*
 * The gradient of attention: how a loss changes with Q, K and V. dO, of O's shape, says how it changes with O, and dlse, of
 * lse's, how it changes with lse (NULL: not at all). O and lse are what an attention step made of Q, K and V. All are finite, but
 * for the lse of a query without a key, -inf: its gradients are 0, and it adds nothing to others.
 */
#define ATTENTION_BACKWARD(T)                                                                                              \
    T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO, const float *dlse, \
        struct attention p
typedef void attention_backward_cpu_fn(ATTENTION_BACKWARD(float));
typedef void attention_backward_fp16_cpu_fn(ATTENTION_BACKWARD(fp16));
typedef void attention_backward_bf16_cpu_fn(ATTENTION_BACKWARD(bf16));
typedef void attention_backward_gpu_fn(ATTENTION_BACKWARD(float), void *workspace, cudaStream_t stream);
typedef void attention_backward_fp16_gpu_fn(ATTENTION_BACKWARD(fp16), void *workspace, cudaStream_t stream);
typedef void attention_backward_bf16_gpu_fn(ATTENTION_BACKWARD(bf16), void *workspace, cudaStream_t stream);
/* The same on a CPU, for any type of element, with the keys of each query cut into so many pieces. */
typedef void attention_pieces_fn(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p,
                                 enum dtype dtype, int64_t pieces);
typedef size_t attention_workspace_fn(struct attention p, enum dtype dtype);
/*
 * A cache in pages. The keys and values of all sequences of a batch lie in a pool, K and V: (pool, kv_heads, size, dim), and a
 * table says where: key j of sequence b is key j % size of page table[b][j / size], of every head. Sequences may share pages.
 *
 * Sequence b has seqlens[b] keys, 0 or more, in place of p.seq_k, which is the most that one has, 1 or more; a causal mask is
 * aligned to its own last key. What lies behind that, in its last page, in pages that it does not have, and in its row of the
 * table, is anything, NaN or no page at all, and does not count. On a GPU table and seqlens are device pointers.
 */
struct pages {
    int64_t size;            /* keys of a page, 1 or more */
    int64_t pool;            /* pages that there are */
    int64_t most;            /* pages of a row of the table: of p.seq_k keys, at least */
    int64_t keys;            /* of all sequences: the sum of seqlens */
    const int32_t *table;    /* (batch, most): pages, from 0 to pool - 1 */
    const int32_t *seqlens;  /* (batch): keys, from 0 to p.seq_k */
};

/* attention_cpu_fn and the others, of a cache in pages. */
#define ATTENTION_PAGED(T) T *O, float *lse, const T *Q, const T *K, const T *V, struct pages pages, struct attention p
typedef void attention_paged_cpu_fn(ATTENTION_PAGED(float));
typedef void attention_paged_fp16_cpu_fn(ATTENTION_PAGED(fp16));
typedef void attention_paged_bf16_cpu_fn(ATTENTION_PAGED(bf16));
typedef void attention_paged_fp16_gpu_fn(ATTENTION_PAGED(fp16), void *workspace, cudaStream_t stream);
typedef void attention_paged_bf16_gpu_fn(ATTENTION_PAGED(bf16), void *workspace, cudaStream_t stream);
typedef void attention_paged_pieces_fn(ATTENTION_PAGED(void), enum dtype dtype, int64_t pieces);
typedef size_t attention_paged_workspace_fn(struct attention p, struct pages pages, enum dtype dtype);
/* Bytes of shared memory without which there can be no block for heads of this dimension. */
typedef size_t attention_shared_fn(int64_t dim);

typedef size_t workspace_fn(int64_t rows, int64_t cols, enum dtype dtype);

#endif
