/*
 * from_softmax: softmax, attention, decoding and their gradients, on a CPU and on a GPU, in fp32, fp16 and bf16. docs/library.md
 * says what the functions promise, what they cost, and what they do not do.
 *
 * No function allocates memory, prints, ends the process or keeps anything from call to call. Each checks all that it is given
 * and returns a status: unless that is FSA_OK, nothing was written but run->needed and run->what. Any thread may call, at any
 * time, with a fsa_run and a workspace of its own.
 */
#ifndef FROM_SOFTMAX_H
#define FROM_SOFTMAX_H

#include <stddef.h>
#include <stdint.h>

#define FSA_VERSION "2.0" /* of this header; fsa_version() is the library's. Another number before the point: another interface */
#define FSA_MAX_DIM 256   /* of a head */
#define FSA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum fsa_dtype { FSA_FP32, FSA_FP16, FSA_BF16 }; /* what all tensors of a call are of; sums are fp32 at least */
enum fsa_device { FSA_CPU, FSA_GPU };            /* FSA_GPU: the calling thread's current one, as cudaGetDevice() has it */
enum fsa_flag {
    FSA_ASK = 1,  /* check everything, set run->needed, and compute nothing; tensors may be NULL then, and count as aligned */
    FSA_KEPT = 2  /* GPU: the workspace is zeros, or as the last call left it, which was the same: it is not zeroed again */
};

enum fsa_status {
    FSA_OK,
    FSA_NULL,      /* a pointer is NULL that must not be */
    FSA_SIZE,      /* a size below 1, a tensor of more than 16 TiB, or of a cache what fsa_cache and fsa_decode say */
    FSA_HEADS,     /* kv_heads does not divide heads */
    FSA_DIM,       /* dim is above FSA_MAX_DIM */
    FSA_DTYPE,     /* no type of element that there is */
    FSA_SCALE,     /* scale is infinite or NaN */
    FSA_STRIDE,    /* a stride is negative, or places of a tensor overlap; pages that lie in another order than they may */
    FSA_ALIGNMENT, /* a tensor that does not begin on a multiple of its element, a pool on a GPU on one of 16 bytes */
    FSA_OVERLAP,   /* an output begins or ends between the first and last byte of another tensor, or the workspace of any */
    FSA_PAGE,      /* a table names a page that is not there, or a sequence has not 0 to seq_k keys: on a CPU */
    FSA_DEVICE,    /* a device that is not there, or that the library was not compiled for; a stream on a CPU */
    FSA_THREADS,   /* threads is negative, or above 1024 */
    FSA_FLAG,      /* a flag that there is not */
    FSA_WORKSPACE, /* the workspace is NULL, or has fewer bytes than run->needed */
    FSA_UNSUPPORTED, /* on a GPU: pages, or sequences of unlike length, but in 16 bits, heads of 64 or 128, from sm_80 on */
    FSA_LAUNCH     /* CUDA refused a launch, or what ran before has failed; outputs may have been written */
};

/* How a call is to run. All zeros but the workspace will do. */
struct fsa_run {
    int32_t device;   /* FSA_CPU or FSA_GPU. On a GPU all pointers are the GPU's, and a call returns when all is launched */
    int32_t threads;  /* of a CPU; 0: as many as OpenMP would take in the calling thread */
    int32_t flags;
    void *stream;     /* a cudaStream_t of that GPU, NULL being the default one; NULL on a CPU */
    void *workspace;  /* memory for intermediate results, of any alignment and content; NULL where none is needed */
    size_t bytes;     /* of it */
    size_t needed;    /* set by the call: the bytes that it needs, 0 if it is refused. The same arguments, lengths of a cache
                         among them, and threads need the same */
    const char *what; /* set by the call: of a status that is not FSA_OK, which argument is wrong, as it is named here, "K" or
                         "seq_k"; otherwise NULL */
};

/*
 * A tensor (batch, heads, seq, dim), or of a decoding cache (pages, heads, keys of a page, dim). Strides are elements from one
 * batch, head and position to the next; the numbers of a row lie side by side. All 0: the tensor is dense, in that order, and so
 * numbers cannot be repeated by strides of 0. The stride of a dimension of 1 does not matter.
 */
struct fsa_in {
    const void *data;
    int64_t batch, head, seq;
};

struct fsa_out {
    void *data;
    int64_t batch, head, seq;
};

/*
 * O = softmax(scale Q K^T) V. Q and O are (batch, heads, seq_q, dim), K and V (batch, kv_heads, seq_k, dim); heads / kv_heads
 * neighbouring heads of Q share one of K and V. causal: query i sees key j if j <= i + seq_k - seq_q, so that the last query sees
 * the last key. A query that sees no key has an O of 0 and an lse of -inf.
 */
struct fsa_problem {
    int64_t batch, heads, kv_heads, seq_q, seq_k, dim;
    float scale;    /* usually 1 / sqrt(dim) */
    int32_t causal; /* 0: every query sees every key */
    int32_t dtype;
};

/* What fsa_decode reads keys and values from. Sequence b has seqlens[b] keys, 0 to seq_k. */
struct fsa_cache {
    const int32_t *seqlens; /* (batch); NULL: seq_k of all */
    const int32_t *table;   /* (batch, most): key j of sequence b is key j % page of page table[b][j / page]; NULL: no pages */
    int64_t page;           /* keys of a page */
    int64_t pool;           /* pages that there are */
    int64_t most;           /* pages of a row of the table: of seq_k keys, at least */
};

/* Each row of y is the softmax of that row of x: (rows, cols), rows so many elements apart (0: cols). y may be x. */
FSA_API enum fsa_status fsa_softmax(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int64_t cols,
                                    int32_t dtype, struct fsa_run *run);

/* Each row of dx is y (dy - sum of y dy): the gradient of a softmax whose result is y. dx may be y or dy. */
FSA_API enum fsa_status fsa_softmax_backward(void *dx, int64_t dx_stride, const void *y, int64_t y_stride, const void *dy,
                                             int64_t dy_stride, int64_t rows, int64_t cols, int32_t dtype, struct fsa_run *run);

/* lse: (batch, heads, seq_q), dense: the natural logarithm of each query's sum of exp(score); NULL: not wanted. */
FSA_API enum fsa_status fsa_attention(const struct fsa_problem *p, const struct fsa_out *O, float *lse, const struct fsa_in *Q,
                                      const struct fsa_in *K, const struct fsa_in *V, struct fsa_run *run);

/*
 * The gradients of a loss that changes with O by dO, and with lse by dlse (NULL: not at all). O and lse are what fsa_attention
 * made of Q, K and V.
 */
FSA_API enum fsa_status fsa_attention_backward(const struct fsa_problem *p, const struct fsa_out *dQ, const struct fsa_out *dK,
                                               const struct fsa_out *dV, const struct fsa_in *Q, const struct fsa_in *K,
                                               const struct fsa_in *V, const struct fsa_in *O, const float *lse,
                                               const struct fsa_in *dO, const float *dlse, struct fsa_run *run);

/*
 * One or a few queries of each sequence against a cache: K and V are read as they lie. seq_k is the most keys that a sequence
 * has, and causal is aligned to each sequence's own last key. At most 2^30 queries of all heads and sequences, and 2^31 - 1 keys.
 * What lies behind a sequence's last key, and in its row of the table behind its last page, may be anything. The workspace that
 * is needed follows the lengths, and may shrink as they grow: ask before each call (FSA_ASK), or call again on FSA_WORKSPACE.
 *
 * With a table K and V are pools, with the same strides: (pool, kv_heads, page, dim), or, with a head's stride of dim,
 * (pool, page, kv_heads, dim). Pages are dense; from one to the next it is a multiple of a page (in the second order, of
 * kv_heads * dim), so that K and V may take turns.
 *
 * On a GPU table and lengths are there, too, and so nobody checks them: a page that is not there is read, and so are keys that a
 * sequence does not have. The workspace that is needed does not follow the lengths. Pools begin on multiples of 16 bytes.
 */
FSA_API enum fsa_status fsa_decode(const struct fsa_problem *p, const struct fsa_out *O, float *lse, const struct fsa_in *Q,
                                   const struct fsa_in *K, const struct fsa_in *V, const struct fsa_cache *cache,
                                   struct fsa_run *run);

FSA_API const char *fsa_words(int32_t status); /* what a status means, in words; never NULL */
FSA_API const char *fsa_version(void);

#ifdef __cplusplus
}
#endif
#endif
