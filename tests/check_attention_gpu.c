/*
 * Every attention step's GPU functions: the checks of attention_checks.c, sizes that only a GPU can get wrong, the same bits a
 * thousand times, and on several streams at once. All in one process: see main_gpu.c.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "streams.h"
#include "suites.h"

#define RUNS 1000
#define STREAM_RUNS 200 /* of each stream */
#define SMALL_RUNS 20   /* with TESTS_SMALL */

/* Names, beside those of attention_checks.c, that TESTS_CHECK may choose. */
#define A_THOUSAND_RUNS "a thousand runs"
#define STREAMS "streams"
#define BEYOND_32_BITS "beyond 2^31 elements"

/* False if this GPU is too old for an implementation, which is said once. */
static bool runs_here(const struct attention_subject *s)
{
    static char said[96];
    const char *missing = attention_subject_missing(s), *name = attention_subject_name(s);
    if (missing && strcmp(said, name) != 0) {
        printf("skipped: %s: %s\n", name, missing);
        snprintf(said, sizeof said, "%s", name);
    }
    return !missing;
}

static bool subject_here(struct attention_subject *s, int index)
{
    ck_assert(attention_subject_at(s, index, true));
    return runs_here(s);
}

START_TEST(test_check)
{
    struct attention_subject s;
    const struct attention_check *c;
    ck_assert(attention_pair_at(_i, true, &c, &s));
    if (!runs_here(&s))
        return;
    progress(attention_subject_name(&s), c->name);
    struct outcome o = attention_check_run(c, &s);
    ck_assert_msg(o.pass, "check '%s': %s", c->name, o.what);
}
END_TEST

/* A case with its tensors on the GPU, and O and lse as a first run made them. */
struct on_gpu {
    struct attention_case host;
    struct buffer q, k, v, O, lse, workspace, first_O, first_lse;
    struct buffer differs; /* an unsigned: the first run whose O or lse is not as in the first; NEVER */
};

#define NEVER UINT_MAX /* what buffer_new() fills memory with */

static struct buffer copy_on_gpu(const struct buffer *host)
{
    struct buffer device = buffer_new(host->bytes, true);
    gpu_upload(device.data, host->data, host->bytes);
    return device;
}

static void start(const struct attention_subject *s, const struct on_gpu *g, cudaStream_t stream)
{
    attention_subject_run(s, g->O.data, g->lse.data, g->q.data, g->k.data, g->v.data, g->host.p, g->workspace.data, stream);
}

/* Runs once; what comes out must be right. */
static struct on_gpu on_gpu_new(const struct attention_subject *s, struct attention p, const char *family)
{
    struct on_gpu g = { .host = attention_case_of(p, s->dtype, family) };
    struct attention_case *c = &g.host;
    g.q = copy_on_gpu(&c->q), g.k = copy_on_gpu(&c->k), g.v = copy_on_gpu(&c->v);
    g.O = copy_on_gpu(&c->O), g.lse = copy_on_gpu(&c->lse);
    g.workspace = buffer_new((s->step->workspace ? s->step->workspace(c->p, s->dtype) : 0) + 1, true);
    gpu_fill(g.workspace.data, 0, g.workspace.bytes);
    g.differs = buffer_new(sizeof(unsigned), true);
    start(s, &g, NULL);
    gpu_finish(attention_subject_name(s));
    gpu_download(c->O.data, g.O.data, c->O.bytes);
    gpu_download(c->lse.data, g.lse.data, c->lse.bytes);
    g.first_O = copy_on_gpu(&c->O), g.first_lse = copy_on_gpu(&c->lse);
    struct outcome o = attention_case_verdict(s, c);
    ck_assert_msg(o.pass, "%s: %s", attention_subject_name(s), o.what);
    return g;
}

/* Runs again, into outputs that are all NaN before, and compares; does not wait. */
static void start_again(const struct attention_subject *s, const struct on_gpu *g, int run, cudaStream_t stream)
{
    stream_poison(g->O.data, g->O.bytes, stream);
    stream_poison(g->lse.data, g->lse.bytes, stream);
    start(s, g, stream);
    stream_compare(g->differs.data, g->O.data, g->first_O.data, g->O.bytes, (unsigned)run, stream);
    stream_compare(g->differs.data, g->lse.data, g->first_lse.data, g->lse.bytes, (unsigned)run, stream);
}

static unsigned first_that_differs(const struct on_gpu *g)
{
    unsigned first;
    gpu_download(&first, g->differs.data, sizeof first);
    return first;
}

static void on_gpu_free(struct on_gpu *g)
{
    struct buffer *all[] = { &g->q, &g->k, &g->v, &g->O, &g->lse, &g->workspace, &g->first_O, &g->first_lse, &g->differs };
    for (int i = 0; i < (int)(sizeof all / sizeof all[0]); i++)
        buffer_free(all[i]);
    attention_case_free(&g->host);
}

/* Ragged, causal and not, more tiles than multiprocessors; normal scores, and such that rise far above those of the first tile. */
static const struct {
    struct attention p;
    const char *family;
} repeated[] = {
    { { 2, 6, 2, 300, 391, 64, true, 0 }, "normal" },      { { 1, 6, 2, 391, 300, 128, false, 0 }, "normal" },
    { { 14, 12, 4, 150, 391, 64, true, 0 }, "adversarial" }, { { 5, 12, 4, 300, 391, 128, true, 0 }, "adversarial" },
    { { 1, 6, 2, 300, 1500, 64, false, 0 }, "adversarial" },
};
enum { REPEATED = sizeof repeated / sizeof repeated[0] };

/* With TESTS_BITS in the environment: a number for O and lse, to be compared with that of another build. */
static void print_bits(const struct attention_subject *s, int problem, const struct attention_case *c)
{
    const struct buffer *both[] = { &c->O, &c->lse };
    uint64_t sum = 0xcbf29ce484222325u;
    for (int t = 0; t < 2; t++)
        for (size_t i = 0; i < both[t]->bytes; i++)
            sum = (sum ^ ((const unsigned char *)both[t]->data)[i]) * 0x100000001b3u;
    if (getenv("TESTS_BITS"))
        printf("bits of %s, problem %d: %016llx\n", attention_subject_name(s), problem, (unsigned long long)sum);
}

/* A race shows in one run of many. */
START_TEST(test_a_thousand_runs)
{
    struct attention_subject s;
    if (!subject_here(&s, _i / REPEATED))
        return;
    int problem = _i % REPEATED;
    progress(attention_subject_name(&s), A_THOUSAND_RUNS);
    struct on_gpu g = on_gpu_new(&s, repeated[problem].p, repeated[problem].family);
    print_bits(&s, problem, &g.host);
    for (int run = 1; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : RUNS); run++)
        start_again(&s, &g, run, NULL);
    gpu_finish(attention_subject_name(&s));
    unsigned differs = first_that_differs(&g);
    on_gpu_free(&g);
    ck_assert_msg(differs == NEVER, "%s, problem %d: not the same bits in run %u", attention_subject_name(&s), problem, differs);
}
END_TEST

/* All problems at once, again and again, each on a stream and with a workspace of its own. */
START_TEST(test_streams)
{
    struct attention_subject s;
    if (!subject_here(&s, _i))
        return;
    progress(attention_subject_name(&s), STREAMS);
    struct on_gpu all[REPEATED];
    cudaStream_t stream[REPEATED];
    for (int i = 0; i < REPEATED; i++) {
        all[i] = on_gpu_new(&s, repeated[i].p, repeated[i].family);
        stream[i] = stream_new();
    }
    gpu_finish(attention_subject_name(&s));
    for (int run = 1; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : STREAM_RUNS); run++)
        for (int i = 0; i < REPEATED; i++)
            start_again(&s, &all[i], run, stream[i]);
    gpu_finish(attention_subject_name(&s));
    for (int i = 0; i < REPEATED; i++) {
        unsigned differs = first_that_differs(&all[i]);
        stream_free(stream[i]);
        on_gpu_free(&all[i]);
        ck_assert_msg(differs == NEVER, "%s, problem %d: other bits beside other streams, in run %u", attention_subject_name(&s), i,
                      differs);
    }
}
END_TEST

/*
 * More than 2^31 elements of Q and O, and of K and V; more heads than a grid's y and z have blocks. All is zeros but the last head,
 * so that only that one travels: (1, 1, rows, keys) at the end of each tensor.
 */
static const struct attention beyond_32_bits[] = {
    { 1, 8, 1, (1 << 22) + 70, 64, 64, false, 0 },
    { (1 << 16) + 3, 1, 1, 3, 512, 64, false, 0 },
};

START_TEST(test_more_elements_than_32_bits_count)
{
    struct attention_subject s;
    if (!subject_here(&s, _i / 2))
        return;
    struct attention p = beyond_32_bits[_i % 2], last = p;
    int64_t heads = p.batch * p.heads;
    size_t element = dtype_bytes(s.dtype), q_bytes = (size_t)(heads * p.seq_q * p.dim) * element,
           k_bytes = (size_t)(p.batch * p.kv_heads * p.seq_k * p.dim) * element,
           lse_bytes = (size_t)(heads * p.seq_q) * sizeof(float);
    size_t workspace_bytes = s.step->workspace ? s.step->workspace(p, s.dtype) : 0;
    if (getenv("TESTS_SMALL") ||
        2 * q_bytes + 2 * k_bytes + lse_bytes + workspace_bytes + ((size_t)1 << 29) > memory_available(true)) {
        printf("skipped: %s beyond 2^31 elements: %s\n", attention_subject_name(&s),
               getenv("TESTS_SMALL") ? "TESTS_SMALL" : "the GPU has too little memory");
        return;
    }
    progress(attention_subject_name(&s), BEYOND_32_BITS);
    last.batch = last.heads = last.kv_heads = 1;
    last.seq_q = p.seq_q < 1000 ? p.seq_q : 1000; /* its last queries */
    struct attention_case c = attention_case_of(last, s.dtype, "normal");
    c.p.scale = p.scale = 0.125f;

    size_t bytes[] = { q_bytes, k_bytes, k_bytes, q_bytes, lse_bytes };
    struct buffer *host[] = { &c.q, &c.k, &c.v, &c.O, &c.lse }, device[5], workspace = buffer_new(workspace_bytes + 1, true);
    gpu_fill(workspace.data, 0, workspace.bytes);
    for (int t = 0; t < 5; t++) {
        device[t] = buffer_new(bytes[t], true);
        if (t < 3) {
            gpu_fill(device[t].data, 0, bytes[t]);
            gpu_upload((char *)device[t].data + bytes[t] - host[t]->bytes, host[t]->data, host[t]->bytes);
        }
    }
    attention_subject_run(&s, device[3].data, device[4].data, device[0].data, device[1].data, device[2].data, p, workspace.data,
                          NULL);
    gpu_finish(attention_subject_name(&s));
    bool intact = buffer_guards_intact(&workspace);
    for (int t = 0; t < 5; t++) {
        intact &= buffer_guards_intact(&device[t]);
        gpu_download(host[t]->data, (char *)device[t].data + bytes[t] - host[t]->bytes, host[t]->bytes);
        buffer_free(&device[t]);
    }
    buffer_free(&workspace);
    struct outcome o = attention_case_verdict(&s, &c);
    attention_case_free(&c);
    ck_assert_msg(o.pass && intact, "%s, problem %d: %s", attention_subject_name(&s), _i % 2,
                  o.pass ? "memory outside the tensors was written" : o.what);
}
END_TEST

/* How many times a test that is no check is to run. */
static int count_of(const char *name, int count)
{
    return check_is_chosen(name) ? count : 0;
}

Suite *attention_gpu_suite(void)
{
    Suite *suite = suite_create("attention_gpu");
    TCase *checks = tcase_create("checks"), *invariants = tcase_create("invariants");
    int subjects = attention_subject_count(true);
    tcase_add_loop_test(checks, test_check, 0, attention_pair_count(true));
    tcase_add_loop_test(checks, test_more_elements_than_32_bits_count, 0, count_of(BEYOND_32_BITS, 2 * subjects));
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(invariants, test_a_thousand_runs, 0, count_of(A_THOUSAND_RUNS, REPEATED * subjects));
    tcase_add_loop_test(invariants, test_streams, 0, count_of(STREAMS, subjects));
    suite_add_tcase(suite, invariants);
    return suite;
}
