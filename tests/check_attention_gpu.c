/*
 * Every attention step's GPU functions: the checks of attention_checks.c, sizes that only a GPU can get wrong, and the same bits
 * hundreds of times. All in one process: see main_gpu.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "suites.h"

#define RUNS 500
#define SMALL_RUNS 20 /* with TESTS_SMALL */

/* The index-th implementation; false if this GPU is too old for it, which test_check has said. */
static bool subject_here(struct attention_subject *s, int index)
{
    ck_assert(attention_subject_at(s, index, true));
    return !attention_subject_missing(s);
}

START_TEST(test_check)
{
    struct attention_subject s;
    const struct attention_check *c;
    ck_assert(attention_pair_at(_i, true, &c, &s));
    if (attention_subject_missing(&s)) {
        if (c == attention_checks)
            printf("skipped: %s: %s\n", attention_subject_name(&s), attention_subject_missing(&s));
        return;
    }
    progress(attention_subject_name(&s), c->name);
    struct outcome o = attention_check_run(c, &s);
    ck_assert_msg(o.pass, "check '%s': %s", c->name, o.what);
}
END_TEST

/* A race shows in one run of many. */
START_TEST(test_hundreds_of_runs)
{
    static const struct attention shapes[] = { { 2, 6, 2, 300, 391, 64, true, 0 }, { 1, 6, 2, 391, 300, 128, false, 0 } };
    struct attention_subject s;
    if (!subject_here(&s, _i))
        return;
    progress(attention_subject_name(&s), "hundreds of runs");
    for (int i = 0; i < 2; i++) {
        struct attention_case c = attention_case_of(shapes[i], s.dtype, "normal");
        struct buffer *host[] = { &c.q, &c.k, &c.v, &c.O, &c.lse }, device[5];
        for (int t = 0; t < 5; t++) {
            device[t] = buffer_new(host[t]->bytes, true);
            gpu_upload(device[t].data, host[t]->data, host[t]->bytes);
        }
        struct buffer workspace = buffer_new((s.step->workspace ? s.step->workspace(c.p, s.dtype) : 0) + 1, true);
        char *first = malloc(c.O.bytes + c.lse.bytes);
        for (int run = 0; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : RUNS); run++) {
            attention_subject_run(&s, device[3].data, device[4].data, device[0].data, device[1].data, device[2].data, c.p,
                                  workspace.data);
            gpu_finish(attention_subject_name(&s));
            gpu_download(c.O.data, device[3].data, c.O.bytes);
            gpu_download(c.lse.data, device[4].data, c.lse.bytes);
            if (run == 0) {
                memcpy(first, c.O.data, c.O.bytes);
                memcpy(first + c.O.bytes, c.lse.data, c.lse.bytes);
            }
            REQUIRE(memcmp(first, c.O.data, c.O.bytes) == 0 && memcmp(first + c.O.bytes, c.lse.data, c.lse.bytes) == 0,
                    "%s, shape %d: not the same bits in run %d", attention_subject_name(&s), i, run);
        }
        struct outcome o = attention_case_verdict(&s, &c);
        free(first);
        for (int t = 0; t < 5; t++)
            buffer_free(&device[t]);
        buffer_free(&workspace);
        attention_case_free(&c);
        ck_assert_msg(o.pass, "%s: %s", attention_subject_name(&s), o.what);
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
    progress(attention_subject_name(&s), "beyond 2^31 elements");
    last.batch = last.heads = last.kv_heads = 1;
    last.seq_q = p.seq_q < 1000 ? p.seq_q : 1000; /* its last queries */
    struct attention_case c = attention_case_of(last, s.dtype, "normal");
    c.p.scale = p.scale = 0.125f;

    size_t bytes[] = { q_bytes, k_bytes, k_bytes, q_bytes, lse_bytes };
    struct buffer *host[] = { &c.q, &c.k, &c.v, &c.O, &c.lse }, device[5], workspace = buffer_new(workspace_bytes + 1, true);
    for (int t = 0; t < 5; t++) {
        device[t] = buffer_new(bytes[t], true);
        if (t < 3) {
            gpu_fill(device[t].data, 0, bytes[t]);
            gpu_upload((char *)device[t].data + bytes[t] - host[t]->bytes, host[t]->data, host[t]->bytes);
        }
    }
    attention_subject_run(&s, device[3].data, device[4].data, device[0].data, device[1].data, device[2].data, p, workspace.data);
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

Suite *attention_gpu_suite(void)
{
    Suite *suite = suite_create("attention_gpu");
    TCase *checks = tcase_create("checks"), *invariants = tcase_create("invariants");
    int subjects = attention_subject_count(true);
    tcase_add_loop_test(checks, test_check, 0, attention_pair_count(true));
    tcase_add_loop_test(checks, test_more_elements_than_32_bits_count, 0, 2 * subjects);
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(invariants, test_hundreds_of_runs, 0, subjects);
    suite_add_tcase(suite, invariants);
    return suite;
}
