/* A softmax step's program: run it on every device asked for, hold it to what it claims, and report. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "steps.h"

/* One call of the step, or of the copy that it is measured against. */
struct job {
    const struct softmax_step *step;
    enum dtype dtype;
    int64_t rows, cols;
    void *y;
    const void *x;
    void *workspace;
};

static bool has(const struct softmax_step *s, enum dtype dtype, bool gpu)
{
    switch (dtype) {
    case FP16: return gpu ? s->gpu_fp16 != NULL : s->cpu_fp16 != NULL;
    case BF16: return gpu ? s->gpu_bf16 != NULL : s->cpu_bf16 != NULL;
    default:   return gpu ? s->gpu != NULL : s->cpu != NULL;
    }
}

static double reads_of(const struct softmax_step *s, bool gpu)
{
    return !gpu && s->cpu_reads > 0 ? s->cpu_reads : s->reads;
}

static void run_cpu(void *arg)
{
    const struct job *j = arg;
    switch (j->dtype) {
    case FP16: j->step->cpu_fp16(j->y, j->x, j->rows, j->cols); break;
    case BF16: j->step->cpu_bf16(j->y, j->x, j->rows, j->cols); break;
    default:   j->step->cpu(j->y, j->x, j->rows, j->cols); break;
    }
}

static void run_gpu(void *arg)
{
    const struct job *j = arg;
    switch (j->dtype) {
    case FP16: j->step->gpu_fp16(j->y, j->x, j->rows, j->cols, j->workspace, NULL); break;
    case BF16: j->step->gpu_bf16(j->y, j->x, j->rows, j->cols, j->workspace, NULL); break;
    default:   j->step->gpu(j->y, j->x, j->rows, j->cols, j->workspace, NULL); break;
    }
}

static size_t bytes_of(const struct job *j)
{
    return (size_t)(j->rows * j->cols) * dtype_bytes(j->dtype);
}

static void run_copy_cpu(void *arg)
{
    const struct job *j = arg;
    copy_cpu(j->y, j->x, bytes_of(j));
}

#ifdef USE_CUDA
static void run_copy_gpu(void *arg)
{
    const struct job *j = arg;
    copy_gpu(j->y, j->x, bytes_of(j), NULL);
}
#else
static void (*const run_copy_gpu)(void *) = NULL;
#endif

/* ---- what is printed */

static void print_header(const struct softmax_step *step, const struct options *o)
{
    printf("%s: %s\n", step->name, step->idea);
    printf("  x is (%lld, %lld) %s, %s", (long long)o->rows, (long long)o->cols, dtype_name(o->dtype), o->input);
    if (!o->x_path && strcmp(o->input, "real"))
        printf(", seed %llu", (unsigned long long)o->seed);
    printf("; ");
    print_bytes((double)o->rows * (double)o->cols * (double)dtype_bytes(o->dtype));
    printf(" to read and as much to write\n");
}

static void print_result(const struct softmax_step *step, const struct result *r, const struct before *before, const struct timing *copy,
                         const struct timing *again)
{
    const struct verdict *v = &r->verdict;
    double predicted_gbs = r->predicted_bytes / r->time.median * 1e-6;
    printf("  %s: %s", r->backend[2] == 'u' ? "cpu" : "gpu", r->device);
    if (r->threads)
        printf(", %d thread%s", r->threads, r->threads > 1 ? "s" : "");
    printf("\n    verdict     %s: worst relative error %.2g, allowed there %.2g; %s\n", verdict_word(v), v->error, v->tolerance,
           verdict_coverage(v));
    if (!v->pass)
        printf("                %lld elements are wrong, %lld rows in doubt; %s\n", (long long)v->wrong, (long long)v->doubtful, v->what);
    printf("    time        %.4g ms, median of %d; p10 %.4g, p90 %.4g; a copy %.4g ms\n", r->time.median, r->time.reps,
           r->time.p10, r->time.p90, copy->median);
    double reads = reads_of(step, r->threads == 0);
    printf("    predicted   %g read%s + %g write%s = ", reads, reads == 1 ? "" : "s", step->writes, step->writes == 1 ? "" : "s");
    print_bytes(r->predicted_bytes);
    printf(", at %.4g GB/s%s; %g exps an element\n", predicted_gbs,
           predicted_gbs > 1.02 * r->copy_gbs ? " (faster than a copy: caches served some of it)" : "",
           r->exps / (double)r->rows / (double)r->cols);
    printf("    bandwidth   %.4g GB/s effective, read once + written once; a copy %.4g GB/s\n",
           r->useful_bytes / r->time.median * 1e-6, r->copy_gbs);
    printf("    ceiling     %.0f %% of the tightest, %s\n", r->percent, r->ceiling);
    char predicted[96];
    snprintf(predicted, sizeof predicted, "%.2fx if memory is the limit, %.2fx if exp is", before->bytes / r->predicted_bytes, before->exps / r->exps);
    print_before(r, before, predicted);
    if (again)
        printf("    noise       against itself: %.3fx\n", again->median / r->time.median);
    if (above_ceiling(r) && (r->time.p90 < copy->p10 || strcmp(r->ceiling, "copy")))
        printf("    ERROR       above the ceiling: this measurement is wrong, or that of the ceiling (make step-0)\n");
}

/* The same in one line, for tables. */
static void print_line(const struct result *r)
{
    printf("    %10lld x %-9lld %9.4g ms  %6.4g GB/s  %4.0f %% of %-4s  error %-8.2g %s\n", (long long)r->rows, (long long)r->cols,
           r->time.median, r->useful_bytes / r->time.median * 1e-6, r->percent, r->ceiling, r->verdict.error,
           r->verdict.pass ? "pass" : r->verdict.what);
    fflush(stdout);
}

/* ---- one device */

/* The tightest ceiling: what would take longest at its full speed, the compulsory bytes or the exponentials. */
static void set_ceiling(struct result *r)
{
    double memory_ms = r->useful_bytes / r->copy_gbs * 1e-6;
    double gexps = ceiling_get(r->device, r->threads, "exp", FP32);
    double exp_ms = gexps > 0 ? r->exps / gexps * 1e-6 : 0;
    r->percent = 100 * fmax(memory_ms, exp_ms) / r->time.median;
    r->ceiling = exp_ms > memory_ms ? "exp" : "copy";
}

/* Where a step runs: x and y on the device, and a copy of each on the host, which is the same thing on a CPU. */
struct tensors {
    struct buffer x, y, host_x, host_y, workspace;
    bool gpu;
};

static struct tensors tensors_new(struct buffer host_x, bool gpu)
{
    struct tensors t = { .host_x = host_x, .host_y = buffer_new(host_x.bytes, false), .gpu = gpu };
    t.x = gpu ? buffer_new(host_x.bytes, true) : t.host_x;
    t.y = gpu ? buffer_new(host_x.bytes, true) : t.host_y;
    if (gpu)
        gpu_upload(t.x.data, host_x.data, host_x.bytes);
    return t;
}

/* A zeroed workspace for this shape, where the step wants one. */
static struct buffer workspace_new(const struct softmax_step *step, const struct options *o, bool gpu)
{
    struct buffer workspace = { 0 };
    size_t bytes = gpu && step->workspace ? step->workspace(o->rows, o->cols, o->dtype) : 0;
    if (bytes) {
        workspace = buffer_new(bytes, true);
        gpu_fill(workspace.data, 0, bytes);
    }
    return workspace;
}

static void tensors_free(struct tensors *t) /* all but host_x, which is the caller's */
{
    if (t->gpu) {
        buffer_free(&t->x);
        buffer_free(&t->y);
        buffer_free(&t->workspace);
    }
    buffer_free(&t->host_y);
}

/* Runs once, into poisoned memory, for the verdict. */
static struct verdict judge(struct job *j, const struct options *o, struct tensors *t)
{
    struct rounding how = t->gpu ? j->step->gpu_sum : j->step->cpu_sum;
    if (o->dtype == FP16)
        how.unit = j->step->fp16_unit;
    buffer_poison(&t->y);
    (t->gpu ? run_gpu : run_cpu)(j);
    if (t->gpu) {
        gpu_finish(j->step->name);
        gpu_download(t->host_y.data, t->y.data, t->y.bytes);
    }
    struct verdict v = verify_softmax(t->host_y.data, t->host_x.data, o->dtype, o->rows, o->cols, how);
    if (!buffer_guards_intact(&t->x) || !buffer_guards_intact(&t->y)) {
        v.pass = false;
        snprintf(v.what, sizeof v.what, "memory outside the tensors was written");
    }
    return v;
}

static double bytes_predicted(const struct softmax_step *s, double bytes, bool gpu)
{
    return (reads_of(s, gpu) + s->writes) * bytes;
}

static double exps_predicted(const struct softmax_step *s, const struct options *o, bool gpu)
{
    return (gpu && s->gpu_exps ? s->gpu_exps : s->exps) * (double)o->rows * (double)o->cols;
}

/* The step before on the same x, in turn with `run`; its y takes the place of this step's, which has been looked at. */
static struct before run_before(const struct softmax_step *step, const struct options *o, struct tensors *t, struct work run)
{
    if (!step)
        return (struct before){ 0 };
    struct before b = { .step = step->name, .bytes = bytes_predicted(step, (double)t->x.bytes, t->gpu), .exps = exps_predicted(step, o, t->gpu) };
    if (!has(step, o->dtype, t->gpu)) {
        snprintf(b.why_not, sizeof b.why_not, "it has no %s version for it", dtype_name(o->dtype));
        return b;
    }
    struct buffer workspace = workspace_new(step, o, t->gpu);
    struct job job = { step, o->dtype, o->rows, o->cols, t->y.data, t->x.data, workspace.data };
    struct work before = { .run = run.run, .arg = &job, .bytes = run.bytes };
    b.ratio = time_ratio(run, before, t->gpu, o->reps, o->budget);
    buffer_free(&workspace);
    return b;
}

/* Verify, time and report the step on one shape. */
static bool run_shape(const struct softmax_step *step, const struct softmax_step *before, const struct options *o, struct tensors *t)
{
    buffer_free(&t->workspace);
    t->workspace = workspace_new(step, o, t->gpu);
    struct job job = { step, o->dtype, o->rows, o->cols, t->y.data, t->x.data, t->workspace.data };
    double bytes = (double)bytes_of(&job);
    struct result r = {
        .step = step->name, .device = t->gpu ? gpu_name() : cpu_name(), .backend = t->gpu ? "cuda" : "cpu",
        .dtype = o->dtype, .rows = o->rows, .cols = o->cols, .seed = o->seed, .input = o->input,
        .threads = t->gpu ? 0 : cpu_threads(),
        .useful_bytes = 2 * bytes,
        .predicted_bytes = bytes_predicted(step, bytes, t->gpu), .exps = exps_predicted(step, o, t->gpu),
        .verdict = judge(&job, o, t),
    };
    if (o->out_path)
        output_write(o, t->host_y.data);

    struct work copy = { .run = t->gpu ? run_copy_gpu : run_copy_cpu, .arg = &job, .bytes = 2 * (int64_t)t->x.bytes };
    struct work run = { .run = t->gpu ? run_gpu : run_cpu, .arg = &job, .bytes = copy.bytes };
    struct work works[] = { copy, run, run };
    (t->gpu ? time_gpu : time_cpu)(works, o->noise ? 3 : 2, o->reps, o->budget);
    r.time = works[1].time;
    r.copy_gbs = r.useful_bytes / works[0].time.median * 1e-6;
    set_ceiling(&r);

    report_tsv(&r);
    if (o->json)
        report_json(&r);
    else if (o->sweep)
        print_line(&r);
    else {
        run.time = r.time;
        struct before b = run_before(before, o, t, run);
        print_result(step, &r, &b, &works[0].time, o->noise ? &works[2].time : NULL);
    }
    return r.verdict.pass;
}

/* One shape; or with --sweep every row length from 128 on, rows x cols staying what it is. */
static bool run_device(const struct softmax_step *step, const struct softmax_step *before, struct options o, struct buffer x, bool gpu)
{
    int64_t elements = o.rows * o.cols;
    if (o.sweep) {
        o.cols = SWEEP_COLS_FROM;
        o.rows = elements / o.cols;
        if (!o.json)
            printf("  %s: %s\n", gpu ? "gpu" : "cpu", gpu ? gpu_name() : cpu_name());
    }
    struct tensors t = tensors_new(x, gpu);
    bool good = run_shape(step, before, &o, &t);
    while (o.sweep && 2 * o.cols <= elements && o.cols < SWEEP_COLS_TO) {
        o.cols *= 2;
        o.rows = elements / o.cols;
        good &= run_shape(step, before, &o, &t);
    }
    tensors_free(&t);
    return good;
}

/* Says why a device is left out, if it is: it is not there, or the step has no program for it. */
static bool available(const struct softmax_step *step, const struct options *o, bool gpu)
{
    const char *device = gpu ? "gpu" : "cpu";
    if (!(gpu ? o->gpu : o->cpu))
        return false;
    if (gpu && gpu_count() == 0) {
        if (!o->json)
            printf("  gpu: skipped: %s\n", gpu_missing());
        return false;
    }
    if (!has(step, o->dtype, gpu) && !o->json)
        printf("  %s: skipped: this step has no %s version for it\n", device, dtype_name(o->dtype));
    return has(step, o->dtype, gpu);
}

/* All that a run takes, before any of it is allocated: x and y, what verifies y, and what flushes the caches. */
static void require_memory(const struct softmax_step *step, const struct options *o)
{
    double tensor = (double)o->rows * (double)o->cols * (double)dtype_bytes(o->dtype);
    memory_require(tensor + fmax(o->file_bytes, tensor + verify_softmax_bytes(o->rows, o->cols) + (double)flush_bytes(false)), false);
    if (o->gpu && gpu_count() > 0 && has(step, o->dtype, true)) {
        size_t workspace = step->workspace ? step->workspace(o->rows, o->cols, o->dtype) : 0;
        memory_require(2 * tensor + (double)workspace + (double)flush_bytes(true), true);
    }
}

int softmax_main(const struct softmax_step *step, const struct softmax_step *before, int argc, char **argv)
{
    struct options o = options_parse(argc, argv, step->idea, SOFTMAX_STEP);
    if (!has(step, o.dtype, false) && !has(step, o.dtype, true))
        usage_error("--dtype %s: %s takes fp32 only; steps 05 and 06 take fp16 and bf16 too", dtype_name(o.dtype), step->name);
    if (o.threads)
        cpu_set_threads(o.threads);

    require_memory(step, &o);
    struct buffer x = input_tensor(&o);
    if (!o.json)
        print_header(step, &o);
    bool good = true, ran = false;
    for (int gpu = 0; gpu <= 1; gpu++)
        if (available(step, &o, gpu)) {
            good &= run_device(step, before, o, x, gpu);
            ran = true;
        }
    buffer_free(&x);
    if (!ran)
        fatal("nothing ran: no device that was asked for has a version for %s", dtype_name(o.dtype));
    return good ? 0 : EXIT_FAILED;
}
