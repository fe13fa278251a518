/* What a run leaves behind: a row in a table that plots and lessons are made of, or a JSON object. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

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
        { "ceiling", r->ceiling, NAN },
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

/* Names and a row, each with its newline, in one piece: malloc'ed. *header: bytes of the names. */
static char *table_text(const struct result *r, size_t *header)
{
    struct field f[MAX_FIELDS];
    int count = fields_of(r, f);
    char *text, number[64];
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        fatal("not enough CPU memory for a row of the table");
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%c", f[i].name, i + 1 < count ? '\t' : '\n');
    fflush(out);
    *header = size;
    for (int i = 0; i < count; i++) {
        for (const char *c = f[i].word; c && *c; c++) /* a name may hold anything, but a cell ends at a tab */
            fputc((unsigned char)*c < ' ' ? ' ' : *c, out);
        if (!f[i].word)
            fputs(isnan(f[i].number) ? "-" : number_text(f[i].number, number, sizeof number), out);
        fputc(i + 1 < count ? '\t' : '\n', out);
    }
    fclose(out);
    return text;
}

/* Where the table ends: behind its last newline. What follows is half a row, left by a run that was cut off. */
static off_t whole_rows(int file, off_t size)
{
    char c = '\n';
    while (size > 0 && pread(file, &c, 1, size - 1) == 1 && c != '\n')
        size--;
    return size;
}

void report_tsv(const struct result *r)
{
    const char *path = results_path();
    make_folder(path);
    /* does not wait for the other end of a pipe */
    int file = open(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0666);
    struct stat info;
    if (file < 0 || fstat(file, &info) != 0)
        fatal("%s: it cannot be written: %s", path, strerror(errno));
    bool regular = S_ISREG(info.st_mode);
    if (!regular && !S_ISCHR(info.st_mode))
        fatal("%s: it cannot be written: it is no file", path);
    if (regular && flock(file, LOCK_EX) != 0) /* so that one run alone finds it empty, or repairs it */
        fatal("%s: it cannot be locked: %s", path, strerror(errno));
    off_t end = regular ? whole_rows(file, lseek(file, 0, SEEK_END)) : 0;
    size_t header;
    char *text = table_text(r, &header), *from = end > 0 ? text + header : text;
    size_t bytes = strlen(from);
    bool good = (!regular || ftruncate(file, end) == 0) && write(file, from, bytes) == (ssize_t)bytes;
    int why = errno;
    if (!good && regular && ftruncate(file, end) != 0)
        why = errno;
    free(text);
    if (close(file) != 0 || !good)
        fatal("%s: it cannot be written: %s", path, strerror(good ? errno : why ? why : ENOSPC));
}

/* "text", with what JSON does not allow in a string escaped. */
static void print_json_string(const char *text)
{
    putchar('"');
    for (const char *c = text; *c; c++)
        (unsigned char)*c < ' ' ? printf("\\u%04x", *c) : *c == '"' || *c == '\\' ? printf("\\%c", *c) : putchar(*c);
    putchar('"');
}

void report_json_ceiling(const struct ceiling *c)
{
    printf("{\"device\": ");
    print_json_string(c->device);
    printf(", \"threads\": %d, \"ceiling\": \"%s\", \"dtype\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", c->threads, c->name,
           dtype_name(c->dtype), c->value, c->unit);
}

void report_json(const struct result *r)
{
    struct field f[MAX_FIELDS];
    int count = fields_of(r, f);
    for (int i = 0; i < count; i++) {
        char text[64];
        printf("%s\"%s\": ", i ? ", " : "{", f[i].name);
        if (f[i].word)
            print_json_string(f[i].word);
        else if (isfinite(f[i].number))
            printf("%s", number_text(f[i].number, text, sizeof text));
        else
            printf("null");
    }
    printf("}\n");
}

/* ---- what was recorded: tables whose columns may be other ones, or stand elsewhere, for the program was another */

struct table {
    FILE *file; /* NULL: there is none */
    char head[2048], line[2048], *names[MAX_FIELDS], *words[MAX_FIELDS];
    int columns; /* 0 until a line names them */
};

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

/* Reads the next row. false: there is none, and the table is closed. */
static bool next_row(struct table *t)
{
    while (t->file && fgets(t->line, sizeof t->line, t->file)) {
        if (strncmp(t->line, "step\t", 5) == 0)
            t->columns = split(strcpy(t->head, t->line), t->names);
        else if (t->columns && split(t->line, t->words) == t->columns)
            return true;
    }
    if (t->file)
        fclose(t->file);
    return false;
}

/* What the row has in the column of this name: "-" where there is no such column. */
static const char *cell(const struct table *t, const char *name)
{
    for (int i = 0; i < t->columns; i++)
        if (strcmp(t->names[i], name) == 0)
            return t->words[i];
    return "-";
}

/* Whether a row of a table is of the same problem as r: its type, sizes, mask and input; on whichever device of this kind. */
static bool same_problem(const struct table *t, const struct field *want)
{
    bool same = true;
    for (int i = 0; strcmp(want[i].name, "reps"); i++) {
        char text[64];
        const char *number = isnan(want[i].number) ? "-" : number_text(want[i].number, text, sizeof text), *name = want[i].name;
        if (strcmp(name, "step") && strcmp(name, "device") && strcmp(name, "seed") && strcmp(name, "threads"))
            same &= strcmp(cell(t, name), want[i].word ? want[i].word : number) == 0;
    }
    return same;
}

double report_recorded_ratio(const char *path, const struct result *r, const char *before, char *device, size_t size)
{
    struct table t = { .file = open_table(path) };
    struct field want[MAX_FIELDS];
    double mine = 0, other = 0;
    fields_of(r, want);
    while (next_row(&t)) {
        if (!same_problem(&t, want))
            continue;
        if (strcmp(cell(&t, "step"), r->step) == 0) {
            mine = atof(cell(&t, "median_ms"));
            snprintf(device, size, "%s", cell(&t, "device"));
        }
        if (strcmp(cell(&t, "step"), before) == 0)
            other = atof(cell(&t, "median_ms"));
    }
    return mine > 0 ? other / mine : 0;
}

void print_before(const struct result *r, const struct before *b, const char *predicted)
{
    const char *recorded = r->threads ? "plots/recorded/xeon.tsv" : "plots/recorded/h100.tsv";
    char device[128];
    double ratio;
    if (!b->step)
        return;
    if (*b->why_not) {
        printf("    step before %s, not timed: %s\n", b->step, b->why_not);
        return;
    }
    printf("    step before %.2fx the speed of %s, which took turns; predicted %s", b->time.median, b->step, predicted);
    if ((ratio = report_recorded_ratio(recorded, r, b->step, device, sizeof device)) > 0)
        printf("; recorded: %.2fx on an %s", ratio, device);
    printf("\n");
}

/*
 * A ceiling was measured at another time, at another clock perhaps: 2 % are no error, nor is a median that a noisy run went past.
 * What nine of ten runs are above is one.
 */
bool above_ceiling(const struct result *r)
{
    return r->ceiling && !r->excused && strcmp(r->ceiling, "matmul") && r->percent * r->time.median / r->time.p90 > 102;
}

void report_recorded(const char *step)
{
    static const char *const path = "plots/recorded/h100.tsv";
    struct table t = { .file = open_table(path) };
    bool first = true;
    while (next_row(&t)) {
        if (strcmp(cell(&t, "step"), step) || strcmp(cell(&t, "seq_q"), "8192"))
            continue;
        if (first)
            printf("  recorded on an %s (all of it is in %s):\n", cell(&t, "device"), path);
        first = false;
        printf("    %s, %s heads of %s, %s tokens%s: %.4g ms, %.4g TFLOP/s\n", cell(&t, "dtype"), cell(&t, "heads"),
               cell(&t, "dim"), cell(&t, "seq_q"), strcmp(cell(&t, "causal"), "1") ? "" : ", causal", atof(cell(&t, "median_ms")),
               atof(cell(&t, "tflop_s")));
    }
}
