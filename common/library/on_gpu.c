/* The library's functions on a GPU: which step there is, and what it takes. library.mk says for which GPUs it is compiled. */
#include "cache.h"

#define FEW 16 /* queries of a head, up to which fsa_attention reads keys as decoding does */
#define MOST_ROWS INT32_MAX /* of a softmax */
#define PACK 16 /* bytes that steps load at once: tensors of attention begin on multiples */

/* ---- softmax */

/* Steps 10 and 42, of which there is a half for fp32 alone. */
static struct {
    softmax_gpu_fn *fp32;
    softmax_fp16_gpu_fn *fp16;
    softmax_bf16_gpu_fn *bf16;
    workspace_fn *workspace;
    softmax_backward_gpu_fn *back_fp32;
} const steps = { GPU(split_softmax_gpu), GPU(split_softmax_fp16_gpu), GPU(split_softmax_bf16_gpu), GPU(split_softmax_workspace),
                  GPU(softmax_backward_gpu) };

/* Steps take all tensors dense, as `as`, and alike, their addresses equal modulo PACK. */
static void use_rows(struct call *c, enum dtype as)
{
    bool fine = as == c->dtype;
    for (int i = 0; i < c->count && !c->status; i++) {
        const struct tensor *t = &c->tensor[i];
        fine = fine && is_dense(t) && ((uintptr_t)t->data - (uintptr_t)c->tensor[0].data) % PACK == 0;
        fail(c, t->n[2] > MOST_ROWS, FSA_SIZE, "rows");
    }
    for (int i = 0; i < c->count && !c->status && !fine; i++)
        use_copy(c, &c->tensor[i], as, c->tensor[i].n[3]);
}

enum fsa_status softmax_on_gpu(struct call *c)
{
    int64_t rows = c->tensor[0].n[2], cols = c->tensor[0].n[3];
    void **at = c->at;
    use_rows(c, c->dtype);
    if (!start(c, c->status ? 0 : steps.workspace(rows, cols, c->dtype), true))
        return c->status;
    BY_TYPE(c->dtype, steps.fp32, steps.fp16, steps.bf16, at[0], at[1], rows, cols, c->memory, c->run->stream);
    return finish(c);
}

enum fsa_status softmax_backward_on_gpu(struct call *c)
{
    int64_t rows = c->tensor[0].n[2], cols = c->tensor[0].n[3];
    use_rows(c, FP32);
    if (!start(c, 0, false))
        return c->status;
    steps.back_fp32(c->at[0], c->at[1], c->at[2], rows, cols, NULL, c->run->stream);
    return finish(c);
}

/* ---- attention: the steps that there are, the best first */

/* What a step needs and takes. A line more here is a step more. */
struct gpu_step {
    int capability;  /* code for such a GPU, or a newer one */
    bool hopper;     /* code of sm_90a */
    bool tiles;      /* heads of 64 or 128: others are filled up with zeros */
    bool as_is;      /* nothing is filled up: heads of 64 or 128, in its types */
    bool alone;      /* each head of K and V has one query */
    bool strided;    /* it is compiled with strided.cuh */
    bool counts;     /* its workspace begins as zeros, and it leaves them so */
    attention_gpu_fn *fp32;
    attention_fp16_gpu_fn *fp16;
    attention_bf16_gpu_fn *bf16;
    attention_backward_gpu_fn *back_fp32; /* or it goes back */
    attention_backward_fp16_gpu_fn *back_fp16;
    attention_backward_bf16_gpu_fn *back_bf16;
    attention_workspace_fn *workspace; /* NULL: it needs none */
};

/* The last of each list takes everything, in fp32 at least. library.mk says for which GPUs there are steps. */
static const struct gpu_step forward_steps[] = {
#ifdef FOR_HOPPER
    { .hopper = true, .tiles = true, .strided = true, .counts = true, .fp16 = optimistic_attention_fp16_gpu,
      .bf16 = optimistic_attention_bf16_gpu, .workspace = optimistic_attention_workspace },
#endif
#ifdef FOR_OTHERS
    { .capability = 80, .tiles = true, .fp16 = lean_attention_fp16_gpu, .bf16 = lean_attention_bf16_gpu },
#endif
    { .fp32 = GPU(register_tiled_attention_gpu) },
};
static const struct gpu_step decoding_steps[] = {
    { .capability = 80, .as_is = true, .fp16 = GPU(streamed_attention_fp16_gpu), .bf16 = GPU(streamed_attention_bf16_gpu),
      .workspace = GPU(streamed_attention_workspace), .counts = true },
    { .alone = true, .fp32 = GPU(split_attention_gpu), .fp16 = GPU(split_attention_fp16_gpu),
      .bf16 = GPU(split_attention_bf16_gpu), .workspace = GPU(split_attention_workspace), .counts = true },
    { .fp32 = GPU(grouped_attention_gpu), .fp16 = GPU(grouped_attention_fp16_gpu), .bf16 = GPU(grouped_attention_bf16_gpu),
      .workspace = GPU(grouped_attention_workspace), .counts = true },
};
static const struct gpu_step backward_steps[] = {
#ifdef FOR_HOPPER
    { .hopper = true, .tiles = true, .back_fp16 = hopper_backward_fp16_gpu, .back_bf16 = hopper_backward_bf16_gpu,
      .workspace = hopper_backward_workspace },
#endif
#ifdef FOR_OTHERS
    { .capability = 80, .tiles = true, .back_fp16 = GPU(staged_backward_fp16_gpu),
      .back_bf16 = GPU(staged_backward_bf16_gpu), .workspace = GPU(staged_backward_workspace) },
#endif
    { .back_fp32 = GPU(joined_backward_gpu), .workspace = GPU(joined_backward_workspace) },
};

static bool has_type(const struct gpu_step *s, enum dtype dtype)
{
    return dtype == FP16 ? s->fp16 || s->back_fp16 : dtype == BF16 ? s->bf16 || s->back_bf16 : s->fp32 || s->back_fp32;
}

static const struct gpu_step *choose(const struct gpu_step *s, const struct call *c)
{
    while (s->capability > c->gpu->capability || (s->hopper && !c->gpu->hopper) || (s->tiles && c->p.dim > 128) ||
           (s->as_is && c->p.dim != 64 && c->p.dim != 128) || (s->alone && c->p.heads * c->p.seq_q != c->p.kv_heads) ||
           !(has_type(s, c->dtype) || has_type(s, FP32)))
        s++;
    return s;
}

/* Whether the copy engine can have a map of it, and strided.cuh take its heads apart. */
static bool has_map(const struct tensor *t)
{
    for (int i = 0; i < 3; i++)
        if (t->stride[i] % 8 != 0 || t->stride[i] >= (int64_t)1 << 39)
            return false;
    return t->n[0] * t->n[1] <= ((int64_t)UINT32_MAX) / t->n[1];
}

/* Sizes of 1 have a stride of 0, of which no map can be made: any other will do. Where all heads are equally far apart they are
   those of one batch. */
static void *describe(struct strided *s, const struct tensor *t)
{
    bool copied = t->dense != t->data;
    int64_t head = copied ? t->n[2] * t->dim : t->stride[1], batch = copied ? t->n[1] * head : t->stride[0];
    *s = (struct strided){ t->dense, t->n[0], t->n[1], batch, head, copied ? t->dim : t->stride[2] };
    if (t->n[1] == 1 || t->n[0] == 1 || batch == t->n[1] * head) {
        s->batches = 1, s->heads = t->n[0] * t->n[1];
        s->head = t->n[1] == 1 ? batch : head;
    }
    s->batch = s->batch ? s->batch : t->dim;
    s->head = s->head ? s->head : t->dim;
    s->row = s->row ? s->row : t->dim;
    return s;
}

static void check_queries(struct call *c)
{
    fail(c, c->p.batch * c->p.heads > MOST_QUERIES / c->p.seq_q, FSA_SIZE, "seq_q");
    fail(c, c->p.batch * c->p.kv_heads > MOST_QUERIES / c->p.seq_k, FSA_SIZE, "seq_k");
}

/* Starts a step that takes the first `count` tensors: those that it cannot have as they are come from the workspace. From here on
   the problem is as the step sees it. */
static bool start_step(struct call *c, const struct gpu_step *s, int count)
{
    enum dtype as = has_type(s, c->dtype) ? c->dtype : FP32;
    struct attention *p = &c->p;
    p->dim = !s->tiles ? p->dim : p->dim <= 64 ? 64 : 128;
    check_queries(c);
    for (int i = 0; i < count && !c->status; i++) {
        struct tensor *t = &c->tensor[i];
        if (!(t->dtype == as && t->n[3] == p->dim && (uintptr_t)t->data % PACK == 0 &&
              (is_dense(t) || (s->strided && has_map(t)))))
            use_copy(c, t, as, p->dim);
    }
    return start(c, c->status || !s->workspace ? 0 : s->workspace(*p, as), s->counts);
}

enum fsa_status attention_on_gpu(struct call *c, float *lse)
{
    const struct gpu_step *s = choose(c->p.seq_q <= FEW ? decoding_steps : forward_steps, c);
    void **at = c->at;
    struct strided of[4];
    if (!start_step(c, s, 4))
        return c->status;
    for (int i = 0; i < 4 && s->strided; i++)
        at[i] = describe(&of[i], &c->tensor[i]);
    BY_TYPE(c->tensor[O].as, s->fp32, s->fp16, s->bf16, at[O], lse, at[Q], at[K], at[V], c->p, c->memory, c->run->stream);
    return finish(c);
}

/* Step 41, for caches in pages and sequences of unlike length. Its table and its lengths are the GPU's: nobody looks at them
   before the step does. */
static struct {
    attention_paged_fp16_gpu_fn *fp16;
    attention_paged_bf16_gpu_fn *bf16;
    attention_paged_workspace_fn *workspace;
} const paged = { GPU(paged_attention_fp16_gpu), GPU(paged_attention_bf16_gpu), GPU(paged_attention_workspace) };

enum fsa_status paged_attention_on_gpu(struct call *c, float *lse, const struct fsa_cache *cache)
{
    struct cache d = { .of = *cache };
    struct attention p = c->p;
    void **at = c->at;
    fail(c, c->gpu->capability < 80 || c->dtype == FP32 || (p.dim != 64 && p.dim != 128), FSA_UNSUPPORTED,
         cache->table ? "table" : "seqlens");
    for (int i = K; i <= V && cache->table; i++)
        fail(c, (uintptr_t)c->tensor[i].data % PACK != 0, FSA_ALIGNMENT, c->tensor[i].name);
    check_queries(c);
    if (c->status)
        return c->status;
    plan_cache(c, &d);
    for (int i = O; i <= Q && !c->status; i++)
        if (!is_dense(&c->tensor[i]) || (uintptr_t)c->tensor[i].data % PACK != 0)
            use_copy(c, &c->tensor[i], c->dtype, p.dim);
    if (!start(c, c->status ? 0 : paged.workspace(p, d.pages, c->dtype), true))
        return c->status;
    fill_cache(c, &d);
    if (c->dtype == FP16)
        paged.fp16(at[O], lse, at[Q], at[K], at[V], d.pages, p, c->memory, c->run->stream);
    else
        paged.bf16(at[O], lse, at[Q], at[K], at[V], d.pages, p, c->memory, c->run->stream);
    return finish(c);
}

enum fsa_status attention_backward_on_gpu(struct call *c, const float *lse, const float *dlse)
{
    const struct gpu_step *s = choose(backward_steps, c);
    void **t = c->at;
    if (!start_step(c, s, 8))
        return c->status;
    BY_TYPE(c->tensor[0].as, s->back_fp32, s->back_fp16, s->back_bf16, t[0], t[1], t[2], t[3], t[4], t[5], t[6], lse, t[7], dlse,
            c->p, c->memory, c->run->stream);
    return finish(c);
}
