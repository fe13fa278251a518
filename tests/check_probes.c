/* Step 00's probes: a copy copies every byte and no other, reading reads each once, and what a rate is computed from is what was
   done. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "steps.h"
#include "suites.h"

#define MOST (5 << 16) /* bytes: several pieces that threads copy */
#define AROUND 64

START_TEST(test_copies)
{
    static const size_t sizes[] = { 0, 1, 63, 64, 65, 1024, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, (3 << 16) + 77, MOST };
    void (*const copies[])(void *, const void *, size_t) = { copy_cpu, copy_cached_cpu };
    struct buffer x = buffer_new(MOST, &cpu_device), y = buffer_new(MOST + 2 * AROUND, &cpu_device);
    unsigned char *from = x.data, *to = (unsigned char *)y.data + AROUND;
    for (size_t i = 0; i < MOST; i++)
        from[i] = (unsigned char)random_bits(1, i);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(y.data, 0x55, y.bytes);
        copies[_i](to, from, sizes[i]);
        ck_assert_msg(memcmp(to, from, sizes[i]) == 0, "%zu bytes are not all copied", sizes[i]);
        for (size_t at = 0; at < AROUND; at++)
            ck_assert_msg(to[-1 - (ptrdiff_t)at] == 0x55 && to[sizes[i] + at] == 0x55, "of %zu bytes, more is copied", sizes[i]);
    }
    buffer_free(&x);
    buffer_free(&y);
}
END_TEST

/* Every byte is read once: the sum of all words, the last of which may be a part of one. */
START_TEST(test_reads_every_byte)
{
    static const size_t sizes[] = { 0, 1, 7, 63, 64, 1000, 1024, (1 << 16) - 1, 1 << 16, (1 << 16) + 8, (3 << 16) + 1101, MOST };
    struct buffer x = buffer_new(MOST, &cpu_device);
    for (size_t i = 0; i < MOST; i++)
        ((unsigned char *)x.data)[i] = (unsigned char)random_bits(1, i);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t sum = 0;
        for (size_t at = 0; at < sizes[i]; at++)
            sum += (uint64_t)((unsigned char *)x.data)[at] << at % 8 * 8;
        ck_assert_msg(read_cpu(x.data, sizes[i]) == sum, "of %zu bytes, not all are read, or some twice", sizes[i]);
    }
    buffer_free(&x);
}
END_TEST

/* What CHAINS chains of vectors do in a round, and a batch of exponentials, on each thread. */
START_TEST(test_what_was_done)
{
    int lanes = 4; /* of a vector, as cpu.c has it */
#if defined(__AVX512F__)
    lanes = 16;
#elif defined(__AVX__)
    lanes = 8;
#endif
    for (int threads = 1; threads <= 3; threads++) {
        cpu_set_threads(threads);
        double each = threads == cpu_threads() ? threads : 1; /* without OpenMP there is one */
        ck_assert_double_eq(fma_cpu(10), each * 10 * 2 * 12 * lanes);
        ck_assert_double_eq(exp_cpu(10), each * 10 * 2048);
    }
}
END_TEST

Suite *probes_suite(void)
{
    Suite *suite = suite_create("probes");
    TCase *copies = tcase_create("copies"), *rates = tcase_create("rates");
    tcase_add_loop_test(copies, test_copies, 0, 2);
    tcase_add_test(copies, test_reads_every_byte);
    tcase_add_test(rates, test_what_was_done);
    suite_add_tcase(suite, copies);
    suite_add_tcase(suite, rates);
    return suite;
}
