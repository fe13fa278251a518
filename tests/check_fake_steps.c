/*
 * The programs of common/harness/softmax.c and common/harness/attention.c, run on steps that are made up: right ones whose cost
 * is known, and wrong ones. What they report must follow from what is known; what is wrong must end with status 1.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "folder.h"
#include "steps.h"
#include "suites.h"

static void setup(void)
{
    folder_setup();
    setenv("RESULTS", folder_path("results.tsv"), 1);
    setenv("CEILINGS", folder_path("ceilings.tsv"), 1);
    ck_assert(freopen(folder_path("out"), "w", stdout) != NULL);
    flush_limit = 1 << 20;
    small_limit = 0; /* other suites have them; one test here counts them */
}

static char *said(void)
{
    size_t bytes;
    fflush(stdout);
    return folder_read(folder_path("out"), &bytes);
}

/* What the last row of the table has in the column of this name. */
static const char *cell(const char *name)
{
    static char found[256];
    size_t bytes;
    char *table = folder_read(getenv("RESULTS"), &bytes), *names = table, *row = table;
    for (char *line = table; (line = strchr(line, '\n')) && line[1]; line++)
        row = line + 1;
    ck_assert(row != table);
    for (; strncmp(names, name, strlen(name)) || !strchr("\t\n", names[strlen(name)]); names++, row++) {
        ck_assert_msg(*names && *names != '\n', "no column '%s'", name);
        names += strcspn(names, "\t\n");
        row += strcspn(row, "\t\n");
    }
    snprintf(found, sizeof found, "%.*s", (int)strcspn(row, "\t\n"), row);
    free(table);
    return found;
}

static double number(const char *name)
{
    return atof(cell(name));
}

static bool close_to(double a, double b)
{
    return fabs(a / b - 1) < 1e-6;
}

#define RUN(main, step, before, ...)                                                         \
    main(step, before, (int)(sizeof((char *[]){ "program", __VA_ARGS__ }) / sizeof(char *)), \
         (char *[]){ "program", __VA_ARGS__, NULL })

/* ---- softmax */

static int calls;

static void right(float *y, const float *x, int64_t rows, int64_t cols)
{
    calls++;
    for (int64_t row = 0; row < rows; row++, x += cols, y += cols) {
        double max = x[0], sum = 0;
        for (int64_t col = 0; col < cols; col++) /* not with fmax: gcc 12 on aarch64 crashes on that */
            max = x[col] > max ? x[col] : max;
        for (int64_t col = 0; col < cols; col++)
            sum += exp(x[col] - max);
        for (int64_t col = 0; col < cols; col++)
            y[col] = (float)(exp(x[col] - max) / sum);
    }
}

static void slow(float *y, const float *x, int64_t rows, int64_t cols)
{
    right(y, x, rows, cols);
    for (double start = now(); now() - start < 0.05;)
        ;
}

static void last_row_missing(float *y, const float *x, int64_t rows, int64_t cols) { right(y, x, rows - 1, cols); }

static void one_element_beyond(float *y, const float *x, int64_t rows, int64_t cols)
{
    right(y, x, rows, cols);
    y[rows * cols] = 1;
}

static void input_spoiled(float *y, const float *x, int64_t rows, int64_t cols)
{
    right(y, x, rows, cols);
    ((float *)x)[-1] = 1;
}

static struct softmax_step fake_softmax(softmax_cpu_fn *cpu)
{
    return (struct softmax_step){ .name = "02_fake", .idea = "a fake", .reads = 5, .writes = 2, .exps = 3, .cpu = cpu };
}

START_TEST(test_softmax_row)
{
    struct softmax_step step = fake_softmax(right);
    struct ceiling exp = { .threads = cpu_threads(), .name = "exp", .dtype = FP32, .value = 1e-9, .unit = "Gexp/s" };
    snprintf(exp.device, sizeof exp.device, "%s", cpu_name());
    calls = 0;
    small_limit = 12;
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, "--rows", "30", "--cols", "100", "--reps", "9", "--device", "cpu"), 0);
    ck_assert_int_eq(calls, 1 + 2 * 12 + 1 + 9); /* for the verdict, on small problems, to warm up, to be timed */
    double ms = number("median_ms");
    ck_assert_str_eq(cell("step"), "02_fake");
    ck_assert_str_eq(cell("verdict"), "pass");
    ck_assert(number("rows") == 30 && number("cols") == 100 && number("reps") == 9);
    ck_assert(number("p10_ms") > 0 && number("p10_ms") <= ms && ms <= number("p90_ms"));
    ck_assert(number("useful_bytes") == 2 * 30 * 100 * 4 && number("predicted_bytes") == 7 * 30 * 100 * 4 &&
              number("exps") == 3 * 30 * 100);
    ck_assert(close_to(number("gb_s"), 24000 / ms * 1e-6));
    ck_assert(close_to(number("percent"), 100 * number("gb_s") / number("copy_gb_s")));
    ck_assert_str_eq(cell("ceiling"), "copy");
    char *text = said(), *copy = strstr(text, "a copy "); /* in ms; four digits of it */
    ck_assert_msg(copy && fabs(atof(copy + 7) * number("copy_gb_s") / (24000 * 1e-6) - 1) < 1e-3, "%s", text);
    free(text);
    exp.threads++; /* another number of threads has other ceilings */
    ceiling_put(&exp);
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, "--rows", "30", "--cols", "100", "--reps", "1", "--device", "cpu"), 0);
    ck_assert_str_eq(cell("ceiling"), "copy");
    exp.threads--; /* so slow that it is the tightest */
    ceiling_put(&exp);
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, "--rows", "30", "--cols", "100", "--reps", "1", "--device", "cpu"), 0);
    ck_assert_str_eq(cell("ceiling"), "exp");
    ck_assert(close_to(number("percent"), 100 * (9000 / 1e-9 * 1e-6) / number("median_ms")));
    text = said();
    ck_assert_msg(strstr(text, "ERROR       above the ceiling"), "%s", text);
    free(text);
}
END_TEST

static double tolerance(const struct softmax_step *step, char *dtype)
{
    RUN(softmax_main, step, NULL, "--rows", "3", "--cols", "100", "--reps", "1", "--device", "cpu", "--dtype", dtype);
    return number("tolerance");
}

/* How the step adds up, on this device and in this type, is what its tolerance is made of. */
START_TEST(test_softmax_rounding)
{
    struct softmax_step step = fake_softmax(right);
    step.cpu_fp16 = narrow_softmax_fp16_cpu;
    double fp32 = tolerance(&step, "fp32"), fp16 = tolerance(&step, "fp16");
    step.gpu_sum.unit = step.fp16_unit = 0x1p-9;
    ck_assert(tolerance(&step, "fp32") == fp32);
    ck_assert(tolerance(&step, "fp16") > fp16);
    step.fp16_unit = 0, step.cpu_sum.unit = 0x1p-9;
    ck_assert(tolerance(&step, "fp32") > fp32);
}
END_TEST

/* The step before takes turns; predictions are quotients of what the two claim. */
START_TEST(test_softmax_before)
{
    struct softmax_step step = fake_softmax(right), before = fake_softmax(slow), none = fake_softmax(NULL);
    before.name = "01_slow", before.reads = 12, before.exps = 6;
    none.name = "01_none";
    ck_assert_int_eq(RUN(softmax_main, &step, &before, "--rows", "30", "--cols", "100", "--reps", "3", "--device", "cpu"), 0);
    ck_assert_int_eq(RUN(softmax_main, &step, &none, "--rows", "30", "--cols", "100", "--reps", "3", "--device", "cpu"), 0);
    char *text = said(), *line = strstr(text, "step before ");
    ck_assert(line != NULL);
    ck_assert_msg(atof(line + 12) > 2, "%s", line);
    ck_assert_msg(strstr(line, "x the speed of 01_slow") && strstr(line, "2.00x if memory is the limit, 2.00x if exp is"), "%s",
                  line);
    ck_assert_msg(strstr(line, "step before 01_none, not timed: it is for GPUs alone"), "%s", line);
    free(text);
}
END_TEST

START_TEST(test_wrong_softmax)
{
    static softmax_cpu_fn *const wrong[] = { last_row_missing, one_element_beyond, input_spoiled };
    for (int i = 0; i < 3; i++) {
        struct softmax_step step = fake_softmax(wrong[i]);
        ck_assert_int_eq(RUN(softmax_main, &step, NULL, "--rows", "30", "--cols", "100", "--reps", "1", "--device", "cpu"),
                         EXIT_FAILED);
        ck_assert_str_eq(cell("verdict"), "FAIL");
    }
}
END_TEST

/* Of each shape the first call finds NaN in y, so that what is not written is not taken for a result. */
static void needs_poison(float *y, const float *x, int64_t rows, int64_t cols)
{
    static int64_t cols_before;
    bool poisoned = isnan(y[0]) && isnan(y[rows * cols - 1]);
    right(y, x, rows, cols);
    if (cols != cols_before && !poisoned)
        y[0] = -1;
    cols_before = cols;
}

START_TEST(test_poison)
{
    struct softmax_step step = fake_softmax(needs_poison);
    ck_assert_int_eq(RUN(softmax_main, &step, NULL, "--rows", "4", "--cols", "256", "--sweep", "--reps", "1", "--device", "cpu"),
                     0);
}
END_TEST

static void never_run(float *y, const float *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    (void)y, (void)x, (void)rows, (void)cols, (void)workspace, (void)stream;
    abort();
}

/* The device that was asked for has no version of it: an error. */
START_TEST(test_nothing_to_run)
{
    struct softmax_step step = fake_softmax(NULL);
    step.gpu = never_run;
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    exit(RUN(softmax_main, &step, NULL, "--rows", "3", "--cols", "3", "--device", "cpu"));
}
END_TEST

/* ---- attention */

static void fake_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < p.batch * p.heads * p.seq_q; row++) {
        int64_t head = row / p.seq_q, kv = head / (p.heads / p.kv_heads), keys = attention_visible(p, row % p.seq_q);
        double m = -INFINITY, l = 0, o[256] = { 0 };
        for (int64_t key = 0; key < keys; key++) {
            double s = 0;
            for (int64_t i = 0; i < p.dim; i++)
                s += (double)Q[row * p.dim + i] * (double)K[(kv * p.seq_k + key) * p.dim + i];
            s *= (double)p.scale;
            double keep = exp(s > m ? m - s : 0), e = exp(s > m ? 0 : s - m);
            m = s > m ? s : m;
            l = l * keep + e;
            for (int64_t i = 0; i < p.dim; i++)
                o[i] = o[i] * keep + e * (double)V[(kv * p.seq_k + key) * p.dim + i];
        }
        for (int64_t i = 0; i < p.dim; i++)
            O[row * p.dim + i] = (float)(l == 0 ? 0 : o[i] / l);
        lse[row] = (float)(m + log(l));
    }
}

static void lse_missing(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    (void)lse;
    float *other = malloc((size_t)(p.batch * p.heads * p.seq_q) * sizeof *other);
    fake_attention_cpu(O, other, Q, K, V, p);
    free(other);
}

static int spoiled; /* which of O, lse, Q, K and V */

static void one_number_behind(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    int64_t queries = p.batch * p.heads * p.seq_q, keys = p.batch * p.kv_heads * p.seq_k;
    const float *ends[] = { O + queries * p.dim, lse + queries, Q + queries * p.dim, K + keys * p.dim, V + keys * p.dim };
    fake_attention_cpu(O, lse, Q, K, V, p);
    *(float *)ends[spoiled] = 1;
}

static struct cost fake_cost(struct attention p, enum dtype dtype)
{
    (void)dtype;
    return (struct cost){ 1000 * (double)p.dim, 77 };
}

static struct attention_step fake_attention(attention_cpu_fn *cpu)
{
    return (struct attention_step){ .name = "08_fake", .idea = "a fake", .predict = fake_cost, .cpu = cpu };
}

#define SMALL_ATTENTION \
    "--batch", "2", "--heads", "6", "--kv-heads", "3", "--seq-q", "5", "--seq-k", "7", "--dim", "8", "--causal"

START_TEST(test_attention_row)
{
    struct attention_step step = fake_attention(fake_attention_cpu);
    int status = RUN(attention_main, &step, NULL, SMALL_ATTENTION, "--reps", "9", "--device", "cpu");
    char *text = said();
    ck_assert_msg(status == 0, "%s", text);
    free(text);
    double ms = number("median_ms"), pairs = 2 * 6 * (3 + 4 + 5 + 6 + 7);
    ck_assert(number("batch") == 2 && number("heads") == 6 && number("kv_heads") == 3 && number("seq_q") == 5 &&
              number("seq_k") == 7);
    ck_assert(number("dim") == 8 && number("causal") == 1 && number("exps") == 77 && number("predicted_bytes") == 8000);
    ck_assert(number("flops") == 4 * pairs * 8);
    ck_assert(number("useful_bytes") == 4 * 8 * (2 * 2 * 6 * 5 + 2 * 2 * 3 * 7));
    ck_assert(close_to(number("tflop_s"), number("flops") / ms * 1e-9));
    ck_assert(close_to(number("gb_s"), number("useful_bytes") / ms * 1e-6));
    ck_assert(number("p10_ms") <= ms && ms <= number("p90_ms") && number("reps") == 9);
    ck_assert_str_eq(cell("verdict"), "pass");
    ck_assert_str_eq(cell("ceiling"), "-");
}
END_TEST

/* Above a copy's rate, for nine runs of ten, is an error; above a matrix product's is not, which is no ceiling. */
START_TEST(test_above)
{
    struct result r = { .percent = 120, .ceiling = "copy", .time = { 10, 9, 11, 20 } };
    ck_assert(above_ceiling(&r));
    r.ceiling = "exp";
    ck_assert(above_ceiling(&r));
    r.ceiling = "fma";
    ck_assert(above_ceiling(&r));
    r.ceiling = "matmul";
    ck_assert(!above_ceiling(&r));
    r.ceiling = "copy", r.percent = 105; /* at the 90th percentile it is below */
    ck_assert(!above_ceiling(&r));
    r.ceiling = NULL, r.percent = NAN;
    ck_assert(!above_ceiling(&r));
}
END_TEST

/* A decoding step has a problem of its own, of few queries, and reading takes turns with it; --sweep is over its keys. */
START_TEST(test_decoding)
{
    struct attention_step step = fake_attention(fake_attention_cpu);
    step.usual = (struct attention){ .heads = 4, .kv_heads = 2, .seq_q = 1, .seq_k = 3000, .dim = 16 };
    ck_assert_int_eq(RUN(attention_main, &step, NULL, "--reps", "3", "--device", "cpu"), 0);
    ck_assert(number("batch") == 1 && number("heads") == 4 && number("kv_heads") == 2);
    ck_assert(number("seq_q") == 1 && number("seq_k") == 3000 && number("dim") == 16);
    double bytes = 4 * 16 * (2 * 4 + 2 * 2 * 3000);
    ck_assert(number("useful_bytes") == bytes && close_to(number("gb_s"), bytes / number("median_ms") * 1e-6));
    ck_assert_str_eq(cell("ceiling"), "read");
    ck_assert(number("percent") > 0);
    char *text = said();
    ck_assert_msg(strstr(text, "; reading K and V alone ") && strstr(text, "Q, K, V and O once each; reading "), "%s", text);
    free(text);
    ck_assert_int_eq(RUN(attention_main, &step, NULL, "--reps", "1", "--device", "cpu", "--sweep", "--batch", "3"), 0);
    ck_assert(number("batch") == 1 && number("seq_q") == 1 && number("seq_k") == 8192); /* 9000 tokens in all */
}
END_TEST

START_TEST(test_attention_before)
{
    struct attention_step step = fake_attention(fake_attention_cpu), before = fake_attention(fake_attention_cpu), other = before;
    before.name = "07_before", other.name = "07_other", other.dims[0] = 64;
    ck_assert_int_eq(RUN(attention_main, &step, &before, SMALL_ATTENTION, "--reps", "3", "--device", "cpu"), 0);
    ck_assert_int_eq(RUN(attention_main, &step, &other, SMALL_ATTENTION, "--reps", "3", "--device", "cpu"), 0);
    char *text = said();
    ck_assert_msg(strstr(text, "x the speed of 07_before, which took turns; "
                               "predicted 1.00x if memory is the limit, 1.00x if exp is"), "%s", text);
    ck_assert_msg(strstr(text, "step before 07_other, not timed: it does not take heads of 8"), "%s", text);
    free(text);
}
END_TEST

START_TEST(test_wrong_attention)
{
    for (spoiled = -1; spoiled < 5; spoiled++) {
        struct attention_step step = fake_attention(spoiled < 0 ? lse_missing : one_number_behind);
        ck_assert_int_eq(RUN(attention_main, &step, NULL, SMALL_ATTENTION, "--reps", "1", "--device", "cpu"), EXIT_FAILED);
        ck_assert_str_eq(cell("verdict"), "FAIL");
    }
}
END_TEST

/* A step for GPUs alone, where there is none: said, and no error; but an
   error where something was to be written, or where it was asked for. */
START_TEST(test_attention_skipped)
{
    struct attention_step step = fake_attention(NULL);
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    step.gpu_bf16 = NULL;
    exit(_i == 1   ? RUN(attention_main, &step, NULL, SMALL_ATTENTION, "--dtype", "bf16", "--json")
         : _i == 2 ? RUN(attention_main, &step, NULL, SMALL_ATTENTION, "--dtype", "bf16", "--device", "cpu")
                   : RUN(attention_main, &step, NULL, SMALL_ATTENTION, "--dtype", "bf16"));
}
END_TEST

Suite *fake_steps_suite(void)
{
    Suite *suite = suite_create("fake_steps");
    TCase *softmax = tcase_create("softmax"), *attention = tcase_create("attention"), *nothing = tcase_create("nothing");
    TCase *const all[] = { softmax, attention, nothing };
    for (int i = 0; i < 3; i++)
        tcase_set_timeout(all[i], 60); /* on a busy machine */
    tcase_add_checked_fixture(softmax, setup, folder_teardown);
    tcase_add_checked_fixture(attention, setup, folder_teardown);
    tcase_add_checked_fixture(nothing, setup, NULL);
    tcase_add_test(softmax, test_softmax_row);
    tcase_add_test(softmax, test_softmax_rounding);
    tcase_add_test(softmax, test_softmax_before);
    tcase_add_test(softmax, test_wrong_softmax);
    tcase_add_test(softmax, test_poison);
    tcase_add_test(attention, test_attention_row);
    tcase_add_test(attention, test_above);
    tcase_add_test(attention, test_decoding);
    tcase_add_test(attention, test_attention_before);
    tcase_add_test(attention, test_wrong_attention);
    tcase_add_exit_test(nothing, test_nothing_to_run, EXIT_FAILED);
    tcase_add_loop_exit_test(nothing, test_attention_skipped, 0, 0, 1);
    tcase_add_loop_exit_test(nothing, test_attention_skipped, EXIT_FAILED, 1, 3);
    suite_add_tcase(suite, softmax);
    suite_add_tcase(suite, attention);
    suite_add_tcase(suite, nothing);
    return suite;
}
