/*
 * Step 00's program: measure the ceilings of every device, print a card of it, and keep the numbers for the steps that follow, in
 * a small table, build/ceilings.tsv. Its keys are device, threads, name and type.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define COPY_BYTES (512ll << 20)   /* of x, and as many of y */
#define FMA_ROUNDS_CPU 1000000     /* about 10 ms */
#define EXP_ROUNDS_CPU 10000
#define FMA_ROUNDS_GPU 65536       /* a few ms */
#define EXP_ROUNDS_GPU 16384
#define MATMUL_CPU 2048            /* rows and columns of the matrices */
#define MATMUL_GPU 8192
#define MAX_CEILINGS 256           /* in the table */

/* ---- the table */

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
        if (sscanf(line, "%127[^\t]\t%d\t%15[^\t]\t%7[^\t]\t%lf\t%15[^\n]", c->device, &c->threads, c->name, dtype, &c->value,
                   c->unit) == 6) {
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

/* ---- the probes */

/* One probe at work: what to run on what, and how much it did. */
struct probe {
    const struct ceilings_step *step;
    enum { COPY, COPY_CACHED, READ, FMA, EXP, MATMUL } kind;
    enum dtype dtype;
    struct buffer *x, *y; /* two buffers of COPY_BYTES: also the matrices, and where a result goes */
    double done;          /* bytes, FLOPs or exponentials; 0: cannot be run in this build */
};

static void run_cpu(void *arg)
{
    struct probe *p = arg;
    float *a = p->x->data, *c = p->y->data;
    switch (p->kind) {
    case COPY:        p->step->copy_cpu(c, a, COPY_BYTES), p->done = 2.0 * COPY_BYTES; break;
    case COPY_CACHED: p->step->copy_cached_cpu(c, a, COPY_BYTES), p->done = 2.0 * COPY_BYTES; break;
    case READ:        p->step->read_cpu(a, COPY_BYTES), p->done = COPY_BYTES; break;
    case FMA:         p->done = p->step->fma_cpu(FMA_ROUNDS_CPU); break;
    case EXP:         p->done = p->step->exp_cpu(EXP_ROUNDS_CPU); break;
    case MATMUL:
        p->done = p->step->matmul_cpu(c, a, a + MATMUL_CPU * MATMUL_CPU, MATMUL_CPU, MATMUL_CPU, MATMUL_CPU)
                      ? 2.0 * MATMUL_CPU * MATMUL_CPU * MATMUL_CPU : 0;
        break;
    }
}

static void run_gpu(void *arg)
{
    struct probe *p = arg;
    char *a = p->x->data;
    switch (p->kind) {
    case FMA:    p->done = p->step->fma_gpu(p->y->data, FMA_ROUNDS_GPU, NULL); break;
    case EXP:    p->done = p->step->exp_gpu(p->y->data, EXP_ROUNDS_GPU, NULL); break;
    case MATMUL: p->done = p->step->matmul_gpu(p->y->data, a, a + COPY_BYTES / 2, MATMUL_GPU, p->dtype, NULL); break;
    case READ:   p->step->read_gpu(p->y->data, a, NULL, COPY_BYTES, READ_SUM, NULL), p->done = COPY_BYTES; break;
    default:     p->step->copy_gpu(p->y->data, a, COPY_BYTES, NULL), p->done = 2.0 * COPY_BYTES; break;
    }
}

/* What a ceiling is called, and in which unit it is given. */
static const struct { const char *name, *unit, *what; double scale; } kinds[] = {
    [COPY] = { "copy", "GB/s", "copy, read + written", 1e-6 },
    [COPY_CACHED] = { "copy_cached", "GB/s", "the same, ordinary stores", 1e-6 },
    [READ] = { "read", "GB/s", "reading alone", 1e-6 },
    [FMA] = { "fma", "TFLOP/s", "multiply-adds", 1e-9 },
    [EXP] = { "exp", "Gexp/s", "exponentials", 1e-6 },
    [MATMUL] = { "matmul", "TFLOP/s", "matrix product", 1e-9 },
};

static struct ceiling ceiling_of(const struct device *device, const char *name, enum dtype dtype, double value, const char *unit)
{
    struct ceiling c = { .threads = device->threads(), .dtype = dtype, .value = value };
    snprintf(c.device, sizeof c.device, "%s", device->model());
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(c.unit, sizeof c.unit, "%s", unit);
    return c;
}

static void keep(const struct device *device, const char *name, double value, const char *unit)
{
    struct ceiling c = ceiling_of(device, name, FP32, value, unit);
    ceiling_put(&c);
}

/* Measure one ceiling, print it, keep it. Returns it; 0 where this build cannot. */
static double measure(struct probe p, const struct options *o, const struct device *device)
{
    struct work work = { .run = device->apart ? run_gpu : run_cpu, .arg = &p, .bytes = 2 * COPY_BYTES };
    work.run(work.arg);
    if (p.done == 0) {
        if (!o->json)
            printf("    %-26s skipped: built without a CBLAS; `make setup` installs one\n", kinds[p.kind].what);
        return 0;
    }
    time_in_turn(&work, 1, o->reps, o->budget / 5, device->run_once);
    struct ceiling c =
        ceiling_of(device, kinds[p.kind].name, p.dtype, p.done / work.time.median * kinds[p.kind].scale, kinds[p.kind].unit);
    ceiling_put(&c);
    if (o->json)
        report_json_ceiling(&c);
    else
        printf("    %-26s %9.4g %-8s %s; %.4g ms, p10 %.4g, p90 %.4g\n", kinds[p.kind].what, c.value, c.unit, dtype_name(c.dtype),
               work.time.median, work.time.p10, work.time.p90);
    return c.value;
}

/* What the plots want to know besides: the sizes of the caches, and how many rows can be under way on a GPU. */
static void keep_sizes(const struct device *device)
{
    if (device->apart) {
        keep(device, "L2", (double)gpu_l2_bytes() / (1 << 20), "MiB");
        keep(device, "sms", gpu_sms(), "SMs");
        return;
    }
    for (int level = 1; level <= 3; level++)
        if (cpu_cache_bytes(level))
            keep(device, (const char *const[]){ "L1", "L2", "L3" }[level - 1], (double)cpu_cache_bytes(level) / 1024, "KiB");
}

static void print_card(const struct device *device)
{
    if (device->apart) {
        printf("  gpu: %s: sm_%d, %d SMs, L2 %.0f MiB, %.1f GiB free\n", gpu_name(), gpu_capability(), gpu_sms(),
               (double)gpu_l2_bytes() / (1 << 20), (double)gpu_device.memory() / (1 << 30));
        return;
    }
    printf("  cpu: %s: %d thread%s, ", cpu_name(), cpu_threads(), cpu_threads() > 1 ? "s" : "");
    for (int level = 1; level <= 3; level++)
        if (cpu_cache_bytes(level))
            printf("L%d %lld KiB, ", level, (long long)cpu_cache_bytes(level) / 1024);
    printf("%.1f GiB free\n", (double)cpu_device.memory() / (1 << 30));
}

static void measure_device(const struct ceilings_step *step, const struct options *o, const struct device *device)
{
    keep_sizes(device);
    if (!o->json)
        print_card(device);
    memory_require(2 * (double)COPY_BYTES + (double)device->flush_bytes(), device);
    if (device->apart)
        memory_require((double)COPY_BYTES, &cpu_device);
    struct buffer x = buffer_new(COPY_BYTES, device), y = buffer_new(COPY_BYTES, device);
    struct buffer host = device->apart ? buffer_new(COPY_BYTES, &cpu_device) : x;
    input_fill(host.data, FP32, COPY_BYTES / 4 / 8192, 8192, "uniform", o->seed); /* zeros cost less power than numbers do */
    if (device->apart)
        device->upload(x.data, host.data, COPY_BYTES);

    double copy = measure((struct probe){ step, COPY, FP32, &x, &y, 0 }, o, device);
    if (!device->apart)
        measure((struct probe){ step, COPY_CACHED, FP32, &x, &y, 0 }, o, device);
    measure((struct probe){ step, READ, FP32, &x, &y, 0 }, o, device);
    double fma = measure((struct probe){ step, FMA, FP32, &x, &y, 0 }, o, device);
    double exps = measure((struct probe){ step, EXP, FP32, &x, &y, 0 }, o, device);
    double matmul = measure((struct probe){ step, MATMUL, FP32, &x, &y, 0 }, o, device);
    if (device->apart) {
        enum dtype half = gpu_capability() < 80 ? FP16 : BF16; /* products of bf16 came with sm_80 */
        input_fill(host.data, half, COPY_BYTES / 2 / 8192, 8192, "uniform", o->seed);
        device->upload(x.data, host.data, COPY_BYTES);
        matmul = measure((struct probe){ step, MATMUL, half, &x, &y, 0 }, o, device);
        device->finish(step->name);
    }
    if (!o->json) {
        printf("    in the time of one byte: %.3g FLOPs, %.3g exponentials", fma * 1e3 / copy, exps / copy);
        if (matmul)
            printf(", %.3g FLOPs of a matrix product", matmul * 1e3 / copy);
        printf("\n");
    }
    if (device->apart)
        buffer_free(&host);
    buffer_free(&x);
    buffer_free(&y);
}

int ceilings_main(const struct ceilings_step *step, int argc, char **argv)
{
    struct options o = options_parse(argc, argv, step->idea, CEILINGS_STEP, NULL);
    if (counting)
        usage_error("COUNT=1: %s claims no exponentials, so there is nothing to count; a step from 1 on is allowed", step->name);
    if (o.threads)
        cpu_set_threads(o.threads);
    if (!o.json)
        printf("%s: %s\n", step->name, step->idea);
    if (o.cpu)
        measure_device(step, &o, &cpu_device);
    if (o.gpu && gpu_count() > 0)
        measure_device(step, &o, &gpu_device);
    else if (o.gpu && !o.json)
        printf("  gpu: skipped: %s\n", gpu_missing());
    return 0;
}
