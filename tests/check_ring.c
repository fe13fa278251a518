/* common/ring, and the steps that are rings: any number of ranks, the same bits however late blocks come, and what goes wrong. */
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attention_checks.h"
#include "ring/ring.h"
#include "steps.h"
#include "suites.h"

#define RUNS (getenv("TESTS_SMALL") ? 3 : 12)    /* with delays */
#define FAMILIES (getenv("TESTS_SMALL") ? 1 : 3) /* of inputs: a sanitizer sees the same accesses in all */
#define SECONDS 3                                /* that a block may take to come */

static const int all_ranks[] = { 1, 2, 3, 4, 7 };
#define COUNTS ((int)(sizeof all_ranks / sizeof all_ranks[0]))

/* Ragged, grouped, more queries than keys and fewer, and more ranks than tokens. */
static const struct attention problems[] = {
    { 1, 2, 1, 101, 101, 64, false, 0 }, { 1, 2, 1, 101, 101, 64, true, 0 }, { 2, 6, 2, 33, 65, 40, false, 0 },
    { 2, 6, 2, 33, 65, 40, true, 0 },    { 1, 2, 2, 97, 40, 64, true, 0 },   { 1, 3, 3, 3, 5, 16, true, 0 },
    { 1, 3, 1, 3, 2, 16, false, 0 },     { 1, 1, 1, 1, 130, 8, true, 0 },    { 1, 2, 1, 400, 400, 128, true, 0 },
    { 1, 2, 2, 168, 168, 16, true, 0 },
};
#define PROBLEMS ((int)(sizeof problems / sizeof problems[0]))

static const char *const rings[] = { "68_ring_attention", "69_zigzag_ring", "70_overlapped_ring" };
#define RINGS ((int)(sizeof rings / sizeof rings[0]))
enum { ZIGZAG = 1, OVERLAPPED };

static struct attention_subject ring_step(int i)
{
    return (struct attention_subject){ attention_step_named(rings[i]), FP32, false };
}

/* ---- pieces */

static void assert_pieces(struct attention p, int pieces)
{
    int64_t query = 0, key = 0;
    for (int i = 0; i < pieces; i++) {
        struct ring_piece at = ring_piece(p, i, pieces);
        ck_assert_msg(at.query == query && at.key == key && at.queries >= 0 && at.keys >= 0, "piece %d of %d, %lld x %lld", i,
                      pieces, (long long)p.seq_q, (long long)p.seq_k);
        struct attention own = p;
        own.seq_q = at.queries, own.seq_k = at.keys;
        for (int64_t q = 0; q < at.queries && p.causal; q++)
            REQUIRE(attention_visible(p, at.query + q) == at.key * (attention_visible(p, at.query + q) > 0) +
                    attention_visible(own, q), "query %lld of piece %d of %d, %lld x %lld: the mask is not its own",
                    (long long)q, i, pieces, (long long)p.seq_q, (long long)p.seq_k);
        query += at.queries, key += at.keys;
    }
    ck_assert(query == p.seq_q && key == p.seq_k);
}

/* Each piece is somebody's, once; and with a mask all ranks of a zigzag see as many keys. */
static void assert_held(int ranks, int held)
{
    const int64_t length = 2 * ranks * 5;
    struct ring r = { .ranks = ranks, .held = held, .p = { 1, 1, 1, length, length, 1, true, 1 } };
    int64_t all = 0;
    bool somebodys[2 * RING_MOST] = { false };
    for (int rank = 0; rank < ranks; rank++) {
        int64_t pairs = 0;
        for (int i = 0; i < held; i++) {
            struct ring_piece at = ring_held(&r, rank, i);
            ck_assert(at.number >= 0 && at.number < ranks * held && !somebodys[at.number]);
            somebodys[at.number] = true;
            for (int64_t query = at.query; query < at.query + at.queries; query++)
                pairs += attention_visible(r.p, query);
        }
        all += pairs;
        ck_assert(held == 1 || pairs * ranks == length * (length + 1) / 2);
    }
    ck_assert(all == length * (length + 1) / 2);
}

START_TEST(test_who_has_what)
{
    for (int ranks = 1; ranks <= 9; ranks++)
        for (int held = 1; held <= 2; held++)
            assert_held(ranks, held);
}
END_TEST

/* How many ranks there are does not matter: a copy engine whose rows begin in the middle of a line reads two lines for each. */
START_TEST(test_tensors_begin_with_a_line)
{
    for (int ranks = 1; ranks <= 9; ranks++)
        for (int i = 0; i < 4; i++) {
            struct ring r = { .ranks = ranks, .held = 1 + i % 2, .p = { 1, 2, 1, 64 * ranks, 64 * ranks, 64, true, 1 },
                              .gpu = i / 2, .dtype = i / 2 ? BF16 : FP32 };
            ring_lay(&r, (char *)(intptr_t)4096);
            const void *const tensors[] = { r.O, r.lse, r.Q, r.block, r.other, r.part_O, r.part_lse, r.sum, r.own };
            for (size_t n = 0; n < sizeof tensors / sizeof tensors[0]; n++)
                ck_assert_msg((uintptr_t)tensors[n] % 128 == 0, "%d ranks: tensor %d begins at %p", ranks, (int)n, tensors[n]);
        }
}
END_TEST

START_TEST(test_pieces_are_the_whole)
{
    for (int64_t queries = 1; queries < 40; queries += 3)
        for (int64_t keys = 1; keys < 60; keys += 4)
            for (int pieces = 1; pieces < 18; pieces++)
                for (int causal = 0; causal < 2; causal++)
                    assert_pieces((struct attention){ 1, 1, 1, queries, keys, 1, causal, 1 }, pieces);
}
END_TEST

/* ---- right, for any number of ranks */

START_TEST(test_any_number_of_ranks)
{
    struct attention_subject s = ring_step(_i % RINGS);
    struct attention p = problems[_i / RINGS % PROBLEMS];
    static const char *const families[] = { "normal", "adversarial", "equal" }; /* equal: and so is every block's lse */
    ring_set_ranks(all_ranks[_i / RINGS / PROBLEMS]);
    for (int f = 0; f < FAMILIES; f++) {
        struct attention_case c = attention_case_of(p, FP32, families[f]);
        const char *problem = attention_case_run(&s, &c, true);
        struct outcome o = attention_case_verdict(&s, &c);
        ck_assert_msg(!problem && o.pass, "%s, %d ranks, %lld x %lld%s, %s: %s", s.step->name, ring_ranks(),
                      (long long)c.p.seq_q, (long long)c.p.seq_k, c.p.causal ? ", causal" : "", families[f],
                      problem ? problem : o.what);
        attention_case_free(&c);
    }
}
END_TEST

/* One rank of step 68 does what step 15 does, to the bit. */
START_TEST(test_one_rank_is_step_14)
{
    struct attention_subject s = ring_step(0), alone = { &register_tiled_attention, FP32, false };
    struct attention_case c = attention_case_of(problems[3], FP32, "normal");
    ring_set_ranks(1);
    ck_assert(attention_case_run(&alone, &c, true) == NULL);
    float *O = malloc(c.O.bytes);
    memcpy(O, c.O.data, c.O.bytes);
    ck_assert(attention_case_run(&s, &c, true) == NULL);
    ck_assert(memcmp(O, c.O.data, c.O.bytes) == 0);
    free(O);
    attention_case_free(&c);
}
END_TEST

/* Step 70 computes what step 69 does, in the same order. */
START_TEST(test_overlapped_is_zigzag)
{
    struct attention_subject zigzag = ring_step(ZIGZAG), overlapped = ring_step(OVERLAPPED);
    struct attention_case c = attention_case_of(problems[_i % PROBLEMS], FP32, "normal");
    ring_set_ranks(all_ranks[_i / PROBLEMS]);
    ck_assert(attention_case_run(&zigzag, &c, true) == NULL);
    char *O = malloc(c.O.bytes), *lse = malloc(c.lse.bytes);
    memcpy(O, c.O.data, c.O.bytes);
    memcpy(lse, c.lse.data, c.lse.bytes);
    ck_assert(attention_case_run(&overlapped, &c, true) == NULL);
    ck_assert_msg(memcmp(O, c.O.data, c.O.bytes) == 0 && memcmp(lse, c.lse.data, c.lse.bytes) == 0,
                  "%d ranks, %lld x %lld%s: other bits than step 69's", ring_ranks(), (long long)c.p.seq_q, (long long)c.p.seq_k,
                  c.p.causal ? ", causal" : "");
    free(O), free(lse);
    attention_case_free(&c);
}
END_TEST

/* What a timeline is drawn from: of each rank, two halves of each pass, one behind the other, all within this run. */
START_TEST(test_moments)
{
    struct attention_subject s = ring_step(_i);
    struct attention_case c = attention_case_of(problems[8], FP32, "normal");
    ring_set_ranks(3);
    for (int run = 0; run < 2; run++) {
        double start = now();
        ck_assert(attention_case_run(&s, &c, true) == NULL);
        double all = 1e3 * (now() - start);
        for (int rank = 0; rank < 3; rank++) {
            struct ring_times t = ring_times_of(rank);
            const double *moments = ring_moments_of(rank);
            double before = 0, pass = 0;
            ck_assert(t.halves == 4 && t.whole <= all);
            for (int i = 0; i < t.halves; i++) {
                ck_assert(moments[2 * i] >= before && moments[2 * i + 1] >= moments[2 * i]);
                before = moments[2 * i + 1];
                pass += moments[2 * i + 1] - moments[2 * i];
            }
            ck_assert(before <= t.whole && fabs(pass - t.pass) < 1e-6);
        }
    }
    attention_case_free(&c);
}
END_TEST

/* ---- beside computing */

/* Whether the rank before's key comes here while this rank does nothing for it. */
static void see_it_come(struct ring *r)
{
    const volatile float *other = r->other;
    double start = now();
    ring_start_beside(r, r->rank);
    while (other[0] != (float)(1 + (r->rank + r->ranks - 1) % r->ranks) && now() - start < SECONDS)
        sched_yield();
    *r->O = now() - start < SECONDS;
    ring_finish(r, r->rank);
}

START_TEST(test_a_block_travels_by_itself)
{
    enum { RANKS = 3 };
    float x[RANKS] = { 0 }, keys[RANKS] = { 1, 2, 3 }, came[RANKS] = { 0 };
    ring_set_ranks(RANKS);
    ring_end(); /* new memory, of zeros */
    ring_run(see_it_come, 1, came, NULL, x, keys, keys, (struct attention){ 1, 1, 1, RANKS, RANKS, 1, false, 1 });
    for (int i = 0; i < RANKS; i++)
        ck_assert_msg(came[i] == 1, "rank %d: nothing came before it waited", i);
}
END_TEST

/* Of step 70, each pass's block travels between the pass's halves, or into the second, and of other steps none. */
START_TEST(test_when_blocks_travel)
{
    enum { RANKS = 3 };
    struct attention_subject s = ring_step(_i);
    struct attention_case c = attention_case_of(problems[8], FP32, "normal");
    ring_set_ranks(RANKS);
    ck_assert(attention_case_run(&s, &c, true) == NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        const double *moments = ring_moments_of(rank), *travel = moments + 2 * 2 * RANKS;
        double beside = 0;
        for (int pass = 0; pass < RANKS; pass++) {
            const double *start = moments + 4 * pass, *finish = start + 2;
            if (_i != OVERLAPPED || pass == RANKS - 1) {
                ck_assert(isnan(travel[2 * pass]) && isnan(travel[2 * pass + 1]));
                continue;
            }
            ck_assert(travel[2 * pass] >= start[1] && travel[2 * pass + 1] >= travel[2 * pass] &&
                      travel[2 * pass + 1] <= finish[1]);
            beside += finish[0] - travel[2 * pass];
        }
        ck_assert(fabs(beside - ring_times_of(rank).beside) < 0.1);
    }
    attention_case_free(&c);
}
END_TEST

/* ---- the same bits, however late a block comes */

static unsigned late;

static void be_late(const struct ring *r, int from)
{
    uint64_t bits = random_bits(late, (uint64_t)(r->rank * 1000 + from));
    nanosleep(&(struct timespec){ .tv_nsec = (long)(bits % 4 == 0 ? bits % 3000000 : bits % 30000) }, NULL);
}

START_TEST(test_same_bits_however_late)
{
    struct attention_subject s = ring_step(_i % RINGS);
    struct attention_case c = attention_case_of(problems[_i / RINGS % 2 ? 8 : 2], FP32, "normal");
    ring_set_ranks(all_ranks[1 + _i / RINGS / 2 % (COUNTS - 1)]);
    ck_assert(attention_case_run(&s, &c, true) == NULL);
    char *O = malloc(c.O.bytes), *lse = malloc(c.lse.bytes);
    memcpy(O, c.O.data, c.O.bytes);
    memcpy(lse, c.lse.data, c.lse.bytes);
    ring_delay = be_late;
    for (late = 1; late <= RUNS; late++) {
        ring_end(); /* those that begin now have this seed */
        ck_assert(attention_case_run(&s, &c, true) == NULL);
        ck_assert_msg(memcmp(O, c.O.data, c.O.bytes) == 0 && memcmp(lse, c.lse.data, c.lse.bytes) == 0,
                      "%s, %d ranks, delays of seed %u: other bits", s.step->name, ring_ranks(), late);
    }
    free(O), free(lse);
    attention_case_free(&c);
}
END_TEST

/* ---- what goes wrong ends the run, in a line, and leaves nobody behind */

static void die_in_second_rank(struct ring *r)
{
    if (r->rank == 1)
        raise(SIGKILL);
    ring_start(r, r->rank);
    ring_finish(r, r->rank);
}

static void be_silent_in_second_rank(struct ring *r)
{
    if (r->rank == 1)
        pause();
    ring_start(r, r->rank);
    ring_finish(r, r->rank);
}

static void fail_in_second_rank(struct ring *r)
{
    if (r->rank == 1)
        fatal("rank 1 has something to say");
    die_in_second_rank(r);
}

static const struct {
    ring_body *body;
    bool parent_dies;
    const char *says;
} faults[] = {
    { die_in_second_rank, false, "rank 1 of 3 died: Killed" },
    { be_silent_in_second_rank, false, "of 3: rank 1 has " },
    { fail_in_second_rank, false, "rank 1 has something to say" },
    { be_silent_in_second_rank, true, "" },
};

/* The pipe ends when the last process is gone that could write into it: also the ranks, and also where their parent dies. */
START_TEST(test_faults)
{
    float x[6] = { 0 };
    char line[1000];
    int ends[2], status;
    size_t n = 0;
    ck_assert(pipe(ends) == 0);
    ring_set_ranks(3);
    setenv("RING_TIMEOUT", faults[_i].parent_dies ? "100" : "0.3", 1);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]), close(ends[1]);
        signal(SIGALRM, SIG_DFL); /* Check has a handler of its own */
        alarm(faults[_i].parent_dies);
        ring_run(faults[_i].body, 1, x, NULL, x, x, x, (struct attention){ 1, 1, 1, 3, 3, 1, false, 1 });
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got; n < sizeof line - 1 && (got = read(ends[0], line + n, sizeof line - 1 - n)) > 0;)
        n += (size_t)got;
    line[n] = '\0';
    ck_assert(waitpid(child, &status, 0) == child);
    if (faults[_i].parent_dies)
        ck_assert(WIFSIGNALED(status) && n == 0);
    else
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILED && strstr(line, faults[_i].says) &&
                      strchr(line, '\n') == line + n - 1, "status %x: %s", status, line);
}
END_TEST

/* The transport here is no MPI's: mpirun would get so many verdicts of one rank each. */
START_TEST(test_copies_by_mpirun)
{
    unsetenv("OMPI_COMM_WORLD_SIZE");
    setenv("PMI_SIZE", "1", 1);
    ring_join("", 0);
    setenv(_i ? "PMI_SIZE" : "OMPI_COMM_WORLD_SIZE", "2", 1);
    ring_join("", 0);
}
END_TEST

START_TEST(test_times_that_are_none)
{
    static const char *const texts[] = { "abc", "5s", "0", "-1", "nan", "1e9" };
    setenv("RING_TIMEOUT", "", 1); /* as if it were not there */
    ring_join("", 0);
    setenv("RING_TIMEOUT", "0.5", 1);
    ring_join("", 0);
    setenv("RING_TIMEOUT", texts[_i], 1);
    ring_join("", 0);
}
END_TEST

Suite *ring_suite(void)
{
    Suite *suite = suite_create("ring");
    TCase *cases = tcase_create("pieces"), *ranks = tcase_create("ranks"), *beside = tcase_create("beside"),
          *delays = tcase_create("delays"), *wrong = tcase_create("faults");
    tcase_add_test(cases, test_pieces_are_the_whole);
    tcase_add_test(cases, test_who_has_what);
    tcase_add_test(cases, test_tensors_begin_with_a_line);
    suite_add_tcase(suite, cases);
    tcase_set_timeout(ranks, 60);
    tcase_add_checked_fixture(ranks, guard_pages, NULL);
    tcase_add_loop_test(ranks, test_any_number_of_ranks, 0, RINGS * PROBLEMS * COUNTS);
    tcase_add_test(ranks, test_one_rank_is_step_14);
    tcase_add_loop_test(ranks, test_overlapped_is_zigzag, 0, PROBLEMS * COUNTS);
    tcase_add_loop_test(ranks, test_moments, 0, RINGS);
    suite_add_tcase(suite, ranks);
    tcase_set_timeout(beside, 60);
    tcase_add_test(beside, test_a_block_travels_by_itself);
    tcase_add_loop_test(beside, test_when_blocks_travel, 0, RINGS);
    suite_add_tcase(suite, beside);
    tcase_set_timeout(delays, 60);
    tcase_add_loop_test(delays, test_same_bits_however_late, 0, RINGS * 2 * (COUNTS - 1));
    suite_add_tcase(suite, delays);
    tcase_set_timeout(wrong, 60);
    tcase_add_loop_test(wrong, test_faults, 0, sizeof faults / sizeof faults[0]);
    tcase_add_loop_exit_test(wrong, test_copies_by_mpirun, EXIT_FAILED, 0, 2);
    tcase_add_loop_exit_test(wrong, test_times_that_are_none, EXIT_USAGE, 0, 6);
    suite_add_tcase(suite, wrong);
    return suite;
}
