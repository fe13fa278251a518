/*
 * Two requests to the memory system that C has no words for.
 *
 * stream_bytes: a copy whose stores go past the caches. An ordinary store first reads the line that it is about to overwrite, and
 * then keeps it, in place of something that will be needed: a third trip that no loop shows. Use it for results that
 * are larger than the caches; a result that is read at once is better off in a cache.
 *
 * prefetch_bytes: start reading now what a later loop will need, so that memory works while the core computes. It is what
 * asynchronous copies are on a GPU.
 */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define LINE 64 /* bytes of a cache line, which is what memory moves */

/* Copy one whole line to `to`, which is aligned to it, from `from`, which need not be. */
static inline void stream_line(char *to, const char *from)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)to, _mm512_loadu_si512(from));
#elif defined(__AVX__)
    for (int i = 0; i < LINE; i += 32)
        _mm256_stream_si256((__m256i *)(to + i), _mm256_loadu_si256((const __m256i *)(from + i)));
#elif defined(__SSE2__)
    for (int i = 0; i < LINE; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
#else
    memcpy(to, from, LINE);
#endif
}

/* Copy `bytes` bytes, any number at any alignment, between places that do not overlap: whole lines of `to` past the caches. */
static inline void stream_bytes(void *to, const void *from, size_t bytes)
{
    char *t = to;
    const char *f = from;
    size_t head = -(uintptr_t)t % LINE;
    if (head > bytes)
        head = bytes;
    memcpy(t, f, head);
    size_t i = head;
    for (; i + LINE <= bytes; i += LINE)
        stream_line(t + i, f + i);
    memcpy(t + i, f + i, bytes - i);
}

/* Streamed stores are weakly ordered. Call this, after the last one, before another thread is told that they are there. */
static inline void stream_end(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Ask for the lines of `bytes` bytes from `from` on. Only a hint: it never faults, past the end of a tensor or anywhere. */
static inline void prefetch_bytes(const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)from + i);
}

#endif
