/*
 * Two requests to the memory system that C has no words for.
 *
 * Streaming: stores that go past the caches. An ordinary store first reads the line that it is about to overwrite, and then keeps
 * it in the place of something that will be needed: a trip over memory that no loop shows. It is for results larger than the
 * caches; a result that is read at once is better off in a cache.
 *
 * Prefetching: start to read now what a later loop will need, so that memory works while the core computes. On a GPU,
 * asynchronous copies do this.
 */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define LINE 64         /* bytes of a cache line: what memory moves */
#define STREAM_ROOM 512 /* bytes that may be put into a stream at once */

/* Store one whole line past the caches. `to` is aligned to it, `from` need not be. */
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

/* Copy `bytes` bytes, any number at any alignment: whole lines of `to` past the caches. */
static inline void stream_bytes(void *to, const void *from, size_t bytes)
{
    char *t = to;
    const char *f = from;
    size_t i = -(uintptr_t)t % LINE;
    if (i > bytes)
        i = bytes;
    memcpy(t, f, i);
    for (; i + LINE <= bytes; i += LINE)
        stream_line(t + i, f + i);
    memcpy(t + i, f + i, bytes - i);
}

/*
 * Memory that is written once, front to back, in pieces of any size at any alignment, whole lines of it past the caches:
 *
 *     struct stream s = stream_open(y);
 *     stream_put(&s, piece, n); again and again, n <= STREAM_MOST bytes
 *     stream_close(&s);
 */
struct stream {
    char *to;                      /* the line that is being filled */
    size_t held;                   /* bytes of it that are there */
    size_t skip;                   /* bytes of it that belong to somebody else: the first line only */
    char line[LINE + STREAM_ROOM];
};

static inline struct stream stream_open(void *to)
{
    size_t skip = (uintptr_t)to % LINE;
    return (struct stream){ .to = (char *)to - skip, .held = skip, .skip = skip };
}

static inline void stream_put(struct stream *s, const void *from, size_t bytes)
{
    if (s->held == 0 && bytes % LINE == 0) { /* whole lines, straight away */
        for (size_t i = 0; i < bytes; i += LINE)
            stream_line(s->to + i, (const char *)from + i);
        s->to += bytes;
        return;
    }
    memcpy(s->line + s->held, from, bytes);
    size_t have = s->held + bytes, i = 0;
    if (s->skip > 0 && have >= LINE) {
        memcpy(s->to + s->skip, s->line + s->skip, LINE - s->skip);
        s->skip = 0;
        i = LINE;
    }
    for (; i + LINE <= have; i += LINE)
        stream_line(s->to + i, s->line + i);
    s->to += i;
    s->held = have - i;
    memcpy(s->line, s->line + i, LINE);
}

/* Write what is still held, and make it all visible to other threads: streamed stores are not ordered by themselves. */
static inline void stream_close(struct stream *s)
{
    memcpy(s->to + s->skip, s->line + s->skip, s->held - s->skip);
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
