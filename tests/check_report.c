/* common/harness/report.c: the table that plots and lessons are made of, and JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "folder.h"
#include "suites.h"

static void setup(void)
{
    folder_setup();
    setenv("RESULTS", folder_path("results.tsv"), 1);
}

static struct result result_of(const char *step, double ms)
{
    return (struct result){
        .step = step,
        .device = "A CPU \"with\" quotes",
        .backend = "cpu",
        .dtype = FP16,
        .rows = 16384,
        .cols = 1048577,
        .seed = 1234567890123456,
        .input = "normal",
        .threads = 2,
        .time = { ms, ms / 2, ms * 2, 7 },
        .useful_bytes = 8e9,
        .predicted_bytes = 12e9,
        .exps = 3e9,
        .copy_gbs = 40,
        .percent = 50,
        .ceiling = "copy",
        .verdict = { .pass = true, .error = 1e-7, .tolerance = 1e-6, .checked = 3, .first_wrong = -1 },
    };
}

/* The index-th line of the table, split at tabs in place; returns the number of columns, -1 when there is no such line. */
static int line_of(int index, char **words)
{
    static char *table;
    size_t bytes;
    free(table);
    table = folder_read(getenv("RESULTS"), &bytes);
    char *line = table;
    for (; index > 0 && line; index--) {
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    if (!line || !*line)
        return -1;
    ck_assert_msg(strchr(line, '\n'), "the last line does not end");
    line[strcspn(line, "\n")] = 0;
    int count = 0;
    for (char *tab = line - 1; tab; tab = strchr(tab + 1, '\t'))
        words[count++] = tab + 1;
    for (int i = 1; i < count; i++)
        words[i][-1] = 0;
    return count;
}

/* What line `index` has in the column of this name. */
static const char *cell(int index, const char *name)
{
    char *words[64];
    static char found[256];
    int columns = line_of(0, words), column = 0;
    while (column < columns && strcmp(words[column], name) != 0)
        column++;
    ck_assert_msg(column < columns, "no column '%s'", name);
    ck_assert_int_eq(line_of(index, words), columns);
    snprintf(found, sizeof found, "%s", words[column]);
    return found;
}

START_TEST(test_names_once_then_rows)
{
    char *words[64];
    struct result r = result_of("03_online_softmax", 100);
    for (int i = 0; i < 3; i++)
        report_tsv(&r);
    ck_assert_str_eq(cell(1, "step"), "03_online_softmax");
    ck_assert_str_eq(cell(3, "step"), "03_online_softmax");
    ck_assert_int_eq(line_of(4, words), -1);
}
END_TEST

START_TEST(test_every_column)
{
    static const struct {
        const char *name, *value;
    } words[] = {
        { "device", "A CPU \"with\" quotes" },
        { "backend", "cpu" },
        { "dtype", "fp16" },
        { "rows", "16384" },
        { "cols", "1048577" },
        { "batch", "-" },
        { "causal", "-" },
        { "seed", "1234567890123456" },
        { "input", "normal" },
        { "threads", "2" },
        { "reps", "7" },
        { "ceiling", "copy" },
        { "verdict", "pass" },
    };
    static const struct {
        const char *name;
        double value;
    } numbers[] = {
        { "median_ms", 100 },        { "p10_ms", 50 },  { "p90_ms", 200 },     { "useful_bytes", 8e9 },
        { "predicted_bytes", 12e9 }, { "exps", 3e9 },   { "gb_s", 80 },        { "copy_gb_s", 40 },
        { "percent", 50 },           { "error", 1e-7 }, { "tolerance", 1e-6 },
    };
    struct result r = result_of("03_online_softmax", 100);
    report_tsv(&r);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        ck_assert_msg(strcmp(cell(1, words[i].name), words[i].value) == 0, "%s is %s, not %s", words[i].name,
                      cell(1, words[i].name), words[i].value);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        ck_assert_msg(fabs(atof(cell(1, numbers[i].name)) / numbers[i].value - 1) < 1e-8, "%s is %s", numbers[i].name,
                      cell(1, numbers[i].name));
}
END_TEST

START_TEST(test_a_failure_is_recorded)
{
    struct result r = result_of("01_naive_softmax", 100);
    r.verdict.pass = false;
    r.verdict.error = NAN;
    report_tsv(&r);
    ck_assert_str_eq(cell(1, "verdict"), "FAIL");
    ck_assert_str_eq(cell(1, "error"), "-");
}
END_TEST

START_TEST(test_a_folder_is_made)
{
    setenv("RESULTS", folder_path("folder/results.tsv"), 1);
    struct result r = result_of("01_naive_softmax", 100);
    report_tsv(&r);
    ck_assert_str_eq(cell(1, "step"), "01_naive_softmax");
    remove(folder_path("folder/results.tsv"));
}
END_TEST

START_TEST(test_unwritable_table_ends_with_status_1)
{
    setenv("RESULTS", "/dev/null/results.tsv", 1);
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    struct result r = result_of("01_naive_softmax", 100);
    report_tsv(&r);
}
END_TEST

/* ---- a table that several write to, or that was cut off */

START_TEST(test_half_a_row_is_cut_off)
{
    char *words[64];
    struct result r = result_of("03_online_softmax", 100);
    size_t bytes;
    report_tsv(&r);
    char *whole = folder_read(getenv("RESULTS"), &bytes);
    folder_write(getenv("RESULTS"), whole, bytes - 40); /* the disk was full */
    report_tsv(&r);
    ck_assert_str_eq(cell(1, "verdict"), "pass");
    ck_assert_int_eq(line_of(2, words), -1);
    folder_write(getenv("RESULTS"), whole, 20); /* not even all names */
    report_tsv(&r);
    ck_assert_str_eq(cell(1, "verdict"), "pass");
    ck_assert_int_eq(line_of(2, words), -1);
    free(whole);
}
END_TEST

/* Eight at once, into a table that is not there yet: one line of names, and all rows whole. */
START_TEST(test_many_writers)
{
    enum { WRITERS = 8, ROWS = 25 };
    char *words[64], none;
    int start[2]; /* a pipe that ends when all are there: whoever reads it begins with the others, on a busy machine, too */
    ck_assert(pipe(start) == 0);
    for (int i = 0; i < WRITERS; i++)
        if (fork() == 0) {
            struct result r = result_of("03_online_softmax", 100 + i);
            close(start[1]);
            ck_assert(read(start[0], &none, 1) == 0);
            for (int row = 0; row < ROWS; row++)
                report_tsv(&r);
            _exit(0);
        }
    close(start[0]), close(start[1]);
    for (int i = 0, status; i < WRITERS; i++)
        ck_assert(wait(&status) > 0 && status == 0);
    int columns = line_of(0, words);
    ck_assert_str_eq(words[0], "step");
    for (int i = 1; i <= WRITERS * ROWS; i++) {
        ck_assert_int_eq(line_of(i, words), columns);
        ck_assert_str_eq(words[0], "03_online_softmax");
    }
    ck_assert_int_eq(line_of(WRITERS * ROWS + 1, words), -1);
}
END_TEST

/* A name with a tab or a newline in it is one cell, and the row one row. */
START_TEST(test_names_stay_in_their_cells)
{
    char *words[64];
    struct result r = result_of("03_online_softmax", 100);
    r.device = "a\tb\nc\x1b";
    report_tsv(&r);
    ck_assert_str_eq(cell(1, "device"), "a b c ");
    ck_assert_int_eq(line_of(2, words), -1);
}
END_TEST

START_TEST(test_no_table_there)
{
    static const char *const paths[] = { "/dev/full", "pipe", "." };
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    mkfifo(folder_path("pipe"), 0600); /* nobody reads it: writing would wait for ever */
    setenv("RESULTS", strchr(paths[_i], '/') ? paths[_i] : folder_path(paths[_i]), 1);
    struct result r = result_of("03_online_softmax", 100);
    report_tsv(&r);
}
END_TEST

/* ---- what was recorded of the step before */

START_TEST(test_recorded_ratio)
{
    struct result before = result_of("02_safe_softmax", 100), r = result_of("03_online_softmax", 50),
                  other = result_of("02_safe_softmax", 1);
    const char *path = getenv("RESULTS");
    char device[128] = "";
    ck_assert(report_recorded_ratio(path, &r, "02_safe_softmax", device, sizeof device) == 0); /* no table */
    report_tsv(&r);
    ck_assert(report_recorded_ratio(path, &r, "02_safe_softmax", device, sizeof device) == 0);
    before.time.p10 = 20, before.time.p90 = 500; /* the median counts */
    report_tsv(&before);
    other.cols = 8;
    report_tsv(&other);
    other.cols = r.cols, other.dtype = FP32;
    report_tsv(&other);
    other.dtype = r.dtype, other.input = "real";
    report_tsv(&other);
    other.input = r.input, other.step = "01_naive_softmax";
    report_tsv(&other);
    struct result here = r; /* another machine of the kind, and other numbers from the same family */
    here.device = "this one", here.threads = 7, here.seed = 1;
    ck_assert(report_recorded_ratio(path, &here, "02_safe_softmax", device, sizeof device) == 2);
    ck_assert_str_eq(device, r.device);
}
END_TEST

/* Columns are found by their names: one more, in front of the others, does no harm. */
START_TEST(test_a_record_with_another_column)
{
    struct result before = result_of("02_safe_softmax", 100), r = result_of("03_online_softmax", 50);
    char device[128];
    size_t bytes;
    report_tsv(&before);
    report_tsv(&r);
    char *text = folder_read(getenv("RESULTS"), &bytes), *more = malloc(2 * bytes), *to = more;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        int step = (int)strcspn(line, "\t");
        to += sprintf(to, "%.*s\tnew%s\n", step, line, line + step);
    }
    folder_write(getenv("RESULTS"), more, strlen(more));
    ck_assert(report_recorded_ratio(getenv("RESULTS"), &r, "02_safe_softmax", device, sizeof device) == 2);
    ck_assert_str_eq(device, r.device);
    free(text);
    free(more);
}
END_TEST

/* A table that something else has written to must not be read past its end. */
START_TEST(test_foreign_table)
{
    static const char *const tables[] = {
        "", "\n\n\n", "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\n", "02_safe",
        "02_safe_softmax\tcpu\n"
    };
    char device[128];
    struct result r = result_of("03_online_softmax", 50);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        folder_write(getenv("RESULTS"), tables[i], strlen(tables[i]));
        ck_assert(report_recorded_ratio(getenv("RESULTS"), &r, "02_safe_softmax", device, sizeof device) == 0);
    }
}
END_TEST

/* ---- JSON */

START_TEST(test_json_is_one_object)
{
    struct result r = result_of("03_online_softmax", 100);
    r.verdict.error = NAN;
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    ck_assert(freopen(folder_path("json"), "w", stdout) != NULL);
    report_json(&r);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    size_t bytes;
    char *text = folder_read(folder_path("json"), &bytes);
    ck_assert(text[0] == '{' && strcmp(text + bytes - 2, "}\n") == 0 && strchr(text, '\n') == text + bytes - 1);
    ck_assert(strstr(text, "\"step\": \"03_online_softmax\"") && strstr(text, "\"cols\": 1048577"));
    ck_assert(strstr(text, "\"device\": \"A CPU \\\"with\\\" quotes\""));
    ck_assert(strstr(text, "\"error\": null") && strstr(text, "\"batch\": null"));
    ck_assert(!strstr(text, "nan") && !strstr(text, "inf"));
    free(text);
}
END_TEST

START_TEST(test_units)
{
    static const struct { double bytes; const char *text; } all[] = {
        { 0, "0 B" }, { 999, "999 B" }, { 1e3, "1 KB" }, { 12.3e3, "12.3 KB" }, { 1e6, "1 MB" }, { 537e6, "537 MB" },
        { 2.5e9, "2.5 GB" }, { 3e12, "3 TB" },
    };
    ck_assert(freopen(folder_path("said"), "w", stdout) != NULL);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        print_bytes(all[i].bytes);
        printf("\n");
    }
    fflush(stdout);
    size_t size;
    char *text = folder_read(folder_path("said"), &size), *line = strtok(text, "\n");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++, line = strtok(NULL, "\n"))
        ck_assert_str_eq(line, all[i].text);
    free(text);
}
END_TEST

Suite *report_suite(void)
{
    Suite *suite = suite_create("report");
    TCase *table = tcase_create("table"), *before = tcase_create("before"), *json = tcase_create("json");
    tcase_add_checked_fixture(table, setup, folder_teardown);
    tcase_add_test(table, test_names_once_then_rows);
    tcase_add_test(table, test_units);
    tcase_add_test(table, test_every_column);
    tcase_add_test(table, test_a_failure_is_recorded);
    tcase_add_test(table, test_a_folder_is_made);
    tcase_add_test(table, test_half_a_row_is_cut_off);
    tcase_add_test(table, test_many_writers);
    tcase_add_test(table, test_names_stay_in_their_cells);
    suite_add_tcase(suite, table);
    TCase *unwritable = tcase_create("unwritable"); /* no fixture: it would not be cleared away */
    tcase_add_exit_test(unwritable, test_unwritable_table_ends_with_status_1, EXIT_FAILED);
    TCase *missing = tcase_create("no_table");
    tcase_add_checked_fixture(missing, setup, NULL);
    tcase_add_loop_exit_test(missing, test_no_table_there, EXIT_FAILED, 0, 3);
    suite_add_tcase(suite, unwritable);
    suite_add_tcase(suite, missing);
    tcase_add_checked_fixture(before, setup, folder_teardown);
    tcase_add_test(before, test_recorded_ratio);
    tcase_add_test(before, test_a_record_with_another_column);
    tcase_add_test(before, test_foreign_table);
    suite_add_tcase(suite, before);
    tcase_add_checked_fixture(json, setup, folder_teardown);
    tcase_add_test(json, test_json_is_one_object);
    suite_add_tcase(suite, json);
    return suite;
}
