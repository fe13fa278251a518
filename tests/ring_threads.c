/*
 * Rings whose ranks are threads of one process, for ThreadSanitizer, which sees nothing of what processes do to each other in
 * memory that they share. A block travels by shared.c's own start() and finish(): what is left out is forks and wires. A missing
 * release or acquire breaks no result on x86, and nothing else here would notice.
 */
#include "../common/ring/shared.c"

#include <math.h>

#include "steps.h"

#define RUNS 4         /* of each step and number of ranks, with other delays each */
#define DELAY 200000   /* ns, at most */

static const int all_ranks[] = { 2, 3, 4, 7 };
static const struct attention problem = { 1, 2, 1, 67, 67, 16, true, 0.25f };
static attention_cpu_fn *const rings[] = { ring_attention_cpu, zigzag_ring_cpu, overlapped_ring_cpu };
enum { COUNTS = sizeof all_ranks / sizeof all_ranks[0], RINGS = sizeof rings / sizeof rings[0] };

static void *be_thread(void *arg)
{
    struct ring *ring = arg;
    ring_at(shared->body)(ring);
    return NULL;
}

static void run_threads(const struct ring_job *job)
{
    static struct ring rings[RING_MOST];
    pthread_t threads[RING_MOST];
    int ranks = job->like.ranks;
    shared = aligned_alloc(RING_LINE, place_of(&job->like, ranks));
    if (!shared)
        fatal("not enough CPU memory for %d ranks", ranks);
    memset(shared, 0, place_of(&job->like, ranks));
    pool.parent = getppid(); /* a rank that has another one ends */
    shared->body = ring_offset(job->body);
    for (int i = 0; i < ranks; i++) {
        rings[i] = job->like;
        rings[i].rank = i;
        lay(&rings[i]);
        ring_take(&rings[i], job);
    }
    for (int i = 0; i < ranks; i++)
        if (pthread_create(&threads[i], NULL, be_thread, &rings[i]))
            fatal("rank %d: no thread can be made", i);
    for (int i = 0; i < ranks; i++) {
        pthread_join(threads[i], NULL);
        lay(&rings[i]); /* whose blocks may have changed their names */
        ring_give(&rings[i], job);
    }
    free(shared);
}

static void no_end(void)
{
}

static unsigned seed;

static void be_late(const struct ring *r, int from)
{
    uint64_t bits = random_bits(seed, (uint64_t)(r->rank * 1000 + from));
    nanosleep(&(struct timespec){ .tv_nsec = (long)(bits % DELAY) }, NULL);
}

int main(void)
{
    enum { QUERIES = 2 * 67 * 16, KEYS = 67 * 16 };
    static const struct ring_transport transport = { .run = run_threads, .start = start, .finish = finish, .end = no_end };
    static float Q[QUERIES], K[KEYS], V[KEYS], O[QUERIES], alone[QUERIES];
    for (int i = 0; i < QUERIES; i++)
        Q[i] = sinf((float)i);
    for (int i = 0; i < KEYS; i++)
        K[i] = sinf((float)i + 0.3f), V[i] = sinf((float)i + 0.6f);
    ring_travels_by(&transport);
    ring_delay = be_late;
    register_tiled_attention_cpu(alone, NULL, Q, K, V, problem);
    for (int i = 0; i < RINGS * COUNTS * RUNS; i++) {
        seed = (unsigned)i;
        ring_set_ranks(all_ranks[i / RINGS % COUNTS]);
        rings[i % RINGS](O, NULL, Q, K, V, problem);
        for (int j = 0; j < QUERIES; j++)
            if (!(fabsf(O[j] - alone[j]) < 1e-5f))
                fatal("ring %d of %d ranks: %g is not %g", i % RINGS, ring_ranks(), (double)O[j], (double)alone[j]);
    }
    printf("%d rings whose ranks are threads: right\n", RINGS * COUNTS * RUNS);
    return 0;
}
