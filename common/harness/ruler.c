/* Step 00's program: measure the ceilings of every device, print a card of it, keep the numbers for the steps that follow. */
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

/* One probe at work: what to run on what, and how much it did. */
struct probe {
    const struct ceilings_step *step;
    enum { COPY, COPY_CACHED, FMA, EXP, MATMUL } kind;
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
    default:     p->step->copy_gpu(p->y->data, a, COPY_BYTES, NULL), p->done = 2.0 * COPY_BYTES; break;
    }
}

/* What a ceiling is called, and in which unit it is given. */
static const struct { const char *name, *unit, *what; double scale; } kinds[] = {
    [COPY] = { "copy", "GB/s", "copy, read + written", 1e-6 },
    [COPY_CACHED] = { "copy_cached", "GB/s", "the same, ordinary stores", 1e-6 },
    [FMA] = { "fma", "TFLOP/s", "multiply-adds", 1e-9 },
    [EXP] = { "exp", "Gexp/s", "exponentials", 1e-6 },
    [MATMUL] = { "matmul", "TFLOP/s", "matrix product", 1e-9 },
};

static struct ceiling ceiling_of(bool gpu, const char *name, enum dtype dtype, double value, const char *unit)
{
    struct ceiling c = { .threads = gpu ? 0 : cpu_threads(), .dtype = dtype, .value = value };
    snprintf(c.device, sizeof c.device, "%s", gpu ? gpu_name() : cpu_name());
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(c.unit, sizeof c.unit, "%s", unit);
    return c;
}

static void keep(bool gpu, const char *name, double value, const char *unit)
{
    struct ceiling c = ceiling_of(gpu, name, FP32, value, unit);
    ceiling_put(&c);
}

/* Measure one ceiling, print it, keep it. Returns it; 0 where this build cannot. */
static double measure(struct probe p, const struct options *o, bool gpu)
{
    struct work work = { .run = gpu ? run_gpu : run_cpu, .arg = &p, .bytes = 2 * COPY_BYTES };
    work.run(work.arg);
    if (p.done == 0) {
        if (!o->json)
            printf("    %-26s skipped: built without a CBLAS; `make setup` installs one\n", kinds[p.kind].what);
        return 0;
    }
    (gpu ? time_gpu : time_cpu)(&work, 1, o->reps, o->budget / 5);
    struct ceiling c = ceiling_of(gpu, kinds[p.kind].name, p.dtype, p.done / work.time.median * kinds[p.kind].scale, kinds[p.kind].unit);
    ceiling_put(&c);
    if (o->json)
        report_json_ceiling(&c);
    else
        printf("    %-26s %9.4g %-8s %s; %.4g ms, p10 %.4g, p90 %.4g\n", kinds[p.kind].what, c.value, c.unit, dtype_name(c.dtype),
               work.time.median, work.time.p10, work.time.p90);
    return c.value;
}

/* What the plots want to know besides: the sizes of the caches, and how many rows can be under way on a GPU. */
static void keep_sizes(bool gpu)
{
    if (gpu) {
        keep(gpu, "L2", (double)gpu_l2_bytes() / (1 << 20), "MiB");
        keep(gpu, "sms", gpu_sms(), "SMs");
        return;
    }
    for (int level = 1; level <= 3; level++)
        if (cpu_cache_bytes(level))
            keep(gpu, (const char *const[]){ "L1", "L2", "L3" }[level - 1], (double)cpu_cache_bytes(level) / 1024, "KiB");
}

static void print_card(bool gpu)
{
    if (gpu) {
        printf("  gpu: %s: sm_%d, %d SMs, L2 %.0f MiB, %.1f GiB free\n", gpu_name(), gpu_capability(), gpu_sms(),
               (double)gpu_l2_bytes() / (1 << 20), (double)memory_available(true) / (1 << 30));
        return;
    }
    printf("  cpu: %s: %d thread%s, ", cpu_name(), cpu_threads(), cpu_threads() > 1 ? "s" : "");
    for (int level = 1; level <= 3; level++)
        if (cpu_cache_bytes(level))
            printf("L%d %lld KiB, ", level, (long long)cpu_cache_bytes(level) / 1024);
    printf("%.1f GiB free\n", (double)memory_available(false) / (1 << 30));
}

static void measure_device(const struct ceilings_step *step, const struct options *o, bool gpu)
{
    keep_sizes(gpu);
    if (!o->json)
        print_card(gpu);
    memory_require((gpu ? 1 : 2) * (double)COPY_BYTES + (gpu ? 0 : (double)flush_bytes(false)), false);
    if (gpu)
        memory_require(2 * (double)COPY_BYTES + (double)flush_bytes(true), true);
    struct buffer x = buffer_new(COPY_BYTES, gpu), y = buffer_new(COPY_BYTES, gpu), host = gpu ? buffer_new(COPY_BYTES, false) : x;
    input_fill(host.data, FP32, COPY_BYTES / 4 / 8192, 8192, "uniform", o->seed); /* zeros cost less power than numbers do */
    if (gpu)
        gpu_upload(x.data, host.data, COPY_BYTES);

    double copy = measure((struct probe){ step, COPY, FP32, &x, &y, 0 }, o, gpu);
    if (!gpu)
        measure((struct probe){ step, COPY_CACHED, FP32, &x, &y, 0 }, o, gpu);
    double fma = measure((struct probe){ step, FMA, FP32, &x, &y, 0 }, o, gpu);
    double exps = measure((struct probe){ step, EXP, FP32, &x, &y, 0 }, o, gpu);
    double matmul = measure((struct probe){ step, MATMUL, FP32, &x, &y, 0 }, o, gpu);
    if (gpu) {
        enum dtype half = gpu_capability() < 80 ? FP16 : BF16; /* products of bf16 came with sm_80 */
        input_fill(host.data, half, COPY_BYTES / 2 / 8192, 8192, "uniform", o->seed);
        gpu_upload(x.data, host.data, COPY_BYTES);
        matmul = measure((struct probe){ step, MATMUL, half, &x, &y, 0 }, o, gpu);
        gpu_finish(step->name);
    }
    if (!o->json) {
        printf("    in the time of one byte: %.3g FLOPs, %.3g exponentials", fma * 1e3 / copy, exps / copy);
        if (matmul)
            printf(", %.3g FLOPs of a matrix product", matmul * 1e3 / copy);
        printf("\n");
    }
    if (gpu)
        buffer_free(&host);
    buffer_free(&x);
    buffer_free(&y);
}

int ceilings_main(const struct ceilings_step *step, int argc, char **argv)
{
    struct options o = options_parse(argc, argv, step->idea, CEILINGS_STEP);
    if (o.threads)
        cpu_set_threads(o.threads);
    if (!o.json)
        printf("%s: %s\n", step->name, step->idea);
    if (o.cpu)
        measure_device(step, &o, false);
    if (o.gpu && gpu_count() > 0)
        measure_device(step, &o, true);
    else if (o.gpu && !o.json)
        printf("  gpu: skipped: %s\n", gpu_missing());
    return 0;
}
