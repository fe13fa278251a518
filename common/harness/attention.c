/* An attention step's program: run it on every device asked for, hold it to what it claims, and report. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "steps.h"

#define FMA_ROUNDS 4000000  /* of the probe on a CPU: about 10 ms */
#define SCALE_FROM 0.25f    /* of 1 / sqrt(dim): --sweep-scale starts here, */
#define SCALE_TO 64.0f      /* doubles it, and ends here */

double attention_pairs(struct attention p)
{
    double pairs = 0;
    for (int64_t query = 0; query < p.seq_q; query++)
        pairs += (double)attention_visible(p, query);
    return (double)p.batch * (double)p.heads * pairs;
}

double attention_bytes(struct attention p, enum dtype dtype)
{
    double queries = (double)p.batch * (double)p.heads * (double)p.seq_q, keys = (double)p.batch * (double)p.kv_heads * (double)p.seq_k;
    return 2 * (queries + keys) * (double)p.dim * (double)dtype_bytes(dtype);
}

/* One call of the step. */
struct job {
    const struct attention_step *step;
    enum dtype dtype;
    struct attention p;
    void *O;
    float *lse;
    const void *Q, *K, *V;
    void *workspace;
};

static bool has(const struct attention_step *s, enum dtype dtype, bool gpu)
{
    switch (dtype) {
    case FP16: return gpu && s->gpu_fp16;
    case BF16: return gpu && s->gpu_bf16;
    default:   return gpu ? s->gpu != NULL : s->cpu != NULL;
    }
}

static void run_cpu(void *arg)
{
    const struct job *j = arg;
    j->step->cpu(j->O, j->lse, j->Q, j->K, j->V, j->p);
}

static void run_gpu(void *arg)
{
    const struct job *j = arg;
    switch (j->dtype) {
    case FP16: j->step->gpu_fp16(j->O, j->lse, j->Q, j->K, j->V, j->p, j->workspace, NULL); break;
    case BF16: j->step->gpu_bf16(j->O, j->lse, j->Q, j->K, j->V, j->p, j->workspace, NULL); break;
    default:   j->step->gpu(j->O, j->lse, j->Q, j->K, j->V, j->p, j->workspace, NULL); break;
    }
}

static double flops; /* of the last run_fma() */

/* On a CPU the clock depends on what runs, and on how long: the multiply-adds of step 00 take turns with the step. */
static void run_fma(void *arg)
{
    (void)arg;
    flops = fma_cpu(FMA_ROUNDS);
}

/* ---- what is printed */

/* The input's name for the table, which says so where the scale is not the usual one: "normal, scale 2". Good until the next call. */
static const char *input_text(const struct options *o)
{
    static char text[96];
    if (!o->sweep_scale && o->attention.scale == default_scale(o->attention.dim))
        return o->input;
    snprintf(text, sizeof text, "%s, scale %g", o->input, (double)o->attention.scale);
    return text;
}

static void print_header(const struct attention_step *step, const struct options *o)
{
    const struct attention *p = &o->attention;
    printf("%s: %s\n", step->name, step->idea);
    printf("  Q is (%lld, %lld, %lld, %lld), K and V (%lld, %lld, %lld, %lld), %s%s, %s\n", (long long)p->batch, (long long)p->heads,
           (long long)p->seq_q, (long long)p->dim, (long long)p->batch, (long long)p->kv_heads, (long long)p->seq_k,
           (long long)p->dim, dtype_name(o->dtype), p->causal ? ", causal" : "", input_text(o));
}

static void print_result(const struct result *r, const struct before *before, double workspace, const struct timing *again)
{
    const struct verdict *v = &r->verdict;
    bool cpu = r->threads > 0;
    printf("  %s: %s", cpu ? "cpu" : "gpu", r->device);
    if (cpu)
        printf(", %d thread%s", r->threads, r->threads > 1 ? "s" : "");
    printf("\n    verdict     %s: worst error %.2g of the row's largest, allowed there %.2g; %s\n", verdict_word(v), v->error,
           v->tolerance, verdict_coverage(v));
    if (!v->pass)
        printf("                %lld elements are wrong, %lld rows in doubt; %s\n", (long long)v->wrong, (long long)v->doubtful, v->what);
    printf("    time        %.4g ms, median of %d; p10 %.4g, p90 %.4g\n", r->time.median, r->time.reps, r->time.p10, r->time.p90);
    printf("    products    %.4g GFLOP, at %.4g TFLOP/s\n", r->flops * 1e-9, r->flops / r->time.median * 1e-9);
    printf("    predicted   ");
    print_bytes(r->predicted_bytes);
    printf(" of memory traffic, at %.4g GB/s; Q, K, V and O alone are ", r->predicted_bytes / r->time.median * 1e-6);
    print_bytes(r->useful_bytes);
    printf("\n    workspace   ");
    print_bytes(workspace);
    printf("\n");
    if (r->ceiling && strcmp(r->ceiling, "matmul") == 0)
        printf("    ceiling     %.0f %% of a matrix product by cuBLAS, which is a peer: one can be faster\n", r->percent);
    else if (r->ceiling)
        printf("    ceiling     %.0f %% of the tightest, %s\n", r->percent, r->ceiling);
    else
        printf("    ceiling     not known: run step 0, which measures it\n");
    char predicted[96];
    snprintf(predicted, sizeof predicted, "to move %.3gx the bytes, and %.3gx the exponentials", before->bytes / r->predicted_bytes, before->exps / r->exps);
    print_before(r, before, predicted);
    if (again)
        printf("    noise       against itself: %.3fx\n", again->median / r->time.median);
    if (above_ceiling(r))
        printf("    ERROR       above the ceiling: one of the two measurements is wrong\n");
}

static void print_line(const struct result *r)
{
    char share[32] = "ceiling unknown";
    if (r->ceiling)
        snprintf(share, sizeof share, "%4.0f %% of %-6s", r->percent, r->ceiling);
    printf("    %8lld x %-8lld %9.4g ms  %7.4g TFLOP/s  %-16s  error %-8.2g %s\n", (long long)r->seq_q, (long long)r->seq_k,
           r->time.median, r->flops / r->time.median * 1e-9, share, r->verdict.error, r->verdict.pass ? "pass" : r->verdict.what);
    fflush(stdout);
}

static void print_scale_line(const struct result *r, float scale)
{
    const struct verdict *v = &r->verdict;
    printf("    scale %-9.4g worst error %-8.2g of the row's largest, allowed there %-8.2g %s\n", (double)scale, v->error, v->tolerance,
           v->pass ? "pass" : v->what);
    fflush(stdout);
}

/* ---- one device */

/* What would take longest at its full speed: the compulsory bytes, the products, or the exponentials. fma: TFLOP/s in this run, or 0. */
static void set_ceiling(struct result *r, double fma)
{
    bool tensor_cores = r->dtype != FP32;
    double products = tensor_cores ? ceiling_get(r->device, r->threads, "matmul", BF16) : ceiling_get(r->device, r->threads, "fma", FP32);
    if (products > 0 && fma > 0)
        products = fma;
    const struct { const char *name; double work, rate; } all[] = {
        { "copy", r->useful_bytes, 1e6 * ceiling_get(r->device, r->threads, "copy", FP32) },
        { "exp", r->exps, 1e6 * ceiling_get(r->device, r->threads, "exp", FP32) },
        { tensor_cores ? "matmul" : "fma", r->flops, 1e9 * products },
    };
    double longest = 0;
    r->percent = NAN;
    r->copy_gbs = all[0].rate > 0 ? all[0].rate * 1e-6 : NAN;
    for (int i = 0; i < 3; i++)
        if (all[i].rate > 0 && all[i].work / all[i].rate > longest) {
            longest = all[i].work / all[i].rate;
            r->percent = 100 * longest / r->time.median;
            r->ceiling = all[i].name;
        }
}

/* Where a step runs; on a CPU the device's buffers are the host's. */
struct tensors {
    struct qkv host, device;
    struct buffer O, lse, host_O, host_lse, workspace;
    bool gpu;
};

/* A zeroed workspace on the GPU, where the step wants one. */
static struct buffer workspace_new(const struct attention_step *step, const struct options *o)
{
    struct buffer workspace = { 0 };
    size_t bytes = step->workspace ? step->workspace(o->attention, o->dtype) : 0;
    if (bytes) {
        workspace = buffer_new(bytes, true);
        gpu_fill(workspace.data, 0, bytes);
    }
    return workspace;
}

static struct tensors tensors_new(const struct attention_step *step, const struct options *o, struct qkv host, bool gpu)
{
    struct attention p = o->attention;
    size_t lse_bytes = (size_t)(p.batch * p.heads * p.seq_q) * sizeof(float);
    struct tensors t = { .host = host, .device = host, .gpu = gpu };
    t.O = t.host_O = buffer_new(host.q.bytes, false);
    t.lse = t.host_lse = buffer_new(lse_bytes, false);
    if (!gpu)
        return t;
    struct buffer *from[] = { &host.q, &host.k, &host.v }, *to[] = { &t.device.q, &t.device.k, &t.device.v };
    for (int i = 0; i < 3; i++) {
        *to[i] = buffer_new(from[i]->bytes, true);
        gpu_upload(to[i]->data, from[i]->data, from[i]->bytes);
    }
    t.O = buffer_new(host.q.bytes, true);
    t.lse = buffer_new(lse_bytes, true);
    t.workspace = workspace_new(step, o);
    return t;
}

static void tensors_free(struct tensors *t) /* all but host, which is the caller's */
{
    struct buffer *device[] = { &t->device.q, &t->device.k, &t->device.v, &t->O, &t->lse, &t->workspace };
    for (int i = 0; t->gpu && i < 6; i++)
        buffer_free(device[i]);
    buffer_free(&t->host_O);
    buffer_free(&t->host_lse);
}

/* Runs once, into poisoned memory, for the verdict. */
static struct verdict judge(struct job *j, const struct options *o, struct tensors *t)
{
    buffer_poison(&t->O);
    buffer_poison(&t->lse);
    (t->gpu ? run_gpu : run_cpu)(j);
    if (t->gpu) {
        gpu_finish(j->step->name);
        gpu_download(t->host_O.data, t->O.data, t->O.bytes);
        gpu_download(t->host_lse.data, t->lse.data, t->lse.bytes);
    }
    struct attention_rounding how = o->dtype == FP32 ? (struct attention_rounding){ 0 } : j->step->rounding;
    struct verdict v = verify_attention(t->host_O.data, t->host_lse.data, t->host.q.data, t->host.k.data, t->host.v.data, o->dtype, j->p,
                                        how, o->seed_given ? o->seed : fresh_seed(), t->gpu);
    const struct buffer *all[] = { &t->device.q, &t->device.k, &t->device.v, &t->O, &t->lse };
    for (int i = 0; i < 5; i++)
        if (!buffer_guards_intact(all[i])) {
            v.pass = false;
            snprintf(v.what, sizeof v.what, "memory outside the tensors was written");
        }
    return v;
}

static void write_outputs(const struct options *o, const struct tensors *t)
{
    const struct attention *p = &o->attention;
    int64_t shape[] = { p->batch, p->heads, p->seq_q, p->dim };
    char why[512];
    if (o->out_path && npy_write(o->out_path, t->host_O.data, o->dtype, 4, shape, why, sizeof why))
        fatal("%s", why);
    if (o->lse_path && npy_write(o->lse_path, t->host_lse.data, FP32, 3, shape, why, sizeof why))
        fatal("%s", why);
}

/* Says why a device is left out, if it is. */
const char *attention_gpu_missing(const struct attention_step *step, enum dtype dtype, int64_t dim)
{
    static char why[160];
    int needs = dtype == BF16 && step->bf16_capability ? step->bf16_capability : step->capability;
    size_t shared = step->shared ? step->shared(dim) : 0;
    if (step->hopper && gpu_capability() != needs)
        snprintf(why, sizeof why, "it needs a Hopper GPU (H100, H200: sm_90a), and this one is sm_%d", gpu_capability());
    else if (step->hopper && !gpu_built_for().hopper)
        snprintf(why, sizeof why, "this build is not for sm_90a; build it with ARCH=sm_90a");
    else if (gpu_capability() < needs)
        snprintf(why, sizeof why, "%s needs a GPU of sm_%d or newer, and this one is sm_%d", needs == step->capability ? "it" : "bf16",
                 needs, gpu_capability());
    else if (gpu_built_for().capability < needs)
        snprintf(why, sizeof why, "%s needs code for sm_%d or newer, and this build is for sm_%d; build it with ARCH=sm_%d",
                 needs == step->capability ? "it" : "bf16", needs, gpu_built_for().capability, gpu_capability());
    else if (shared > gpu_shared_bytes())
        snprintf(why, sizeof why, "--dim %lld needs %zu bytes of shared memory a block, and this GPU has %zu", (long long)dim, shared,
                 gpu_shared_bytes());
    else
        return NULL;
    return why;
}

/* The same for a step on a device that is asked for, in the type asked for; NULL where nothing is missing. */
static const char *missing(const struct attention_step *step, const struct options *o, bool gpu)
{
    static char line[160];
    if (gpu && gpu_count() == 0)
        return gpu_missing();
    if (!gpu && !step->cpu)
        return "this step is for GPUs alone";
    if (!has(step, o->dtype, gpu)) {
        snprintf(line, sizeof line, "this step has no %s version for it", dtype_name(o->dtype));
        return line;
    }
    if (!gpu && step->ready && !step->ready())
        return "built without a CBLAS; `make setup` installs one";
    return gpu ? attention_gpu_missing(step, o->dtype, o->attention.dim) : NULL;
}

static bool available(const struct attention_step *step, const struct options *o, bool gpu)
{
    if (!(gpu ? o->gpu : o->cpu))
        return false;
    const char *why = missing(step, o, gpu);
    if (why && !o->json)
        printf("  %s: skipped: %s\n", gpu ? "gpu" : "cpu", why);
    return !why;
}

static bool takes_dim(const struct attention_step *step, int64_t dim)
{
    for (const int *d = step->dims; *d; d++)
        if (*d == dim)
            return true;
    return !step->dims[0] && dim <= 256;
}

/* The step before on the same problem, in turn with `run`; its O takes the place of this step's, which has been looked at. */
static struct before run_before(const struct attention_step *step, const struct options *o, const struct tensors *t, struct work run)
{
    struct attention p = o->attention;
    if (!step)
        return (struct before){ 0 };
    struct attention_cost cost = step->predict(p, o->dtype);
    struct before b = { .step = step->name, .bytes = cost.bytes, .exps = cost.exps };
    const char *why = missing(step, o, t->gpu);
    attention_workspace_fn *extra = t->gpu ? step->workspace : step->scratch;
    size_t bytes = why || !extra ? 0 : extra(p, o->dtype);
    if (why)
        snprintf(b.why_not, sizeof b.why_not, "%.120s", why);
    else if (!takes_dim(step, p.dim))
        snprintf(b.why_not, sizeof b.why_not, "it does not take heads of %lld", (long long)p.dim);
    else if (bytes > memory_available(t->gpu))
        snprintf(b.why_not, sizeof b.why_not, "it needs %.3g GiB besides", (double)bytes / (1 << 30));
    if (*b.why_not)
        return b;
    struct buffer workspace = t->gpu ? workspace_new(step, o) : (struct buffer){ 0 };
    struct job job = { step, o->dtype, p, t->O.data, t->lse.data, t->device.q.data, t->device.k.data, t->device.v.data, workspace.data };
    struct work before = { .run = run.run, .arg = &job, .bytes = run.bytes };
    b.ratio = time_ratio(run, before, t->gpu, o->reps, o->budget);
    buffer_free(&workspace);
    return b;
}

/* Verify, time and report the step on one problem. */
static bool run_problem(const struct attention_step *step, const struct attention_step *before, const struct options *o, struct qkv host,
                        bool gpu)
{
    struct attention p = o->attention;
    struct tensors t = tensors_new(step, o, host, gpu);
    struct job job = { step, o->dtype, p, t.O.data, t.lse.data, t.device.q.data, t.device.k.data, t.device.v.data, t.workspace.data };
    struct attention_cost cost = step->predict(p, o->dtype);
    struct result r = {
        .step = step->name, .device = gpu ? gpu_name() : cpu_name(), .backend = gpu ? "cuda" : "cpu", .dtype = o->dtype,
        .batch = p.batch, .heads = p.heads, .kv_heads = p.kv_heads, .seq_q = p.seq_q, .seq_k = p.seq_k, .dim = p.dim, .causal = p.causal,
        .seed = o->seed, .input = input_text(o), .threads = gpu ? 0 : cpu_threads(),
        .useful_bytes = attention_bytes(p, o->dtype),
        .predicted_bytes = cost.bytes, .exps = cost.exps, .flops = 4 * attention_pairs(p) * (double)p.dim,
        .verdict = judge(&job, o, &t),
    };
    write_outputs(o, &t);

    struct work run = { .run = gpu ? run_gpu : run_cpu, .arg = &job, .bytes = (int64_t)r.useful_bytes };
    struct work works[] = { run, gpu ? run : (struct work){ .run = run_fma }, run };
    (gpu ? time_gpu : time_cpu)(works, (gpu ? 1 : 2) + o->noise, o->reps, o->budget);
    r.time = works[0].time;
    set_ceiling(&r, gpu ? 0 : 1e-9 * flops / works[1].time.median);
    report_tsv(&r);
    if (o->json)
        report_json(&r);
    else if (o->sweep)
        print_line(&r);
    else if (o->sweep_scale)
        print_scale_line(&r, p.scale);
    else {
        run.time = r.time;
        struct before b = run_before(before, o, &t, run);
        print_result(&r, &b, (double)t.workspace.bytes, o->noise ? &works[gpu ? 1 : 2].time : NULL);
    }
    tensors_free(&t);
    return r.verdict.pass;
}

/* What the step cannot take. */
static void check_dtype(const struct attention_step *step, struct options *o)
{
    if (!o->dtype_given)
        o->dtype = step->cpu ? FP32 : BF16;
    if (o->dtype == FP32 && !step->cpu)
        usage_error("--dtype fp32: %s takes fp16 and bf16", step->name);
}

static void check_dim(const struct attention_step *step, int64_t dim)
{
    char list[64] = "1 to 256";
    for (const int *d = step->dims, *first = d; *d; d++)
        snprintf(list + (d == first ? 0 : strlen(list)), sizeof list - (d == first ? 0 : strlen(list)), "%s%d", d == first ? "" : d[1] ? ", " : " and ", *d);
    if (!takes_dim(step, dim))
        usage_error("--dim %lld: %s takes %s", (long long)dim, step->name, list);
}

/* All that a run takes, before any of it is allocated: Q, K, V, O and lse, scratch, what verifies them, and what flushes the caches. */
static void require_memory(const struct attention_step *step, const struct options *o, struct attention p)
{
    while (o->sweep && p.seq_q < SWEEP_SEQ_TO && p.batch > 1) { /* the last is the largest */
        p.seq_k = p.seq_q *= 2;
        p.batch /= 2;
    }
    bool cpu = o->cpu && step->cpu && o->dtype == FP32, gpu = o->gpu && gpu_count() > 0 && has(step, o->dtype, true);
    double lse = (double)p.batch * (double)p.heads * (double)p.seq_q * sizeof(float), outside = attention_bytes(p, o->dtype) + lse;
    double besides = verify_attention_bytes(p) + (double)flush_bytes(false);
    memory_require(outside + fmax(o->file_bytes, besides + (cpu && step->scratch ? (double)step->scratch(p, o->dtype) : 0)), false);
    if (gpu && !attention_gpu_missing(step, o->dtype, p.dim))
        memory_require(outside + (step->workspace ? (double)step->workspace(p, o->dtype) : 0) +
                           fmax(reference_gpu_bytes(p, o->dtype), (double)flush_bytes(true)), true);
}

int attention_main(const struct attention_step *step, const struct attention_step *before, int argc, char **argv)
{
    struct options o = options_parse(argc, argv, step->idea, ATTENTION_STEP);
    check_dtype(step, &o);
    check_dim(step, o.attention.dim);
    if (o.threads)
        cpu_set_threads(o.threads);
    int64_t tokens = o.attention.batch * o.attention.seq_q;
    if (o.sweep)
        o.attention.seq_q = o.attention.seq_k = SWEEP_SEQ_FROM;
    if (o.sweep)
        o.attention.batch = tokens / SWEEP_SEQ_FROM;
    require_memory(step, &o, o.attention);
    struct qkv host = input_qkv(&o);
    if (o.sweep_scale)
        o.attention.scale *= SCALE_FROM;
    if (!o.json)
        print_header(step, &o);

    bool good = true, ran = false;
    for (int gpu = 0; gpu <= 1; gpu++) {
        if (!available(step, &o, gpu))
            continue;
        ran = true;
        struct options at = o;
        good &= run_problem(step, before, &at, host, gpu);
        while (o.sweep && at.attention.seq_q < SWEEP_SEQ_TO && at.attention.batch > 1) {
            at.attention.seq_q *= 2;
            at.attention.seq_k *= 2;
            at.attention.batch /= 2;
            good &= run_problem(step, before, &at, host, gpu);
        }
        while (o.sweep_scale && at.attention.scale < SCALE_TO * default_scale(o.attention.dim)) {
            at.attention.scale *= 2;
            good &= run_problem(step, before, &at, host, gpu);
        }
    }
    buffer_free(&host.q);
    buffer_free(&host.k);
    buffer_free(&host.v);
    if (!ran && !o.json)
        report_recorded(step->name);
    if (!ran && (o.json || o.out_path || o.lse_path))
        fatal("nothing ran, and nothing was written: no device that was asked for is here and has a version for %s", dtype_name(o.dtype));
    if (!ran && o.cpu != o.gpu)
        return EXIT_FAILED;
    return good ? 0 : EXIT_FAILED;
}
