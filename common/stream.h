/*
 * Two requests to the memory system that C has no words for.
 *
 * Streaming: stores that go past the caches. An ordinary store first reads the line that it is about to overwrite, and then keeps
 * it in the place of something that will be needed: a trip over memory that no loop shows. Streaming is for results larger than
 * the caches; a result that is read at once is better off in a cache.
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

#define LINE 64          /* bytes of a cache line: what memory moves */
#define STREAM_MOST 512  /* bytes that may be put into a stream at once */
#define STREAM_HELD 4096 /* bytes that a stream gathers before it starts again at the front of its buffer */

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

/* Wait until other threads can see what was streamed: these stores are not ordered by themselves. */
static inline void stream_fence(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Copy `bytes` bytes, any number at any alignment: whole lines of `to` past the caches. A fence is left to the caller. */
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
 * Memory that is written once, front to back, in pieces that end anywhere: a line is stored when it is whole.
 *
 *     struct stream s = stream_open(y);
 *     stream_put(&s, piece, n);             again and again, n <= STREAM_MOST bytes
 *     stream_close(&s);
 */
struct stream {
    char *to;     /* where buffer[0] belongs: aligned to a line */
    size_t begin; /* bytes of the buffer that are stored already (or, at the front of the first line, belong to others) */
    size_t end;   /* bytes of the buffer that are filled */
    char buffer[STREAM_HELD + STREAM_MOST];
};

static inline struct stream stream_open(void *to)
{
    size_t others = (uintptr_t)to % LINE;
    struct stream s;
    s.to = (char *)to - others;
    s.begin = s.end = others;
    return s;
}

static inline void stream_put(struct stream *s, const void *from, size_t bytes)
{
    if (s->end == 0 && bytes % LINE == 0) { /* whole lines: no need to gather */
        for (size_t i = 0; i < bytes; i += LINE)
            stream_line(s->to + i, (const char *)from + i);
        s->to += bytes;
        return;
    }
    /* Lines are stored a call later than they are filled: a core waits when it reads at once what it wrote in other pieces. */
    size_t whole = s->end - s->end % LINE;
    memcpy(s->buffer + s->end, from, bytes);
    s->end += bytes;
    if (s->begin % LINE != 0 && whole > 0) {
        memcpy(s->to + s->begin, s->buffer + s->begin, LINE - s->begin);
        s->begin = LINE;
    }
    for (; s->begin < whole; s->begin += LINE)
        stream_line(s->to + s->begin, s->buffer + s->begin);
    if (s->end > STREAM_HELD) {
        memcpy(s->buffer, s->buffer + s->begin, s->end - s->begin);
        s->to += s->begin;
        s->end -= s->begin;
        s->begin = 0;
    }
}

/* Store what is left, and fence. */
static inline void stream_close(struct stream *s)
{
    memcpy(s->to + s->begin, s->buffer + s->begin, s->end - s->begin);
    stream_fence();
}

/* Ask for the lines of `bytes` bytes from `from` on. Only a hint: it never faults, past the end of a tensor or anywhere. */
static inline void prefetch_bytes(const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)from + i);
}

/* The same, but no nearer than the second-level cache: for what is read once, front to back, from farther ahead. */
static inline void prefetch_stream(const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)from + i, 0, 2);
}

#endif
