/* What the program of a ring says besides: what travels, what that should cost, what it did, and other numbers of ranks. */
#include <math.h>

#include "program.h"
#include "ring/ring.h"

#define COLUMNS 72     /* of a timeline, */
#define LINES 8        /* and the most ranks that are drawn */
#define TRIES 9
#define SMALL_PASSES 1000
#define LARGE_PASSES 30
#define LARGE_BLOCK (8 << 20) /* bytes */
#define GPU_PASSES 20         /* that a host launches before the first begins */
#define GPU_BLOCK (64 << 20)  /* bytes */

/* ---- a hop, measured: latency, and bytes a second */

/* As many passes as there are heads of Q. The time of all is the time of the shortest. */
static void pass_only(struct ring *r)
{
    double shortest = INFINITY;
    for (int i = 0; i < r->p.heads; i++) {
        r->times->pass = 0;
        ring_start(r, r->rank);
        ring_finish(r, r->rank);
        shortest = fmin(shortest, r->times->pass);
    }
    r->times->pass = shortest;
}

/* ms that a pass of blocks of so many bytes takes when nothing comes between, in the rank that it takes longest. */
static double time_of_pass(int64_t bytes, int count)
{
    int64_t keys = ring_ranks() * bytes / 8; /* a key and its value, of one float each */
    struct attention p = { .batch = 1, .heads = count, .kv_heads = 1, .seq_q = ring_ranks(), .seq_k = keys, .dim = 1 };
    struct buffer q = buffer_new((size_t)(count * ring_ranks()) * sizeof(float), &cpu_device),
                  k = buffer_new((size_t)keys * sizeof(float), &cpu_device);
    double longest = 0;
    ring_run(pass_only, 1, q.data, NULL, q.data, k.data, k.data, p);
    for (int rank = 0; rank < ring_ranks(); rank++)
        longest = fmax(longest, ring_times_of(rank).pass);
    buffer_free(&q);
    buffer_free(&k);
    return longest;
}

/* The same of large blocks: as many as pass in a second, for by a slow cable one takes seconds. */
static double time_of_large_pass(void)
{
    double once = time_of_pass(LARGE_BLOCK, 1);
    return time_of_pass(LARGE_BLOCK, 1 + (int)fmin(1e3 / once, LARGE_PASSES - 1));
}

static void pass_on_gpus(struct ring *r)
{
    for (int i = 0; i < GPU_PASSES; i++) {
        ring_start(r, r->rank);
        ring_finish(r, r->rank);
    }
}

struct gpu_passes {
    struct attention p;
    struct buffer q, k;
};

static void run_gpu_passes(void *arg)
{
    struct gpu_passes *all = arg;
    ring_run_gpu(pass_on_gpus, 1, FP16, all->q.data, NULL, all->q.data, all->k.data, all->k.data, all->p);
}

/* The same between GPUs. */
static double time_of_gpu_pass(int64_t bytes)
{
    int64_t keys = ring_ranks() * bytes / 4;
    struct gpu_passes all = {
        .p = { .batch = 1, .heads = 1, .kv_heads = 1, .seq_q = ring_ranks(), .seq_k = keys, .dim = 1 },
        .q = buffer_new((size_t)ring_ranks() * sizeof(fp16), &gpu_device),
        .k = buffer_new((size_t)keys * sizeof(fp16), &gpu_device),
    };
    double ms = ring_run_once_gpu(&(struct work){ .run = run_gpu_passes, .arg = &all }) / GPU_PASSES;
    buffer_free(&all.q);
    buffer_free(&all.k);
    return ms;
}

/* ---- the ranks of the last run */

/* What follows from who has which pieces. Pairs are those of a query and a key that it sees, for each head. */
struct shares {
    double most, mean; /* pairs of a rank */
    double block;      /* bytes of a block, on average */
};

static struct shares count_shares(const struct ring *r)
{
    struct shares s = { 0 };
    for (int rank = 0; rank < r->ranks; rank++) {
        double pairs = 0;
        for (int i = 0; i < r->held; i++) {
            struct ring_piece piece = ring_held(r, rank, i);
            for (int64_t query = piece.query; query < piece.query + piece.queries; query++)
                pairs += (double)attention_visible(r->p, query);
        }
        s.most = fmax(s.most, pairs);
        s.mean += pairs / r->ranks;
        s.block += (double)ring_block_bytes(r, rank) / r->ranks;
    }
    return s;
}

/* Prints what they did. Returns the mean of what they computed, in ms. */
static double print_times(bool gpu)
{
    double least[2] = { INFINITY, INFINITY }, most[2] = { 0, 0 }, mean = 0;
    for (int rank = 0; rank < ring_ranks(); rank++) {
        const double ms[2] = { ring_times_of(rank).compute, ring_times_of(rank).pass };
        mean += ms[0] / ring_ranks();
        for (int i = 0; i < 2; i++)
            least[i] = fmin(least[i], ms[i]), most[i] = fmax(most[i], ms[i]);
    }
    printf("    ranks       %.4g to %.4g ms of %s, on average %.0f %% of the longest; passing on and waiting %.4g to"
           " %.4g ms\n", least[0], most[0], gpu ? "computing" : "processor time", 100 * mean / most[0], least[1], most[1]);
    return mean;
}

/* What rank `rank` did at some time: computed, perhaps while a block travelled, passed on or waited, or nothing any more. */
static char doing(int rank, double ms)
{
    const double *moment = ring_moments_of(rank);
    struct ring_times t = ring_times_of(rank);
    for (int i = 0; i < t.halves; i++)
        if (ms >= moment[2 * i] && ms < moment[2 * i + 1])
            return '.';
    for (int i = 2 * ring_ranks(); i < 3 * ring_ranks(); i++)
        if (ms >= moment[2 * i] && ms < moment[2 * i + 1])
            return '=';
    return ms < t.whole ? '#' : ' ';
}

static void print_timeline(int ranks)
{
    double longest = 0;
    for (int rank = 0; rank < ranks; rank++)
        longest = fmax(longest, ring_times_of(rank).whole);
    for (int rank = 0; rank < ranks && ranks <= LINES; rank++) {
        char line[COLUMNS + 1] = "";
        for (int i = 0; i < COLUMNS; i++)
            line[i] = doing(rank, (i + 0.5) / COLUMNS * longest);
        printf("    %-12s%d %s\n", rank ? "" : "timeline", rank, line);
    }
    if (ranks <= LINES)
        printf("                # computes, = while a block travels, . passes on or waits; %.4g ms in all\n", longest);
}

struct ranked {
    const struct run *run;
    int ranks;
};

static void run_ranked(void *arg)
{
    const struct ranked *what = arg;
    ring_set_ranks(what->ranks);
    what->run->kind->call(what->run);
}

/* Other numbers of ranks, in turn: all have all threads between them, so that one rank's time would be everybody's. */
static void print_by_ranks(const struct run *r)
{
    int asked = ring_ranks(), counts[] = { 1, 2, asked > 2 ? asked : 4 }, count = 3;
    struct ranked all[3];
    struct work works[3];
    while (counts[count - 1] > ring_most())
        count--;
    for (int i = 0; i < count; i++) {
        all[i] = (struct ranked){ r, counts[i] };
        works[i] = (struct work){ .run = run_ranked, .arg = &all[i], .bytes = INT64_MAX };
    }
    time_in_turn(works, count, r->o->reps, r->o->budget / 2, r->device->run_once);
    ring_set_ranks(asked);
    printf("    by ranks    ");
    for (int i = 0; i < count; i++)
        printf("%s%d: %.4g ms, %.0f %%", i ? "; " : "", counts[i], works[i].time.median,
               100 * works[0].time.median / works[i].time.median);
    printf(" of one rank's speed\n");
}

/* The same on GPUs, of which each has all of itself; and beside a GPU alone that has as many tokens as a rank has. */
static void print_by_gpus(const struct run *r)
{
    int asked = ring_ranks(), counts[] = { 1, 1, 2, 4, 8 }, count = 2;
    struct options o = *r->o;
    struct run alone = *r;
    struct ranked all[5];
    struct work works[5];
    double rate[5];
    alone.o = &o;
    o.attention.seq_q = (o.attention.seq_q + asked - 1) / asked, o.attention.seq_k = (o.attention.seq_k + asked - 1) / asked;
    while (count < 5 && counts[count] <= gpu_count() && counts[count] <= ring_most())
        count++;
    for (int i = 0; i < count; i++) {
        all[i] = (struct ranked){ i ? r : &alone, counts[i] };
        works[i] = (struct work){ .run = run_ranked, .arg = &all[i], .timed = ring_run_once_gpu };
    }
    time_in_turn(works, count, r->o->reps, r->o->budget / 2, r->device->run_once);
    ring_set_ranks(asked);
    for (int i = 0; i < count; i++)
        rate[i] = 1e-9 * r->kind->products * r->kind->units(all[i].run->o) * (double)o.attention.dim / counts[i] /
                  works[i].time.median;
    printf("    by ranks    ");
    for (int i = 1; i < count; i++)
        printf("%s%d: %.4g ms, %.4g TFLOP/s each, %.1f %%", i > 1 ? "; " : "", counts[i], works[i].time.median, rate[i],
               100 * rate[i] / rate[1]);
    printf(" of one rank's speed\n    alone       a GPU with a rank's tokens: %.4g ms, %.4g TFLOP/s; ", works[0].time.median,
           rate[0]);
    for (int i = 1; i < count; i++)
        if (counts[i] == asked)
            printf("%d ranks have %.1f %% of that each", asked, 100 * rate[i] / rate[0]);
    printf("\n");
}

static void call(void *arg)
{
    const struct run *r = arg;
    r->kind->call(r);
}

void ring_report(const struct run *r, const struct result *result)
{
    int ranks = ring_ranks();
    struct attention p = r->o->attention;
    bool gpu = r->device->apart;
    double start = 0;
    if (gpu)
        ring_run_once_gpu(&(struct work){ .run = call, .arg = (void *)r });
    for (int tries = 0; !gpu && tries < TRIES && 1e3 * (now() - start) > result->time.median; tries++)
        start = now(), r->kind->call(r); /* a run that nobody disturbed. (The last one may have been the step before's.) */
    struct ring last = ring_last();
    struct shares shares = count_shares(&last);
    double flops = result->flops / ranks / ranks;
    const char *who = !gpu || ranks == 1 ? "" : last.nccl ? ", NCCL between them" : ", copy engines between them";
    printf("    ring        %d ranks%s; on average each sends %d x %.4g MB, and computes %.4g GFLOP before each: %.0f %% of what"
           " the busiest does\n", ranks, who, ranks - 1, shares.block * 1e-6, flops * 1e-9,
           shares.most > 0 ? 100 * shares.mean / shares.most : 100);
    double computed = print_times(gpu);
    if (ranks > 1) {
        print_timeline(ranks);
        double latency = gpu ? time_of_gpu_pass(8) : time_of_pass(8, SMALL_PASSES);
        double rate = gpu ? GPU_BLOCK / time_of_gpu_pass(GPU_BLOCK) : LARGE_BLOCK / time_of_large_pass();
        double hop = latency + shares.block / rate, compute = computed / ranks;
        printf("    predicted   a hop of %.3g us and %.3g GB/s: %.3g ms, in %.3g ms of computing; from %.2g tokens a rank on its"
               " bytes take less time than that\n", 1e3 * latency, rate * 1e-6, hop, compute,
               shares.block / rate / compute * (double)p.seq_k / ranks);
    }
    if (gpu)
        print_by_gpus(r);
    else
        print_by_ranks(r);
}
