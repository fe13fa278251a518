/*
 * common/harness/options.c and the tensors that options choose (input.c): what is given is kept wherever it stands, the rest is
 * completed in one place, and what cannot be meant is refused in one line before anything is computed. tests/check_program.c has
 * the built programs.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "half.h"
#include "folder.h"
#include "suites.h"

#define MAX_ARGS 24

/* Options from words that are separated by blanks. Softmax has --rows, attention has not. */
static struct options parse(bool is_attention, const char *words)
{
    static char buffer[4096];
    char *argv[MAX_ARGS + 2] = { "program" };
    int argc = 1;
    snprintf(buffer, sizeof buffer, "%s", words);
    for (char *word = strtok(buffer, " "); word && argc <= MAX_ARGS; word = strtok(NULL, " "))
        argv[argc++] = strcmp(word, "''") == 0 ? "" : word;
    return options_parse(argc, argv, "idea", is_attention ? ATTENTION_STEP : SOFTMAX_STEP, NULL);
}

/* Parse, and fetch the input as a program would, in a process of its
   own: it ends with this status and one line, which is returned. */
static const char *line_of(bool is_attention, const char *words, int status)
{
    static char line[8192];
    int ends[2], how;
    ck_assert(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        struct options o = parse(is_attention, words);
        if (is_attention)
            input_qkv(&o);
        else
            input_tensor(&o);
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof line - 1 && (got = read(ends[0], line + n, sizeof line - 1 - n)) > 0;)
        n += (size_t)got;
    line[n] = '\0';
    close(ends[0]);
    ck_assert(waitpid(child, &how, 0) == child);
    ck_assert_msg(WIFEXITED(how) && WEXITSTATUS(how) == status, "%s: status %x, not %d: %s", words, how, status, line);
    ck_assert_msg(status == 0 ? n == 0 : n > 0 && strchr(line, '\n') == line + n - 1, "%s: not one line: %s", words, line);
    return line;
}

static void assert_refused(bool is_attention, const char *words, const char *a, const char *b)
{
    const char *line = line_of(is_attention, words, EXIT_USAGE);
    ck_assert_msg(strstr(line, a) && strstr(line, b), "%s: no '%s' and '%s' in: %s", words, a, b, line);
}

static const char *words_of(const char *format, const char *path, const char *other)
{
    static char words[2048];
    snprintf(words, sizeof words, format, path, other);
    return words;
}

/* ---- sizes */

static void assert_attention(const char *words, struct attention want)
{
    struct attention p = parse(true, words).attention;
    ck_assert_msg(p.batch == want.batch && p.heads == want.heads && p.kv_heads == want.kv_heads && p.seq_q == want.seq_q &&
                      p.seq_k == want.seq_k && p.dim == want.dim && p.causal == want.causal && p.scale == want.scale,
                  "%s: (%d, %d, %d, %d, %d, %d), causal %d, scale %g", words, (int)p.batch, (int)p.heads, (int)p.kv_heads,
                  (int)p.seq_q, (int)p.seq_k, (int)p.dim, p.causal, (double)p.scale);
}

/* A named shape is for what is not given, wherever the two stand. */
START_TEST(test_attention_sizes)
{
    const float d64 = 1 / sqrtf(64), d128 = 1 / sqrtf(128), d32 = 1 / sqrtf(32);
    assert_attention("", (struct attention){ 1, 16, 16, 2048, 2048, 64, false, d64 });
    assert_attention("--causal --shape bert", (struct attention){ 8, 12, 12, 512, 512, 64, true, d64 });
    assert_attention("--shape bert --causal", (struct attention){ 8, 12, 12, 512, 512, 64, true, d64 });
    assert_attention("--shape gpt2", (struct attention){ 1, 12, 12, 1024, 1024, 64, true, d64 });
    assert_attention("--seq-q 1 --shape llama3-8b", (struct attention){ 1, 32, 8, 1, 8192, 128, true, d128 });
    assert_attention("--shape llama3-8b --seq-q 1", (struct attention){ 1, 32, 8, 1, 8192, 128, true, d128 });
    assert_attention("--seq 50 --dim 32 --shape gpt2 --batch 3", (struct attention){ 3, 12, 12, 50, 50, 32, true, d32 });
    assert_attention("--scale -2 --shape bert --shape gpt2", (struct attention){ 1, 12, 12, 1024, 1024, 64, true, -2 });
    assert_attention("--kv-heads 4", (struct attention){ 1, 4, 4, 2048, 2048, 64, false, d64 });
    assert_attention("--seq-k 9 --heads 6", (struct attention){ 1, 6, 6, 9, 9, 64, false, d64 });
    assert_attention("--seq-q 7", (struct attention){ 1, 16, 16, 7, 7, 64, false, d64 });
    assert_refused(true, "--heads 4 --shape llama3-8b", "--kv-heads 8", "--heads, 4");
}
END_TEST

/* Of a step that has a problem of its own: few queries, of which --seq-k makes no more. */
START_TEST(test_usual_sizes)
{
    static const struct attention usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 9000, .dim = 128 };
    static const struct { char *words[5]; struct attention want; } all[] = {
        { { "p" }, { 1, 32, 8, 1, 9000, 128, false, 0 } },
        { { "p", "--seq-k", "50" }, { 1, 32, 8, 1, 50, 128, false, 0 } },
        { { "p", "--seq-q", "4" }, { 1, 32, 8, 4, 9000, 128, false, 0 } },
        { { "p", "--seq", "70" }, { 1, 32, 8, 70, 70, 128, false, 0 } },
        { { "p", "--heads", "12" }, { 1, 12, 12, 1, 9000, 128, false, 0 } }, /* no multiple of 8 */
        { { "p", "--shape", "gpt2" }, { 1, 12, 12, 1024, 1024, 64, true, 0 } },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        int count = all[i].words[1] ? 3 : 1;
        struct attention p = options_parse(count, (char **)all[i].words, "", ATTENTION_STEP, &usual).attention, w = all[i].want;
        ck_assert_msg(p.batch == w.batch && p.heads == w.heads && p.kv_heads == w.kv_heads && p.seq_q == w.seq_q &&
                      p.seq_k == w.seq_k && p.dim == w.dim && p.causal == w.causal, "of '%s'", count > 1 ? all[i].words[1] : "");
    }
}
END_TEST

/* Ki, Mi and Gi; and what does not fit 64 bits, or is no device. */
START_TEST(test_suffixes)
{
    ck_assert_int_eq(parse(false, "--rows 7Ki --cols 1").rows, 7 * 1024);
    ck_assert_int_eq(parse(false, "--rows 3Mi --cols 1").rows, 3 << 20);
    ck_assert_int_eq(parse(false, "--rows 5Gi --cols 1").rows, (int64_t)5 << 30);
    ck_assert_int_eq(parse(true, "--seq 2Ki").attention.seq_q, 2048);
    assert_refused(false, "--rows 9223372036854775808", "--rows", "a whole number");
    assert_refused(false, "--rows 9007199254740993Ki", "--rows", "a whole number"); /* modulo 2^64 it would be 1024 */
    assert_refused(false, "--rows 18014398509481985Ki", "--rows", "a whole number");
    assert_refused(true, "--seq 4194304Ki", "--seq", "a whole number"); /* of 32 bits it would be 0 */
    assert_refused(false, "--device tpu", "'tpu'", "cpu, gpu and all");
}
END_TEST

START_TEST(test_softmax_sizes)
{
    static const struct { const char *words; int64_t rows, cols; } all[] = {
        { "", DEFAULT_ROWS, DEFAULT_COLS }, { "--cols 100 --shape gpt2-scores", 12 * 1024, 100 },
        { "--shape gpt2-scores --rows 3", 3, 1024 }, { "--rows 3 --shape gpt2-scores", 3, 1024 },
        { "--cols 1Mi", (int64_t)DEFAULT_ROWS * DEFAULT_COLS >> 20, 1 << 20 }, { "--cols 1Gi", 1, 1 << 30 },
        { "--rows 5", 5, DEFAULT_COLS }, { "--shape one-row --shape gpt2-logits", 1024, 50257 },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct options o = parse(false, all[i].words);
        ck_assert_msg(o.rows == all[i].rows && o.cols == all[i].cols, "%s: %d x %d", all[i].words, (int)o.rows, (int)o.cols);
    }
    assert_refused(false, "--rows 1 --cols 127 --sweep", "--sweep", "127");
    assert_refused(true, "--batch 2 --seq 255 --sweep", "--sweep", "510 tokens");
    assert_refused(false, "--input real --shape gpt2-logits", "--cols 50257", "real");
}
END_TEST

/* The numbers that the help names are those that a run has. */
START_TEST(test_help_names_the_defaults)
{
    for (int is_attention = 0; is_attention < 2; is_attention++) {
        int ends[2];
        ck_assert(pipe(ends) == 0);
        if (fork() == 0) {
            dup2(ends[1], STDOUT_FILENO);
            parse(is_attention, "--help");
        }
        close(ends[1]);
        char help[8192] = "", want[2][64];
        for (size_t n = 0; n < sizeof help - 1;) {
            ssize_t got = read(ends[0], help + n, sizeof help - 1 - n);
            if (got <= 0)
                break;
            n += (size_t)got;
        }
        close(ends[0]);
        struct options o = parse(is_attention, "");
        snprintf(want[0], 64, is_attention ? "(default 1, %d, heads, %d)" : "(default %d x %d)",
                 (int)(is_attention ? o.attention.heads : o.rows), (int)(is_attention ? o.attention.dim : o.cols));
        snprintf(want[1], 64, "(default %d)", is_attention ? (int)o.attention.seq_q : 2);
        ck_assert_msg(strstr(help, want[0]) && strstr(help, want[1]), "no '%s' and '%s' in:\n%s", want[0], want[1], help);
    }
}
END_TEST

/* ---- values */

START_TEST(test_scale)
{
    static const struct { const char *text; float value;
    } good[] = {
        { "0", 0 },        { "-0", 0 },         { "-1", -1 },          { "-0.125", -0.125f },
        { "1e30", 1e30f }, { "1e-40", 1e-40f }, { "3.4e38", 3.4e38f },
    };
    static const char *const bad[] = { "nan", "-nan", "inf", "-infinity", "1e39", "-1e39", "1e-50", "1x", "''", "0,5" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct options o = parse(true, words_of("--scale %s", good[i].text, ""));
        ck_assert_msg(o.attention.scale == good[i].value && o.scale_given, "%s", good[i].text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_refused(true, words_of("--scale %s", bad[i], ""), "--scale", "finite");
}
END_TEST

/* A row of numbers, in attention each with a value; as many as fit, and nothing besides. */
START_TEST(test_trace)
{
    const char *longest = "--trace 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,-1.5e3";
    struct options o = parse(false, longest);
    ck_assert(o.traced == MAX_TRACED && o.trace[0] == 0 && o.trace[14] == 14 && o.trace[15] == -1500);
    o = parse(true, "--trace -inf:2,3:-4");
    ck_assert(o.traced == 2 && o.trace[0] == -INFINITY && o.values[0] == 2 && o.trace[1] == 3 && o.values[1] == -4);
    ck_assert_int_eq(parse(false, "--rows 3").traced, 0);
    static const char *const bad[2][8] = { { "''", "x", "1,", ",1", "1,,2", "1:2", "1e39", "1-2" },
                                           { "''", "1", "1:", ":1", "1:2,", "1:2,3", "1:2:3", "1:1e39" } };
    for (int is_attention = 0; is_attention < 2; is_attention++)
        for (int i = 0; i < 8; i++)
            assert_refused(is_attention, words_of("--trace %s", bad[is_attention][i], ""), "--trace", "up to 16 numbers");
    assert_refused(false, words_of("%s,", longest, ""), "--trace", "up to 16 numbers");
    assert_refused(false, words_of("%s,17", longest, ""), "--trace", "up to 16 numbers");
    assert_refused(false, "--trace 1 --rows 3", "--trace", "no other option");
    assert_refused(true, "--causal --trace 1:2", "--trace", "no other option");
}
END_TEST

/* What was typed wrongly is named with what is right; long values are cut; a terminal sees no control character. */
START_TEST(test_values_in_messages)
{
    char words[512] = "--cols ";
    memset(words + 7, '7', 400);
    words[407] = '\0';
    const char *line = line_of(false, words, EXIT_USAGE);
    ck_assert_msg(strlen(line) < 250 && strstr(line, "777..."), "%s", line);
    assert_refused(false, "--cols 8K", "'8K'", "8Ki is 8 * 1024");
    assert_refused(false, "--cols \x1b[31m1\n2", "'\\x1b[31m1\\n2'", "--cols");
    assert_refused(false, "--budget \v2", "--budget", "seconds");
    assert_refused(false, "--shape a\rb", "'a\\x0db'", "gpt2-scores");
    line = line_of(false, "--x /nowhere/\x1b]0;title\x07", EXIT_FAILED);
    ck_assert_msg(strstr(line, "/nowhere/\\x1b]0;title\\x07"), "%s", line);
}
END_TEST

/* One device writes --out, or nobody would know which: where there is a GPU, one of the two must be chosen. */
START_TEST(test_both_devices_write_nothing)
{
    static const char *const words[] = { "--out %s", "--lse %s", "--device all --out %s", "--device cpu --out %s", "" };
    for (int i = 0; i < 5; i++) {
        struct options o = parse(true, words_of(words[i], folder_path("y.npy"), ""));
        int how;
        pid_t child = fork();
        if (child == 0) {
            ck_assert(freopen("/dev/null", "w", stderr) != NULL);
            options_check(&o, 1);
            _exit(0);
        }
        ck_assert(waitpid(child, &how, 0) == child && WIFEXITED(how));
        ck_assert_msg(WEXITSTATUS(how) == (i < 3 ? EXIT_USAGE : 0), "%s: status %d", words[i], WEXITSTATUS(how));
        options_check(&o, 0);
    }
}
END_TEST

/* ---- files */

static void write_numbers(const char *name, enum dtype dtype, const void *numbers, int dims, const int64_t *shape)
{
    char why[512];
    ck_assert_msg(npy_write(folder_path(name), numbers, dtype, dims, shape, why, sizeof why) == 0, "%s", why);
}

/* What would overwrite an input or the other output is refused, by whatever name it goes. */
START_TEST(test_outputs_that_overwrite)
{
    float x[64] = { 0 };
    int64_t shape[] = { 1, 2, 4, 8 };
    setenv("RESULTS", folder_path("results.tsv"), 1);
    setenv("CEILINGS", folder_path("ceilings.tsv"), 1);
    char words[2048], one[512];
    write_numbers("x.npy", FP32, x, 4, shape);
    write_numbers("k.npy", FP32, x, 4, shape);
    ck_assert(mkdir(folder_path("folder"), 0700) == 0 && symlink("x.npy", folder_path("link.npy")) == 0);
    ck_assert(link(folder_path("x.npy"), folder_path("hard.npy")) == 0 && symlink("y.npy", folder_path("new.npy")) == 0);
    static const char *const names[] = { "x.npy", "folder/../x.npy", "link.npy", "hard.npy" };
    for (int i = 0; i < 4; i++) {
        snprintf(one, sizeof one, "%s", folder_path(names[i]));
        assert_refused(false, words_of("--x %s --out %s", folder_path("x.npy"), one), "--out", "--x");
        for (int j = 0; j < 3; j++) {
            static const char *const inputs[] = { "q", "k", "v" };
            snprintf(words, sizeof words, "--q %s --k %s --v %s --%s %s", folder_path(j == 0 ? "x.npy" : "k.npy"),
                     folder_path(j == 1 ? "x.npy" : "k.npy"), folder_path(j == 2 ? "x.npy" : "k.npy"), i % 2 ? "lse" : "out",
                     one);
            assert_refused(true, words, i % 2 ? "--lse" : "--out", words_of("--%s '%s", inputs[j], ""));
        }
    }
    assert_refused(true, words_of("--out %s --lse %s", folder_path("y.npy"), folder_path("new.npy")), "--lse", "--out");
    assert_refused(false, words_of("--rows 1 --cols 1 --out %s", folder_path("results.tsv"), ""), "--out",
                   "the table of results");
    assert_refused(true, words_of("--seq 1 --lse %s", folder_path("./ceilings.tsv"), ""), "--lse", "the table of ceilings");
    assert_refused(true, words_of("--input real --out %s", "tests/data/../data/q.npy", ""), "--out", "tests/data/q.npy");
    static const char *const more[][2] = {
        { "--seqlens %s --out %s", "--seqlens" }, { "--table %s --lse %s", "--table" },
        { "--heads 2 --seq 4 --dim 8 --do %s --dk %s", "--do" },
    };
    for (int i = 0; i < 3; i++)
        assert_refused(true, words_of(more[i][0], folder_path("x.npy"), folder_path("link.npy")), "is the file of", more[i][1]);
    write_numbers("lse.npy", FP32, x, 3, shape);
    char given[1024];
    snprintf(given, sizeof given, "--heads 2 --seq 4 --dim 8 --o %s --lse %s", folder_path("x.npy"), folder_path("lse.npy"));
    assert_refused(true, words_of("%s --dq %s", given, folder_path("link.npy")), "--dq", "is the file of --o");
    assert_refused(true, words_of("%s --dk %s", given, folder_path("lse.npy")), "--dk", "is the file of --lse");
    snprintf(given, sizeof given, "--heads 2 --seq 4 --dim 8 --dlse %s", folder_path("lse.npy"));
    assert_refused(true, words_of("%s --dv %s", given, folder_path("lse.npy")), "--dv", "is the file of --dlse");
    ck_assert(access(folder_path("y.npy"), F_OK) != 0);
    parse(true, words_of("--out %s --lse %s", "/dev/null", "/dev/null"));
    parse(false, words_of("--x %s --out %s", folder_path("x.npy"), folder_path("y.npy")));
    ck_assert(access(folder_path("y.npy"), F_OK) != 0); /* that it can be written was tried, and left no trace */
}
END_TEST

/* What cannot be written is said before anything is computed. */
START_TEST(test_outputs_that_cannot_be)
{
    const char *line = line_of(false, words_of("--rows 3 --cols 5 --out %s", folder_path("missing/y.npy"), ""), EXIT_FAILED);
    ck_assert(strstr(line, "missing/y.npy") && strstr(line, strerror(ENOENT)));
    line = line_of(true, words_of("--seq 3 --lse %s", folder_path("."), ""), EXIT_FAILED);
    ck_assert(strstr(line, strerror(EISDIR)));
}
END_TEST

/* The sizes come from the headers, and the numbers from the files, each rounded once. */
START_TEST(test_files)
{
    const double x[] = { 1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11, -1 - 0x1p-8 - 0x1p-40, 65519.999, 1e-8, INFINITY };
    int64_t shape[] = { 2, 1, 3 };
    write_numbers("x.npy", FP64, x, 3, shape);
    static const enum dtype dtypes[] = { FP32, FP16, BF16 };
    for (int d = 0; d < 3; d++) {
        struct options o = parse(false, words_of("--x %s --dtype %s", folder_path("x.npy"), dtype_name(dtypes[d])));
        ck_assert(o.rows == 2 && o.cols == 3 && o.dims == 3 && strcmp(o.input, "file") == 0);
        struct buffer b = input_tensor(&o);
        for (int i = 0; i < 6; i++) {
            double narrow = d == 1 ? fp16_to_float(double_to_fp16(x[i])) : bf16_to_float(double_to_bf16(x[i]));
            double want = d == 0 ? (double)(float)x[i] : narrow;
            ck_assert_msg(element(b.data, o.dtype, i) == want, "%a is %a as %s, not %a", x[i], element(b.data, o.dtype, i),
                          dtype_name(o.dtype), want);
        }
        ck_assert(d != 1 || (element(b.data, FP16, 0) == 1 + 0x1p-10 && element(b.data, FP16, 1) == 1));
        buffer_free(&b);
    }
}
END_TEST

/* Finite numbers that the type does not hold are counted and the first is named; those that were infinite already are fine. */
START_TEST(test_numbers_that_do_not_fit)
{
    float narrow[12] = { 65519, -65504, INFINITY, -INFINITY, NAN, 0, 65520, 1, 2, -70000, 3, 4 };
    double wide[12] = { 3.38e38, -3.38e38, INFINITY, 1, 2, 3, 4, 5, 6, 7, 8, -1e39 };
    int64_t matrix[] = { 3, 4 }, four[] = { 1, 2, 3, 2 }, flat[] = { 12 };
    write_numbers("narrow.npy", FP32, narrow, 2, matrix);
    write_numbers("wide.npy", FP64, wide, 1, flat);
    const char *line = line_of(false, words_of("--x %s --dtype fp16", folder_path("narrow.npy"), ""), EXIT_USAGE);
    ck_assert_msg(strstr(line, "2 of its 12 numbers are") && strstr(line, "65520 at [1, 2]") && strstr(line, "fp16"), "%s", line);
    line_of(false, words_of("--x %s --dtype bf16", folder_path("narrow.npy"), ""), 0);
    line_of(false, words_of("--x %s", folder_path("narrow.npy"), ""), 0);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        line = line_of(false, words_of(bf16 ? "--x %s --dtype bf16" : "--x %s", folder_path("wide.npy"), ""), EXIT_USAGE);
        ck_assert_msg(strstr(line, "1 of its 12 numbers is") && strstr(line, "-1e+39 at [11]"), "%s", line);
    }
    write_numbers("q.npy", FP32, narrow, 4, four);
    write_numbers("k.npy", FP64, wide, 4, four);
    char words[2048];
    snprintf(words, sizeof words, "--q %s --k %s --v %s --dtype fp16", folder_path("q.npy"), folder_path("q.npy"),
             folder_path("q.npy"));
    assert_refused(true, words, "--q", "65520 at [0, 1, 0, 0]");
    snprintf(words, sizeof words, "--q %s --k %s --v %s", folder_path("q.npy"), folder_path("q.npy"), folder_path("k.npy"));
    assert_refused(true, words, "--v", "-1e+39 at [0, 1, 2, 1]");
}
END_TEST

/* Inputs that are steered by the scale: any sign, and not beyond what the type holds. */
START_TEST(test_families_and_scale)
{
    static const char *const families[] = { "rising", "falling", "adversarial" };
    for (int f = 0; f < 3; f++) {
        assert_refused(true, words_of("--seq 3 --input %s --scale 1e-5 --dtype fp16", families[f], ""), "--scale 1e-05",
                       families[f]);
        assert_refused(true, words_of("--seq 3 --input %s --scale -1e-5 --dtype fp16", families[f], ""), "--scale -1e-05",
                       "fp16");
        assert_refused(true, words_of("--seq 3 --input %s --scale 1e-38", families[f], ""), "--scale 1e-38", "fp32");
    }
    line_of(true, "--seq 3 --input rising --scale 1e-5 --dtype bf16", 0);
    line_of(true, "--seq 3 --input normal --scale 1e-40 --dtype fp16", 0);
    static const float scales[] = { 0.125f, -0.125f, 2, -1e6f, 0 };
    for (int i = 0; i < 5; i++) {
        char words[128];
        snprintf(words, sizeof words, "--seq 5 --heads 1 --input rising --scale %g", (double)scales[i]);
        struct options o = parse(true, words);
        struct qkv t = input_qkv(&o);
        double first = 0, last = 0;
        for (int64_t c = 0; c < 64; c++) {
            double q = ((float *)t.q.data)[c] * (double)scales[i];
            ck_assert(isfinite(q));
            first += q * (double)((float *)t.k.data)[c];
            last += q * (double)((float *)t.k.data)[4 * 64 + c];
        }
        ck_assert_msg(scales[i] == 0 ? first == 0 && last == 0 : last - first > 600, "scale %g: from %g to %g", (double)scales[i],
                      first, last);
        buffer_free(&t.q);
        buffer_free(&t.k);
        buffer_free(&t.v);
    }
}
END_TEST

/* Step 00 has no tensors: what it would not heed it does not take. */
START_TEST(test_options_of_step_00)
{
    static const char *const tensors[] = { "--rows=3", "--seq=3", "--out=y.npy", "--input=normal",
                                           "--sweep",  "--noise", "--dtype=fp16" };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            ck_assert(freopen("/dev/null", "w", stderr) != NULL);
            options_parse(2, (char *[]){ "program", (char *)tensors[i], NULL }, "", CEILINGS_STEP, NULL);
            _exit(0);
        }
        ck_assert(waitpid(child, &status, 0) == child && WIFEXITED(status));
        ck_assert_msg(WEXITSTATUS(status) == EXIT_USAGE, "%s is taken", tensors[i]);
    }
    struct options o = options_parse(3, (char *[]){ "program", "--json", "--threads=1", NULL }, "", CEILINGS_STEP, NULL);
    ck_assert(o.json && o.threads == 1 && o.cpu && o.gpu);
}
END_TEST

/* What is asked for does not depend on the machine: no test sees its GPU. */
static void setup(void)
{
    folder_setup();
    ck_assert(setenv("CUDA_VISIBLE_DEVICES", "", 1) == 0);
}

Suite *options_suite(void)
{
    Suite *suite = suite_create("options");
    TCase *sizes = tcase_create("sizes"), *values = tcase_create("values"), *files = tcase_create("files");
    TCase *const all[] = { sizes, values, files };
    for (int i = 0; i < 3; i++) {
        tcase_add_checked_fixture(all[i], setup, folder_teardown);
        tcase_set_timeout(all[i], 30);
        suite_add_tcase(suite, all[i]);
    }
    tcase_add_test(sizes, test_attention_sizes);
    tcase_add_test(sizes, test_usual_sizes);
    tcase_add_test(sizes, test_softmax_sizes);
    tcase_add_test(sizes, test_suffixes);
    tcase_add_test(sizes, test_help_names_the_defaults);
    tcase_add_test(values, test_scale);
    tcase_add_test(values, test_trace);
    tcase_add_test(values, test_values_in_messages);
    tcase_add_test(values, test_both_devices_write_nothing);
    tcase_add_test(values, test_options_of_step_00);
    tcase_add_test(files, test_outputs_that_overwrite);
    tcase_add_test(files, test_outputs_that_cannot_be);
    tcase_add_test(files, test_files);
    tcase_add_test(files, test_numbers_that_do_not_fit);
    tcase_add_test(files, test_families_and_scale);
    return suite;
}
