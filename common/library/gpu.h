/*
 * What the library's door asks of CUDA: which GPU there is, and for copies. Nothing here allocates, copies to or from the host,
 * or waits. A build without CUDA has stand-ins, for which there is no GPU.
 */
#ifndef GPU_H
#define GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "types.h"

/* A GPU, and what the library was compiled to for it. */
struct gpu {
    int capability; /* 90 is sm_90; 0: nobody has looked yet */
    bool hopper;    /* there is code of sm_90a */
};

/* Rows of one tensor that become rows of another: (batch, heads, seq, dim), with strides in elements. What a row of `to` has
   more than one of `from` becomes 0. */
struct copy {
    void *to;
    const void *from;
    int64_t batch, heads, seq, dim, to_dim;
    int64_t to_stride[3], from_stride[3];
};

/* What attention_map() is told in the library, in place of a tensor (strided.cuh). */
struct strided {
    void *data;
    int64_t batches, heads;   /* heads of a batch */
    int64_t batch, head, row; /* elements from one to the next */
} __attribute__((aligned(16)));

enum { MOST_COPIES = 8 };

/* A table for step 41, (batch, most), pages of `size` keys; of a caller's, or where that has none, of one page a sequence. */
struct table {
    int32_t *to;
    const int32_t *from, *seqlens; /* the caller's; of all sequences seq_k, if that is NULL */
    int64_t batch, seq_k;
    int64_t most, size;            /* of a row of `to`; of its pages */
    int64_t from_most, from_size;
    int64_t page, key;             /* pages of `to` from a page of the caller's, or sequence, to the next, and from key to key */
};

ATTENTION_FN int64_t table_keys(const struct table *t, int64_t sequence)
{
    return t->seqlens ? t->seqlens[sequence] : t->seq_k;
}

/* Entry i of a sequence's row. */
ATTENTION_FN int32_t table_entry(const struct table *t, int64_t sequence, int64_t i)
{
    int64_t key = i * t->size, page = sequence, in = i;
    if (t->from)
        page = t->from[sequence * t->from_most + key / t->from_size], in = key % t->from_size;
    return (int32_t)(page * t->page + in * t->key);
}

#ifdef USE_CUDA
#ifdef __cplusplus
extern "C" {
#endif
/* The calling thread's current one, with no error left that others made; NULL: there is none that this was compiled for. */
const struct gpu *gpu_here(void);
/* `count` tensors of type `from`, each to one of type `to`: two of the same type, or one of them FP32. */
void gpu_copy(const struct copy *copies, int count, enum dtype to, enum dtype from, cudaStream_t stream);
void gpu_zero(void *p, size_t bytes, cudaStream_t stream);
void gpu_table(const struct table *t, cudaStream_t stream); /* its entries of pages that sequences have */
bool gpu_is_well(void); /* whether all that was launched since gpu_here() was taken */
#ifdef __cplusplus
}
#endif
#else
static inline const struct gpu *gpu_here(void) { return NULL; }
static inline void gpu_copy(const struct copy *copies, int count, enum dtype to, enum dtype from, cudaStream_t stream)
{
    (void)copies, (void)count, (void)to, (void)from, (void)stream;
}
static inline void gpu_zero(void *p, size_t bytes, cudaStream_t stream) { (void)p, (void)bytes, (void)stream; }
static inline void gpu_table(const struct table *t, cudaStream_t stream) { (void)t, (void)stream; }
static inline bool gpu_is_well(void) { return false; }
#endif
#endif
