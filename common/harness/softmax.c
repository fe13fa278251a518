/* What the program of a softmax step has of its own: shapes, claims, reference, and how the cost is said. */
#include <math.h>
#include <string.h>

#include "program.h"
#include "steps.h"

enum { X, Y };

bool softmax_has(const struct softmax_step *s, const struct device *device, enum dtype dtype)
{
    switch (dtype) {
    case FP16: return device->apart ? s->gpu_fp16 != NULL : s->cpu_fp16 || s->backward_cpu_fp16;
    case BF16: return device->apart ? s->gpu_bf16 != NULL : s->cpu_bf16 || s->backward_cpu_bf16;
    default:   return device->apart ? s->gpu || s->backward_gpu : s->cpu || s->backward_cpu;
    }
}

void softmax_run(const struct softmax_step *s, const struct device *device, enum dtype dtype, void *y, const void *x,
                 int64_t rows, int64_t cols, void *workspace)
{
    if (device->apart)
        CALL_FOR(dtype, s->gpu, y, x, rows, cols, workspace, NULL);
    else
        CALL_FOR(dtype, s->cpu, y, x, rows, cols);
}

struct rounding softmax_rounding(const struct softmax_step *s, const struct device *device, enum dtype dtype)
{
    struct rounding how = device->apart ? s->gpu_sum : s->cpu_sum;
    if (dtype == FP16)
        how.unit = s->fp16_unit;
    return how;
}

/* ---- the problem */

static void finish(const void *step, struct options *o)
{
    const struct softmax_step *s = step;
    bool here = softmax_has(s, &cpu_device, FP32) || softmax_has(s, &gpu_device, FP32); /* not step 09 in a build without CUDA */
    if (here && !softmax_has(s, &cpu_device, o->dtype) && !softmax_has(s, &gpu_device, o->dtype))
        usage_error("--dtype %s: %s takes fp32 only; steps 07, 09, 10 and 42 take fp16 and bf16 too", dtype_name(o->dtype),
                    s->name);
    if (o->change_path && !s->backward_cpu && !s->backward_gpu)
        usage_error("--dy '%s': %s computes no gradient", o->change_path, s->name);
}

/* With --sweep every row length from 128 on, rows x cols staying what it is. */
static bool sweep(struct options *o, int index)
{
    int64_t elements = o->rows * o->cols, cols = (int64_t)SWEEP_COLS_FROM << index;
    if (!o->sweep)
        return index == 0;
    o->cols = cols;
    o->rows = elements / cols;
    return cols <= elements && cols <= SWEEP_COLS_TO;
}

static const char *small(const void *step, struct options *o, int index)
{
    static const struct { const char *name, *family; int64_t rows, cols; } all[] = {
        { "ragged rows", "normal", 33, 1023 },
        { "one column", "normal", 65, 1 },
        { "short rows", "normal", 1000, 17 },
        { "rows longer than a block", "uniform", 3, 20003 },
        { "rows that rise, fall or lie far off", "adversarial", 36, 1001 },
        { "rows far below 0", "far", 5, 777 },
        { "rows below -50000", "deep", 12, 261 },
        { "peaks anywhere", "peak", 64, 27 },
        { "masked elements", "masked", 16, 333 },
        { "masked rows", "empty", 16, 130 },
        { "rows with a NaN", "nan", 16, 259 },
        { "long rows, all roundings alike", "drift", 2, 131073 },
        { "one long row", "normal", 1, 300007 },
    };
    const int count = sizeof all / sizeof all[0], ordinary = 3;
    if (index >= (((const struct softmax_step *)step)->overflows ? ordinary : count))
        return NULL;
    *o = (struct options){
        .rows = all[index].rows, .cols = all[index].cols, .dtype = o->dtype, .input = all[index].family, .seed = 1
    };
    return all[index].name;
}

static int64_t rows(const struct options *o)
{
    return o->rows;
}

static double units(const struct options *o)
{
    return (double)o->rows * (double)o->cols;
}

static void inputs_new(const struct options *o, struct buffer *inputs)
{
    inputs[X] = input_tensor(o);
}

static size_t bytes(const struct options *o, int tensor)
{
    (void)tensor; /* x and y are alike */
    return (size_t)(o->rows * o->cols) * dtype_bytes(o->dtype);
}

/* ---- the step */

static const char *missing(const void *step, const struct options *o, const struct device *device)
{
    static char why[64];
    const struct softmax_step *s = step;
    if (device->missing())
        return device->missing();
    if (!device->apart && !softmax_has(s, device, FP32))
        return "it is for GPUs alone";
    snprintf(why, sizeof why, "the step has no %s version for it", dtype_name(o->dtype));
    return softmax_has(s, device, o->dtype) ? NULL : why;
}

static size_t workspace(const void *step, const struct options *o, const struct device *device)
{
    const struct softmax_step *s = step;
    return device->apart && s->workspace ? s->workspace(o->rows, o->cols, o->dtype) : 0;
}

static void call(const struct run *r)
{
    const struct options *o = r->o;
    softmax_run(r->step, r->device, o->dtype, r->tensor[Y].data, r->tensor[X].data, o->rows, o->cols, r->workspace.data);
}

static double reads_of(const struct softmax_step *s, const struct device *device)
{
    return !device->apart && s->cpu_reads > 0 ? s->cpu_reads : s->reads;
}

static struct cost predict(const void *step, const struct options *o, const struct device *device)
{
    const struct softmax_step *s = step;
    return (struct cost){
        .bytes = (reads_of(s, device) + s->writes) * (double)bytes(o, X),
        .exps = (device->apart && s->gpu_exps ? s->gpu_exps : s->exps) * (double)o->rows * (double)o->cols,
    };
}

/* ---- judging and measuring it */

static struct verdict verify(const struct run *r)
{
    const struct options *o = r->o;
    return verify_softmax(r->host[Y].data, r->host[X].data, o->dtype, o->rows, o->cols,
                          softmax_rounding(r->step, r->device, o->dtype));
}

static double verify_bytes(const struct options *o, const struct device *device)
{
    return device->apart ? 0 : verify_softmax_bytes(o->rows, o->cols); /* on the CPU, wherever the step runs */
}

static void run_copy(void *arg)
{
    const struct run *r = arg;
#ifdef USE_CUDA
    if (r->device->apart)
        copy_gpu(r->tensor[r->kind->inputs].data, r->tensor[X].data, bytes(r->o, X), NULL);
    else
#endif
        copy_cpu(r->tensor[r->kind->inputs].data, r->tensor[X].data, bytes(r->o, X));
}

static struct work beside(struct run *r)
{
    return (struct work){ .run = run_copy, .arg = r, .bytes = 2 * (int64_t)r->tensor[X].bytes };
}

/* The tightest ceiling: what would take longest at its full speed, the compulsory bytes or the exponentials. */
static void measure(const struct run *r, struct result *result, const struct timing *copy)
{
    double trips = r->kind->inputs + r->kind->outputs, least = copy->median * trips / 2; /* a copy makes two */
    result->rows = r->o->rows;
    result->cols = r->o->cols;
    result->input = r->o->input;
    result->useful_bytes = trips * (double)bytes(r->o, X);
    result->copy_gbs = result->useful_bytes / least * 1e-6;
    double gexps = ceiling_get(result->device, result->threads, "exp", FP32);
    double exp_ms = gexps > 0 ? result->exps / gexps * 1e-6 : 0;
    result->percent = 100 * fmax(least, exp_ms) / result->time.median;
    result->ceiling = exp_ms > least ? "exp" : "copy";
    /* in turn, a copy's fast runs are as fast; and memory may like two reads to a write better than a copy's one */
    result->excused = result->ceiling[0] == 'c' && (trips > 2 || result->time.p90 >= copy->p10);
}

/* ---- reporting it */

static void print_problem(const struct options *o)
{
    printf("x is (%lld, %lld) %s, %s", (long long)o->rows, (long long)o->cols, dtype_name(o->dtype), o->input);
    if (!o->x_path && strcmp(o->input, "real"))
        printf(", seed %llu", (unsigned long long)o->seed);
    printf("; ");
    print_bytes((double)bytes(o, X));
    printf(" to read and as much to write\n");
}

static void print_cost(const struct run *r, const struct result *result, const struct timing *copy)
{
    const struct softmax_step *s = r->step;
    double reads = reads_of(s, r->device), predicted_gbs = result->predicted_bytes / result->time.median * 1e-6;
    printf("; a copy %.4g ms\n    predicted   %g read%s + %g write%s = ", copy->median, reads, reads == 1 ? "" : "s", s->writes,
           s->writes == 1 ? "" : "s");
    print_bytes(result->predicted_bytes);
    printf(", at %.4g GB/s%s; %g exps an element\n", predicted_gbs,
           predicted_gbs <= 1.02 * result->copy_gbs               ? ""
           : result->predicted_bytes > result->useful_bytes ? " (faster than a copy: caches served some of it)"
                                                            : " (faster than a copy)",
           result->exps / (double)result->rows / (double)result->cols);
    printf("    bandwidth   %.4g GB/s effective, %s; a copy %.4g GB/s\n", result->useful_bytes / result->time.median * 1e-6,
           r->kind->compulsory, result->copy_gbs);
    printf("    ceiling     %.0f %% of the tightest, %s\n", result->percent, result->ceiling);
}

static void print_line(const struct options *o, const struct result *r)
{
    (void)o;
    printf("    %10lld x %-9lld %9.4g ms  %6.4g GB/s  %4.0f %% of %-4s  error %-8.2g %s\n", (long long)r->rows,
           (long long)r->cols, r->time.median, r->useful_bytes / r->time.median * 1e-6, r->percent, r->ceiling, r->verdict.error,
           r->verdict.pass ? "pass" : r->verdict.what);
    fflush(stdout);
}

static void write_outputs(const struct run *r)
{
    if (r->o->out_path)
        output_write(r->o, r->host[r->kind->inputs].data);
}

const struct kind softmax_kind = {
    .options = SOFTMAX_STEP, .inputs = 1, .outputs = 1,
    .error = "worst relative error %.2g, allowed there %.2g",
    .unit = "an element", .units = units, .compulsory = "read once + written once",
    .finish = finish, .sweep = sweep, .small = small, .rows = rows, .inputs_new = inputs_new, .bytes = bytes,
    .missing = missing, .workspace = workspace, .call = call, .predict = predict,
    .verify = verify, .verify_bytes = verify_bytes, .beside = beside, .measure = measure,
    .print_problem = print_problem, .print_cost = print_cost, .print_line = print_line, .write = write_outputs,
};

int softmax_main(const struct softmax_step *step, const struct softmax_step *before, int argc, char **argv)
{
    return program_main(&softmax_kind, step, step->name, step->idea, before, before ? before->name : NULL, argc, argv);
}
