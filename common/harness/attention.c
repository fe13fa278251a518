/* What the program of an attention step has of its own: shapes, claims, reference, and how the cost is said. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"
#include "ring/ring.h"
#include "steps.h"

#define FMA_ROUNDS 4000000  /* of the probe on a CPU: about 10 ms */
#define SCALE_FROM 0.25f    /* of 1 / sqrt(dim): --sweep-scale starts here, */
#define SCALES 9            /* and doubles it so many times less one: to 64 */

enum { Q, K, V, O, LSE };

double attention_pairs(struct attention p)
{
    double pairs = 0;
    for (int64_t query = 0; query < p.seq_q; query++)
        pairs += (double)attention_visible(p, query);
    return (double)p.batch * (double)p.heads * pairs;
}

double attention_bytes(struct attention p, enum dtype dtype)
{
    double queries = (double)p.batch * (double)p.heads * (double)p.seq_q,
           keys = (double)p.batch * (double)p.kv_heads * (double)p.seq_k;
    return 2 * (queries + keys) * (double)p.dim * (double)dtype_bytes(dtype);
}

bool attention_has(const struct attention_step *s, const struct device *device, enum dtype dtype)
{
    const struct attention_backward *b = &s->backward;
    const struct attention_paged *g = &s->paged;
    switch (dtype) {
    case FP16: return device->apart ? s->gpu_fp16 || b->gpu_fp16 || g->gpu_fp16 : s->cpu_fp16 || b->cpu_fp16 || g->cpu_fp16;
    case BF16: return device->apart ? s->gpu_bf16 || b->gpu_bf16 || g->gpu_bf16 : s->cpu_bf16 || b->cpu_bf16 || g->cpu_bf16;
    default:   return device->apart ? s->gpu || b->gpu : s->cpu || b->cpu || g->cpu;
    }
}

void attention_run(const struct attention_step *s, const struct device *device, enum dtype dtype, void *O, float *lse,
                   const void *Q, const void *K, const void *V, struct attention p, void *workspace, cudaStream_t stream)
{
    if (device->apart)
        CALL_FOR(dtype, s->gpu, O, lse, Q, K, V, p, workspace, stream);
    else
        CALL_FOR(dtype, s->cpu, O, lse, Q, K, V, p);
}

struct attention_rounding attention_rounding(const struct attention_step *s, const struct device *device, enum dtype dtype)
{
    return dtype == FP32 || !device->apart ? (struct attention_rounding){ 0 } : s->rounding;
}

bool attention_takes(const struct attention_step *s, const struct device *device, int64_t dim)
{
    const int *dims = device->apart && s->gpu_dims[0] ? s->gpu_dims : s->dims;
    for (const int *d = dims; *d; d++)
        if (*d == dim)
            return true;
    return !dims[0] && dim <= 256;
}

/* ---- the problem */

static const struct attention *usual(const void *step)
{
    const struct attention_step *s = step;
    return s->usual.seq_q ? &s->usual : NULL;
}

/* The program may be one of several that mpirun has started. */
static void join(const char *name, const struct options *o)
{
    const struct attention p = o->attention;
    char text[160];
    snprintf(text, sizeof text, "%s with Q (%lld, %lld, %lld, %lld), K and V (%lld, %lld, %lld, %lld)%s", name,
             (long long)p.batch, (long long)p.heads, (long long)p.seq_q, (long long)p.dim, (long long)p.batch,
             (long long)p.kv_heads, (long long)p.seq_k, (long long)p.dim, p.causal ? ", causal" : "");
    ring_join(text, o->ranks);
}

void attention_finish_any(const void *step, struct options *o)
{
    const struct attention_step *s = step;
    char list[64] = "1 to 256";
    bool fp32 = attention_has(s, &cpu_device, FP32) || attention_has(s, &gpu_device, FP32); /* in a build with CUDA */
    if (!o->dtype_given)
        o->dtype = fp32 ? FP32 : BF16;
    if (o->dtype == FP32 && !fp32)
        usage_error("--dtype fp32: %s takes fp16 and bf16", s->name);
    if (o->ranks && !s->ring)
        usage_error("--ranks %d: %s is no ring", o->ranks, s->name);
    if (s->ring)
        join(s->name, o);
    const struct paging *g = &o->paging;
    if ((g->size || g->pool || g->prefix || g->lengths || g->table_path) && !s->paged.cpu)
        usage_error("--page-size, --pages, --prefix, --seqlens, --table: %s has no pages", s->name);
    for (size_t i = 0, at = 0; s->dims[i]; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%d", i == 0 ? "" : s->dims[i + 1] ? ", " : " and ", s->dims[i]);
    if (!attention_takes(s, &cpu_device, o->attention.dim))
        usage_error("--dim %lld: %s takes %s", (long long)o->attention.dim, s->name, list);
}

static void finish(const void *step, struct options *o)
{
    if (o->o_path || o->change_path || o->dlse_path || o->dq_path || o->dk_path || o->dv_path)
        usage_error("--o, --do, --dlse, --dq, --dk, --dv: %s computes no gradient", ((const struct attention_step *)step)->name);
    attention_finish_any(step, o);
}

/* --sweep: lengths from 512 on, tokens in all staying what they are; of a decoding step, keys, and as few queries as ever.
   --sweep-scale: one shape at many scales. */
static bool sweep(struct options *o, int index)
{
    struct attention *p = &o->attention;
    if (o->sweep_scale) {
        p->scale *= SCALE_FROM * (float)(1 << index);
        return index < SCALES;
    }
    if (!o->sweep)
        return index == 0;
    if (o->usual) {
        int64_t keys = (int64_t)SWEEP_KEYS_FROM << index;
        p->batch = p->batch * p->seq_k / keys;
        p->seq_k = keys;
        return p->batch > 0;
    }
    p->batch = p->batch * p->seq_q / SWEEP_SEQ_FROM >> index;
    p->seq_q = p->seq_k = (int64_t)SWEEP_SEQ_FROM << index;
    return p->batch > 0 && p->seq_q <= SWEEP_SEQ_TO;
}

static const char *small(const void *step, struct options *o, int index)
{
    /* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale */
    static const struct { const char *name, *family; struct attention p; } all[] = {
        { "ragged lengths", "normal", { 2, 2, 2, 67, 131, 0, false, 0 } },
        { "shared key-value heads", "normal", { 2, 6, 2, 33, 65, 0, false, 0 } },
        { "a causal mask", "normal", { 1, 2, 1, 129, 129, 0, true, 0 } },
        { "fewer queries than keys, causal", "normal", { 1, 2, 2, 17, 200, 0, true, 0 } },
        { "queries that see no key", "normal", { 1, 2, 2, 200, 77, 0, true, 0 } },
        { "another scale", "normal", { 1, 2, 2, 65, 130, 0, false, 0.3f } },
        { "scores that rise, fall or lie far off", "adversarial", { 1, 2, 2, 72, 257, 0, false, 0 } },
        { "the same, causal", "adversarial", { 1, 2, 1, 130, 130, 0, true, 0 } },
        { "scores that rise", "rising", { 1, 1, 1, 40, 300, 0, false, 0 } },
        { "one key", "normal", { 1, 3, 3, 5, 1, 0, false, 0 } },
        { "peaks", "peak", { 1, 2, 2, 64, 320, 0, false, 0 } },
        { "scores around -50000", "deep", { 1, 2, 2, 33, 131, 0, false, 0 } },
        { "a slope for each query", "slopes", { 1, 1, 1, 128, 400, 0, false, 0 } },
        { "scores of -inf, causal", "masked", { 1, 2, 2, 40, 40, 0, true, 0 } },
        { "queries with a NaN", "nan", { 1, 2, 1, 70, 90, 0, false, 0 } },
        /* of a decoding step: so many keys that there are pieces of them */
        { "one query, scores that rise", "rising", { 1, 1, 1, 1, 2100, 0, false, 0 } },
        { "one query, scores that fall", "falling", { 1, 1, 1, 1, 2100, 0, false, 0 } },
    };
    const int count = (int)(sizeof all / sizeof all[0]) - (usual(step) ? 0 : 2);
    int64_t dim = o->attention.dim;
    if (index >= count)
        return NULL;
    *o = (struct options){
        .is_attention = true, .attention = all[index].p, .dtype = o->dtype, .input = all[index].family, .seed = 1
    };
    o->attention.dim = dim;
    if (o->attention.scale == 0)
        o->attention.scale = default_scale(dim);
    return all[index].name;
}

static int64_t rows(const struct options *o)
{
    return o->attention.batch * o->attention.heads * o->attention.seq_q;
}

static double units(const struct options *o)
{
    return attention_pairs(o->attention);
}

static double useful(const struct options *o)
{
    return attention_bytes(o->attention, o->dtype);
}

static void inputs_new(const struct options *o, struct buffer *inputs)
{
    struct qkv t = input_qkv(o);
    inputs[Q] = t.q, inputs[K] = t.k, inputs[V] = t.v;
}

static size_t bytes(const struct options *o, int tensor)
{
    const struct attention *p = &o->attention;
    int64_t queries = p->batch * p->heads * p->seq_q, keys = p->batch * p->kv_heads * p->seq_k;
    if (tensor == LSE)
        return (size_t)queries * sizeof(float);
    return (size_t)((tensor == K || tensor == V ? keys : queries) * p->dim) * dtype_bytes(o->dtype);
}

/* ---- the step */

const char *attention_gpu_missing(const struct attention_step *step, enum dtype dtype, int64_t dim)
{
    static char why[160];
    int needs = dtype == BF16 && step->bf16_capability ? step->bf16_capability : step->capability;
    size_t shared = step->shared ? step->shared(dim) : 0;
    if (step->ring && ring_gpu_missing())
        return ring_gpu_missing();
    if (step->hopper && gpu_capability() != needs)
        snprintf(why, sizeof why, "it needs a Hopper GPU (H100, H200: sm_90a), and this one is sm_%d", gpu_capability());
    else if (step->hopper && !gpu_built_for().hopper)
        snprintf(why, sizeof why, "this build is not for sm_90a; build it with ARCH=sm_90a");
    else if (gpu_capability() < needs)
        snprintf(why, sizeof why, "%s needs a GPU of sm_%d or newer, and this one is sm_%d",
                 needs == step->capability ? "it" : "bf16", needs, gpu_capability());
    else if (gpu_built_for().capability < needs)
        snprintf(why, sizeof why, "%s needs code for sm_%d or newer, and this build is for sm_%d; build it with ARCH=sm_%d",
                 needs == step->capability ? "it" : "bf16", needs, gpu_built_for().capability, gpu_capability());
    else if (shared > gpu_shared_bytes())
        snprintf(why, sizeof why, "--dim %lld needs %zu bytes of shared memory a block, and this GPU has %zu", (long long)dim,
                 shared, gpu_shared_bytes());
    else
        return NULL;
    return why;
}

static const char *missing(const void *step, const struct options *o, const struct device *device)
{
    static char why[160];
    const struct attention_step *s = step;
    if (device->missing())
        return device->missing();
    if (!device->apart && !attention_has(s, device, FP32))
        return "it is for GPUs alone";
    snprintf(why, sizeof why, "the step has no %s version for it", dtype_name(o->dtype));
    if (!attention_has(s, device, o->dtype))
        return why;
    if (!device->apart && s->ready && !s->ready())
        return "built without a CBLAS; `make setup` installs one";
    snprintf(why, sizeof why, "it does not take heads of %lld", (long long)o->attention.dim);
    if (!attention_takes(s, device, o->attention.dim))
        return why;
    return device->apart ? attention_gpu_missing(s, o->dtype, o->attention.dim) : NULL;
}

static size_t workspace(const void *step, const struct options *o, const struct device *device)
{
    const struct attention_step *s = step;
    attention_workspace_fn *wants = device->apart ? s->workspace : s->scratch;
    return wants ? wants(o->attention, o->dtype) : 0;
}

static void call(const struct run *r)
{
    attention_run(r->step, r->device, r->o->dtype, r->tensor[O].data, r->tensor[LSE].data, r->tensor[Q].data, r->tensor[K].data,
                  r->tensor[V].data, r->o->attention, r->workspace.data, NULL);
}

static timed_fn *clock_of(const void *step, const struct device *device)
{
    return ((const struct attention_step *)step)->ring && device->apart ? ring_run_once_gpu : NULL;
}

static struct cost predict(const void *step, const struct options *o, const struct device *device)
{
    const struct attention_step *s = step;
    struct cost cost = s->predict(o->attention, o->dtype);
    if (!device->apart && s->cpu_exps)
        cost.exps = s->cpu_exps * attention_pairs(o->attention);
    return cost;
}

/* ---- judging and measuring it */

/* The input's name for the table, which says so where the scale is
   not the usual one: "normal, scale 2". Good until the next call. */
static const char *input_text(const struct options *o)
{
    static char text[96];
    if (!o->sweep_scale && o->attention.scale == default_scale(o->attention.dim))
        return o->input;
    snprintf(text, sizeof text, "%s, scale %g", o->input, (double)o->attention.scale);
    return text;
}

static struct verdict verify(const struct run *r)
{
    const struct options *o = r->o;
    return verify_attention(r->host[O].data, r->host[LSE].data, r->host[Q].data, r->host[K].data, r->host[V].data, o->dtype,
                            o->attention, attention_rounding(r->step, r->device, o->dtype),
                            o->seed_given ? o->seed : fresh_seed(), r->device->apart);
}

static double verify_bytes(const struct options *o, const struct device *device)
{
    return device->apart ? reference_gpu_bytes(o->attention, o->dtype) : verify_attention_bytes(o->attention);
}

static double flops; /* of the last run_fma() */

static void run_fma(void *arg)
{
    (void)arg;
    flops = fma_cpu(FMA_ROUNDS);
}

static void (*const read_on_gpu)(uint32_t *, const void *, const void *, size_t, uint32_t, cudaStream_t) = GPU(read_gpu);

static void run_read(void *arg)
{
    const struct run *r = arg;
    const struct buffer *k = &r->tensor[K], *v = &r->tensor[V];
    if (r->device->apart) {
        read_on_gpu(r->tensor[r->kind->inputs + 1].data, k->data, v->data, k->bytes, READ_SUM, NULL);
    } else {
        read_cpu(k->data, k->bytes);
        read_cpu(v->data, v->bytes);
    }
}

/* Whether reading takes turns with the step, and is its ceiling, rather than a copy: a few queries have little to write. */
static bool decodes(const struct run *r)
{
    return usual(r->step) != NULL;
}

/* With a decoding step, reading K and V takes turns. On a CPU the clock depends on what runs, and on how long: there the
   multiply-adds of step 00 take turns with other steps. */
static struct work beside(struct run *r)
{
    if (decodes(r))
        return (struct work){ .run = run_read, .arg = r, .bytes = (int64_t)(r->tensor[K].bytes + r->tensor[V].bytes) };
    return (struct work){ .run = r->device->apart ? NULL : run_fma };
}

/* Bytes a millisecond that memory gives: those of step 00's copy, or of the reading that took turns; 0 where it is not known. */
static double memory_rate(const struct run *r, const struct result *result, const struct timing *beside)
{
    if (decodes(r))
        return (double)(r->tensor[K].bytes + r->tensor[V].bytes) / beside->median;
    return 1e6 * ceiling_get(result->device, result->threads, "copy", FP32);
}

/* The ceiling is what would take longest at its full speed: the compulsory bytes, the products, or the exponentials. */
static void measure(const struct run *r, struct result *result, const struct timing *beside)
{
    static char text[128];
    const struct attention *p = &r->o->attention;
    result->batch = p->batch, result->heads = p->heads, result->kv_heads = p->kv_heads;
    result->seq_q = p->seq_q, result->seq_k = p->seq_k, result->dim = p->dim, result->causal = p->causal;
    result->input = input_text(r->o);
    if (((const struct attention_step *)r->step)->ring) {
        snprintf(text, sizeof text, "%s, %d rank%s", input_text(r->o), ring_ranks(), ring_ranks() > 1 ? "s" : "");
        result->input = text;
    }
    result->useful_bytes = r->kind->useful(r->o);
    result->flops = r->kind->products * r->kind->units(r->o) * (double)p->dim;
    bool tensor_cores = result->dtype != FP32 && r->device->apart;
    double products = tensor_cores ? ceiling_get(result->device, result->threads, "matmul", BF16)
                                   : ceiling_get(result->device, result->threads, "fma", FP32);
    if (products > 0 && beside && !decodes(r))
        products = 1e-9 * flops / beside->median;
    const struct { const char *name; double work, rate; } all[] = {
        { decodes(r) ? "read" : "copy", result->useful_bytes, memory_rate(r, result, beside) },
        { "exp", result->exps, 1e6 * ceiling_get(result->device, result->threads, "exp", FP32) },
        { tensor_cores ? "matmul" : "fma", result->flops, 1e9 * products },
    };
    double longest = 0;
    result->percent = NAN;
    result->copy_gbs = all[0].rate > 0 && !decodes(r) ? all[0].rate * 1e-6 : NAN;
    for (int i = 0; i < 3; i++)
        if (all[i].rate > 0 && all[i].work / all[i].rate > longest) {
            longest = all[i].work / all[i].rate;
            result->percent = 100 * longest / result->time.median;
            result->ceiling = all[i].name;
        }
    /* in turn, reading's fast runs are as fast */
    result->excused = decodes(r) && strcmp(result->ceiling, "read") == 0 && result->time.p90 >= beside->p10;
}

/* ---- reporting it */

static void print_problem(const struct options *o)
{
    const struct attention *p = &o->attention;
    printf("Q is (%lld, %lld, %lld, %lld), K and V (%lld, %lld, %lld, %lld), %s%s, %s\n", (long long)p->batch,
           (long long)p->heads, (long long)p->seq_q, (long long)p->dim, (long long)p->batch, (long long)p->kv_heads,
           (long long)p->seq_k, (long long)p->dim, dtype_name(o->dtype), p->causal ? ", causal" : "", input_text(o));
}

static void print_cost(const struct run *r, const struct result *result, const struct timing *beside)
{
    if (decodes(r))
        printf("; reading K and V alone %.4g ms\n    bandwidth   %.4g GB/s effective, %s once each; reading %.4g GB/s",
               beside->median, result->useful_bytes / result->time.median * 1e-6, r->kind->compulsory,
               memory_rate(r, result, beside) * 1e-6);
    printf("\n    products    %.4g GFLOP, at %.4g TFLOP/s\n", result->flops * 1e-9, result->flops / result->time.median * 1e-9);
    printf("    predicted   ");
    print_bytes(result->predicted_bytes);
    printf(" of memory traffic, at %.4g GB/s; %s alone are ", result->predicted_bytes / result->time.median * 1e-6,
           r->kind->compulsory);
    print_bytes(result->useful_bytes);
    printf("\n    workspace   ");
    print_bytes((double)r->kind->workspace(r->step, r->o, r->device));
    printf("\n");
    if (((const struct attention_step *)r->step)->ring)
        ring_report(r, result);
    if (result->ceiling && strcmp(result->ceiling, "matmul") == 0)
        printf("    ceiling     %.0f %% of a matrix product by cuBLAS, which is a peer: one can be faster\n", result->percent);
    else if (result->ceiling)
        printf("    ceiling     %.0f %% of the tightest, %s\n", result->percent, result->ceiling);
    else
        printf("    ceiling     not known: run step 0, which measures it\n");
}

static void print_line(const struct options *o, const struct result *r)
{
    const struct verdict *v = &r->verdict;
    char share[32] = "ceiling unknown";
    if (r->ceiling)
        snprintf(share, sizeof share, "%4.0f %% of %-6s", r->percent, r->ceiling);
    if (r->ceiling && strcmp(r->ceiling, "read") == 0 && o->sweep)
        printf("    %8lld keys, batch %-6lld %9.4g ms  %6.4g GB/s  %-16s  error %-8.2g %s\n", (long long)r->seq_k,
               (long long)r->batch, r->time.median, r->useful_bytes / r->time.median * 1e-6, share, v->error,
               v->pass ? "pass" : v->what);
    else if (o->sweep_scale)
        printf("    scale %-9.4g worst error %-8.2g of the row's largest, allowed there %-8.2g %s\n", (double)o->attention.scale,
               v->error, v->tolerance, v->pass ? "pass" : v->what);
    else
        printf("    %8lld x %-8lld %9.4g ms  %7.4g TFLOP/s  %-16s  error %-8.2g %s\n", (long long)r->seq_q, (long long)r->seq_k,
               r->time.median, r->flops / r->time.median * 1e-9, share, v->error, v->pass ? "pass" : v->what);
    fflush(stdout);
}

static void write_outputs(const struct run *r)
{
    const struct options *o = r->o;
    const struct attention *p = &o->attention;
    int64_t shape[] = { p->batch, p->heads, p->seq_q, p->dim };
    char why[512];
    int out = r->kind->inputs, lse = out + 1;
    if (o->out_path && npy_write(o->out_path, r->host[out].data, o->dtype, 4, shape, why, sizeof why))
        fatal("%s", why);
    if (o->lse_path && npy_write(o->lse_path, r->host[lse].data, FP32, 3, shape, why, sizeof why))
        fatal("%s", why);
}

const struct attention_step *before_on_cpu;

static const void *before(const struct device *device, const char **name)
{
    if (device->apart || !before_on_cpu)
        return NULL;
    *name = before_on_cpu->name;
    return before_on_cpu;
}

const struct kind attention_kind = {
    .options = ATTENTION_STEP, .inputs = 3, .outputs = 2,
    .error = "worst error %.2g of the row's largest, allowed there %.2g",
    .unit = "a score", .units = units, .compulsory = "Q, K, V and O", .useful = useful, .products = 4,
    .usual = usual, .finish = finish, .sweep = sweep, .small = small, .rows = rows, .inputs_new = inputs_new, .bytes = bytes,
    .missing = missing, .workspace = workspace, .call = call, .clock = clock_of, .predict = predict,
    .before = before,
    .verify = verify, .verify_bytes = verify_bytes, .beside = beside, .measure = measure,
    .print_problem = print_problem, .print_cost = print_cost, .print_line = print_line, .write = write_outputs,
};

int attention_main(const struct attention_step *step, const struct attention_step *before, int argc, char **argv)
{
    struct kind kind = step->paged.cpu ? attention_paged_kind() : attention_kind;
    return program_main(&kind, step, step->name, step->idea, before, before ? before->name : NULL, argc, argv);
}
