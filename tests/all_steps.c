/* Every step's description, which is its main.c without main(): no test can hold a step to other claims than its program. */
#include "all_steps.h"

#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "steps.h"

static const struct softmax_step *const softmax_steps[] = {
    &naive_softmax,    &safe_softmax,   &online_softmax,  &vector_softmax, &block_softmax,
    &resident_softmax, &narrow_softmax, &shelved_softmax, &cluster_softmax,
    &split_softmax,
};

static const struct attention_step *const attention_steps[] = {
    &standard_attention, &library_attention, &fused_attention, &flash_attention, &register_tiled_attention,
    &narrow_attention, &fragment_attention, &tensor_core_attention, &swizzled_attention, &pipelined_attention,
    &wide_attention, &folded_attention, &lean_attention, &boxed_attention,
    &copy_engine_attention, &wgmma_attention, &warpgroup_attention, &specialized_attention,
    &overlapped_attention, &scheduled_attention, &persistent_attention, &optimistic_attention,
    &decode_attention, &split_attention, &grouped_attention, &merged_attention, &scored_attention,
    &valued_attention, &packed_attention, &streamed_attention, &paged_attention,
    &ring_attention, &zigzag_ring, &overlapped_ring,
};

enum {
    STEPS = sizeof softmax_steps / sizeof softmax_steps[0],
    ATTENTION_STEPS = sizeof attention_steps / sizeof attention_steps[0],
    DTYPES = 3,
    PAGE = 5, /* keys of a page: tiles, and pairs of keys, have theirs from several */
};

static const enum dtype dtypes[DTYPES] = { FP32, FP16, BF16 };

const struct device *device_of(bool gpu)
{
    return gpu ? &gpu_device : &cpu_device;
}

const struct softmax_step *step_at(int number)
{
    return number < 0 || number >= STEPS ? NULL : softmax_steps[number];
}

const struct softmax_step *step_named(const char *name)
{
    for (int i = 0; i < STEPS; i++)
        if (strcmp(step_at(i)->name, name) == 0)
            return step_at(i);
    return NULL;
}

bool subject_exists(const struct subject *s)
{
    return softmax_has(s->step, device_of(s->gpu), s->dtype);
}

bool subject_at(struct subject *s, int index, bool gpu)
{
    for (int i = 0; i < STEPS * DTYPES; i++) {
        *s = (struct subject){ step_at(i / DTYPES), dtypes[i % DTYPES], gpu };
        if (subject_exists(s) && index-- == 0)
            return true;
    }
    return false;
}

int subject_count(bool gpu)
{
    struct subject s;
    int count = 0;
    while (subject_at(&s, count, gpu))
        count++;
    return count;
}

int subjects_of(struct subject *subjects, enum dtype dtype, bool gpu)
{
    struct subject s;
    int count = 0;
    for (int i = 0; count < MAX_SUBJECTS && subject_at(&s, i, gpu); i++)
        if (s.dtype == dtype)
            subjects[count++] = s;
    return count;
}

const char *subject_name(const struct subject *s)
{
    static char name[96];
    snprintf(name, sizeof name, "%s %s on the %s", s->step->name, dtype_name(s->dtype), s->gpu ? "GPU" : "CPU");
    return name;
}

struct rounding subject_rounding(const struct subject *s)
{
    return softmax_rounding(s->step, device_of(s->gpu), s->dtype);
}

void subject_run(const struct subject *s, void *y, const void *x, int64_t rows, int64_t cols, void *workspace)
{
    softmax_run(s->step, device_of(s->gpu), s->dtype, y, x, rows, cols, workspace);
}

/* ---- attention */

const struct attention_step *attention_step_at(int number)
{
    return number < 0 || number >= ATTENTION_STEPS ? NULL : attention_steps[number];
}

const struct attention_step *attention_step_named(const char *name)
{
    for (int i = 0; i < ATTENTION_STEPS; i++)
        if (strcmp(attention_step_at(i)->name, name) == 0)
            return attention_step_at(i);
    return NULL;
}

bool attention_subject_exists(const struct attention_subject *s)
{
    /* rings on GPUs have a suite of their own: they take no stream */
    return attention_has(s->step, device_of(s->gpu), s->dtype) && !(s->gpu && s->step->ring);
}

bool step_is_chosen(const char *name)
{
    const char *chosen = getenv("TESTS_STEPS");
    char number[] = { name[0], name[1], '\0' };
    return !chosen || strstr(chosen, number);
}

bool attention_subject_at(struct attention_subject *s, int index, bool gpu)
{
    for (int i = 0; i < ATTENTION_STEPS * DTYPES; i++) {
        *s = (struct attention_subject){ attention_step_at(i / DTYPES), dtypes[i % DTYPES], gpu };
        if (attention_subject_exists(s) && step_is_chosen(s->step->name) && index-- == 0)
            return true;
    }
    return false;
}

int attention_subject_count(bool gpu)
{
    struct attention_subject s;
    int count = 0;
    while (attention_subject_at(&s, count, gpu))
        count++;
    return count;
}

const char *attention_subject_name(const struct attention_subject *s)
{
    static char name[96];
    snprintf(name, sizeof name, "%s %s on the %s", s->step->name, dtype_name(s->dtype), s->gpu ? "GPU" : "CPU");
    return name;
}

struct attention_rounding attention_subject_rounding(const struct attention_subject *s)
{
    return attention_rounding(s->step, device_of(s->gpu), s->dtype);
}

int attention_subjects_of(struct attention_subject *subjects, enum dtype dtype, bool gpu)
{
    struct attention_subject s;
    int count = 0;
    for (int i = 0; count < MAX_SUBJECTS && attention_subject_at(&s, i, gpu); i++)
        if (s.dtype == dtype)
            subjects[count++] = s;
    return count;
}

bool attention_subject_takes(const struct attention_subject *s, int64_t dim)
{
    if (!attention_takes(s->step, device_of(s->gpu), dim))
        return false;
    const char *why = s->gpu ? attention_gpu_missing(s->step, s->dtype, dim) : NULL;
    if (why)
        printf("skipped: %s: %s\n", attention_subject_name(s), why);
    return !why;
}

const char *attention_subject_missing(const struct attention_subject *s)
{
    if (!s->gpu)
        return s->step->ready && !s->step->ready() ? "this build has no CBLAS" : NULL;
    return attention_gpu_missing(s->step, s->dtype, 1);
}

/* K and V in pages of a few keys, in a pool that is NaN elsewhere, for sequences of one length. */
static void run_in_pages(const struct attention_subject *s, void *O, float *lse, const void *Q, const void *K, const void *V,
                         struct attention p)
{
    struct pages g = { .size = PAGE, .most = (p.seq_k + PAGE - 1) / PAGE, .keys = p.batch * p.seq_k };
    g.pool = p.batch * g.most + 3;
    struct buffer table = buffer_new((size_t)(p.batch * g.most) * sizeof(int32_t), &cpu_device),
                  seqlens = buffer_new((size_t)p.batch * sizeof(int32_t), &cpu_device), pool[2];
    const void *const plain[] = { K, V };
    for (int64_t b = 0; b < p.batch; b++)
        ((int32_t *)seqlens.data)[b] = (int32_t)p.seq_k;
    g.table = table.data;
    g.seqlens = seqlens.data;
    pages_draw(table.data, g, p.batch, 0);
    for (int i = 0; i < 2; i++) {
        pool[i] = buffer_new((size_t)(g.pool * p.kv_heads * PAGE * p.dim) * dtype_bytes(s->dtype), &cpu_device);
        pages_fill(pool[i].data, plain[i], g, p, s->dtype);
    }
    paged_run(s->step, &cpu_device, s->dtype, O, lse, Q, pool[0].data, pool[1].data, g, p, NULL, NULL);
    struct buffer *all[] = { &table, &seqlens, &pool[0], &pool[1] };
    for (int i = 0; i < 4; i++)
        buffer_free(all[i]);
}

/* On a GPU a tensor, (batch, kv_heads, seq_k, dim), is a pool as it lies: a page a sequence. (check_paged.c has others.) */
static struct pages whole_pages(struct attention p)
{
    return (struct pages){ .size = p.seq_k, .pool = p.batch, .most = 1, .keys = p.batch * p.seq_k };
}

/* The step's own, of whole 16 bytes; a table and lengths lie behind it. */
static size_t paged_workspace(const struct attention_subject *s, struct attention p)
{
    return (s->step->paged.workspace(p, whole_pages(p), s->dtype) + 15) / 16 * 16;
}

size_t attention_subject_workspace(const struct attention_subject *s, struct attention p)
{
    if (s->step->paged.workspace)
        return paged_workspace(s, p) + 2 * (size_t)p.batch * sizeof(int32_t);
    return s->step->workspace ? s->step->workspace(p, s->dtype) : 0;
}

static void run_in_whole_pages(const struct attention_subject *s, void *O, float *lse, const void *Q, const void *K,
                               const void *V, struct attention p, void *workspace, cudaStream_t stream)
{
    struct pages g = whole_pages(p);
    size_t bytes = (size_t)p.batch * sizeof(int32_t);
    int32_t *table = malloc(2 * bytes), *there = (int32_t *)((char *)workspace + paged_workspace(s, p));
    for (int64_t b = 0; b < p.batch; b++) {
        table[b] = (int32_t)b;
        table[p.batch + b] = (int32_t)p.seq_k;
    }
    gpu_upload(there, table, 2 * bytes);
    free(table);
    g.table = there;
    g.seqlens = there + p.batch;
    paged_run(s->step, &gpu_device, s->dtype, O, lse, Q, K, V, g, p, workspace, stream);
}

void attention_subject_run(const struct attention_subject *s, void *O, float *lse, const void *Q, const void *K, const void *V,
                           struct attention p, void *workspace, cudaStream_t stream)
{
    if (s->step->paged.cpu && s->gpu)
        run_in_whole_pages(s, O, lse, Q, K, V, p, workspace, stream);
    else if (s->step->paged.cpu)
        run_in_pages(s, O, lse, Q, K, V, p);
    else
        attention_run(s->step, device_of(s->gpu), s->dtype, O, lse, Q, K, V, p, workspace, stream);
}
