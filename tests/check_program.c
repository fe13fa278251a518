/*
 * The built programs, run as a user runs them: what is wrong with the command line or with a file is said in one line on stderr,
 * with the right exit status, and no file is left behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blas.h"
#include "harness.h"
#include "half.h"
#include "folder.h"
#include "suites.h"

#define MAX_ARGS 32

/* What a program said and how it ended. */
struct said {
    int status;
    char *out, *err;
};

static struct said last;

static void setup(void)
{
    folder_setup();
    setenv("RESULTS", folder_path("results.tsv"), 1);
    setenv("OMP_NUM_THREADS", "1", 1);
    setenv("FLUSH_LIMIT", "1", 1); /* what a run takes is not judged here */
}

static void teardown(void)
{
    free(last.out);
    free(last.err);
    last = (struct said){ 0 };
    folder_teardown();
}

/* The programs lie beside this one. */
static const char *program_path(const char *name)
{
    static char path[4096 + 64];
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert(length > 0);
    self[length] = 0;
    const char *folder = getenv("B") ? getenv("B") : dirname(self);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Run a step's program with these words, separated by blanks, in the repository's root. stdout and stderr go to files. */
static const struct said *run(const char *program, const char *words)
{
    char buffer[2048], *argv[MAX_ARGS + 2] = { (char *)program_path(program) };
    int argc = 1;
    snprintf(buffer, sizeof buffer, "%s", words);
    for (char *word = strtok(buffer, " "); word && argc <= MAX_ARGS; word = strtok(NULL, " "))
        argv[argc++] = strcmp(word, "''") == 0 ? "" : word;
    char out[512], err[512];
    snprintf(out, sizeof out, "%s", folder_path("stdout"));
    snprintf(err, sizeof err, "%s", folder_path("stderr"));
    ck_assert_msg(access(argv[0], X_OK) == 0, "%s is not built", argv[0]);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr))
            _exit(126);
        execv(argv[0], argv);
        _exit(127);
    }
    int status;
    ck_assert(waitpid(child, &status, 0) == child);
    ck_assert_msg(WIFEXITED(status), "%s %s: ended by signal %d", program, words, WTERMSIG(status));
    free(last.out);
    free(last.err);
    size_t bytes;
    last = (struct said){ WEXITSTATUS(status), folder_read(out, &bytes), folder_read(err, &bytes) };
    remove(out);
    remove(err);
    return &last;
}

/* One line on stderr that holds these words (up to a NULL), nothing on stdout that looks like a result, and this status. */
static void assert_refused(const char *program, const char *words, int status, ...)
{
    const struct said *s = run(program, words);
    ck_assert_msg(s->status == status, "%s %s: status %d, not %d; %s%s", program, words, s->status, status, s->out, s->err);
    char *end = strchr(s->err, '\n');
    ck_assert_msg(end && end[1] == 0, "%s %s: not one line on stderr: '%s'", program, words, s->err);
    va_list expected;
    va_start(expected, status);
    for (const char *e; (e = va_arg(expected, const char *));)
        ck_assert_msg(strstr(s->err, e), "%s %s: '%s' is not in: %s", program, words, e, s->err);
    va_end(expected);
    ck_assert_msg(access(getenv("RESULTS"), F_OK) != 0, "%s %s: a result was recorded", program, words);
}

/* ---- bad usage: the option, the value, and what is allowed; status 2 */

static const struct {
    const char *words, *option, *value, *allowed;
} usage[] = {
    { "--colour red", "--colour", "", "--help" },
    { "--rows=1 --unknown=7", "--unknown", "", "--help" },
    { "-z", "-z", "", "--help" },
    { "-zy", "-z", "", "--help" },
    { "-", "-", "", "--help" },
    { "something", "something", "", "--help" },
    { "--rows 3 something", "something", "", "--help" },
    { "--rows", "--rows", "", "value" },
    { "--json=5", "--json", "", "" },
    { "--rows 0", "--rows", "'0'", "from 1" },
    { "--rows -5", "--rows", "'-5'", "from 1" },
    { "--rows=-5", "--rows", "'-5'", "from 1" },
    { "--cols 0", "--cols", "'0'", "from 1" },
    { "--cols -1", "--cols", "'-1'", "from 1" },
    { "--rows ''", "--rows", "''", "from 1" },
    { "--rows abc", "--rows", "'abc'", "from 1" },
    { "--rows 3x", "--rows", "'3x'", "from 1" },
    { "--rows 3.5", "--rows", "'3.5'", "from 1" },
    { "--rows 1e3", "--rows", "'1e3'", "from 1" },
    { "--rows 0x10", "--rows", "'0x10'", "from 1" },
    { "--rows 3ki", "--rows", "'3ki'", "from 1" },
    { "--rows 3KiB", "--rows", "'3KiB'", "from 1" },
    { "--rows Ki", "--rows", "'Ki'", "from 1" },
    { "--rows -1Ki", "--rows", "'-1Ki'", "from 1" },
    { "--rows 9223372036854775808", "--rows", "'9223372036854775808'", "from 1" },
    { "--rows 99999999999999999999999", "--rows", "'99999999999999999999999'", "from 1" },
    { "--rows 9223372036854775807Ki", "--rows", "'9223372036854775807Ki'", "from 1" },
    { "--rows 4294967296 --cols 4294967296", "--rows 4294967296", "--cols 4294967296", "product" },
    { "--rows 9223372036854775807 --cols 2", "--rows 9223372036854775807", "--cols 2", "product" },
    { "--rows 9223372036854775807 --cols 1", "--rows 9223372036854775807", "--cols 1", "product" },
    { "--rows 2305843009213693952 --cols 4", "--rows 2305843009213693952", "--cols 4", "product" },
    { "--shape gpt9", "--shape", "'gpt9'", "gpt2-scores" },
    { "--shape ''", "--shape", "''", "gpt2-scores" },
    { "--dtype fp64", "--dtype", "'fp64'", "fp32, fp16 and bf16" },
    { "--dtype FP32", "--dtype", "'FP32'", "fp32, fp16 and bf16" },
    { "--dtype ''", "--dtype", "''", "fp32, fp16 and bf16" },
    { "--dtype fp16", "--dtype", "fp16", "fp32" }, /* not in this step */
    { "--input gaussian", "--input", "'gaussian'", "normal" },
    { "--input ''", "--input", "''", "normal" },
    { "--device tpu", "--device", "'tpu'", "cpu, gpu and all" },
    { "--device ''", "--device", "''", "cpu, gpu and all" },
    { "--threads 0", "--threads", "'0'", "from 1" },
    { "--threads 1000000", "--threads", "'1000000'", "from 1" },
    { "--seed -1", "--seed", "'-1'", "from 0" },
    { "--seed x", "--seed", "'x'", "from 0" },
    { "--reps 0", "--reps", "'0'", "from 1" },
    { "--budget 0", "--budget", "'0'", "seconds" },
    { "--budget -1", "--budget", "'-1'", "seconds" },
    { "--budget nan", "--budget", "'nan'", "seconds" },
    { "--budget inf", "--budget", "'inf'", "seconds" },
    { "--budget 2s", "--budget", "'2s'", "seconds" },
    { "--input real --cols 77", "--cols", "77", "real" },
    { "--x a.npy --rows 3", "--x", "'a.npy'", "--rows" },
    { "--x a.npy --input normal", "--x", "'a.npy'", "--input" },
};

START_TEST(test_bad_usage)
{
    assert_refused("02_safe_softmax", usage[_i].words, EXIT_USAGE, usage[_i].option, usage[_i].value, usage[_i].allowed, NULL);
}
END_TEST

/* Of what its programs are, each case has its own: a mutant's check builds those of one case. */
static const struct attention_usage {
    const char *program, *words, *option, *value, *allowed;
} attention_usage[] = {
    { "11_standard_attention", "--heads 0", "--heads", "'0'", "from 1" },
    { "11_standard_attention", "--kv-heads 0", "--kv-heads", "'0'", "from 1" },
    { "11_standard_attention", "--batch -1", "--batch", "'-1'", "from 1" },
    { "11_standard_attention", "--seq 0", "--seq", "'0'", "from 1" },
    { "11_standard_attention", "--seq-q abc", "--seq-q", "'abc'", "from 1" },
    { "11_standard_attention", "--seq-k 4Gi", "--seq-k", "'4Gi'", "from 1" },
    { "11_standard_attention", "--heads 6 --kv-heads 4", "--kv-heads", "4", "divide --heads" },
    { "11_standard_attention", "--heads 2 --kv-heads 3", "--kv-heads", "3", "divide --heads" },
    { "11_standard_attention", "--shape llama3-8b --kv-heads 3", "--kv-heads", "3", "divide --heads" },
    { "11_standard_attention", "--dim 0", "--dim", "'0'", "from 1 to 256" },
    { "11_standard_attention", "--dim 300", "--dim", "'300'", "from 1 to 256" },
    { "18_tensor_core_attention", "--dim 72", "--dim", "72", "64 and 128" },
    { "23_lean_attention", "--dim 256", "--dim", "256", "64 and 128" },
    { "18_tensor_core_attention", "--dtype fp32", "--dtype", "fp32", "fp16 and bf16" },
    { "23_lean_attention", "--dtype fp32 --device cpu", "--dtype", "fp32", "fp16 and bf16" },
    { "11_standard_attention", "--batch 2147483647 --heads 2147483647 --seq 2147483647", "--batch", "--seq", "product" },
    { "11_standard_attention", "--causal=1", "--causal", "", "" },
    { "11_standard_attention", "--rows 3", "--rows", "", "--help" },
    { "02_safe_softmax", "--heads 3", "--heads", "", "--help" },
    { "11_standard_attention", "--shape gpt2-scores", "--shape", "'gpt2-scores'", "llama3-8b" },
    { "02_safe_softmax", "--shape gpt2", "--shape", "'gpt2'", "gpt2-scores" },
    { "11_standard_attention", "--input shifted", "--input", "'shifted'", "adversarial" },
    { "11_standard_attention", "--input real --heads 3", "--input", "real", "leave out sizes" },
    { "11_standard_attention", "--q a.npy --v a.npy", "--k", "", "all three" },
    { "11_standard_attention", "--k a.npy", "--q", "", "all three" },
    { "11_standard_attention", "--q a.npy --k a.npy --v a.npy --heads 3", "--q", "'a.npy'", "--heads" },
    { "11_standard_attention", "--q a.npy --k a.npy --v a.npy --input normal", "--q", "'a.npy'", "--input" },
    { "11_standard_attention", "--sweep --lse a.npy --device cpu", "--sweep", "", "files" },
    { "11_standard_attention", "--scale nan", "--scale", "'nan'", "finite" },
    { "11_standard_attention", "--scale -inf", "--scale", "'-inf'", "finite" },
    { "11_standard_attention", "--scale 1x", "--scale", "'1x'", "finite" },
    { "11_standard_attention", "--sweep-scale --scale 2", "--sweep-scale", "", "--scale" },
    { "11_standard_attention", "--sweep-scale --sweep", "--sweep-scale", "", "--sweep" },
    { "02_safe_softmax", "--scale 2", "--scale", "", "--help" },
    { "03_online_softmax", "--trace 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "--trace", "'1,2", "up to 16 numbers" },
    { "13_fused_attention", "--trace 1,2", "--trace", "'1,2'", "each with a value" },
    { "18_tensor_core_attention", "--trace 1:2", "--trace", "", "for GPUs alone" },
}, gradient_usage[] = {
    { "15_register_tiled_attention", "--dq a.npy --device cpu", "--dq", "", "no gradient" },
    { "15_register_tiled_attention", "--do not-here.npy --device cpu", "--do", "", "no gradient" },
    { "47_joined_backward", "--out a.npy --device cpu", "--out", "'a.npy'", "no O" },
    { "47_joined_backward", "--lse a.npy --device cpu", "--lse", "'a.npy'", "--o is needed" },
    { "47_joined_backward", "--o a.npy --device cpu", "--o", "'a.npy'", "--lse is needed" },
    { "47_joined_backward", "--sweep --o a.npy --lse a.npy --device cpu", "--sweep", "", "files" },
    { "47_joined_backward", "--sweep --dlse a.npy --device cpu", "--sweep", "", "files" },
    { "47_joined_backward", "--sweep-scale --o a.npy --lse a.npy --device cpu", "--sweep-scale", "--o", "leave out" },
    { "47_joined_backward", "--dk a.npy --dv a.npy --device cpu", "--dv", "'a.npy'", "--dk" },
    { "47_joined_backward", "--sweep --dv a.npy --device cpu", "--sweep", "", "files" },
}, pages_usage[] = {
    { "35_grouped_attention", "--page-size 16", "--page-size", "35_grouped_attention", "no pages" },
    { "11_standard_attention", "--seqlens 3,4", "--seqlens", "11_standard_attention", "no pages" },
    { "41_paged_attention", "--page-size 0", "--page-size", "'0'", "from 1" },
    { "41_paged_attention", "--pages 0", "--pages", "'0'", "from 1" },
    { "41_paged_attention", "--prefix 0", "--prefix", "'0'", "from 1" },
    { "41_paged_attention", "--seqlens 3,x", "--seqlens", "'x'", "from 0" },
    { "41_paged_attention", "--seqlens 3,-1", "--seqlens", "'-1'", "from 0" },
    { "41_paged_attention", "--seqlens 3,,4", "--seqlens", "''", "from 0" },
    { "41_paged_attention", "--seqlens 3,", "--seqlens", "''", "from 0" },
    { "41_paged_attention", "--seqlens 3,2147483648", "--seqlens", "'2147483648'", "from 0" },
    { "41_paged_attention", "--seqlens 0,0", "--seqlens", "no sequence", "one at least" },
    { "41_paged_attention", "--seqlens 3,4 --batch 3", "2 lengths", "batch of 3", "one for each" },
    { "41_paged_attention", "--seqlens 3 --input real --batch 1", "--input real", "", "leave out sizes" },
    { "41_paged_attention", "--seqlens 3,4 --input real", "2 lengths", "batch of 1", "one for each" },
    { "41_paged_attention", "--seqlens 3,51 --seq-k 50", "sequence 1", "51", "0 to 50" },
    { "41_paged_attention", "--seqlens 20,33 --pages 4", "--pages 4", "", "need 5 of 16" },
    { "41_paged_attention", "--page-size 1 --batch 100000 --seq-k 100000 --heads 1 --dim 1", "--page-size 1", "11250000001",
      "2147483647" },
    { "41_paged_attention", "--prefix 3 --table a.npy", "--prefix 3", "", "leave out" },
    { "41_paged_attention", "--sweep", "--sweep", "", "--page-size" },
    { "41_paged_attention", "--trace 1:2", "--trace", "", "step 35" },
};

static void assert_bad_usage(struct attention_usage u)
{
    assert_refused(u.program, u.words, EXIT_USAGE, u.option, u.value, u.allowed, NULL);
}

START_TEST(test_bad_attention_usage)
{
    assert_bad_usage(attention_usage[_i]);
}
END_TEST

START_TEST(test_bad_usage_of_gradients)
{
    assert_bad_usage(gradient_usage[_i]);
}
END_TEST

START_TEST(test_bad_usage_of_pages)
{
    assert_bad_usage(pages_usage[_i]);
}
END_TEST

/* A table of two sequences, whose second page is `second`, and what is said of it. */
START_TEST(test_tables_of_pages)
{
    static const struct {
        const char *words, *a, *b;
        double second;
        int dims, status;
    } all[] = {
        { "--seqlens 20,17 --pages 4", NULL, NULL, 3, 2, 0 },
        { "--seqlens 20,17", NULL, NULL, 3, 2, 0 },                                 /* the pool ends with the last page */
        { "--seqlens 16,17 --pages 3", NULL, NULL, 3, 2, 0 },                       /* a page that no sequence has */
        { "--seqlens 20,17 --pages 3", "page 3 at [0, 1]", "0 to 2", 3, 2, EXIT_USAGE },
        { "--seqlens 20,33", "sequence 1 has 33 keys", "2 pages of 16 hold 32", 3, 2, EXIT_USAGE },
        { "--seqlens 20,17 --page-size 8", "sequence 0 has 20 keys", "2 pages of 8 hold 16", 3, 2, EXIT_USAGE },
        { "--seqlens 20", "1 rows", "(batch, pages)", 3, 2, EXIT_USAGE },
        { "--seqlens 20,17", "2 rows", "(batch, pages)", 3, 1, EXIT_USAGE },
        { "--seqlens 20,17", "0.5 at [0, 1]", "whole numbers", 0.5, 2, EXIT_USAGE },
        { "--seqlens 20,17", "-1 at [0, 1]", "whole numbers", -1, 2, EXIT_USAGE },
        { "--seqlens 20,17", "page 2147483647 at [0, 1]", "at most", 2147483647, 2, EXIT_USAGE },
    };
    double table[] = { 0, all[_i].second, 1, 2 };
    const int64_t shape[] = { 2, 2 }, flat[] = { 4 };
    char why[512], words[1024];
    ck_assert(npy_write(folder_path("t.npy"), table, FP64, all[_i].dims, all[_i].dims == 2 ? shape : flat, why, sizeof why) == 0);
    snprintf(words, sizeof words, "--device cpu --reps 1 --heads 1 --dim 8 --table %s %s", folder_path("t.npy"), all[_i].words);
    if (all[_i].status)
        assert_refused("41_paged_attention", words, all[_i].status, "--table", "t.npy", all[_i].a, all[_i].b, NULL);
    else
        ck_assert_msg(run("41_paged_attention", words)->status == 0, "%s: %s%s", words, last.out, last.err);
}
END_TEST

/* Lengths from a file; and what --out and --lse write is O and lse. */
START_TEST(test_lengths_from_a_file)
{
    const float lengths[] = { 5, 0 };
    const int64_t shape[] = { 2 };
    char why[512], words[2048];
    struct npy o, lse;
    ck_assert(npy_write(folder_path("l.npy"), lengths, FP32, 1, shape, why, sizeof why) == 0);
    snprintf(words, sizeof words, "--device cpu --reps 1 --heads 2 --dim 8 --seqlens %s", folder_path("l.npy"));
    snprintf(words + strlen(words), sizeof words - strlen(words), " --out %s", folder_path("o.npy"));
    snprintf(words + strlen(words), sizeof words - strlen(words), " --lse %s", folder_path("lse.npy"));
    const struct said *s = run("41_paged_attention", words);
    ck_assert_msg(s->status == 0 && strstr(s->out, "sequences of 0 to 5 keys"), "%s%s", s->out, s->err);
    ck_assert(npy_read(folder_path("o.npy"), &o, why, sizeof why) == 0 &&
              npy_read(folder_path("lse.npy"), &lse, why, sizeof why) == 0);
    ck_assert(o.dims == 4 && o.shape[0] == 2 && o.shape[1] == 2 && o.shape[2] == 1 && o.shape[3] == 8 && lse.dims == 3);
    for (int i = 0; i < 16; i++) /* of the second sequence */
        ck_assert(((float *)o.data)[16 + i] == 0 && ((float *)o.data)[i] != 0);
    ck_assert(((float *)lse.data)[2] == -INFINITY && isfinite(((float *)lse.data)[1]));
    free(o.data), free(lse.data);
}
END_TEST

/* ---- what is asked for is not there: status 1 */

/* Of all that a run needs, and not of a tensor alone. */
START_TEST(test_too_little_memory)
{
    assert_refused("02_safe_softmax", "--rows 1Mi --cols 1Mi --device cpu", EXIT_FAILED, "not enough CPU memory: 8192.",
                   "GiB needed", "available", NULL);
    assert_refused("02_safe_softmax", "--rows 1Gi --cols 512Mi --device cpu", EXIT_FAILED, "memory", "GiB needed", "available",
                   NULL);
    char words[128]; /* x fits, and x and y do not */
    snprintf(words, sizeof words, "--rows %lld --cols 1000 --device cpu", (long long)(cpu_device.memory() / 4000 * 3 / 4));
    assert_refused("02_safe_softmax", words, EXIT_FAILED, "memory", "GiB needed", NULL);
}
END_TEST

/* Standard attention needs S: it says how large that is. */
START_TEST(test_too_little_memory_for_scores)
{
    assert_refused("11_standard_attention", "--seq 3Mi --heads 1 --dim 1 --device cpu", EXIT_FAILED, "memory", " 368",
                   "available", NULL);
    if (cpu_device.memory() < (size_t)300 << 30)
        assert_refused("11_standard_attention", "--seq 300000 --heads 1 --causal --device cpu", EXIT_FAILED, "memory", " 33",
                       "available", NULL);
}
END_TEST

/* A table that is a pipe which nobody reads: said, and not waited for. */
START_TEST(test_results_that_are_a_pipe)
{
    char pipe[512];
    snprintf(pipe, sizeof pipe, "%s", folder_path("pipe"));
    ck_assert(mkfifo(pipe, 0600) == 0);
    setenv("RESULTS", pipe, 1);
    const struct said *s = run("02_safe_softmax", "--rows 3 --cols 5 --reps 1 --device cpu");
    ck_assert_msg(s->status == EXIT_FAILED && strstr(s->err, pipe) && strstr(s->err, "no file"), "status %d: %s", s->status,
                  s->err);
}
END_TEST

START_TEST(test_absent_device)
{
    if (gpu_count() > 0) /* then hide it */
        setenv("CUDA_VISIBLE_DEVICES", "", 1);
    assert_refused("02_safe_softmax", "--rows 3 --cols 5 --device gpu", EXIT_FAILED, "--device gpu", NULL);
    const struct said *s = run("02_safe_softmax", "--rows 3 --cols 5 --reps 1");
    ck_assert_msg(s->status == 0 && strstr(s->out, "gpu: skipped"), "status %d: %s%s", s->status, s->out, s->err);
}
END_TEST

/* ---- files */

static const char *words_of(const char *format, const char *path)
{
    static char words[1024];
    snprintf(words, sizeof words, format, path);
    return words;
}

/* A .npy of (3, 5) fp32, with `header` in the place of its own unless that is NULL, cut off by `cut` bytes. */
static const char *tensor(const char *header, size_t cut)
{
    float x[15];
    int64_t shape[] = { 3, 5 };
    char why[256];
    for (int i = 0; i < 15; i++)
        x[i] = (float)(i * i % 7);
    const char *path = folder_path("x.npy");
    ck_assert(npy_write(path, x, FP32, 2, shape, why, sizeof why) == 0);
    size_t bytes;
    char *file = folder_read(path, &bytes);
    if (header)
        memcpy(file + 10, header, strlen(header));
    folder_write(path, file, bytes - cut);
    free(file);
    return path;
}

START_TEST(test_bad_files)
{
    char x[512], missing[512];
    snprintf(x, sizeof x, "%s", folder_path("x.npy"));
    snprintf(missing, sizeof missing, "%s", folder_path("missing.npy"));
    assert_refused("02_safe_softmax", words_of("--x %s", missing), EXIT_FAILED, missing, strerror(ENOENT), NULL);
    assert_refused("02_safe_softmax", "--x .", EXIT_FAILED, "not a regular file", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor(NULL, 1)), EXIT_FAILED, x, "cut off", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor(NULL, 100)), EXIT_FAILED, x, "cut off", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor("{'descr': '<f4', 'fortran_order': True,  ", 0)), EXIT_FAILED, x,
                   "Fortran", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor("{'descr': '<u4'", 0)), EXIT_FAILED, x, "<f4", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor("{'descr': '>f4'", 0)), EXIT_FAILED, x, "big-endian", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 5)", 0)),
                   EXIT_FAILED, x, "size", NULL);
    assert_refused("02_safe_softmax", words_of("--x %s", tensor("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 5)", 0)),
                   EXIT_FAILED, x, "cut off", NULL);
}
END_TEST

/* The tensor that --out wrote is the softmax of the one that --x named, in its shape. */
static void assert_softmaxed(const char *in, const char *out)
{
    struct npy x, y;
    char why[512];
    ck_assert_msg(npy_read(in, &x, why, sizeof why) == 0 && npy_read(out, &y, why, sizeof why) == 0, "%s", why);
    ck_assert(x.dims == y.dims && memcmp(x.shape, y.shape, sizeof x.shape) == 0 && y.dtype == FP32);
    int64_t cols = x.dims ? x.shape[x.dims - 1] : 1, rows = 1;
    for (int d = 0; d < x.dims - 1; d++)
        rows *= x.shape[d];
    double *want = malloc((size_t)cols * sizeof *want);
    for (int64_t row = 0; row < rows; row++) {
        reference_softmax_row(want, (char *)x.data + (size_t)(row * cols) * dtype_bytes(x.dtype), x.dtype, cols);
        for (int64_t col = 0; col < cols; col++)
            ck_assert(fabs(((float *)y.data)[row * cols + col] - want[col]) <= 1e-5 * want[col] + 1e-37);
    }
    free(want);
    free(x.data);
    free(y.data);
}

START_TEST(test_file_in_file_out)
{
    static const int64_t shapes[][NPY_MAX_DIMS] = { { 7 }, { 3, 5 }, { 2, 3, 4 }, { 1, 1, 2, 1, 3, 1, 2, 9 }, { 0 } };
    static const int dims[] = { 1, 2, 3, 8, 0 };
    float x[108];
    double wide[108];
    char why[256], words[1024];
    for (int i = 0; i < 108; i++)
        wide[i] = x[i] = (float)sin(i) * 100;
    for (int i = 0; i < 5; i++) {
        bool is_wide = i % 2;
        ck_assert(npy_write(folder_path("in.npy"), is_wide ? (void *)wide : x, is_wide ? FP64 : FP32, dims[i], shapes[i], why,
                            sizeof why) == 0);
        snprintf(words, sizeof words, "--x %s --out %s --reps 1 --device cpu", folder_path("in.npy"), folder_path("out.npy"));
        const struct said *s = run("02_safe_softmax", words);
        ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
        assert_softmaxed(folder_path("in.npy"), folder_path("out.npy"));
        ck_assert_msg(folder_files() == 3, "more than the two tensors and the results is left");
    }
}
END_TEST

START_TEST(test_output_that_cannot_be_written)
{
    const struct said *s =
        run("02_safe_softmax", words_of("--rows 3 --cols 5 --reps 1 --device cpu --out %s", folder_path("missing/y.npy")));
    ck_assert(s->status == EXIT_FAILED && strstr(s->err, "missing/y.npy") && strchr(s->err, '\n')[1] == 0);
    s = run("02_safe_softmax", "--rows 3 --cols 5 --reps 1 --device cpu --out /dev/full");
    ck_assert(s->status == EXIT_FAILED && strstr(s->err, "/dev/full") && strstr(s->err, strerror(ENOSPC)));
    s = run("02_safe_softmax", "--rows 3 --cols 5 --reps 1 --device cpu --out /dev/null"); /* nobody wants it: that is fine */
    struct stat null;
    ck_assert(stat("/dev/null", &null) == 0 && S_ISCHR(null.st_mode));
    ck_assert(s->status == 0 && s->err[0] == 0);
}
END_TEST

/* ---- Q, K and V from files */

/* Writes a .npy of the last `dims` of these four axes, with small numbers. */
static void write_tensor(const char *name, int dims, int64_t batch, int64_t heads, int64_t tokens, int64_t dim)
{
    static float x[4096];
    int64_t shape[] = { batch, heads, tokens, dim };
    char why[256];
    for (int i = 0; i < 4096; i++)
        x[i] = (float)sin(i * i % 100 + name[0]);
    ck_assert(npy_write(folder_path(name), x, FP32, dims, shape + 4 - dims, why, sizeof why) == 0);
}

static const char *attention_words(const char *q, const char *k, const char *v, const char *more)
{
    static char words[2048];
    snprintf(words, sizeof words, "--q %s --k %s --v %s --reps 1 --device cpu %s", folder_path(q), folder_path(k),
             folder_path(v), more);
    return words;
}

START_TEST(test_tensors_that_do_not_fit)
{
    /* The last `dims` axes of K, those of V, and what is said about K's. Q is (1, 4, 7, 8). */
    static const struct {
        int dims;
        int64_t k[4], v[4];
        const char *says, *and;
    } wrong[] = {
        { 4, { 1, 2, 9, 16 }, { 1, 2, 9, 16 }, "k.npy: (1, 2, 9, 16)", "dim" },
        { 4, { 2, 2, 9, 8 }, { 2, 2, 9, 8 }, "k.npy: (2, 2, 9, 8)", "batch" },
        { 4, { 1, 3, 9, 8 }, { 1, 3, 9, 8 }, "k.npy: (1, 3, 9, 8)", "multiple" },
        { 4, { 1, 2, 9, 8 }, { 1, 2, 8, 8 }, "v.npy", "k.npy" },
        { 3, { 1, 2, 9, 8 }, { 1, 2, 9, 8 }, "k.npy", "3 axes" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const int64_t *k = wrong[i].k, *v = wrong[i].v;
        write_tensor("q.npy", 4, 1, 4, 7, 8);
        write_tensor("k.npy", wrong[i].dims, k[0], k[1], k[2], k[3]);
        write_tensor("v.npy", wrong[i].dims, v[0], v[1], v[2], v[3]);
        assert_refused("13_fused_attention", attention_words("q.npy", "k.npy", "v.npy", ""), EXIT_FAILED, wrong[i].says,
                       wrong[i].and, NULL);
    }
    assert_refused("13_fused_attention", attention_words("q.npy", "q.npy", "none.npy", ""), EXIT_FAILED, "none.npy", NULL);
    write_tensor("q.npy", 4, 1, 1, 2, 300);
    assert_refused("13_fused_attention", attention_words("q.npy", "q.npy", "q.npy", ""), EXIT_USAGE, "300", "1 to 256", NULL);
    write_tensor("q.npy", 4, 1, 1, 2, 72);
    assert_refused("18_tensor_core_attention", attention_words("q.npy", "q.npy", "q.npy", ""), EXIT_USAGE, "72", "64 and 128",
                   NULL);
}
END_TEST

/* What a program writes is the attention of what it read. */
START_TEST(test_attention_from_file_to_file)
{
    struct attention p = { 2, 4, 2, 7, 9, 8, true, 1 / sqrtf(8) };
    write_tensor("q.npy", 4, 2, 4, 7, 8);
    write_tensor("k.npy", 4, 2, 2, 9, 8);
    write_tensor("v.npy", 4, 2, 2, 9, 8);
    char more[1024], why[256];
    snprintf(more, sizeof more, "--causal --out %s --lse %s", folder_path("o.npy"), folder_path("lse.npy"));
    const struct said *s = run("15_register_tiled_attention", attention_words("q.npy", "k.npy", "v.npy", more));
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    ck_assert_msg(folder_files() == 6, "more than the five tensors and the results is left");
    struct npy t[5];
    const char *const names[] = { "q.npy", "k.npy", "v.npy", "o.npy", "lse.npy" };
    for (int i = 0; i < 5; i++)
        ck_assert(npy_read(folder_path(names[i]), &t[i], why, sizeof why) == 0);
    ck_assert(t[3].dims == 4 && memcmp(t[3].shape, t[0].shape, 4 * sizeof(int64_t)) == 0);
    ck_assert(t[4].dims == 3 && memcmp(t[4].shape, t[0].shape, 3 * sizeof(int64_t)) == 0);
    struct verdict verdict = verify_attention(t[3].data, t[4].data, t[0].data, t[1].data, t[2].data, FP32, p,
                                              (struct attention_rounding){ 0 }, 1, false);
    ck_assert_msg(verdict.pass && verdict.checked == 2 * 4 * 7, "%s", verdict.what);
    for (int i = 0; i < 5; i++)
        free(t[i].data);
}
END_TEST

/* ---- gradients, from files to files */

/* dx, by the formula, of what --x and --dy name. */
START_TEST(test_softmax_gradient_from_file_to_file)
{
    char words[2048], why[256];
    snprintf(words, sizeof words, "--x %s --dy %s --out %s --reps 1 --device cpu", folder_path("x.npy"), folder_path("dy.npy"),
             folder_path("dx.npy"));
    assert_refused("02_safe_softmax", words_of("--rows 3 --cols 5 --device cpu --dy %s", tensor(NULL, 0)), EXIT_USAGE, "--dy",
                   "no gradient", NULL);
    write_tensor("x.npy", 3, 1, 2, 3, 5);
    write_tensor("dy.npy", 3, 1, 2, 5, 3);
    assert_refused("42_softmax_backward", words, EXIT_FAILED, "dy.npy", "shape", NULL);
    write_tensor("dy.npy", 3, 1, 2, 3, 5);
    struct npy x, dy, dx;
    ck_assert(npy_read(folder_path("dy.npy"), &dy, why, sizeof why) == 0);
    for (int i = 0; i < 30; i++)
        ((float *)dy.data)[i] = (float)(i % 4 - 1);
    ck_assert(npy_write(folder_path("dy.npy"), dy.data, FP32, 3, dy.shape, why, sizeof why) == 0);
    const struct said *s = run("42_softmax_backward", words);
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    ck_assert(npy_read(folder_path("x.npy"), &x, why, sizeof why) == 0);
    ck_assert(npy_read(folder_path("dx.npy"), &dx, why, sizeof why) == 0);
    ck_assert(dx.dims == 3 && memcmp(dx.shape, x.shape, 3 * sizeof(int64_t)) == 0);
    for (int row = 0; row < 30; row += 5) {
        double y[5], l = 0, sum = 0;
        for (int i = 0; i < 5; i++)
            l += y[i] = exp(element(x.data, FP32, row + i));
        for (int i = 0; i < 5; i++)
            sum += (y[i] /= l) * element(dy.data, FP32, row + i);
        for (int i = 0; i < 5; i++)
            ck_assert(fabs(element(dx.data, FP32, row + i) - y[i] * (element(dy.data, FP32, row + i) - sum)) < 1e-6);
    }
    free(x.data), free(dy.data), free(dx.data);
}
END_TEST

/*
 * A layer of a language model, causal, heads of Q sharing keys and values: dQ, dK and dV are what torch.autograd makes of it, in
 * fp64 (tests/data/README.md), with dO = Q. The files hold them in fp16.
 */
START_TEST(test_gradients_of_a_real_layer_are_autograds)
{
    static const char *const programs[] = { "43_attention_backward", "47_joined_backward" };
    static const char *const names[] = { "dq.npy", "dk.npy", "dv.npy" };
    char words[2048], path[64], why[256];
    snprintf(words, sizeof words, "--input real --causal --do tests/data/q.npy --dq %s --dk %s --dv %s --reps 1 --device cpu",
             folder_path(names[0]), folder_path(names[1]), folder_path(names[2]));
    const struct said *s = run(programs[_i], words);
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    for (int t = 0; t < 3; t++) {
        struct npy ours, theirs;
        ck_assert(npy_read(folder_path(names[t]), &ours, why, sizeof why) == 0);
        snprintf(path, sizeof path, "tests/data/%s", names[t]);
        ck_assert_msg(npy_read(path, &theirs, why, sizeof why) == 0, "%s", why);
        ck_assert(ours.dims == 4 && theirs.dims == 4 && memcmp(ours.shape, theirs.shape, 4 * sizeof(int64_t)) == 0);
        int64_t dim = ours.shape[3], rows = ours.shape[0] * ours.shape[1] * ours.shape[2];
        for (int64_t row = 0; row < rows; row++) {
            double largest = 0, worst = 0;
            for (int64_t i = row * dim; i < (row + 1) * dim; i++) {
                largest = fmax(largest, fabs(element(theirs.data, theirs.dtype, i)));
                worst = fmax(worst, fabs(element(theirs.data, theirs.dtype, i) - element(ours.data, FP32, i)));
            }
            ck_assert_msg(worst <= ldexp(largest, -10) + 1e-6, "%s, row %lld: off by %g, where the largest is %g", names[t],
                          (long long)row, worst, largest);
        }
        free(ours.data), free(theirs.data);
    }
}
END_TEST

/* What the gradients' program wrote, beside what reference_attention_backward() makes of these tensors. */
static void compare_gradients(const struct backward_inputs *in, struct attention p)
{
    static const char *const names[] = { "dq.npy", "dk.npy", "dv.npy" };
    char why[256];
    struct npy t[3];
    for (int i = 0; i < 3; i++)
        ck_assert_msg(npy_read(folder_path(names[i]), &t[i], why, sizeof why) == 0, "%s", why);
    const struct attention_rounding none = { 0 };
    struct verdict v = verify_attention_backward(t[0].data, t[1].data, t[2].data, in, FP32, p, none, 1);
    ck_assert_msg(v.pass && v.checked == v.rows, "%s", v.what);
    for (int i = 0; i < 3; i++)
        free(t[i].data);
}

/* O and lse as step 15 wrote them, and how the loss changes with either or both. Others' results and shapes are refused. */
START_TEST(test_gradients_of_given_results)
{
    static const char *const names[] = { "q.npy", "k.npy", "v.npy", "o.npy", "lse.npy", "do.npy", "dlse.npy" };
    const struct attention p = { 2, 4, 2, 7, 9, 8, true, 1 / sqrtf(8) };
    char more[1536], results[1024], why[256];
    for (int i = 0; i < 7; i++) /* of which 3 and 4 will be overwritten */
        write_tensor(names[i], i == 4 || i == 6 ? 3 : 4, 2, i == 1 || i == 2 ? 2 : 4, i == 1 || i == 2 ? 9 : 7, 8);
    int64_t shape[] = { 2, 4, 7 };
    float dlse[56], zeros[448] = { 0 };
    for (int i = 0; i < 56; i++)
        dlse[i] = (float)(i % 5) - 2;
    ck_assert(npy_write(folder_path("dlse.npy"), dlse, FP32, 3, shape, why, sizeof why) == 0);
    snprintf(more, sizeof more, "--causal --out %s --lse %s", folder_path("o.npy"), folder_path("lse.npy"));
    const struct said *s = run("15_register_tiled_attention", attention_words("q.npy", "k.npy", "v.npy", more));
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    struct npy t[7];
    for (int i = 0; i < 7; i++)
        ck_assert_msg(npy_read(folder_path(names[i]), &t[i], why, sizeof why) == 0, "%s", why);
    struct backward_inputs in = { t[0].data, t[1].data, t[2].data, t[3].data, t[4].data, t[5].data, t[6].data };
    snprintf(results, sizeof results, "--causal --dq %s --dk %s --dv %s --o %s --lse %s", folder_path("dq.npy"),
             folder_path("dk.npy"), folder_path("dv.npy"), folder_path("o.npy"), folder_path("lse.npy"));
    for (int given = 1; given < 4; given++) {
        size_t at = (size_t)snprintf(more, sizeof more, "%s", results);
        if (given & 1)
            at += (size_t)snprintf(more + at, sizeof more - at, " --do %s", folder_path("do.npy"));
        if (given & 2)
            snprintf(more + at, sizeof more - at, " --dlse %s", folder_path("dlse.npy"));
        in.dO = given & 1 ? t[5].data : zeros;
        in.dlse = given & 2 ? t[6].data : NULL;
        s = run("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", more));
        ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
        compare_gradients(&in, p);
    }
    ck_assert(unlink(getenv("RESULTS")) == 0);
    snprintf(more, sizeof more, "--dlse %s", folder_path("dlse.npy"));
    assert_refused("15_register_tiled_attention", attention_words("q.npy", "k.npy", "v.npy", more), EXIT_USAGE, "--dlse",
                   "no gradient", NULL);
    ((float *)t[5].data)[60] = NAN;
    ck_assert(npy_write(folder_path("do.npy"), t[5].data, FP32, 4, t[5].shape, why, sizeof why) == 0);
    snprintf(more, sizeof more, "--do %s", folder_path("do.npy"));
    assert_refused("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", more), EXIT_USAGE, "--do", "do.npy",
                   "nan at [0, 1, 0, 4]", "finite", NULL);
    ((float *)t[3].data)[400] += 1e-3f;
    ck_assert(npy_write(folder_path("o.npy"), t[3].data, FP32, 4, t[3].shape, why, sizeof why) == 0);
    assert_refused("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", results), EXIT_FAILED, "o.npy",
                   "not what attention makes", "row 50", NULL);
    ((float *)t[3].data)[400] -= 1e-3f;
    ck_assert(npy_write(folder_path("o.npy"), t[3].data, FP32, 4, t[3].shape, why, sizeof why) == 0);
    ((float *)t[4].data)[20] *= 1.4426950f; /* of base 2 */
    ck_assert(npy_write(folder_path("lse.npy"), t[4].data, FP32, 3, shape, why, sizeof why) == 0);
    assert_refused("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", results), EXIT_FAILED, "lse.npy",
                   "not what attention makes", "lse", NULL);
    write_tensor("lse.npy", 4, 2, 4, 7, 1);
    assert_refused("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", results), EXIT_FAILED, "lse.npy",
                   "its shape", "(batch, heads, queries)", NULL);
    write_tensor("o.npy", 4, 2, 4, 8, 7);
    assert_refused("47_joined_backward", attention_words("q.npy", "k.npy", "v.npy", results), EXIT_FAILED, "o.npy",
                   "its shape", "(batch, heads, queries, dim)", NULL);
    for (int i = 0; i < 7; i++)
        free(t[i].data);
}
END_TEST

/* In a sweep each problem has an O and an lse of its own. */
START_TEST(test_gradients_in_a_sweep)
{
    static const char *const words[] = { "--sweep --batch 1 --seq 1024 --dim 16", "--sweep-scale --seq 64" };
    const struct said *s = run("47_joined_backward", words_of("--heads 1 --reps 1 --device cpu %s", words[_i]));
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    int lines = 0;
    for (const char *at = s->out; (at = strstr(at, " pass")); at++)
        lines++;
    ck_assert_msg(lines == (_i ? 9 : 2), "%s", s->out);
}
END_TEST

/* ---- what works */

START_TEST(test_help)
{
    static const char *const options[] = { "--rows",   "--cols",    "--shape", "--dtype", "--input", "--x",    "--out",
                                           "--device", "--threads", "--seed",  "--reps",  "--json",  "normal", "gpt2-scores" };
    const struct said *s = run("02_safe_softmax", "--help");
    ck_assert(s->status == 0 && s->err[0] == 0);
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        ck_assert_msg(strstr(s->out, options[i]), "'%s' is not in the help", options[i]);
}
END_TEST

static const char *const programs[] = {
    "01_naive_softmax", "02_safe_softmax",     "03_online_softmax", "04_vector_softmax",
    "05_block_softmax", "06_resident_softmax", "07_narrow_softmax", "10_split_softmax",
};
enum { PROGRAMS = sizeof programs / sizeof programs[0] };

START_TEST(test_every_step_runs)
{
    const struct said *s = run(programs[_i], "--rows 7 --cols 1000 --reps 1 --device cpu");
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    ck_assert(strstr(s->out, programs[_i]) && strstr(s->out, "pass"));
    size_t bytes;
    char *table = folder_read(getenv("RESULTS"), &bytes), *line = strchr(table, '\n');
    ck_assert(strncmp(table, "step\t", 5) == 0 && line && strncmp(line + 1, programs[_i], strlen(programs[_i])) == 0);
    free(table);
    s = run(programs[_i], "--rows 7 --cols 1000 --reps 1 --device cpu --json");
    ck_assert_msg(s->status == 0 && s->out[0] == '{' && strchr(s->out, '\n')[1] == 0, "not one line of JSON: %s", s->out);
    ck_assert(strstr(s->out, "\"verdict\": \"pass\""));
}
END_TEST

START_TEST(test_every_step_runs_on_real_input)
{
    const struct said *s = run(programs[_i], "--input real --rows 64 --reps 1 --device cpu");
    ck_assert_msg(s->status == 0 && s->err[0] == 0 && strstr(s->out, "pass"), "status %d: %s%s", s->status, s->out, s->err);
}
END_TEST

static const char *const attention_programs[] = {
    "11_standard_attention",
    "12_library_attention",
    "13_fused_attention",
    "15_register_tiled_attention",
};
enum { ATTENTION_PROGRAMS = sizeof attention_programs / sizeof attention_programs[0] };

static bool needs_blas(int program)
{
    return program == 1 && !blas_available();
}

START_TEST(test_every_attention_step_runs)
{
    const char *program = attention_programs[_i], *shape = "--batch 2 --heads 4 --kv-heads 2 --seq-q 70 --seq-k 90 --causal";
    char words[256];
    snprintf(words, sizeof words, "%s --reps 1 --device cpu", shape);
    const struct said *s = run(program, words);
    if (needs_blas(_i)) {
        ck_assert_msg(s->status == EXIT_FAILED && strstr(s->out, "CBLAS"), "status %d: %s%s", s->status, s->out, s->err);
        return;
    }
    ck_assert_msg(s->status == 0 && s->err[0] == 0, "status %d: %s%s", s->status, s->out, s->err);
    ck_assert(strstr(s->out, program) && strstr(s->out, "pass"));
    size_t bytes;
    char *table = folder_read(getenv("RESULTS"), &bytes), *line = strchr(table, '\n');
    ck_assert(strncmp(table, "step\t", 5) == 0 && line && strncmp(line + 1, program, strlen(program)) == 0);
    free(table);
    snprintf(words, sizeof words, "%s --reps 1 --device cpu --json", shape);
    s = run(program, words);
    ck_assert_msg(s->status == 0 && s->out[0] == '{' && strchr(s->out, '\n')[1] == 0, "not one line of JSON: %s", s->out);
    ck_assert(strstr(s->out, "\"verdict\": \"pass\"") && strstr(s->out, "\"seq_k\": 90"));
}
END_TEST

START_TEST(test_every_attention_step_runs_on_real_input)
{
    const struct said *s = run(attention_programs[_i], "--input real --causal --reps 1 --device cpu");
    ck_assert_msg(needs_blas(_i) || (s->status == 0 && s->err[0] == 0 && strstr(s->out, "pass")), "status %d: %s%s", s->status,
                  s->out, s->err);
}
END_TEST

/* Whether a line of a rank, of a run that was drawn, has this in it: blocks that travel are "=". */
static bool is_drawn(const char *program, char what)
{
    const struct said *s = run(program, "--ranks 2 --seq 64 --reps 1 --device cpu");
    char *line = strstr(s->out, "    timeline    0 "), *end = line ? strstr(line, "                # ") : NULL;
    ck_assert_msg(s->status == 0 && end, "%s%s", s->out, s->err);
    *end = '\0';
    return strchr(line, what);
}

/* Or rows of 2 and of 4 ranks could not be told apart. */
START_TEST(test_row_of_a_ring_says_how_many_ranks)
{
    const struct said *s = run("68_ring_attention", "--heads 1 --seq 64 --ranks 3 --reps 1 --device cpu --json");
    ck_assert_msg(strstr(s->out, "\"input\": \"normal, 3 ranks\""), "%s%s", s->out, s->err);
}
END_TEST

/* Blocks travel beside computing in step 70 alone. A run that was held up may have drawn that shorter than a column. */
START_TEST(test_timeline_of_a_ring)
{
    bool travels = false;
    for (int tries = 0; tries < 20 && !travels; tries++)
        travels = is_drawn("70_overlapped_ring", '=');
    ck_assert(travels && is_drawn("70_overlapped_ring", '#') && is_drawn("69_zigzag_ring", '#'));
    ck_assert(!is_drawn("69_zigzag_ring", '='));
}
END_TEST

/* The lessons' row: the state after each element by the merge rule, and what the step makes of it. Nothing is recorded. */
START_TEST(test_trace)
{
    static const struct {
        const char *program, *words, *end;
    } all[] = {
        { "02_safe_softmax", "--trace 1,3,2",
          "     element          m          l\n"
          "    none yet       -inf          0\n"
          "           1          1          1\n"
          "           3          3     1.1353\n"
          "           2          3     1.5032\n"
          "  y, as this step computes it: 0.0900 0.6652 0.2447\n" },
        { "03_online_softmax", "--trace 400,-inf,400", "  y, as this step computes it: 0.5000 0.0000 0.5000\n" },
        { "01_naive_softmax", "--trace=1,100",
          "         100        100          1\n"
          "  y, as this step computes it: 0.0000 nan\n" },
        { "13_fused_attention", "--trace 1:10,3:20,2:30",
          "       score      value          m          l          o\n"
          "    none yet                  -inf          0          0\n"
          "           1         10          1          1         10\n"
          "           3         20          3     1.1353     21.353\n"
          "           2         30          3     1.5032      32.39\n"
          "  O = o / l = 21.547; this step computes 21.547\n" },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct said *s = run(all[i].program, all[i].words);
        size_t length = strlen(s->out), end = strlen(all[i].end);
        ck_assert_msg(s->status == 0 && !s->err[0] && length > end && strcmp(s->out + length - end, all[i].end) == 0,
                      "%s %s: status %d: %s%s", all[i].program, all[i].words, s->status, s->out, s->err);
        ck_assert(strncmp(s->out, all[i].program, strlen(all[i].program)) == 0 && access(getenv("RESULTS"), F_OK) != 0);
    }
}
END_TEST

/* Where it cannot run, a step for GPUs alone says so, and that is no failure. */
START_TEST(test_steps_for_gpus_alone)
{
    static const char *const alone[] = { "18_tensor_core_attention", "23_lean_attention" };
    if (gpu_count() > 0) /* then hide it */
        setenv("CUDA_VISIBLE_DEVICES", "", 1);
    for (int i = 0; i < 2; i++) {
        const struct said *s = run(alone[i], "--seq 64 --reps 1");
        ck_assert_msg(s->status == 0 && s->err[0] == 0 && strstr(s->out, "cpu: skipped") && strstr(s->out, "gpu: skipped") &&
                          strstr(s->out, "recorded on an"),
                      "status %d: %s%s", s->status, s->out, s->err);
        s = run(alone[i], "--seq 64 --device cpu"); /* what was asked for did not run */
        ck_assert_msg(s->status == EXIT_FAILED && strstr(s->out, "cpu: skipped"), "status %d: %s%s", s->status, s->out, s->err);
        s = run(alone[i], "--seq 64 --json");
        ck_assert_msg(s->status == EXIT_FAILED && !s->out[0] && strstr(s->err, "nothing ran"), "status %d: %s%s", s->status,
                      s->out, s->err);
    }
    /* which is so of one that computes gradients, too; and of a step before */
    char words[1024];
    snprintf(words, sizeof words, "--heads 1 --seq 64 --device cpu --dq %s", folder_path("dq.npy"));
    const struct said *s = run("52_tensor_core_backward", words);
    ck_assert_msg(s->status == EXIT_FAILED && strstr(s->err, "nothing ran"), "status %d: %s%s", s->status, s->out, s->err);
    s = run("10_split_softmax", "--rows 2 --cols 64 --reps 1 --device cpu");
    ck_assert_msg(strstr(s->out, "09_cluster_softmax, not timed: it is for GPUs alone"), "%s", s->out);
}
END_TEST

/* A wrong result is a failure, and says so: step 01 on numbers whose exp does not fit. */
START_TEST(test_a_wrong_result_fails)
{
    const struct said *s = run("01_naive_softmax", "--rows 7 --cols 1000 --reps 1 --device cpu --input shifted");
    ck_assert_msg(s->status == EXIT_FAILED && strstr(s->out, "FAIL"), "status %d: %s%s", s->status, s->out, s->err);
    size_t bytes;
    char *table = folder_read(getenv("RESULTS"), &bytes);
    ck_assert(strstr(table, "FAIL"));
    free(table);
}
END_TEST

START_TEST(test_sizes_with_suffixes)
{
    const struct said *s = run("02_safe_softmax", "--rows 1 --cols 2Ki --reps 1 --device cpu --json");
    ck_assert(s->status == 0 && strstr(s->out, "\"cols\": 2048"));
    s = run("02_safe_softmax", "--shape gpt2-scores --rows 3 --reps 1 --device cpu --json");
    ck_assert(s->status == 0 && strstr(s->out, "\"cols\": 1024") && strstr(s->out, "\"rows\": 3"));
}
END_TEST

/* --scale is the scale, whatever stands before or behind it, and the table says so. */
START_TEST(test_scale)
{
    const struct said *s = run("15_register_tiled_attention", "--scale 0.5 --shape gpt2 --seq 50 --reps 1 --device cpu --json");
    ck_assert_msg(s->status == 0 && strstr(s->out, "\"input\": \"normal, scale 0.5\""), "%s%s", s->out, s->err);
    s = run("15_register_tiled_attention", "--scale 0.125 --heads 1 --seq 50 --reps 1 --device cpu --json"); /* of dim 64 */
    ck_assert_msg(s->status == 0 && strstr(s->out, "\"input\": \"normal\""), "%s%s", s->out, s->err);
    s = run("15_register_tiled_attention", "--sweep-scale --heads 1 --seq 50 --reps 1 --device cpu --json");
    ck_assert_msg(s->status == 0 && strstr(s->out, "\"input\": \"normal, scale 0.03125\"") &&
                      strstr(s->out, "\"input\": \"normal, scale 8\""),
                  "%s%s", s->out, s->err);
}
END_TEST

START_TEST(test_seed_and_threads_are_used)
{
    char first[512], words[1024];
    for (int i = 0; i < 3; i++) {
        snprintf(words, sizeof words, "--rows 5 --cols 9 --reps 1 --device cpu --seed %d --threads %d --out %s", 7 + i / 2,
                 THREADS_UP_TO(1 + i % 2), folder_path("y.npy"));
        ck_assert(run("02_safe_softmax", words)->status == 0);
        size_t bytes;
        char *y = folder_read(folder_path("y.npy"), &bytes);
        ck_assert(bytes < sizeof first);
        if (i == 0)
            memcpy(first, y, bytes);
        ck_assert((memcmp(first, y, bytes) == 0) == (i < 2)); /* threads change nothing, the seed does */
        free(y);
    }
}
END_TEST

Suite *program_suite(void)
{
    Suite *suite = suite_create("program");
    TCase *bad = tcase_create("usage"), *absent = tcase_create("absent"), *files = tcase_create("files"),
          *gradients = tcase_create("gradients"), *pages = tcase_create("pages"), *runs = tcase_create("runs"),
          *rings = tcase_create("rings");
    TCase *const all[] = { bad, absent, files, gradients, pages, runs, rings };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tcase_add_checked_fixture(all[i], setup, teardown);
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    tcase_add_loop_test(bad, test_bad_usage, 0, sizeof usage / sizeof usage[0]);
    tcase_add_loop_test(bad, test_bad_attention_usage, 0, sizeof attention_usage / sizeof attention_usage[0]);
    tcase_add_test(absent, test_too_little_memory);
    tcase_add_test(absent, test_too_little_memory_for_scores);
    tcase_add_test(absent, test_steps_for_gpus_alone);
    tcase_add_test(absent, test_absent_device);
    tcase_add_test(absent, test_results_that_are_a_pipe);
    tcase_add_test(files, test_bad_files);
    tcase_add_test(files, test_file_in_file_out);
    tcase_add_test(files, test_output_that_cannot_be_written);
    tcase_add_test(files, test_tensors_that_do_not_fit);
    tcase_add_test(files, test_attention_from_file_to_file);
    tcase_add_loop_test(gradients, test_bad_usage_of_gradients, 0, sizeof gradient_usage / sizeof gradient_usage[0]);
    tcase_add_test(gradients, test_softmax_gradient_from_file_to_file);
    tcase_add_loop_test(gradients, test_gradients_of_a_real_layer_are_autograds, 0, 2);
    tcase_add_test(gradients, test_gradients_of_given_results);
    tcase_add_loop_test(gradients, test_gradients_in_a_sweep, 0, 2);
    tcase_add_loop_test(pages, test_bad_usage_of_pages, 0, sizeof pages_usage / sizeof pages_usage[0]);
    tcase_add_loop_test(pages, test_tables_of_pages, 0, 10);
    tcase_add_test(pages, test_lengths_from_a_file);
    tcase_add_test(runs, test_help);
    tcase_add_loop_test(runs, test_every_step_runs, 0, PROGRAMS);
    tcase_add_loop_test(runs, test_every_step_runs_on_real_input, 0, PROGRAMS);
    tcase_add_loop_test(runs, test_every_attention_step_runs, 0, ATTENTION_PROGRAMS);
    tcase_add_loop_test(runs, test_every_attention_step_runs_on_real_input, 0, ATTENTION_PROGRAMS);
    tcase_add_test(rings, test_row_of_a_ring_says_how_many_ranks);
    tcase_add_test(rings, test_timeline_of_a_ring);
    tcase_add_test(runs, test_trace);
    tcase_add_test(runs, test_a_wrong_result_fails);
    tcase_add_test(runs, test_sizes_with_suffixes);
    tcase_add_test(runs, test_scale);
    tcase_add_test(runs, test_seed_and_threads_are_used);
    return suite;
}
