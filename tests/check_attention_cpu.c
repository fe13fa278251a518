/* Every attention step's CPU function: all checks of attention_checks.c. And FlashAttention's rule itself. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention_checks.h"
#include "blas.h"
#include "steps.h"
#include "suites.h"

START_TEST(test_check)
{
    struct attention_subject all[MAX_SUBJECTS], s[MAX_SUBJECTS];
    struct outcome o[MAX_SUBJECTS];
    const struct attention_check *c;
    enum dtype dtype;
    int count = 0;
    ck_assert(attention_group_at(_i, false, &c, &dtype));
    for (int i = 0, n = attention_subjects_of(all, dtype, false); i < n; i++)
        if (!attention_subject_missing(&all[i]))
            s[count++] = all[i];
        else if (c == attention_checks) /* once is enough */
            printf("skipped: %s: %s\n", attention_subject_name(&all[i]), attention_subject_missing(&all[i]));
    attention_check_all(c, s, count, o);
    for (int i = 0; i < count; i++)
        if (attention_must_fail(c, &s[i]))
            ck_assert_msg(!o[i].pass, "check '%s': %s passes it, and says that it does not", c->name,
                          attention_subject_name(&s[i]));
        else
            ck_assert_msg(o[i].pass, "check '%s': %s", c->name, o[i].what);
}
END_TEST

/* The 16-bit attention that sets the measure keeps to it; one that drops a key does not. */
START_TEST(test_flash_attention_rule)
{
    const enum dtype dtype = _i ? BF16 : FP16;
    const struct attention p = { 1, 2, 1, 40, 60, 64, true, 0 };
    struct attention_case c = attention_case_of(p, dtype, "normal");
    double error, allowed;
    same_precision_attention(&c);
    ck_assert(flash_attention_rule(&c, &error, &allowed) && error > 0 && error <= allowed);

    struct attention_case shorter = attention_case_of(p, dtype, "normal");
    memset((char *)shorter.v.data + shorter.v.bytes - 64 * 2, 0, 64 * 2); /* the last value of the last head */
    same_precision_attention(&shorter);
    memcpy(c.O.data, shorter.O.data, c.O.bytes);
    ck_assert_msg(!flash_attention_rule(&c, &error, &allowed), "off by %g, allowed %g", error, allowed);
    attention_case_free(&c);
    attention_case_free(&shorter);
}
END_TEST

/* ---- keys in pieces: steps 34 and 35 */

static const struct {
    const char *step;
    attention_pieces_fn *run;
} split[] = { { "34_split_attention", split_attention_pieces }, { "35_grouped_attention", grouped_attention_pieces } };

#define SPLIT ((int)(sizeof split / sizeof split[0]))
#define MOST_PIECES 64
#define MANY_RUNS (getenv("TESTS_SMALL") ? 20 : 200)
#define SOME_PIECES (getenv("TESTS_SMALL") ? 9 : 1) /* from one number of pieces to the next */

/* Fewer keys than pieces; rows without keys, and with a few, beside rows with many; groups. */
static const struct attention in_pieces[] = {
    { 1, 2, 2, 1, 3, 64, false, 0 }, { 1, 6, 2, 5, 300, 128, true, 0 }, { 2, 3, 1, 9, 5, 40, true, 0 },
    { 1, 8, 1, 16, 700, 59, true, 0 }, { 1, 4, 4, 2, 513, 128, false, 0 },
};
#define IN_PIECES ((int)(sizeof in_pieces / sizeof in_pieces[0]))

static struct attention_subject subject_in_pieces(int which, enum dtype dtype)
{
    return (struct attention_subject){ attention_step_named(split[which].step), dtype, false };
}

static void run_pieces(int which, struct attention_case *c, int pieces)
{
    buffer_poison(&c->O);
    buffer_poison(&c->lse);
    split[which].run(c->O.data, c->lse.data, c->q.data, c->k.data, c->v.data, c->p, c->dtype, pieces);
}

/* In 1 to 64 pieces, against double precision. */
START_TEST(test_any_number_of_pieces)
{
    static const char *const families[] = { "normal", "rising", "adversarial", "peak" };
    int which = _i % SPLIT;
    enum dtype dtype = (enum dtype)(_i / SPLIT);
    struct attention_subject s = subject_in_pieces(which, dtype);
    for (int i = 0; i < IN_PIECES * 4; i++) {
        struct attention_case c = attention_case_of(in_pieces[i / 4], dtype, families[i % 4]);
        for (int pieces = 1; pieces <= MOST_PIECES; pieces += SOME_PIECES) {
            run_pieces(which, &c, pieces);
            struct outcome o = attention_case_verdict(&s, &c);
            ck_assert_msg(o.pass, "%s, problem %d, %s, in %d pieces: %s", attention_subject_name(&s), i / 4, families[i % 4],
                          pieces, o.what);
        }
        attention_case_free(&c);
    }
}
END_TEST

/* The same bits for the same number of pieces: run after run, on any number of threads. */
START_TEST(test_pieces_have_the_same_bits)
{
    int which = _i % SPLIT, usual = cpu_threads();
    struct attention_case c = attention_case_of(in_pieces[1], (enum dtype)(_i / SPLIT), "normal");
    char *kept = malloc(c.O.bytes);
    for (int pieces = 1; pieces <= MOST_PIECES; pieces += 9) {
        run_pieces(which, &c, pieces);
        memcpy(kept, c.O.data, c.O.bytes);
        for (int run = 0; run < MANY_RUNS; run++) {
            cpu_set_threads(1 + run % THREADS_UP_TO(7));
            run_pieces(which, &c, pieces);
            ck_assert_msg(memcmp(kept, c.O.data, c.O.bytes) == 0, "%s, %d pieces, %d threads: other bits", split[which].step,
                          pieces, 1 + run % 7);
        }
    }
    cpu_set_threads(usual);
    free(kept);
    attention_case_free(&c);
}
END_TEST

/* ---- tensors of more than 2^32 elements, in a few MiB */

#define WINDOW ((size_t)16 << 20) /* bytes of real memory behind a tensor that is written */
#define WIDE 256                  /* dim */

/* Address space, all zeros to read. NULL if the system does not grant so much. */
static void *zeros(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE); /* one large page of zeros for all */
#endif
    return p;
}

/* The same, to be written: all windows but the last are one and the same memory. */
static char *window_on_window(size_t bytes)
{
    char name[40], *p = zeros(bytes);
    snprintf(name, sizeof name, "/softmax-window-%d", (int)getpid());
    int file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600), flags = MAP_SHARED | MAP_FIXED;
#ifdef MAP_POPULATE
    flags |= MAP_POPULATE; /* or each of four million pages is a fault */
#endif
    ck_assert(file >= 0 && shm_unlink(name) == 0 && ftruncate(file, (off_t)WINDOW) == 0);
    for (size_t at = 0; p && at + WINDOW < bytes; at += WINDOW)
        ck_assert(mmap(p + at, WINDOW, PROT_READ | PROT_WRITE, flags, file, 0) == p + at);
    close(file);
    return p;
}

/*
 * Two heads of Q and O, of 2^31 elements and a few: rows of a head begin beyond 2^31, and those of the second beyond 2^32.
 * (Causal, and one key, so that only the last row has work to do.) Or three of K and V, of half as many. All is zeros but the
 * last row of each head. An index of 32 bits reads or writes elsewhere, or crashes.
 */
START_TEST(test_more_elements_than_32_bits_count)
{
    const int64_t many = ((int64_t)1 << 31) / WIDE + 3;
    const struct attention of_queries = { 1, 2, 1, many, 1, WIDE, true, 1 },
                           of_keys = { 1, 3, 3, 1, many / 2 + 2, WIDE, false, 1 };
    const struct attention p = _i % 2 ? of_keys : of_queries;
    struct attention_subject all[MAX_SUBJECTS], s;
    ck_assert(_i / 2 < attention_subjects_of(all, FP32, false));
    s = all[_i / 2];
    if (attention_subject_missing(&s))
        return;
    if (s.step->ring || s.step->paged.cpu) { /* of which check_paged.c has a test of its own */
        printf("skipped: %s beyond 2^32 elements: it takes copies, which no such memory holds\n",
               attention_subject_name(&s));
        return;
    }
    size_t rows = (size_t)(p.heads * p.seq_q), q_bytes = rows * WIDE * sizeof(float),
           k_bytes = (size_t)(p.kv_heads * p.seq_k * WIDE) * sizeof(float);
    float *q = zeros(q_bytes), *k = zeros(k_bytes), *v = zeros(k_bytes), *O = (float *)window_on_window(q_bytes);
    float *lse = malloc(rows * sizeof *lse);
    if (!q || !k || !v || !O || !lse) {
        printf("skipped: %s beyond 2^32 elements: the system grants no address space of %zu GiB\n", attention_subject_name(&s),
               (q_bytes > k_bytes ? q_bytes : k_bytes) >> 30);
        return;
    }
    for (int64_t head = 0; head < p.heads; head++) {
        float *last_q = q + (head + 1) * p.seq_q * WIDE - WIDE;
        float *last_k = k + ((head < p.kv_heads ? head : 0) + 1) * p.seq_k * WIDE - WIDE, *last_v = v + (last_k - k);
        last_q[0] = 40;
        last_k[0] = 1;
        for (int i = 0; i < WIDE; i++)
            last_v[i] = (float)(i + 1 + WIDE * (p.kv_heads > 1 ? head : 0));
    }
    attention_subject_run(&s, O, lse, q, k, v, p, NULL, NULL);
    const float *last = O + (rows - 1) * WIDE, *want = v + (p.kv_heads * p.seq_k - 1) * WIDE;
    for (int i = 0; i < WIDE; i++)
        ck_assert_msg(fabsf(last[i] - want[i]) < 1e-3f * want[i], "%s: element %d of the last row: got %g, want %g",
                      attention_subject_name(&s), i, (double)last[i], (double)want[i]);
    ck_assert_msg(fabsf(lse[rows - 1] - 40) < 1e-3f, "%s: the last lse is %g", attention_subject_name(&s), (double)lse[rows - 1]);
}
END_TEST

/* Of threads that share few queries some have none. */
START_TEST(test_a_library_product_of_no_rows)
{
    float c = 7, one = 1;
    blas_sgemm(&c, &one, &one, 0, 1, 1);
    blas_sgemm_transposed(&c, &one, &one, 0, 1, 1, 1);
    ck_assert(c == 7);
}
END_TEST

Suite *attention_cpu_suite(void)
{
    Suite *suite = suite_create("attention_cpu");
    TCase *checks = tcase_create("checks"), *rule = tcase_create("rule"), *large = tcase_create("large");
    tcase_set_timeout(checks, 120);
    tcase_add_checked_fixture(checks, guard_pages, NULL);
    tcase_add_loop_test(checks, test_check, 0, attention_group_count(false));
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(rule, test_flash_attention_rule, 0, 2);
    tcase_add_test(rule, test_a_library_product_of_no_rows);
    suite_add_tcase(suite, rule);
    TCase *pieces = tcase_create("pieces");
    tcase_set_timeout(pieces, 120);
    tcase_add_checked_fixture(pieces, guard_pages, NULL);
    tcase_add_loop_test(pieces, test_any_number_of_pieces, 0, 3 * SPLIT);
    tcase_add_loop_test(pieces, test_pieces_have_the_same_bits, 0, 3 * SPLIT);
    suite_add_tcase(suite, pieces);
    tcase_set_timeout(large, 300);
    struct attention_subject all[MAX_SUBJECTS];
    if (!getenv("TESTS_SMALL"))
        tcase_add_loop_test(large, test_more_elements_than_32_bits_count, 0, 2 * attention_subjects_of(all, FP32, false));
    suite_add_tcase(suite, large);
    return suite;
}
