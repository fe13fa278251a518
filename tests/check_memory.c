/* common/memory.c: buffers that show what was never written, and what was written outside. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "half.h"
#include "suites.h"

static const size_t sizes[] = {
    1, 2, 4, 63, 64, 4095, 4096, 4097, 1000003, (2 << 20) - 2 * GUARD_BYTES, (2 << 20) - GUARD_BYTES
};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

START_TEST(test_starts_as_nan)
{
    struct buffer b = buffer_new(sizes[_i], false);
    ck_assert(b.bytes == sizes[_i] && !b.gpu && (uintptr_t)b.data % 64 == 0);
    for (size_t i = 0; i < b.bytes; i++)
        REQUIRE(((unsigned char *)b.data)[i] == 0xff, "byte %zu", i);
    for (size_t i = 0; i < b.bytes / 4; i++) {
        REQUIRE(isnan(((float *)b.data)[i]), "float %zu", i);
        REQUIRE(isnan(fp16_to_float(((fp16 *)b.data)[i])) && isnan(bf16_to_float(((bf16 *)b.data)[i])), "half %zu", i);
    }
    ck_assert(buffer_guards_intact(&b));
    buffer_free(&b);
    ck_assert(b.data == NULL);
}
END_TEST

START_TEST(test_writes_inside_are_fine)
{
    struct buffer b = buffer_new(sizes[_i], false);
    memset(b.data, 0, b.bytes);
    ck_assert(buffer_guards_intact(&b));
    buffer_free(&b);
}
END_TEST

/* One byte, anywhere in the bands. */
START_TEST(test_writes_outside_show)
{
    struct buffer b = buffer_new(sizes[_i], false);
    unsigned char *data = b.data;
    for (int distance = 1; distance <= GUARD_BYTES; distance += distance < 70 ? 1 : 67) {
        unsigned char *outside[] = { data - distance, data + b.bytes - 1 + distance };
        for (int side = 0; side < 2; side++) {
            *outside[side] = 0;
            REQUIRE(!buffer_guards_intact(&b), "a write %d bytes outside of %zu is not seen", distance, b.bytes);
            *outside[side] = 0xff;
            REQUIRE(buffer_guards_intact(&b), "the bands do not recover");
        }
    }
    buffer_free(&b);
}
END_TEST

START_TEST(test_poison_again)
{
    struct buffer b = buffer_new(sizes[_i], false);
    memset((char *)b.data - 1, 0, b.bytes + 2);
    buffer_poison(&b);
    ck_assert(buffer_guards_intact(&b));
    for (size_t i = 0; i < b.bytes; i++)
        REQUIRE(((unsigned char *)b.data)[i] == 0xff, "byte %zu", i);
    buffer_free(&b);
}
END_TEST

START_TEST(test_too_much_memory_ends_with_status_1)
{
    static const size_t too_much[] = { (size_t)1 << 45, (size_t)1 << 62 };
    ck_assert(memory_available(false) > 0);
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    buffer_new(too_much[_i], false);
}
END_TEST

Suite *memory_suite(void)
{
    Suite *suite = suite_create("memory");
    TCase *guards = tcase_create("guards"), *limits = tcase_create("limits");
    tcase_add_loop_test(guards, test_starts_as_nan, 0, SIZES);
    tcase_add_loop_test(guards, test_writes_inside_are_fine, 0, SIZES);
    tcase_add_loop_test(guards, test_writes_outside_show, 0, SIZES);
    tcase_add_loop_test(guards, test_poison_again, 0, SIZES);
    suite_add_tcase(suite, guards);
    tcase_add_loop_exit_test(limits, test_too_much_memory_ends_with_status_1, EXIT_FAILED, 0, 2);
    suite_add_tcase(suite, limits);
    return suite;
}
