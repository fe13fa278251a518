/*
 * Step 00, ceilings: what this CPU can do at most. Each probe does one thing, as fast as it goes, on all threads; whoever calls
 * it holds the clock. The compute probes return how many operations they did, so that rate = result / time.
 *
 * (Matrix products are a library's: common/harness/blas.c.)
 */
#include "steps.h"
#include "stream.h"
#include "vexp.h"

#define PIECE (64 << 10) /* bytes that a thread copies at a time */
#define STEP 1024        /* bytes of a piece between two prefetches */
#define AHEAD 2048       /* bytes from the copy to the prefetch: about what a core can have under way */
#define CHAINS 12        /* vectors that the FMA probe keeps in registers: latency (4) x units (2), and some more */
#define BATCH 2048       /* floats that the exp probe works on: input and output fit the first-level cache */

/* As many floats as a register holds on the machine that this is compiled for. */
#if defined(__AVX512F__)
typedef float vector __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float vector __attribute__((vector_size(32)));
#else
typedef float vector __attribute__((vector_size(16)));
#endif

typedef uint64_t words __attribute__((vector_size(64), aligned(1), may_alias)); /* a cache line, wherever it lies */

static volatile float sink; /* results go here, so that the compiler cannot leave the work out */

/* y = x, `bytes` bytes: the ceiling of every softmax, which must read each element once and write each once. */
void copy_cpu(void *y, const void *x, size_t bytes)
{
#pragma omp parallel for schedule(static)
    for (size_t piece = 0; piece < bytes; piece += PIECE) {
        size_t end = bytes - piece < PIECE ? bytes : piece + PIECE;
        for (size_t i = piece; i < end; i += STEP) {
            prefetch_bytes((const char *)x + i + AHEAD, STEP);
            stream_bytes((char *)y + i, (const char *)x + i, end - i < STEP ? end - i : STEP);
        }
    }
}

/* The same with ordinary stores: every line of y is read before it is overwritten, a trip that the loop does not show. */
void copy_cached_cpu(void *y, const void *x, size_t bytes)
{
    const uint32_t *from = x;
    uint32_t *to = y;
    int64_t words = (int64_t)(bytes / sizeof *to);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < words; i++)
        to[i] = from[i];
    memcpy(to + words, from + words, bytes % sizeof *to);
}

/* Reads one piece of x, and returns the sum of its 64-bit words. What is no whole STEP is added byte by byte. */
static uint64_t read_piece(const char *x, size_t bytes)
{
    words sum[STEP / LINE] = { 0 };
    uint64_t total = 0;
    size_t i = 0;
    for (; i + STEP <= bytes; i += STEP) {
        prefetch_stream(x + i + 2 * AHEAD, STEP);
#pragma GCC unroll 16
        for (int line = 0; line < STEP / LINE; line++)
            sum[line] += *(const words *)(x + i + line * LINE);
    }
    for (; i < bytes; i++)
        total += (uint64_t)(unsigned char)x[i] << i % 8 * 8;
    for (int line = 0; line < STEP / LINE; line++)
        for (int word = 0; word < LINE / 8; word++)
            total += sum[line][word];
    return total;
}

/* Reads `bytes` bytes and writes none: the ceiling of what reads much and stores little. Returns the sum of the 64-bit words. */
uint64_t read_cpu(const void *x, size_t bytes)
{
    uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (size_t piece = 0; piece < bytes; piece += PIECE)
        total += read_piece((const char *)x + piece, bytes - piece < PIECE ? bytes - piece : PIECE);
    return total;
}

/* s = s * a + b on CHAINS vectors at once: the chains are independent, so the units never wait for a result. */
double fma_cpu(int64_t rounds)
{
    double flops = 0;
#pragma omp parallel reduction(+ : flops)
    {
        /* All different, and unknown: of equal chains the compiler would
           compute one, and none of a chain that stays where it is, at 2. */
        vector s[CHAINS];
        for (int chain = 0; chain < CHAINS; chain++)
            s[chain] = (vector){ 0 } + sink + (float)chain;
        const vector a = (vector){ 0 } + 0.5f, b = (vector){ 0 } + 1.0f;
        for (int64_t round = 0; round < rounds; round++)
            for (int chain = 0; chain < CHAINS; chain++)
                s[chain] = s[chain] * a + b;
        for (int chain = 1; chain < CHAINS; chain++)
            s[0] += s[chain];
        sink = s[0][0];
        flops += 2.0 * CHAINS * (sizeof s[0] / sizeof(float)) * rounds;
    }
    return flops;
}

/* y = e^x over data in the first-level cache: what a softmax could do if memory were infinitely fast. */
double exp_cpu(int64_t rounds)
{
    double exps = 0;
#pragma omp parallel reduction(+ : exps)
    {
        float x[BATCH], y[BATCH];
        for (int i = 0; i < BATCH; i++)
            x[i] = -0.005f * (float)i;
        for (int64_t round = 0; round < rounds; round++) {
#pragma omp simd
            for (int i = 0; i < BATCH; i++)
                y[i] = vexp(x[i]);
            x[0] = -y[round % BATCH]; /* each round needs the one before it */
            sink = y[BATCH - 1];
        }
        exps += (double)BATCH * rounds;
    }
    return exps;
}
