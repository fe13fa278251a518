/* What a run leaves behind: a row in a table that plots and lessons are made of, or a JSON object. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

const char *results_path(void)
{
    const char *chosen = getenv("RESULTS");
    return chosen && *chosen ? chosen : "build/results.tsv";
}

/* One column of the table. Numbers are NaN, and words NULL, where they do not apply. */
struct field {
    const char *name, *word;
    double number;
};

#define MAX_FIELDS 40

static double or_nothing(int64_t size)
{
    return size ? (double)size : NAN;
}

/* A number as the table has it: whole ones to the last digit (up to 2^53, which is where doubles stop to be), others to nine. */
static const char *number_text(double number, char *text, size_t size)
{
    bool whole = number == trunc(number) && fabs(number) < 0x1p53;
    snprintf(text, size, whole ? "%.0f" : "%.9g", number);
    return text;
}

/* The row, in the order of the table's columns. Returns the number of fields. */
static int fields_of(const struct result *r, struct field *f)
{
    bool attention = r->seq_q > 0;
    const struct field all[] = {
        { "step", r->step, 0 },
        { "device", r->device, 0 },
        { "backend", r->backend, 0 },
        { "dtype", dtype_name(r->dtype), 0 },
        { "rows", NULL, or_nothing(r->rows) },
        { "cols", NULL, or_nothing(r->cols) },
        { "batch", NULL, or_nothing(r->batch) },
        { "heads", NULL, or_nothing(r->heads) },
        { "kv_heads", NULL, or_nothing(r->kv_heads) },
        { "seq_q", NULL, or_nothing(r->seq_q) },
        { "seq_k", NULL, or_nothing(r->seq_k) },
        { "dim", NULL, or_nothing(r->dim) },
        { "causal", NULL, attention ? r->causal : NAN },
        { "seed", NULL, (double)r->seed },
        { "input", r->input, 0 },
        { "threads", NULL, or_nothing(r->threads) },
        { "reps", NULL, r->time.reps },
        { "median_ms", NULL, r->time.median },
        { "p10_ms", NULL, r->time.p10 },
        { "p90_ms", NULL, r->time.p90 },
        { "useful_bytes", NULL, r->useful_bytes },
        { "predicted_bytes", NULL, r->predicted_bytes },
        { "flops", NULL, r->flops },
        { "exps", NULL, r->exps },
        { "gb_s", NULL, r->useful_bytes / r->time.median * 1e-6 },
        { "tflop_s", NULL, attention ? r->flops / r->time.median * 1e-9 : NAN },
        { "copy_gb_s", NULL, r->copy_gbs },
        { "percent", NULL, r->percent },
        { "ceiling", r->ceiling, 0 },
        { "error", NULL, r->verdict.error },
        { "tolerance", NULL, r->verdict.tolerance },
        { "verdict", verdict_word(&r->verdict), 0 },
    };
    memcpy(f, all, sizeof all);
    return sizeof all / sizeof all[0];
}

void print_bytes(double bytes)
{
    int unit = bytes >= 1e12 ? 4 : bytes >= 1e9 ? 3 : bytes >= 1e6 ? 2 : bytes >= 1e3 ? 1 : 0;
    printf("%.3g %s", bytes / pow(1e3, unit), (const char *const[]){ "B", "KB", "MB", "GB", "TB" }[unit]);
}

void report_tsv(const struct result *r)
{
    struct field f[MAX_FIELDS];
    int count = fields_of(r, f);
    make_folder(results_path());
    FILE *file = open_table(results_path(), true);
    if (!file)
        fatal("%s: it cannot be written: %s", results_path(), strerror(errno));
    fseek(file, 0, SEEK_END);
    if (ftell(file) == 0)
        for (int i = 0; i < count; i++)
            fprintf(file, "%s%c", f[i].name, i + 1 < count ? '\t' : '\n');
    for (int i = 0; i < count; i++) {
        char text[64];
        char end = i + 1 < count ? '\t' : '\n';
        if (f[i].word)
            fprintf(file, "%s%c", f[i].word, end);
        else if (isnan(f[i].number))
            fprintf(file, "-%c", end);
        else
            fprintf(file, "%s%c", number_text(f[i].number, text, sizeof text), end);
    }
    if (fclose(file))
        fatal("%s: it cannot be written: %s", results_path(), strerror(errno));
}

void report_json(const struct result *r)
{
    struct field f[MAX_FIELDS];
    int count = fields_of(r, f);
    for (int i = 0; i < count; i++) {
        char text[64];
        printf("%s\"%s\": ", i ? ", " : "{", f[i].name);
        if (f[i].word) {
            putchar('"');
            for (const char *c = f[i].word; *c; c++) /* a device's or a file's name may hold anything */
                (unsigned char)*c < ' ' ? printf("\\u%04x", *c) : *c == '"' || *c == '\\' ? printf("\\%c", *c) : putchar(*c);
            putchar('"');
        } else if (isfinite(f[i].number))
            printf("%s", number_text(f[i].number, text, sizeof text));
        else
            printf("null");
    }
    printf("}\n");
}

/* Splits a line of the table in place; returns the number of words. */
static int split(char *line, char **words)
{
    int count = 0;
    line[strcspn(line, "\n")] = '\0';
    for (char *word = line; word && count < MAX_FIELDS; count++) {
        words[count] = word;
        word = strchr(word, '\t');
        if (word)
            *word++ = '\0';
    }
    return count;
}

bool report_step_before(const struct result *r, struct before *before)
{
    struct field want[MAX_FIELDS];
    int columns = fields_of(r, want), number = atoi(r->step) - 1;
    FILE *file = open_table(results_path(), false);
    char line[2048], *have[MAX_FIELDS];
    bool found = false;
    while (file && fgets(line, sizeof line, file)) {
        if (split(line, have) != columns || strlen(have[0]) < 3 || have[0][2] != '_' || atoi(have[0]) != number)
            continue;
        bool same = true;
        for (int i = 1; i < columns && strcmp(want[i].name, "reps"); i++) { /* device to threads: the same problem */
            char text[64];
            const char *number = isnan(want[i].number) ? "-" : number_text(want[i].number, text, sizeof text);
            same &= strcmp(have[i], want[i].word ? want[i].word : number) == 0;
        }
        for (int i = 0; same && i < columns; i++) {
            if (strcmp(want[i].name, "step") == 0)
                snprintf(before->step, sizeof before->step, "%s", have[i]);
            if (strcmp(want[i].name, "median_ms") == 0)
                before->ms = atof(have[i]);
            if (strcmp(want[i].name, "predicted_bytes") == 0)
                before->bytes = atof(have[i]);
            if (strcmp(want[i].name, "exps") == 0)
                before->exps = atof(have[i]);
        }
        found |= same;
    }
    if (file)
        fclose(file);
    return found;
}

void report_recorded(const char *step)
{
    static const char *const path = "plots/recorded/h100.tsv";
    FILE *file = fopen(path, "r");
    char line[2048], *words[MAX_FIELDS];
    struct field fields[MAX_FIELDS];
    int columns = fields_of(&(struct result){ 0 }, fields), shown = 0;
    enum { DTYPE = 3, HEADS = 7, SEQ_Q = 9, DIM = 11, CAUSAL = 12, MEDIAN = 17, TFLOPS = 25 }; /* as in fields_of */
    while (file && fgets(line, sizeof line, file)) {
        if (split(line, words) != columns || strcmp(words[0], step) || strcmp(words[SEQ_Q], "8192"))
            continue;
        if (shown++ == 0)
            printf("  recorded on an %s (all of it is in %s):\n", words[1], path);
        printf("    %s, %s heads of %s, %s tokens%s: %.4g ms, %.4g TFLOP/s\n", words[DTYPE], words[HEADS], words[DIM], words[SEQ_Q],
               strcmp(words[CAUSAL], "1") ? "" : ", causal", atof(words[MEDIAN]), atof(words[TFLOPS]));
    }
    if (file)
        fclose(file);
}
