/*
 * Every attention step's GPU functions: the checks of attention_checks.c, sizes that only a GPU can get wrong, the same bits a
 * thousand times, and on several streams at once. All in one process: see main_gpu.c.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "steps.h"
#include "streams.h"
#include "suites.h"

#define RUNS 1000
#define STREAM_RUNS 200 /* of each stream */
#define SMALL_RUNS 20   /* with TESTS_SMALL */
#define DTYPES 3        /* FP32, FP16, BF16 */

/* Names, beside those of attention_checks.c, that TESTS_CHECK may choose. */
#define A_THOUSAND_RUNS "a thousand runs"
#define STREAMS "streams"
#define REFERENCE "the reference"
#define READING "reading"
#define BEYOND_32_BITS "beyond 2^32 elements"

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

/* Those for one type of element that run here. */
static int subjects_here(struct attention_subject *s, enum dtype dtype)
{
    int count = 0, all = attention_subjects_of(s, dtype, true);
    for (int i = 0; i < all; i++)
        if (runs_here(&s[i]))
            s[count++] = s[i];
    return count;
}

START_TEST(test_check)
{
    struct attention_subject s[MAX_SUBJECTS];
    struct outcome o[MAX_SUBJECTS];
    const struct attention_check *c;
    enum dtype dtype;
    ck_assert(attention_group_at(_i, true, &c, &dtype));
    int count = subjects_here(s, dtype);
    progress(c->name, dtype_name(dtype));
    attention_check_all(c, s, count, o);
    for (int i = 0; i < count; i++)
        ck_assert_msg(o[i].pass, "check '%s': %s", c->name, o[i].what);
}
END_TEST

/* ---- the reference itself: the GPU's is the CPU's, another program for the same definition, to a thousandth of the bound */

static const struct attention both_compute[] = {
    { 1, 2, 1, 5, 300, 64, true, 0 },  { 2, 4, 2, 9, 7, 128, true, 0 }, { 1, 1, 1, 3, 600, 21, false, 0 },
    { 1, 2, 2, 7, 40, 256, false, 0 }, { 1, 1, 1, 5, 5, 1, true, 0 },   { 40, 6, 2, 70, 90, 64, true, 0 },
};

/* Besides a family's numbers: values and keys that are not finite, and scores that overflow. */
static void break_some(struct attention_case *c)
{
    int64_t dim = c->p.dim, keys = c->p.seq_k;
    for (int64_t head = 0; head < c->p.batch * c->p.kv_heads; head++) {
        element_set(c->v.data, c->dtype, (head * keys + keys / 2) * dim + 3 % dim, INFINITY);
        element_set(c->v.data, c->dtype, (head * keys + keys / 3) * dim + 4 % dim, NAN);
        element_set(c->k.data, c->dtype, (head * keys + keys / 4) * dim, -INFINITY);
    }
    for (int64_t i = 0; i < dim; i++)
        element_set(c->q.data, c->dtype, i, c->dtype == FP16 ? 65504 : 1e38f);
}

static bool alike(double a, double b, double within)
{
    return (isnan(a) && isnan(b)) || a == b || fabs(a - b) <= within;
}

START_TEST(test_references_agree)
{
    static const char *const families[] = { "normal", "adversarial", "large" };
    const enum dtype dtype = (enum dtype)(_i % 3);
    if (!dtype_is_chosen(dtype))
        return;
    progress("the reference", dtype_name(dtype));
    for (size_t i = 0; i < 2 * 3 * sizeof both_compute / sizeof both_compute[0]; i++) {
        struct attention_case c = attention_case_of(both_compute[i / 6], dtype, families[i / 2 % 3]);
        c.p.scale *= i % 2 ? -3 : 1;
        if (i % 2)
            break_some(&c);
        struct attention_rounding how = { .scores = i % 4 == 0, .weights = dtype != FP32 };
        int64_t rows = c.p.batch * c.p.heads * c.p.seq_q;
        struct answers cpu = reference_attention(c.q.data, c.k.data, c.v.data, dtype, c.p, how, NULL, rows, false);
        struct answers gpu = reference_attention(c.q.data, c.k.data, c.v.data, dtype, c.p, how, NULL, rows, true);
        for (int64_t at = 0; at < rows * c.p.dim; at++)
            REQUIRE(alike(gpu.want[at], cpu.want[at], 1e-3 * cpu.bound[at]) &&
                        alike(gpu.bound[at], cpu.bound[at], 1e-3 * cpu.bound[at]),
                    "case %zu, row %lld: %.17g within %g, on the CPU %.17g within %g", i, (long long)(at / c.p.dim), gpu.want[at],
                    gpu.bound[at], cpu.want[at], cpu.bound[at]);
        for (int64_t row = 0; row < rows; row++)
            REQUIRE(alike(gpu.lse[row].want, cpu.lse[row].want, 1e-3 * cpu.lse[row].bound) && gpu.doubt[row] == cpu.doubt[row] &&
                        alike(gpu.lse[row].bound, cpu.lse[row].bound, 1e-3 * cpu.lse[row].bound),
                    "case %zu, row %lld: lse %.17g, on the CPU %.17g", i, (long long)row, gpu.lse[row].want, cpu.lse[row].want);
        answers_free(&cpu);
        answers_free(&gpu);
        attention_case_free(&c);
    }
}
END_TEST

/* ---- the same bits again and again */

/* A subject's tensors on the GPU, and O and lse as its first run made them; `host` is shared with other subjects. */
struct on_gpu {
    struct attention_case *host;
    struct buffer q, k, v, O, lse, workspace, first_O, first_lse;
    struct buffer differs; /* an unsigned: the first run whose O or lse is not as in the first; NEVER */
};

#define NEVER UINT_MAX /* what buffer_new() fills memory with */

static struct buffer copy_on_gpu(const struct buffer *host)
{
    struct buffer device = buffer_new(host->bytes, &gpu_device);
    gpu_upload(device.data, host->data, host->bytes);
    return device;
}

static void start(const struct attention_subject *s, const struct on_gpu *g, cudaStream_t stream)
{
    attention_subject_run(s, g->O.data, g->lse.data, g->q.data, g->k.data, g->v.data, g->host->p, g->workspace.data, stream);
}

/* Runs once; what comes out must be right. */
static struct on_gpu on_gpu_new(const struct attention_subject *s, struct attention_case *c)
{
    struct on_gpu g = { .host = c };
    buffer_poison(&c->O); /* the subject before has left its own */
    buffer_poison(&c->lse);
    g.q = copy_on_gpu(&c->q), g.k = copy_on_gpu(&c->k), g.v = copy_on_gpu(&c->v);
    g.O = copy_on_gpu(&c->O), g.lse = copy_on_gpu(&c->lse);
    g.workspace = buffer_new(attention_subject_workspace(s, c->p) + 1, &gpu_device);
    gpu_fill(g.workspace.data, 0, g.workspace.bytes);
    g.differs = buffer_new(sizeof(unsigned), &gpu_device);
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
}

/* Ragged, causal and not, more tiles than multiprocessors, few queries and many keys; normal
   scores, and such that rise far above those of the first tile. */
static const struct {
    struct attention p;
    const char *family;
} repeated[] = {
    { { 2, 6, 2, 300, 391, 64, true, 0 }, "normal" },      { { 1, 6, 2, 391, 300, 128, false, 0 }, "normal" },
    { { 14, 12, 4, 150, 391, 64, true, 0 }, "adversarial" }, { { 5, 12, 4, 300, 391, 128, true, 0 }, "adversarial" },
    { { 1, 6, 2, 300, 1500, 64, false, 0 }, "adversarial" },  { { 2, 8, 2, 3, 5000, 128, true, 0 }, "adversarial" },
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

static void cases_new(struct attention_case *cases, enum dtype dtype)
{
    for (int i = 0; i < REPEATED; i++)
        cases[i] = attention_case_of(repeated[i].p, dtype, repeated[i].family);
}

static void cases_free(struct attention_case *cases)
{
    for (int i = 0; i < REPEATED; i++)
        attention_case_free(&cases[i]);
}

/* A race shows in one run of many. */
static void run_a_thousand_times(const struct attention_subject *s, int problem, struct attention_case *c)
{
    struct on_gpu g = on_gpu_new(s, c);
    print_bits(s, problem, c);
    for (int run = 1; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : RUNS); run++)
        start_again(s, &g, run, NULL);
    gpu_finish(attention_subject_name(s));
    unsigned differs = first_that_differs(&g);
    on_gpu_free(&g);
    ck_assert_msg(differs == NEVER, "%s, problem %d: not the same bits in run %u", attention_subject_name(s), problem, differs);
}

START_TEST(test_a_thousand_runs)
{
    struct attention_subject s[MAX_SUBJECTS];
    struct attention_case cases[REPEATED];
    enum dtype dtype = (enum dtype)_i;
    if (!dtype_is_chosen(dtype))
        return;
    cases_new(cases, dtype);
    for (int i = 0, count = subjects_here(s, dtype); i < count; i++) {
        progress(attention_subject_name(&s[i]), A_THOUSAND_RUNS);
        for (int problem = 0; problem < REPEATED; problem++)
            run_a_thousand_times(&s[i], problem, &cases[problem]);
    }
    cases_free(cases);
}
END_TEST

/* All problems at once, again and again, each on a stream and with a workspace of its own. */
static void run_on_streams(const struct attention_subject *s, struct attention_case *cases)
{
    struct on_gpu all[REPEATED];
    cudaStream_t stream[REPEATED];
    for (int i = 0; i < REPEATED; i++) {
        all[i] = on_gpu_new(s, &cases[i]);
        stream[i] = stream_new();
    }
    gpu_finish(attention_subject_name(s));
    for (int run = 1; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : STREAM_RUNS); run++)
        for (int i = 0; i < REPEATED; i++)
            start_again(s, &all[i], run, stream[i]);
    gpu_finish(attention_subject_name(s));
    for (int i = 0; i < REPEATED; i++) {
        unsigned differs = first_that_differs(&all[i]);
        stream_free(stream[i]);
        on_gpu_free(&all[i]);
        ck_assert_msg(differs == NEVER, "%s, problem %d: other bits beside other streams, in run %u", attention_subject_name(s),
                      i, differs);
    }
}

START_TEST(test_streams)
{
    struct attention_subject s[MAX_SUBJECTS];
    struct attention_case cases[REPEATED];
    enum dtype dtype = (enum dtype)_i;
    if (!dtype_is_chosen(dtype))
        return;
    cases_new(cases, dtype);
    for (int i = 0, count = subjects_here(s, dtype); i < count; i++) {
        progress(attention_subject_name(&s[i]), STREAMS);
        run_on_streams(&s[i], cases);
    }
    cases_free(cases);
}
END_TEST

/*
 * More than 2^32 elements of Q and O, and of K and V; more heads than a grid's y and z have blocks. All is zeros but the last
 * head, so that only that one travels: (1, 1, rows, keys) at the end of each tensor. An index that wraps around finds zeros.
 */
static const struct attention beyond_32_bits[] = {
    { 1, 16, 1, (1 << 22) + 70, 64, 64, false, 0 },
    { (1 << 17) + 3, 1, 1, 3, 512, 64, false, 0 },
};

START_TEST(test_more_elements_than_32_bits_count)
{
    struct attention_subject s;
    ck_assert(attention_subject_at(&s, _i / 2, true));
    if (!runs_here(&s) || !dtype_is_chosen(s.dtype))
        return;
    struct attention p = beyond_32_bits[_i % 2], last = p;
    int64_t heads = p.batch * p.heads;
    size_t element = dtype_bytes(s.dtype), q_bytes = (size_t)(heads * p.seq_q * p.dim) * element,
           k_bytes = (size_t)(p.batch * p.kv_heads * p.seq_k * p.dim) * element,
           lse_bytes = (size_t)(heads * p.seq_q) * sizeof(float);
    size_t workspace_bytes = attention_subject_workspace(&s, p);
    if (getenv("TESTS_SMALL") ||
        2 * q_bytes + 2 * k_bytes + lse_bytes + workspace_bytes + ((size_t)1 << 29) > gpu_device.memory()) {
        printf("skipped: %s beyond 2^32 elements: %s\n", attention_subject_name(&s),
               getenv("TESTS_SMALL") ? "TESTS_SMALL" : "the GPU has too little memory");
        return;
    }
    progress(attention_subject_name(&s), BEYOND_32_BITS);
    last.batch = last.heads = last.kv_heads = 1;
    last.seq_q = p.seq_q < 1000 ? p.seq_q : 1000; /* its last queries */
    struct attention_case c = attention_case_of(last, s.dtype, "normal");
    c.p.scale = p.scale = 0.125f;

    size_t bytes[] = { q_bytes, k_bytes, k_bytes, q_bytes, lse_bytes };
    struct buffer *host[] = { &c.q, &c.k, &c.v, &c.O, &c.lse }, device[5],
                  workspace = buffer_new(workspace_bytes + 1, &gpu_device);
    gpu_fill(workspace.data, 0, workspace.bytes);
    for (int t = 0; t < 5; t++) {
        device[t] = buffer_new(bytes[t], &gpu_device);
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

static void (*const read_on_gpu)(uint32_t *, const void *, const void *, size_t, uint32_t, cudaStream_t) = GPU(read_gpu);

/* Step 00's reading finds every word, wherever it lies: of all zeros but one word, some thread's sum is that word. */
START_TEST(test_reading)
{
    static const size_t sizes[] = { 4, 16, 100, 4096, 32 << 10, (32 << 10) + 4, (96 << 10) + 36 };
    const uint32_t word = 0x12345678;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t at = 0; at < 2 * sizes[i]; at += sizes[i] > 4096 ? 1012 : 4) { /* of the second tensor, too */
            uint32_t found = 0;
            struct buffer x = buffer_new(sizes[i], &gpu_device), y = buffer_new(sizes[i], &gpu_device),
                          out = buffer_new(sizeof found, &gpu_device);
            gpu_fill(x.data, 0, x.bytes);
            gpu_fill(y.data, 0, y.bytes);
            gpu_fill(out.data, 0, out.bytes);
            gpu_upload((char *)(at < sizes[i] ? x.data : y.data) + at % sizes[i] / 4 * 4, &word, sizeof word);
            read_on_gpu(out.data, x.data, y.data, x.bytes, word, NULL);
            gpu_finish("reading");
            gpu_download(&found, out.data, sizeof found);
            buffer_free(&x);
            buffer_free(&y);
            buffer_free(&out);
            ck_assert_msg(found == word, "of two times %zu bytes, the word at %zu was not read", sizes[i], at);
        }
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
    tcase_add_loop_test(checks, test_check, 0, attention_group_count(true));
    tcase_add_loop_test(checks, test_more_elements_than_32_bits_count, 0, count_of(BEYOND_32_BITS, 2 * subjects));
    tcase_add_loop_test(checks, test_reading, 0, count_of(READING, 1));
    tcase_add_loop_test(checks, test_references_agree, 0, count_of(REFERENCE, DTYPES));
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(invariants, test_a_thousand_runs, 0, count_of(A_THOUSAND_RUNS, DTYPES));
    tcase_add_loop_test(invariants, test_streams, 0, count_of(STREAMS, DTYPES));
    suite_add_tcase(suite, invariants);
    TCase *pages = tcase_create("pages");
    paged_gpu_tests(pages);
    suite_add_tcase(suite, pages);
    return suite;
}
