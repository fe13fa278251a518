/*
 * What the programs report, to the letter: steps whose cost is known, on a clock that the test holds. To look at it takes 1 ms,
 * so that a run takes 1 ms and what it costs.
 */
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "folder.h"
#include "steps.h"
#include "suites.h"

#define RUN(main, ...) main(__VA_ARGS__, "--device", "cpu", NULL })
#define ARGS(...) (int)(sizeof((char *[]){ "program", __VA_ARGS__, "", "" }) / sizeof(char *)), (char *[]){ "program", __VA_ARGS__

static double seconds;

static double ticking(void)
{
    return seconds += 1e-3;
}

static void setup(void)
{
    folder_setup();
    setenv("RESULTS", folder_path("results.tsv"), 1);
    setenv("CEILINGS", folder_path("ceilings.tsv"), 1);
    ck_assert(freopen(folder_path("out"), "w", stdout) != NULL);
    now = ticking;
    flush_limit = 1 << 20;
    small_limit = 0; /* each run of the step is counted */
}

static int runs;

/* One run for the verdict, one to warm up; then ten of 2 to 11 ms, the
   look at the clock included: 3, 7 and 10 are p10, median and p90. */
static void take_time(void)
{
    static const int ms[] = { 900, 800, 7, 3, 9, 1, 5, 2, 8, 4, 10, 6 };
    seconds += 1e-3 * (runs < 12 ? ms[runs] : 6);
    runs++;
}

/* The lines of a text are these patterns, up to a NULL, where * is anything. */
static void assert_lines(const char *path, ...)
{
    size_t bytes;
    fflush(stdout);
    char *text = folder_read(path, &bytes), *line = text;
    va_list patterns;
    va_start(patterns, path);
    for (const char *pattern; (pattern = va_arg(patterns, const char *)); line += strlen(line) + 1) {
        ck_assert_msg(line < text + bytes, "a line is missing: %s", pattern);
        line[strcspn(line, "\n")] = 0;
        ck_assert_msg(fnmatch(pattern, line, 0) == 0, "'%s'\nis not '%s'", line, pattern);
    }
    va_end(patterns);
    ck_assert_msg(line == text + bytes, "one line too many: %s", line);
    free(text);
}

#define COLUMNS \
    "step\tdevice\tbackend\tdtype\trows\tcols\tbatch\theads\tkv_heads\tseq_q\tseq_k\tdim\tcausal\tseed\tinput\tthreads\treps\t" \
    "median_ms\tp10_ms\tp90_ms\tuseful_bytes\tpredicted_bytes\tflops\texps\tgb_s\ttflop_s\tcopy_gb_s\tpercent\tceiling\terror\t" \
    "tolerance\tverdict"

/* A pattern with this machine's name and threads in it, good until the third call from now. */
static const char *here(const char *format)
{
    static char texts[3][512];
    static unsigned next;
    char *text = texts[next++ % 3], name[128];
    snprintf(name, sizeof name, "%s", cpu_name());
    for (char *c = name; *c; c++)
        if (strchr("*?[]\\", *c))
            *c = '?';
    snprintf(text, sizeof texts[0], format, name, cpu_threads());
    return text;
}

/* ---- softmax */

static void known_softmax(float *y, const float *x, int64_t rows, int64_t cols)
{
    safe_softmax_cpu(y, x, rows, cols);
    take_time();
}

static void softmax_of_14_ms(float *y, const float *x, int64_t rows, int64_t cols)
{
    safe_softmax_cpu(y, x, rows, cols);
    seconds += 13e-3;
}

static const struct softmax_step softmax = {
    .name = "02_known", .idea = "a step of known cost", .reads = 11, .writes = 2, .cpu_reads = 5, .exps = 3, .gpu_exps = 17,
    .cpu = known_softmax,
};
static const struct softmax_step softmax_before = {
    .name = "01_known", .reads = 12, .writes = 1, .exps = 6, .cpu = softmax_of_14_ms,
};

START_TEST(test_softmax)
{
    ck_assert_int_eq(RUN(softmax_main, &softmax, &softmax_before,
                         ARGS("--rows", "30", "--cols", "100", "--reps", "10", "--budget", "0.05")), 0);
    assert_lines(
        getenv("RESULTS"), COLUMNS,
        here("02_known\t%s\tcpu\tfp32\t30\t100\t-\t-\t-\t-\t-\t-\t-\t1\tnormal\t%d\t10\t7\t3\t10\t24000\t84000\t0\t9000\t"
             "0.00342857143\t-\t0.024\t14.2857143\tcopy\t*e-0*\t*e-0*\tpass"),
        NULL);
    assert_lines(folder_path("out"),
                 "02_known: a step of known cost",
                 "  x is (30, 100) fp32, normal, seed 1; 12 KB to read and as much to write",
                 here("  cpu: %s, %d thread*"),
                 "    verdict     pass: worst relative error *, allowed there *; all 30 rows compared, and 0 small problems",
                 "    time        7 ms, median of 10; p10 3, p90 10; a copy 1 ms",
                 "    predicted   5 reads + 2 writes = 84 KB, at 0.012 GB/s; 3 exps an element",
                 "    bandwidth   0.003429 GB/s effective, read once + written once; a copy 0.024 GB/s",
                 "    ceiling     14 % of the tightest, copy",
                 "    step before 2.00x the speed of 01_known, which took turns; "
                 "predicted 1.86x if memory is the limit, 2.00x if exp is", NULL);
}
END_TEST

/* Every second run takes 10 ms, the others 5: the step against itself. */
static void every_second_run(float *y, const float *x, int64_t rows, int64_t cols)
{
    safe_softmax_cpu(y, x, rows, cols);
    seconds += 1e-3 * (runs++ % 2 ? 4 : 9);
}

START_TEST(test_noise)
{
    struct softmax_step step = softmax;
    size_t bytes;
    step.cpu = every_second_run;
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, ARGS("--rows", "3", "--cols", "5", "--reps", "3", "--noise")), 0);
    fflush(stdout);
    char *text = folder_read(folder_path("out"), &bytes);
    ck_assert_msg(strstr(text, "time        5 ms") && strstr(text, "against itself: 2.000x"), "%s", text);
    free(text);
}
END_TEST

static void spoils_rows_of_256(float *y, const float *x, int64_t rows, int64_t cols)
{
    safe_softmax_cpu(y, x, rows, cols);
    seconds += 6e-3;
    if (cols == 256)
        y[30 * 100] = 1;
}

/* A line for each length that fits; one that is wrong makes the run fail, and the next starts anew. */
START_TEST(test_softmax_sweep)
{
    struct softmax_step step = softmax;
    step.cpu = spoils_rows_of_256;
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, ARGS("--rows", "30", "--cols", "100", "--reps", "1", "--sweep")),
                     EXIT_FAILED);
    assert_lines(folder_path("out"), "02_known: *", "  x is (30, 100) *", here("  cpu: %s"),
                 "            23 x 128               7 ms  0.003365 GB/s    14 % of copy  error *pass",
                 "            11 x 256               7 ms  0.003218 GB/s    14 % of copy  error *"
                 "memory outside the tensors was written",
                 "             5 x 512               7 ms  0.002926 GB/s    14 % of copy  error *pass",
                 "             2 x 1024              7 ms  0.002341 GB/s    14 % of copy  error *pass",
                 "             1 x 2048              7 ms  0.002341 GB/s    14 % of copy  error *pass", NULL);
}
END_TEST

START_TEST(test_json_is_json_alone)
{
    ck_assert_int_eq(RUN(softmax_main, &softmax, &softmax_before,
                         ARGS("--rows", "1", "--cols", "300", "--reps", "10", "--sweep", "--json")), 0);
    assert_lines(
        folder_path("out"),
        "{\"step\": \"02_known\", \"device\": \"*\", \"backend\": \"cpu\", \"dtype\": \"fp32\", \"rows\": 2, \"cols\": 128, "
        "\"batch\": null, \"heads\": null, *, \"threads\": *, \"reps\": 10, \"median_ms\": 7, \"p10_ms\": 3, \"p90_ms\": 10, "
        "\"useful_bytes\": 2048, *, "
        "\"percent\": 14.2857143, \"ceiling\": \"copy\", *, \"verdict\": \"pass\"}",
        "{\"step\": *, \"rows\": 1, \"cols\": 256, *}", NULL);
}
END_TEST

/* ---- attention */

static void known_attention(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    fused_attention_cpu(O, lse, Q, K, V, p);
    take_time();
}

static void attention_of_14_ms(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    fused_attention_cpu(O, lse, Q, K, V, p);
    seconds += 13e-3;
}

static struct cost known_cost(struct attention p, enum dtype dtype)
{
    (void)dtype;
    return (struct cost){ 1000 * (double)p.dim, 77 };
}

static struct cost cost_before(struct attention p, enum dtype dtype)
{
    (void)dtype;
    return (struct cost){ 1500 * (double)p.dim, 231 };
}

static const struct attention_step attention = {
    .name = "08_known", .idea = "a step of known cost", .predict = known_cost, .cpu = known_attention,
};
static const struct attention_step attention_before = { .name = "07_known", .predict = cost_before, .cpu = attention_of_14_ms };

static void put(const char *device, int threads, const char *name, double value)
{
    struct ceiling c = { .threads = threads, .dtype = FP32, .value = value, .unit = "GB/s" };
    snprintf(c.device, sizeof c.device, "%s", device);
    snprintf(c.name, sizeof c.name, "%s", name);
    ceiling_put(&c);
}

#define SMALL "--batch", "2", "--heads", "6", "--kv-heads", "3", "--seq-q", "5", "--seq-k", "7", "--dim", "8", "--causal"
#define ROW \
    "08_known\t%s\tcpu\tfp32\t-\t-\t2\t6\t3\t5\t7\t8\t1\t1\tnormal\t%d\t10\t7\t3\t10\t6528\t8000\t9600\t77\t" \
    "0.000932571429\t1.37142857e-06\t"

START_TEST(test_attention)
{
    put(cpu_name(), cpu_threads() + 1, "copy", 1e-9); /* of another number of threads, and of another machine */
    put("another", cpu_threads(), "copy", 1e-9);
    put(cpu_name(), cpu_threads(), "copy", 0.001);
    put(cpu_name(), cpu_threads(), "exp", 1);
    put(cpu_name(), cpu_threads(), "fma", 1e-12); /* not what it reaches in turn with the step */
    put(cpu_name(), cpu_threads(), "matmul", 1e-12);
    ck_assert_int_eq(RUN(attention_main, &attention, &attention_before, ARGS(SMALL, "--reps", "10", "--budget", "0.05")), 0);
    assert_lines(getenv("RESULTS"), COLUMNS, here(ROW "0.001\t93.2571429\tcopy\t*\t*\tpass"), NULL);
    assert_lines(folder_path("out"),
                 "08_known: a step of known cost",
                 "  Q is (2, 6, 5, 8), K and V (2, 3, 7, 8), fp32, causal, normal",
                 here("  cpu: %s, %d thread*"),
                 "    verdict     pass: worst error * of the row's largest, allowed there *; "
                 "all 60 rows compared, and 0 small problems",
                 "    time        7 ms, median of 10; p10 3, p90 10",
                 "    products    9.6e-06 GFLOP, at 1.371e-06 TFLOP/s",
                 "    predicted   8 KB of memory traffic, at 0.001143 GB/s; Q, K, V and O alone are 6.53 KB",
                 "    workspace   0 B",
                 "    ceiling     93 % of the tightest, copy",
                 "    step before 2.00x the speed of 07_known, which took turns; "
                 "predicted 1.50x if memory is the limit, 3.00x if exp is", NULL);
}
END_TEST

/* The step against itself, and at another scale than usual: every second
   run takes 10 ms, the others 5, and multiply-adds between them 1. */
static void every_second_attention(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    fused_attention_cpu(O, lse, Q, K, V, p);
    seconds += 1e-3 * (runs++ % 2 ? 4 : 9);
}

START_TEST(test_attention_noise)
{
    struct attention_step step = attention;
    size_t bytes;
    step.cpu = every_second_attention;
    ck_assert_int_eq(RUN(attention_main, &step, NULL, ARGS(SMALL, "--reps", "3", "--noise", "--scale", "2")), 0);
    fflush(stdout);
    char *text = folder_read(folder_path("out"), &bytes);
    ck_assert_msg(strstr(text, "time        5 ms") && strstr(text, "against itself: 2.000x") && strstr(text, "normal, scale 2\n"),
                  "%s", text);
    free(text);
    text = folder_read(getenv("RESULTS"), &bytes);
    ck_assert_msg(strstr(text, "\tnormal, scale 2\t"), "%s", text);
    free(text);
}
END_TEST

START_TEST(test_attention_json_is_json_alone)
{
    ck_assert_int_eq(RUN(attention_main, &attention, &attention_before, ARGS(SMALL, "--reps", "10", "--json")), 0);
    assert_lines(folder_path("out"),
                 "{\"step\": \"08_known\", *, \"heads\": 6, \"kv_heads\": 3, *, \"median_ms\": 7, *, \"flops\": 9600, *}", NULL);
}
END_TEST

/* exp so slow that it is the tightest, and that nine runs of ten are above it; then nothing but multiply-adds. */
START_TEST(test_attention_ceilings)
{
    static const double exps[] = { 1e-5, 5e-6 };
    size_t bytes;
    for (int i = 0; i < 2; i++) {
        runs = 0;
        put(cpu_name(), cpu_threads(), "exp", exps[i]);
        ck_assert_int_eq(RUN(attention_main, &attention, NULL, ARGS(SMALL, "--reps", "10")), 0);
        fflush(stdout);
        char *text = folder_read(folder_path("out"), &bytes);
        ck_assert_msg(strstr(text, i ? "220 % of the tightest, exp" : "110 % of the tightest, exp"), "%s", text);
        ck_assert_msg(!strstr(text, "ERROR") == !i, "%s", text);
        free(text);
    }
    remove(getenv("CEILINGS"));
    remove(getenv("RESULTS"));
    put(cpu_name(), cpu_threads(), "fma", 1);
    runs = 0;
    ck_assert_int_eq(RUN(attention_main, &attention, NULL, ARGS(SMALL, "--reps", "10")), 0);
    char pattern[512], percent[32]; /* the probe takes 1 ms */
    snprintf(percent, sizeof percent, "%.4g", 100 * (9600 / fma_cpu(4000000)) / 7);
    char *e = strchr(percent, 'e'); /* below 1e-4, which depends on how wide this build's vectors are */
    strcpy(e ? e - 1 : percent + strlen(percent) - 1, e ? "*e-*" : "*"); /* three digits */
    snprintf(pattern, sizeof pattern, ROW "-\t%s\tfma\t*\t*\tpass", "*", cpu_threads(), percent);
    assert_lines(getenv("RESULTS"), COLUMNS, pattern, NULL);
}
END_TEST

static void spoils_one_problem(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    fused_attention_cpu(O, lse, Q, K, V, p);
    take_time();
    if (p.scale == 2 || p.seq_q == 1024)
        lse[p.batch * p.heads * p.seq_q] = 1;
}

/* A line for each scale and for each length; one that is wrong makes the run fail, and the next starts anew. */
START_TEST(test_attention_sweeps)
{
    struct attention_step step = attention;
    step.cpu = spoils_one_problem;
    ck_assert_int_eq(RUN(attention_main, &step, NULL,
                         ARGS("--heads", "1", "--seq", "5", "--dim", "1", "--reps", "1", "--sweep-scale")), EXIT_FAILED);
    runs = 0;
    ck_assert_int_eq(RUN(attention_main, &step, NULL,
                         ARGS("--batch", "4", "--heads", "1", "--seq", "512", "--dim", "1", "--reps", "10", "--sweep")),
                     EXIT_FAILED);
    assert_lines(folder_path("out"), "08_known: *", "  Q is (1, 1, 5, 1), *", "  cpu: *",
                 "    scale 0.25      worst error * of the row's largest, allowed there * pass",
                 "    scale 0.5       *pass", "    scale 1         *pass",
                 "    scale 2         *memory outside the tensors was written",
                 "    scale 4         *pass", "    scale 8         *pass", "    scale 16        *pass",
                 "    scale 32        *pass",
                 "    scale 64        *pass",
                 "08_known: *", "  Q is (4, 1, 512, 1), *", "  cpu: *",
                 "         512 x 512              7 ms  0.0005992 TFLOP/s  ceiling unknown   error *pass",
                 "        1024 x 1024 *memory outside the tensors was written",
                 "        2048 x 2048 *pass", NULL);
}
END_TEST

/* What other machines did, of the right kind and from the right columns. */
START_TEST(test_recorded)
{
    struct before b = { .step = "07_before", .time = { .median = 1.5 } };
    struct result r = {
        .step = "08_known", .device = "H100", .backend = "cuda", .dtype = BF16, .batch = 2, .heads = 6, .kv_heads = 3,
        .seq_q = 8192, .seq_k = 4096, .dim = 128, .causal = true, .input = "normal", .time = { 7, 3, 10, 9 }, .flops = 21e9,
        .useful_bytes = 1,
    };
    char folder[256];
    snprintf(folder, sizeof folder, "%s", folder_path("."));
    ck_assert(chdir(folder) == 0 && mkdir("plots", 0777) == 0 && mkdir("plots/recorded", 0777) == 0);
    setenv("RESULTS", "plots/recorded/h100.tsv", 1);
    report_tsv(&r);
    r.step = "09_other";
    report_tsv(&r);
    r.step = "08_known", r.seq_q = 1024;
    report_tsv(&r);
    report_recorded("08_known");
    r.step = "07_before", r.time.median = 21;
    report_tsv(&r);
    r.step = "08_known";
    print_before(&r, &b, "nothing");
    setenv("RESULTS", "plots/recorded/xeon.tsv", 1);
    r.threads = 2, r.device = "Xeon", r.backend = "cpu";
    report_tsv(&r);
    r.step = "07_before", r.time.median = 84;
    report_tsv(&r);
    r.step = "08_known";
    print_before(&r, &b, "nothing");
    remove("plots/recorded/h100.tsv");
    remove("plots/recorded/xeon.tsv");
    ck_assert(rmdir("plots/recorded") == 0 && rmdir("plots") == 0);
    assert_lines("out", "  recorded on an H100 (all of it is in plots/recorded/h100.tsv):",
                 "    bf16, 6 heads of 128, 8192 tokens, causal: 7 ms, 3 TFLOP/s",
                 "    step before 1.50x the speed of 07_before, which took turns; predicted nothing; recorded: 3.00x on an H100",
                 "    step before 1.50x the speed of 07_before, which took turns; predicted nothing; recorded: 4.00x on an Xeon",
                 NULL);
}
END_TEST

/* ---- step 00 */

/* Each row of the table is found by all of its key, and by nothing less. */
START_TEST(test_keys_of_ceilings)
{
    struct ceiling c = { .device = "a", .threads = 2, .name = "copy", .dtype = FP32, .value = 1, .unit = "GB/s" }, other = c;
    ceiling_put(&c);
    snprintf(other.device, sizeof other.device, "b"), other.value = 2;
    ceiling_put(&other);
    other = c, other.threads = 0, other.value = 3;
    ceiling_put(&other);
    other = c, other.dtype = BF16, other.value = 4;
    ceiling_put(&other);
    other = c, snprintf(other.name, sizeof other.name, "exp"), other.value = 5;
    ceiling_put(&other);
    ck_assert(ceiling_get("a", 2, "copy", FP32) == 1 && ceiling_get("b", 2, "copy", FP32) == 2 &&
              ceiling_get("a", 0, "copy", FP32) == 3);
    ck_assert(ceiling_get("a", 2, "copy", BF16) == 4 && ceiling_get("a", 2, "exp", FP32) == 5 &&
              ceiling_get("a", 1, "copy", FP32) == 0);
    c.value = 6; /* measured again: in its place */
    ceiling_put(&c);
    assert_lines(getenv("CEILINGS"), "device\tthreads\tname\tdtype\tvalue\tunit", "a\t2\tcopy\tfp32\t6\tGB/s",
                 "b\t2\tcopy\tfp32\t2\tGB/s",
                 "a\t0\tcopy\tfp32\t3\tGB/s", "a\t2\tcopy\tbf16\t4\tGB/s", "a\t2\texp\tfp32\t5\tGB/s", NULL);
}
END_TEST

static void known_copy(void *y, const void *x, size_t bytes)
{
    ck_assert(y != x && bytes == 512 << 20);
    take_time();
}

static void copy_of_2_ms(void *y, const void *x, size_t bytes)
{
    ck_assert(y != x && bytes == 512 << 20);
    seconds += 1e-3;
}

static uint64_t read_in_1_ms(const void *x, size_t bytes)
{
    (void)x;
    ck_assert(bytes == 512 << 20);
    return 0;
}

static double flops_in_4_ms(int64_t rounds)
{
    (void)rounds;
    seconds += 3e-3;
    return 8e9;
}

static double exps_in_8_ms(int64_t rounds)
{
    (void)rounds;
    seconds += 7e-3;
    return 4e6;
}

static bool product_in_16_ms(float *c, const float *a, const float *b, int m, int n, int k)
{
    ck_assert(c != a && a != b && m == 2048 && n == 2048 && k == 2048);
    seconds += 15e-3;
    return true;
}

static const struct ceilings_step ceilings = {
    .name = "00_known", .idea = "ceilings that are known", .copy_cpu = known_copy, .copy_cached_cpu = copy_of_2_ms,
    .read_cpu = read_in_1_ms, .fma_cpu = flops_in_4_ms, .exp_cpu = exps_in_8_ms, .matmul_cpu = product_in_16_ms,
};

/* It takes a run to see whether a probe can run, and one to warm up, before ten are timed. */
START_TEST(test_ceilings)
{
    char cache[64];
    snprintf(cache, sizeof cache, "*\t%d\tL1\tfp32\t%lld\tKiB", cpu_threads(), (long long)cpu_cache_bytes(1) / 1024);
    if (cpu_cache_bytes(1) && cpu_cache_bytes(2) && cpu_cache_bytes(3)) {
        ck_assert_int_eq(RUN(ceilings_main, &ceilings, ARGS("--reps", "10")), 0);
        assert_lines(folder_path("out"), "00_known: ceilings that are known",
                     here("  cpu: %s: %d thread*, L1 * KiB, L2 * KiB, L3 * KiB, * GiB free"),
                     "    copy, read + written           153.4 GB/s     fp32; 7 ms, p10 3, p90 10",
                     "    the same, ordinary stores      536.9 GB/s     fp32; 2 ms, p10 2, p90 2",
                     "    reading alone                  536.9 GB/s     fp32; 1 ms, p10 1, p90 1",
                     "    multiply-adds                      2 TFLOP/s  fp32; 4 ms, p10 4, p90 4",
                     "    exponentials                     0.5 Gexp/s   fp32; 8 ms, p10 8, p90 8",
                     "    matrix product                 1.074 TFLOP/s  fp32; 16 ms, p10 16, p90 16",
                     "    in the time of one byte: 13 FLOPs, 0.00326 exponentials, 7 FLOPs of a matrix product", NULL);
        assert_lines(getenv("CEILINGS"), "device\tthreads\tname\tdtype\tvalue\tunit", cache, "*\tL2\tfp32\t*\tKiB",
                     "*\tL3\tfp32\t*\tKiB", here("%s\t%d\tcopy\tfp32\t153.392\tGB/s"), "*\tcopy_cached\tfp32\t536.871\tGB/s",
                     "*\tread\tfp32\t536.871\tGB/s", "*\tfma\tfp32\t2\tTFLOP/s",
                     "*\texp\tfp32\t0.5\tGexp/s", "*\tmatmul\tfp32\t1.07374\tTFLOP/s", NULL);
    }
    ck_assert(freopen(folder_path("out"), "w", stdout) != NULL);
    ck_assert_int_eq(RUN(ceilings_main, &ceilings, ARGS("--reps", "1", "--json", "--threads", "1")), 0);
    assert_lines(folder_path("out"),
                 "{\"device\": \"*\", \"threads\": 1, \"ceiling\": \"copy\", \"dtype\": \"fp32\", \"value\": 153.392, "
                 "\"unit\": \"GB/s\"}",
                 "{*\"copy_cached\"*}",
                 "{*\"read\"*}", "{*\"fma\"*}", "{*\"exp\"*}", "{*\"matmul\"*}", NULL);
}
END_TEST

Suite *golden_suite(void)
{
    Suite *suite = suite_create("golden");
    TCase *softmax_case = tcase_create("softmax"), *attention_case = tcase_create("attention"),
        *ceilings_case = tcase_create("ceilings");
    TCase *const all[] = { softmax_case, attention_case, ceilings_case };
    for (int i = 0; i < 3; i++) {
        tcase_set_timeout(all[i], 120); /* on a busy machine: caches are flushed, whatever the clock says */
        tcase_add_checked_fixture(all[i], setup, folder_teardown);
        suite_add_tcase(suite, all[i]);
    }
    tcase_add_test(softmax_case, test_softmax);
    tcase_add_test(softmax_case, test_noise);
    tcase_add_test(softmax_case, test_softmax_sweep);
    tcase_add_test(softmax_case, test_json_is_json_alone);
    tcase_add_test(attention_case, test_attention);
    tcase_add_test(attention_case, test_attention_noise);
    tcase_add_test(attention_case, test_attention_json_is_json_alone);
    tcase_add_test(attention_case, test_attention_ceilings);
    tcase_add_test(attention_case, test_attention_sweeps);
    tcase_add_test(attention_case, test_recorded);
    tcase_add_test(ceilings_case, test_keys_of_ceilings);
    tcase_add_test(ceilings_case, test_ceilings);
    return suite;
}
