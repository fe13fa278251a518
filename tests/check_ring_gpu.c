/*
 * The rings on GPUs: any number of ranks, the same bits again and again. Where there are fewer GPUs than ranks they share them
 * (RING_SHARE), and all but NCCL is tested as it is. What happens when a rank dies: test_ring_gpu.py.
 */
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "ring/ring.h"
#include "steps.h"
#include "suites.h"

#define RUNS 200
#define SMALL_RUNS 20 /* with TESTS_SMALL; and where three ranks may share a GPU, which lets them wait */

static const int all_ranks[] = { 2, 3, 4, 1 };
#define COUNTS ((int)(sizeof all_ranks / sizeof all_ranks[0]))

/* Ragged, grouped, more queries than keys and fewer, more ranks than tokens, and tiles enough for all SMs. */
static const struct attention problems[] = {
    { 1, 2, 1, 1001, 1001, 64, true, 0 }, { 2, 6, 2, 633, 865, 128, true, 0 }, { 2, 6, 2, 633, 865, 64, false, 0 },
    { 1, 2, 2, 597, 340, 64, true, 0 },   { 1, 3, 3, 3, 5, 128, true, 0 },     { 1, 3, 1, 3, 2, 64, false, 0 },
    { 1, 1, 1, 1, 130, 128, true, 0 },    { 1, 8, 2, 2048, 2048, 128, true, 0 },
};
#define PROBLEMS ((int)(sizeof problems / sizeof problems[0]))

static const struct attention_step *const rings[] = { &ring_attention, &zigzag_ring, &overlapped_ring };
#define RINGS ((int)(sizeof rings / sizeof rings[0]))

static struct attention_subject ring_step(const struct attention_step *step, enum dtype dtype)
{
    return (struct attention_subject){ step, dtype, true };
}

/* False where TESTS_STEPS leaves it out; and, which is said, where the ring cannot run. */
static bool runs_here(const struct attention_step *step, int ranks)
{
    const char *chosen = getenv("TESTS_STEPS"), number[] = { step->name[0], step->name[1], '\0' };
    if (chosen && !strstr(chosen, number))
        return false;
    ring_set_ranks(ranks);
    if (ranks > gpu_count())
        setenv("RING_SHARE", "1", 1);
    const char *why = attention_gpu_missing(step, BF16, 128);
    if (why)
        printf("skipped: %s, %d ranks: %s\n", step->name, ranks, why);
    return !why;
}

static void run(const struct attention_subject *s, struct attention_case *c)
{
    const char *problem = attention_case_run(s, c, true);
    ck_assert_msg(!problem, "%s, %d ranks: %s", attention_subject_name(s), ring_ranks(), problem);
}

/* What O and lse hold now. */
struct bits {
    char *O, *lse;
};

static struct bits bits_of(const struct attention_case *c)
{
    struct bits b = { malloc(c->O.bytes), malloc(c->lse.bytes) };
    memcpy(b.O, c->O.data, c->O.bytes);
    memcpy(b.lse, c->lse.data, c->lse.bytes);
    return b;
}

static bool same_bits(const struct attention_case *c, struct bits b)
{
    return memcmp(b.O, c->O.data, c->O.bytes) == 0 && memcmp(b.lse, c->lse.data, c->lse.bytes) == 0;
}

static void bits_free(struct bits b)
{
    free(b.O), free(b.lse);
}

START_TEST(test_any_number_of_ranks)
{
    static const char *const families[] = { "normal", "adversarial", "equal" };
    int ranks = all_ranks[_i / RINGS];
    struct attention_subject s = ring_step(rings[_i % RINGS], BF16);
    if (!runs_here(s.step, ranks))
        return;
    progress(attention_subject_name(&s), "any number of ranks");
    for (int i = 0; i < 3 * PROBLEMS; i++) {
        s.dtype = i % 2 ? FP16 : BF16;
        struct attention_case c = attention_case_of(problems[i % PROBLEMS], s.dtype, families[i / PROBLEMS]);
        run(&s, &c);
        struct outcome o = attention_case_verdict(&s, &c);
        ck_assert_msg(o.pass, "%s, %d ranks, %lld x %lld%s, %s: %s", attention_subject_name(&s), ranks, (long long)c.p.seq_q,
                      (long long)c.p.seq_k, c.p.causal ? ", causal" : "", families[i / PROBLEMS], o.what);
        attention_case_free(&c);
    }
}
END_TEST

/* One rank does what step 32 does; and step 70 what step 69 does, in the same order. To the bit. */
START_TEST(test_same_bits_as)
{
    static const struct { const struct attention_step *one, *other; int ranks; } all[] = {
        { &optimistic_attention, &ring_attention, 1 }, { &optimistic_attention, &zigzag_ring, 1 },
        { &zigzag_ring, &overlapped_ring, 2 },         { &zigzag_ring, &overlapped_ring, 3 },
    };
    struct attention_subject one = ring_step(all[_i].one, BF16), other = ring_step(all[_i].other, BF16);
    if (!runs_here(other.step, all[_i].ranks))
        return;
    for (int i = 0; i < PROBLEMS; i++) {
        struct attention_case c = attention_case_of(problems[i], BF16, "normal");
        run(&one, &c);
        struct bits b = bits_of(&c);
        run(&other, &c);
        ck_assert_msg(same_bits(&c, b), "%s, %d ranks, problem %d: other bits than %s's", other.step->name, all[_i].ranks, i,
                      one.step->name);
        bits_free(b);
        attention_case_free(&c);
    }
}
END_TEST

/* A race shows in one run of many. */
START_TEST(test_many_runs)
{
    static const struct attention of[] = { { 1, 8, 2, 1500, 1500, 128, true, 0 }, { 1, 8, 2, 1500, 1500, 64, false, 0 } };
    struct attention_subject s = ring_step(rings[_i % RINGS], BF16);
    if (!runs_here(s.step, 2 + _i / RINGS))
        return;
    progress(attention_subject_name(&s), "many runs");
    for (int i = 0; i < 2; i++) {
        struct attention_case c = attention_case_of(of[i], BF16, "normal");
        run(&s, &c);
        struct bits b = bits_of(&c);
        for (int n = 1; n < (getenv("TESTS_SMALL") || _i >= RINGS ? SMALL_RUNS : RUNS); n++) {
            run(&s, &c);
            ck_assert_msg(same_bits(&c, b), "%s, %d ranks, problem %d: not the same bits in run %d", s.step->name,
                          ring_ranks(), i, n);
        }
        bits_free(b);
        attention_case_free(&c);
    }
}
END_TEST

Suite *ring_gpu_suite(void)
{
    Suite *suite = suite_create("ring_gpu");
    TCase *ranks = tcase_create("ranks"), *runs = tcase_create("runs");
    tcase_add_loop_test(ranks, test_any_number_of_ranks, 0, RINGS * COUNTS);
    tcase_add_loop_test(ranks, test_same_bits_as, 0, 4);
    suite_add_tcase(suite, ranks);
    tcase_add_loop_test(runs, test_many_runs, 0, 2 * RINGS);
    suite_add_tcase(suite, runs);
    return suite;
}
