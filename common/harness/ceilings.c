/* The ceilings that step 00 measured: a small table in build/ceilings.tsv, device, backend and name being the key. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define MAX_CEILINGS 256

const char *ceilings_path(void)
{
    const char *chosen = getenv("CEILINGS");
    return chosen && *chosen ? chosen : "build/ceilings.tsv";
}

/* Reads the table; returns the number of rows. */
static int read_all(struct ceiling *rows)
{
    FILE *file = open_table(ceilings_path());
    char line[512], dtype[8];
    int count = 0;
    while (file && count < MAX_CEILINGS && fgets(line, sizeof line, file)) {
        struct ceiling *c = &rows[count];
        if (sscanf(line, "%127[^\t]\t%d\t%15[^\t]\t%7[^\t]\t%lf\t%15[^\n]", c->device, &c->threads, c->name, dtype, &c->value, c->unit) == 6) {
            c->dtype = strcmp(dtype, "fp16") == 0 ? FP16 : strcmp(dtype, "bf16") == 0 ? BF16 : FP32;
            count++;
        }
    }
    if (file)
        fclose(file);
    return count;
}

static bool same(const struct ceiling *a, const struct ceiling *b)
{
    return a->threads == b->threads && a->dtype == b->dtype && strcmp(a->device, b->device) == 0 && strcmp(a->name, b->name) == 0;
}

double ceiling_get(const char *device, int threads, const char *name, enum dtype dtype)
{
    struct ceiling rows[MAX_CEILINGS], wanted = { .threads = threads, .dtype = dtype };
    snprintf(wanted.device, sizeof wanted.device, "%s", device);
    snprintf(wanted.name, sizeof wanted.name, "%s", name);
    for (int count = read_all(rows), i = 0; i < count; i++)
        if (same(&rows[i], &wanted))
            return rows[i].value;
    return 0;
}

void ceiling_put(const struct ceiling *c)
{
    struct ceiling rows[MAX_CEILINGS];
    int count = read_all(rows), at = 0;
    while (at < count && !same(&rows[at], c))
        at++;
    if (at == MAX_CEILINGS)
        fatal("%s: it holds %d ceilings already; delete it and run step 00 again", ceilings_path(), MAX_CEILINGS);
    rows[at] = *c;
    make_folder(ceilings_path());
    FILE *file = open_whole(ceilings_path());
    if (!file)
        fatal("%s: it cannot be written: %s", ceilings_path(), strerror(errno));
    fprintf(file, "device\tthreads\tname\tdtype\tvalue\tunit\n");
    for (int i = 0; i < (at == count ? count + 1 : count); i++)
        fprintf(file, "%s\t%d\t%s\t%s\t%.6g\t%s\n", rows[i].device, rows[i].threads, rows[i].name, dtype_name(rows[i].dtype),
                rows[i].value, rows[i].unit);
    if (close_whole(file))
        fatal("%s: it cannot be written: %s", ceilings_path(), strerror(errno));
}
