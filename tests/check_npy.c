/* common/harness/npy.c: what NumPy writes is read, what is malformed is refused in one line, and no partial file is ever left. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "half.h"
#include "folder.h"
#include "suites.h"

#define WHOLE 0xffffffffu /* a header length that tells the truth */

/* Write a file with this header, followed by `bytes` bytes 1, 2, 3, ... */
static const char *make_file(int version, const char *header, unsigned length, size_t bytes)
{
    static unsigned char file[1 << 17];
    size_t n = 0, text = strlen(header);
    if (length == WHOLE)
        length = (unsigned)text;
    memcpy(file, "\x93NUMPY", 6);
    file[6] = (unsigned char)version;
    file[7] = 0;
    n = 8;
    for (int i = 0; i < (version == 1 ? 2 : 4); i++)
        file[n++] = (unsigned char)(length >> 8 * i);
    memcpy(file + n, header, text);
    n += text;
    for (size_t i = 0; i < bytes; i++)
        file[n++] = (unsigned char)(i + 1);
    const char *path = folder_path("x.npy");
    folder_write(path, file, n);
    return path;
}

static void assert_refused(const char *path, const char *because)
{
    struct npy x;
    char why[512] = "";
    ck_assert_msg(npy_read(path, &x, why, sizeof why) == -1, "read, though %s", because);
    ck_assert_msg(strncmp(why, path, strlen(path)) == 0, "no file name in: %s", why);
    ck_assert_msg(strstr(why, because), "'%s' is not in: %s", because, why);
    for (const char *c = why; *c; c++)
        ck_assert_msg(*c >= ' ' && *c <= '~', "byte %02x in: %s", (unsigned char)*c, why);
    ck_assert(x.data == NULL);
}

/* ---- what is read */

static const struct {
    int version;
    const char *header;
    size_t bytes;
    enum dtype dtype;
    int dims;
    int64_t shape[NPY_MAX_DIMS];
} good[] = {
    { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }     \n", 24, FP32, 2, { 2, 3 } },
    { 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (5,), }\n", 10, FP16, 1, { 5 } },
    { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", 8, FP64, 0, { 0 } },
    { 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1), }\n", 8, FP32, 3, { 1, 2, 1 } },
    { 3, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 2, 1, 1, 1), }", 8, FP32, 8,
      { 1, 1, 1, 1, 2, 1, 1, 1 } },
    { 1, "{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":\"<f2\"}", 12, FP16, 2, { 2, 3 } },
    { 1, " { 'shape' : ( 2 , 3 ) , 'descr' : '<f2' , 'fortran_order' : False } \r\n", 12, FP16, 2, { 2, 3 } },
    { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (007,), }", 28, FP32, 1, { 7 } },
};

START_TEST(test_well_formed)
{
    struct npy x;
    char why[256] = "";
    const char *path = make_file(good[_i].version, good[_i].header, WHOLE, good[_i].bytes);
    ck_assert_msg(npy_read(path, &x, why, sizeof why) == 0, "%s", why);
    ck_assert(x.dtype == good[_i].dtype && x.dims == good[_i].dims);
    for (int d = 0; d < x.dims; d++)
        ck_assert(x.shape[d] == good[_i].shape[d]);
    for (size_t i = 0; i < good[_i].bytes; i++)
        ck_assert(((unsigned char *)x.data)[i] == i + 1);
    free(x.data);
}
END_TEST

/* ---- what is refused */

#define START "{'descr': '<f4', 'fortran_order': False, 'shape': "

static const struct {
    int version;
    const char *header;
    unsigned length;
    size_t bytes;
    const char *because;
} bad[] = {
    /* the dictionary */
    { 1, "", WHOLE, 24, "a dictionary in braces" },
    { 1, "[]", WHOLE, 24, "a dictionary in braces" },
    { 1, "{", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" },
    { 1, "{}", WHOLE, 24, "'descr' is missing" },
    { 1, "{'descr': '<f4', 'fortran_order': False, }", WHOLE, 24, "'shape' is missing" },
    { 1, "{'descr': '<f4', 'shape': (2, 3), }", WHOLE, 24, "'fortran_order' is missing" },
    { 1, "{'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "'descr' is missing" },
    { 1, START "(2, 3), 'more': 1}", WHOLE, 24, "each once" },
    { 1, START "(2, 3), 'shape': (2, 3)}", WHOLE, 24, "each once" },
    { 1, "{'a very long key that fits no buffer': 1}", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" },
    { 1, "{'descr: 1}", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" },
    { 1, "{'descr' '<f4'}", WHOLE, 24, "a colon" },
    { 1, "{'descr': '<f4' 'fortran_order': False}", WHOLE, 24, "a comma" },
    { 1, "{,}", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" },
    { 1, START "(2, 3), } trailing", WHOLE, 24, "the end" },
    { 1, START "(2, 3), }}", WHOLE, 24, "the end" },
    { 1, START "(2, 3)", WHOLE, 24, "a comma" },
    { 1, START "(2, 3),", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" },
    { 1, "{'\x1b[31m\n", WHOLE, 24, "'descr', 'fortran_order' or 'shape'" }, /* must not reach a terminal */
    { 1, "{'descr': '<f4', 'fortran_order': \xc3\xa9", WHOLE, 24, "True or False" },
    /* the type */
    { 1, "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "big-endian" },
    { 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "not of a type" },
    { 1, "{'descr': '<f16', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 96, "not of a type" },
    { 1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 6, "not of a type" },
    { 1, "{'descr': '<c8', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 48, "not of a type" },
    { 1, "{'descr': '', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "not of a type" },
    { 1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "a plain type" },
    { 1, "{'descr': '<f4444444444444444444444', 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "a plain type" },
    { 1, "{'descr': <f4, 'fortran_order': False, 'shape': (2, 3), }", WHOLE, 24, "a plain type" },
    /* the order */
    { 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", WHOLE, 24, "ascontiguousarray" },
    { 1, "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3), }", WHOLE, 24, "True or False" },
    { 1, "{'descr': '<f4', 'fortran_order': 'False', 'shape': (2, 3), }", WHOLE, 24, "True or False" },
    /* the shape */
    { 1, START "6, }", WHOLE, 24, "a shape in parentheses" },
    { 1, START "[2, 3], }", WHOLE, 24, "a shape in parentheses" },
    { 1, START "(6), }", WHOLE, 24, "a comma" },
    { 1, START "(2 3), }", WHOLE, 24, "a comma" },
    { 1, START "(2, 3 4), }", WHOLE, 24, "a comma" },
    { 1, START "(2,, 3), }", WHOLE, 24, "a size of 1" },
    { 1, START "(,), }", WHOLE, 24, "a size of 1" },
    { 1, START "(2, 3", WHOLE, 24, "a comma" },
    { 1, START "(", WHOLE, 24, "a size of 1" },
    { 1, START "(0,), }", WHOLE, 0, "every size must be at least 1" },
    { 1, START "(2, 0), }", WHOLE, 0, "every size must be at least 1" },
    { 1, START "(-2, -3), }", WHOLE, 24, "a size of 1" },
    { 1, START "(+2, 3), }", WHOLE, 24, "a size of 1" },
    { 1, START "(2.0, 3), }", WHOLE, 24, "a comma" },
    { 1, START "(0x2, 3), }", WHOLE, 24, "a size of 1" },
    { 1, START "(2, True), }", WHOLE, 24, "a size of 1" },
    { 1, START "(2L, 3L), }", WHOLE, 24, "a comma" },
    { 1, START "(1, 1, 1, 1, 1, 1, 1, 1, 6), }", WHOLE, 24, "more than 8 dimensions" },
    { 1, START "(9223372036854775808,), }", WHOLE, 24, "a size of 1 to 2^63 - 1" },
    { 1, START "(99999999999999999999999999,), }", WHOLE, 24, "a size of 1 to 2^63 - 1" },
    { 1, START "(9223372036854775807,), }", WHOLE, 24, "more than 2^63 bytes" },
    { 1, START "(4294967296, 4294967296), }", WHOLE, 24, "more than 2^63 bytes" },
    { 1, START "(4294967296, 1073741824), }", WHOLE, 24, "more than 2^63 bytes" },
    { 1, START "(4611686018427387904, 4), }", WHOLE, 0, "more than 2^63 bytes" },
    /* the numbers: too few, too many */
    { 1, START "(2, 3), }", WHOLE, 23, "its shape needs 24 bytes of numbers, it holds 23" },
    { 1, START "(2, 3), }", WHOLE, 25, "its shape needs 24 bytes of numbers, it holds 25" },
    { 1, START "(2, 3), }", WHOLE, 0, "cut off" },
    { 1, START "(1000000000, 1000000000), }", WHOLE, 24, "cut off" },
    /* the header's length */
    { 1, START "(2, 3), }", 65535, 24, "a header of 65535 bytes" },
    { 2, START "(2, 3), }", 0xfffffffe, 24, "a header of 4294967294 bytes" },
    { 2, START "(2, 3), }", 10000, 24, "cut off inside its header" },
    { 1, START "(2, 3), }", 5, 24, "'descr', 'fortran_order' or 'shape'" },
    /* the version */
    { 0, START "(2, 3), }", WHOLE, 24, "version 0.0; 1.0, 2.0 and 3.0 are read" },
    { 4, START "(2, 3), }", WHOLE, 24, "version 4.0; 1.0, 2.0 and 3.0 are read" },
    { 255, START "(2, 3), }", WHOLE, 24, "version 255.0" },
};

START_TEST(test_malformed)
{
    assert_refused(make_file(bad[_i].version, bad[_i].header, bad[_i].length, bad[_i].bytes), bad[_i].because);
}
END_TEST

/* Every file that is cut off anywhere, and every file with one byte after its end. */
START_TEST(test_cut_anywhere)
{
    size_t whole;
    char *file = folder_read(make_file(_i, START "(2, 3), }\n", WHOLE, 24), &whole);
    for (size_t bytes = 0; bytes < whole; bytes++) {
        const char *path = folder_path("cut.npy");
        folder_write(path, file, bytes);
        assert_refused(path, bytes < 10 ? "not a .npy file" : "cut off");
    }
    free(file);
}
END_TEST

/* Any byte of the header changed to anything: it may be read (a longer name, another size), but never past the file. */
START_TEST(test_any_byte_changed)
{
    size_t whole;
    char *file = folder_read(make_file(1, START "(2, 3), }\n", WHOLE, 24), &whole), why[512];
    const char *path = folder_path("changed.npy");
    for (size_t at = 0; at < whole - 24; at++)
        for (int to = 0; to < 256; to += at < 12 ? 5 : 23) {
            char before = file[at];
            file[at] = (char)to;
            folder_write(path, file, whole);
            struct npy x;
            if (npy_read(path, &x, why, sizeof why) == 0) {
                int64_t count = 1;
                for (int d = 0; d < x.dims; d++)
                    count *= x.shape[d];
                REQUIRE(count * (int64_t)dtype_bytes(x.dtype) == 24, "%s", "not what the file holds");
            }
            free(x.data);
            file[at] = before;
        }
    free(file);
}
END_TEST

START_TEST(test_not_a_npy_file)
{
    static const char *const texts[] = {
        "", "\x93", "\x93NUMPY", "\x93NUMPX\x01\x00\x10\x00", "PK\x03\x04 an .npz is a zip file", "1, 2, 3\n"
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        folder_write(folder_path("x.npy"), texts[i], strlen(texts[i]));
        assert_refused(folder_path("x.npy"), "not a .npy file");
    }
}
END_TEST

START_TEST(test_zero_byte_in_the_header)
{
    char file[128] = "\x93NUMPY\x01\x00\x20\x00{'descr': '<f4'";
    folder_write(folder_path("x.npy"), file, sizeof file);
    assert_refused(folder_path("x.npy"), "a zero byte");
}
END_TEST

START_TEST(test_not_a_file)
{
    assert_refused(folder_path("missing.npy"), strerror(ENOENT));
    assert_refused(".", "not a regular file");
    assert_refused("/dev/null", "not a regular file");
    assert_refused("", strerror(ENOENT));
    ck_assert(mkfifo(folder_path("pipe.npy"), 0600) == 0);
    assert_refused(folder_path("pipe.npy"), "not a regular file"); /* at once: nobody writes to it */
}
END_TEST

/* More than there is: a file with a hole may say so, and be as large as it says. */
/* A page table as other programs save it. The file's bytes are 1, 2, 3, ... */
START_TEST(test_integers)
{
    struct npy x;
    char why[256] = "";
    for (int bytes = 4; bytes <= 8; bytes += 4) {
        const char *path = make_file(1, bytes == 4 ? "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }"
                                                   : "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }",
                                     WHOLE, (size_t)(6 * bytes));
        ck_assert_msg(npy_read(path, &x, why, sizeof why) == 0, "%s", why);
        ck_assert(x.dtype == FP64 && x.dims == 2);
        for (int i = 0; i < 6; i++) {
            int64_t expected = 0;
            for (int byte = bytes - 1; byte >= 0; byte--)
                expected = 256 * expected + bytes * i + byte + 1;
            ck_assert(((double *)x.data)[i] == (double)expected);
        }
        free(x.data);
    }
}
END_TEST

START_TEST(test_more_than_memory)
{
    const char *path = make_file(1, START "(1048576, 1048576), }\n", WHOLE, 0);
    struct stat status;
    ck_assert(stat(path, &status) == 0);
    if (truncate(path, status.st_size + (4ll << 40)) != 0)
        return; /* this file system has no such files: nothing to read */
    assert_refused(path, "too little memory");
}
END_TEST

START_TEST(test_short_message_buffer)
{
    struct npy x;
    char why[9] = "12345678";
    ck_assert(npy_read(folder_path("missing.npy"), &x, why, 8) == -1);
    ck_assert(strlen(why) == 7 && why[8] == 0);
}
END_TEST

/* ---- writing */

static void assert_written(const void *x, enum dtype dtype, int dims, const int64_t *shape, enum dtype as, const void *want,
                           size_t bytes)
{
    struct npy y;
    char why[256] = "";
    const char *path = folder_path("y.npy");
    ck_assert_msg(npy_write(path, x, dtype, dims, shape, why, sizeof why) == 0, "%s", why);
    ck_assert_msg(npy_read(path, &y, why, sizeof why) == 0, "%s", why);
    ck_assert(y.dtype == as && y.dims == dims && memcmp(y.shape, shape, (size_t)dims * sizeof *shape) == 0);
    ck_assert(memcmp(y.data, want, bytes) == 0);
    free(y.data);
    ck_assert(folder_files() == 1);
}

START_TEST(test_round_trip)
{
    static float x[3 * 5 * 7];
    static double wide[3 * 5 * 7];
    static fp16 half[3 * 5 * 7];
    static bf16 brain[3 * 5 * 7];
    static float from_brain[3 * 5 * 7];
    int64_t shape[] = { 3, 5, 7 }, long_shape[] = { 1, 3, 1, 5, 1, 7, 1, 1 }, flat[] = { 105 };
    for (int i = 0; i < 105; i++) {
        x[i] = float_of_bits((uint32_t)random_bits(1, (uint64_t)i));
        wide[i] = 1.0 / (i + 1);
        half[i].bits = (uint16_t)random_bits(2, (uint64_t)i);
        brain[i] = float_to_bf16((float)i / 3);
        from_brain[i] = bf16_to_float(brain[i]);
    }
    assert_written(x, FP32, 3, shape, FP32, x, sizeof x);
    assert_written(x, FP32, 8, long_shape, FP32, x, sizeof x);
    assert_written(x, FP32, 1, flat, FP32, x, sizeof x);
    assert_written(x, FP32, 0, shape, FP32, x, sizeof *x);
    assert_written(wide, FP64, 3, shape, FP64, wide, sizeof wide);
    assert_written(half, FP16, 3, shape, FP16, half, sizeof half);
    assert_written(brain, BF16, 3, shape, FP32, from_brain, sizeof from_brain);
}
END_TEST

/* As NumPy has it: the numbers start at a multiple of 64 bytes, and a newline stands before them. */
START_TEST(test_layout)
{
    for (int64_t n = 1; n < 2000; n = n * 3 + 1) {
        float *x = calloc((size_t)(n * 3), sizeof *x);
        int64_t shape[] = { n, 3 };
        char why[256], want[256];
        ck_assert(npy_write(folder_path("y.npy"), x, FP32, 2, shape, why, sizeof why) == 0);
        size_t bytes;
        char *file = folder_read(folder_path("y.npy"), &bytes);
        size_t header = bytes - (size_t)n * 12;
        snprintf(want, sizeof want, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, 3), }", (long long)n);
        ck_assert(header % 64 == 0 && file[header - 1] == '\n');
        ck_assert(memcmp(file, "\x93NUMPY\x01\x00", 8) == 0 &&
                  (size_t)(unsigned char)file[8] + 256 * (unsigned char)file[9] == header - 10);
        ck_assert(strncmp(file + 10, want, strlen(want)) == 0);
        free(file);
        free(x);
    }
}
END_TEST

static void assert_not_written(const char *path, const void *x, int dims, const int64_t *shape, const char *because)
{
    char why[512] = "";
    int files = folder_files();
    ck_assert(npy_write(path, x, FP32, dims, shape, why, sizeof why) == -1);
    ck_assert_msg(strstr(why, because) && strstr(why, path), "'%s' is not in: %s", because, why);
    ck_assert_msg(folder_files() == files, "a file was left behind");
}

START_TEST(test_impossible_shapes)
{
    float x = 1;
    int64_t zero[] = { 1, 0 }, negative[] = { -1 }, nine[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    assert_not_written(folder_path("y.npy"), &x, 2, zero, "sizes must be above 0");
    assert_not_written(folder_path("y.npy"), &x, 1, negative, "sizes must be above 0");
    assert_not_written(folder_path("y.npy"), &x, 9, nine, "0 to 8");
    assert_not_written(folder_path("y.npy"), &x, -1, nine, "0 to 8");
}
END_TEST

START_TEST(test_no_such_folder)
{
    float x = 1;
    int64_t one[] = { 1 };
    assert_not_written(folder_path("missing/y.npy"), &x, 1, one, strerror(ENOENT));
}
END_TEST

START_TEST(test_what_cannot_be_written)
{
    float x = 1;
    int64_t one[] = { 1 };
    ck_assert(mkdir(folder_path("folder"), 0700) == 0 && mkfifo(folder_path("pipe"), 0600) == 0);
    assert_not_written(folder_path("folder"), &x, 1, one, strerror(EISDIR));
    assert_not_written(folder_path("pipe"), &x, 1, one, strerror(ENXIO));
    if (access("/dev/full", F_OK) == 0)
        assert_not_written("/dev/full", &x, 1, one, strerror(ENOSPC));
}
END_TEST

/* A disk that is full after 4096 bytes: the old file is still there, whole, and nothing else is. */
START_TEST(test_full_disk_leaves_the_old_file)
{
    static float x[4096];
    int64_t shape[] = { 4096 };
    const char *path = folder_path("y.npy");
    folder_write(path, "old", 3);
    struct rlimit limit = { 4096, RLIM_INFINITY };
    ck_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    assert_not_written(path, x, 1, shape, strerror(EFBIG));
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    size_t bytes;
    char *file = folder_read(path, &bytes);
    ck_assert(bytes == 3 && memcmp(file, "old", 3) == 0);
    free(file);
}
END_TEST

Suite *npy_suite(void)
{
    Suite *suite = suite_create("npy");
    TCase *reading = tcase_create("reading");
    tcase_add_checked_fixture(reading, folder_setup, folder_teardown);
    tcase_add_loop_test(reading, test_well_formed, 0, sizeof good / sizeof good[0]);
    tcase_add_test(reading, test_not_a_npy_file);
    tcase_add_test(reading, test_not_a_file);
    tcase_add_test(reading, test_more_than_memory);
    tcase_add_test(reading, test_integers);
    tcase_add_test(reading, test_short_message_buffer);
    suite_add_tcase(suite, reading);

    TCase *malformed = tcase_create("malformed");
    tcase_add_checked_fixture(malformed, folder_setup, folder_teardown);
    tcase_set_timeout(malformed, 60);
    tcase_add_loop_test(malformed, test_malformed, 0, sizeof bad / sizeof bad[0]);
    tcase_add_loop_test(malformed, test_cut_anywhere, 1, 4); /* versions 1 to 3 */
    tcase_add_test(malformed, test_any_byte_changed);
    tcase_add_test(malformed, test_zero_byte_in_the_header);
    suite_add_tcase(suite, malformed);

    TCase *writing = tcase_create("writing");
    tcase_add_checked_fixture(writing, folder_setup, folder_teardown);
    tcase_add_test(writing, test_round_trip);
    tcase_add_test(writing, test_layout);
    tcase_add_test(writing, test_impossible_shapes);
    tcase_add_test(writing, test_no_such_folder);
    tcase_add_test(writing, test_what_cannot_be_written);
    tcase_add_test(writing, test_full_disk_leaves_the_old_file);
    suite_add_tcase(suite, writing);
    return suite;
}
