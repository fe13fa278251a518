/* Streams, and what is done on them without waiting, for tests in
   C. A build without CUDA has stand-ins, which are never called. */
#ifndef STREAMS_H
#define STREAMS_H

#include "harness.h"

#ifdef USE_CUDA
#ifdef __cplusplus
extern "C" {
#endif
cudaStream_t stream_new(void); /* one that waits for no other */
void stream_free(cudaStream_t stream);
/* All bits 1, which is NaN. */
void stream_poison(void *p, size_t bytes, cudaStream_t stream);
/* If two tensors differ by a bit, *first becomes the smaller of itself and `run`. All on the GPU; bytes: a multiple of 4. */
void stream_compare(unsigned *first, const void *a, const void *b, size_t bytes, unsigned run, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#else
static inline cudaStream_t stream_new(void) { return NULL; }
static inline void stream_free(cudaStream_t stream) { (void)stream; }
static inline void stream_poison(void *p, size_t bytes, cudaStream_t stream) { (void)p, (void)bytes, (void)stream; }
static inline void stream_compare(unsigned *first, const void *a, const void *b, size_t bytes, unsigned run, cudaStream_t stream)
{
    (void)first, (void)a, (void)b, (void)bytes, (void)run, (void)stream;
}
#endif
#endif
