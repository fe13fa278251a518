/*
 * What the program of a step has of its own whose cache lies in pages. The problem is that of attention: K and V are made as they
 * usually lie, (batch, kv_heads, seq_k, dim), and put into pages in a drawn order. So they can also be handed to the step before,
 * for which each sequence is as long as the longest. Between the pages, and behind a sequence's last key, all is NaN.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

#define SPARE 8  /* one page in so many, and one more, belongs to no sequence */

enum { Q, K, V, TABLE, SEQLENS, PLAIN_K, PLAIN_V, O, LSE };

/* ---- pages */

static int64_t pages_for(int64_t keys, int64_t size)
{
    return (keys + size - 1) / size;
}

/* Element of the pool where key `key` of head `head` of sequence `b` begins. */
static int64_t place_of(struct pages g, struct attention p, int64_t b, int64_t head, int64_t key)
{
    int64_t page = g.table[b * g.most + key / g.size];
    return ((page * p.kv_heads + head) * g.size + key % g.size) * p.dim;
}

/* Copies each key's row, of all sequences, in order: where two share a page, what the later one has stays. */
static void copy_rows(char *pool, char *plain, bool into_pool, struct pages g, struct attention p, enum dtype dtype)
{
    size_t size = dtype_bytes(dtype), row = (size_t)p.dim * size;
#pragma omp parallel for
    for (int64_t head = 0; head < p.kv_heads; head++)
        for (int64_t b = 0; b < p.batch; b++)
            for (int64_t key = 0; key < g.seqlens[b]; key++) {
                char *in_pool = pool + (size_t)place_of(g, p, b, head, key) * size;
                char *as_usual = plain + (size_t)((b * p.kv_heads + head) * p.seq_k + key) * row;
                memcpy(into_pool ? in_pool : as_usual, into_pool ? as_usual : in_pool, row);
            }
}

void pages_fill(void *pool, const void *plain, struct pages pages, struct attention p, enum dtype dtype)
{
    copy_rows(pool, (char *)plain, true, pages, p, dtype);
}

void pages_gather(void *plain, const void *pool, struct pages pages, struct attention p, enum dtype dtype)
{
    copy_rows((char *)pool, plain, false, pages, p, dtype);
}

static void *allocated(int64_t count, size_t size)
{
    void *p = calloc((size_t)count, size);
    if (!p)
        fatal("not enough CPU memory for a table of pages");
    return p;
}

/* 0 to count - 1 in an order that hardly any other program would use: free() it. */
static int32_t *drawn_order(int64_t count)
{
    int32_t *order = allocated(count, sizeof *order);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = (int64_t)(random_bits(3, (uint64_t)i) % (uint64_t)(i + 1));
        order[i] = order[at];
        order[at] = (int32_t)i;
    }
    return order;
}

void pages_draw(int32_t *table, struct pages pages, int64_t batch, int64_t shared)
{
    int32_t *order = drawn_order(pages.pool);
    for (int64_t b = 0, used = shared; b < batch; b++)
        for (int64_t i = 0, its = pages_for(pages.seqlens[b], pages.size); i < pages.most; i++)
            table[b * pages.most + i] = i >= its ? -1 : order[i < shared ? i : used++];
    free(order);
}

/* ---- the problem */

static int64_t length_of(const struct options *o, int64_t b)
{
    return o->paging.lengths ? o->paging.lengths[b] : o->attention.seq_k;
}

/* Bytes of a sequence's or a pool's keys, or values. */
static size_t bytes_of_keys(const struct options *o, int64_t keys)
{
    return (size_t)(keys * o->attention.kv_heads * o->attention.dim) * dtype_bytes(o->dtype);
}

static int64_t page_size(const struct options *o)
{
    return o->paging.size ? o->paging.size : DEFAULT_PAGE;
}

/* Pages that all sequences begin with, as far as they have so many. */
static int64_t shared_pages(const struct options *o)
{
    int64_t shared = o->paging.prefix / page_size(o), longest = pages_for(o->attention.seq_k, page_size(o));
    return shared < longest ? shared : longest;
}

static int64_t pages_needed(const struct options *o)
{
    int64_t shared = shared_pages(o), needed = shared;
    for (int64_t b = 0; b < o->attention.batch; b++) {
        int64_t its = pages_for(length_of(o, b), page_size(o));
        needed += its > shared ? its - shared : 0;
    }
    return needed;
}

/* The problem's pages, but for the two arrays. */
static struct pages sizes_of(const struct options *o)
{
    const struct paging *g = &o->paging;
    struct pages pages = { .size = page_size(o), .pool = g->pool };
    pages.most = g->table ? g->most : pages_for(o->attention.seq_k, pages.size);
    for (int64_t b = 0; b < o->attention.batch; b++)
        pages.keys += length_of(o, b);
    if (!pages.pool)
        pages.pool = pages_needed(o) + pages_needed(o) / SPARE + 1;
    return pages;
}

/* All of it, with lengths and a table in host memory: cache_free() them. */
struct cache {
    struct pages pages;
    int32_t *table, *seqlens;
};

static struct cache cache_of(const struct options *o)
{
    int64_t batch = o->attention.batch;
    struct cache c = { .pages = sizes_of(o) };
    c.pages.seqlens = c.seqlens = allocated(batch, sizeof *c.seqlens);
    c.pages.table = c.table = allocated(batch * c.pages.most, sizeof *c.table);
    for (int64_t b = 0; b < batch; b++)
        c.seqlens[b] = (int32_t)length_of(o, b);
    if (o->paging.table)
        memcpy(c.table, o->paging.table, (size_t)(batch * c.pages.most) * sizeof *c.table);
    else
        pages_draw(c.table, c.pages, batch, shared_pages(o));
    return c;
}

static void cache_free(struct cache *c)
{
    free(c->table);
    free(c->seqlens);
}

/* Of a cache: pages in use, and keys in them, each once however many sequences have it. */
struct stored {
    int64_t pages, keys;
};

static struct stored stored_of(const struct options *o, struct pages g)
{
    struct stored s = { 0 };
    int32_t *held = allocated(g.pool, sizeof *held);
    for (int64_t b = 0; b < o->attention.batch; b++)
        for (int64_t i = 0, left = g.seqlens[b]; left > 0; i++, left -= g.size) {
            int32_t *its = &held[g.table[b * g.most + i]], keys = (int32_t)(left < g.size ? left : g.size);
            s.pages += *its == 0;
            s.keys += keys > *its ? keys - *its : 0;
            *its = keys > *its ? keys : *its;
        }
    free(held);
    return s;
}

static size_t bytes(const struct options *o, int tensor)
{
    struct pages pages = sizes_of(o);
    switch (tensor) {
    case TABLE:   return (size_t)(o->attention.batch * pages.most) * sizeof(int32_t);
    case SEQLENS: return (size_t)o->attention.batch * sizeof(int32_t);
    case K:
    case V:       return bytes_of_keys(o, pages.pool * pages.size);
    default:      return attention_kind.bytes(o, tensor >= O ? tensor - O + 3 : tensor == Q ? 0 : 1);
    }
}

static void inputs_new(const struct options *o, struct buffer *inputs)
{
    struct qkv t = input_qkv(o);
    struct cache c = cache_of(o);
    inputs[Q] = t.q, inputs[PLAIN_K] = t.k, inputs[PLAIN_V] = t.v;
    for (int i = K; i <= SEQLENS; i++)
        inputs[i] = buffer_new(bytes(o, i), &cpu_device);
    memcpy(inputs[TABLE].data, c.table, inputs[TABLE].bytes);
    memcpy(inputs[SEQLENS].data, c.seqlens, inputs[SEQLENS].bytes);
    for (int i = 0; i < 2; i++) {
        pages_fill(inputs[K + i].data, inputs[PLAIN_K + i].data, c.pages, o->attention, o->dtype);
        /* what has become of keys in pages that are shared */
        pages_gather(inputs[PLAIN_K + i].data, inputs[K + i].data, c.pages, o->attention, o->dtype);
    }
    cache_free(&c);
}

static void check_lengths(const struct options *o)
{
    const struct paging *g = &o->paging;
    if (g->lengths && g->count != o->attention.batch)
        usage_error("--seqlens: %lld length%s, and a batch of %lld: one for each sequence is needed", (long long)g->count,
                    g->count == 1 ? "" : "s", (long long)o->attention.batch);
    for (int64_t b = 0; g->lengths && b < g->count; b++)
        if (g->lengths[b] > o->attention.seq_k)
            usage_error("--seqlens: sequence %lld has %lld keys; 0 to %lld are allowed, which is --seq-k", (long long)b,
                        (long long)g->lengths[b], (long long)o->attention.seq_k);
    if (!sizes_of(o).keys)
        usage_error("--seqlens: no sequence has a key; one at least must have some, for there to be anything to time");
}

/* --table: read, and each page that a sequence has looked up. */
static void table_read(struct options *o)
{
    struct paging *g = &o->paging;
    struct npy file = input_whole("table", g->table_path);
    int64_t batch = o->attention.batch, size = page_size(o), largest = 0;
    if (file.dims != 2 || file.shape[0] != batch)
        usage_error("--table '%s': %lld rows of pages are needed, one for each sequence: (batch, pages)", g->table_path,
                    (long long)batch);
    static int32_t *kept; /* of the last call */
    free(kept);
    g->most = file.shape[1];
    g->table = kept = allocated(batch * g->most, sizeof *g->table);
    for (int64_t b = 0; b < batch; b++) {
        int64_t its = pages_for(length_of(o, b), size);
        if (its > g->most)
            usage_error("--table '%s': sequence %lld has %lld keys, and its %lld pages of %lld hold %lld", g->table_path,
                        (long long)b, (long long)length_of(o, b), (long long)g->most, (long long)size,
                        (long long)(g->most * size));
        for (int64_t i = 0; i < its; i++) {
            int64_t page = (int64_t)element(file.data, file.dtype, b * g->most + i);
            if (page >= (g->pool ? g->pool : INT32_MAX))
                usage_error("--table '%s': page %lld at [%lld, %lld]; the pool has 0 to %lld, %s", g->table_path,
                            (long long)page, (long long)b, (long long)i, (long long)(g->pool ? g->pool : INT32_MAX) - 1,
                            g->pool ? "which is --pages" : "at most");
            g->table[b * g->most + i] = (int32_t)page;
            largest = page > largest ? page : largest;
        }
    }
    free(file.data);
    if (!g->pool)
        g->pool = largest + 1;
}

static void finish(const void *step, struct options *o)
{
    struct paging *g = &o->paging;
    if (o->traced)
        usage_error("--trace: step 35 has one, and pages do not change it");
    if (o->sweep)
        usage_error("--sweep: it has one length for all; --page-size and --seqlens say what to run here");
    attention_kind.finish(step, o);
    check_lengths(o);
    if (g->table_path && g->prefix)
        usage_error("--prefix %lld: the table says which pages are shared; leave out --prefix or --table", (long long)g->prefix);
    if (g->table_path)
        table_read(o);
    else if (g->pool && g->pool < pages_needed(o))
        usage_error("--pages %lld: these sequences need %lld of %lld keys", (long long)g->pool, (long long)pages_needed(o),
                    (long long)page_size(o));
    if (sizes_of(o).pool > INT32_MAX)
        usage_error("--page-size %lld: that makes %lld pages; up to %d are allowed", (long long)page_size(o),
                    (long long)sizes_of(o).pool, INT32_MAX);
}

static const char *small(const void *step, struct options *o, int index)
{
    static const int32_t ragged[] = { 67, 0, 1, 33, 16 }, ends[] = { 15, 16, 17, 31, 32, 33 },
                         long_pages[] = { 601, 300, 299, 0 }, few[] = { 3, 50, 7, 14, 0 }, shared[] = { 100, 70, 64, 30 },
                         unlike[] = { 2100, 5, 300 };
    /* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale; and the keys of a page, and of a prefix */
    static const struct {
        const char *name, *family;
        struct attention p;
        const int32_t *lengths;
        int64_t size, prefix;
    } all[] = {
        { "ragged sequences", "normal", { 5, 4, 2, 1, 67, 0, false, 0 }, ragged, 16, 0 },
        { "sequences that end where pages do", "normal", { 6, 2, 1, 1, 33, 0, false, 0 }, ends, 16, 0 },
        { "pages of one key", "adversarial", { 5, 4, 2, 3, 67, 0, true, 0 }, ragged, 1, 0 },
        { "pages of more keys than a tile has", "normal", { 4, 2, 2, 2, 601, 0, false, 0 }, long_pages, 300, 0 },
        { "fewer keys than queries, causal", "normal", { 5, 6, 2, 9, 50, 0, true, 0 }, few, 7, 0 },
        { "sequences that share pages", "normal", { 4, 4, 1, 1, 100, 0, false, 0 }, shared, 16, 64 },
        { "long and short, scores that rise", "rising", { 3, 2, 1, 1, 2100, 0, false, 0 }, unlike, 64, 0 },
    };
    enum { OWN = sizeof all / sizeof all[0] };
    if (index >= OWN) /* and those of attention, in pages of the usual size */
        return attention_kind.small(step, o, index - OWN);
    struct attention p = all[index].p;
    p.dim = o->attention.dim;
    p.scale = default_scale(p.dim);
    *o = (struct options){
        .is_attention = true, .attention = p, .dtype = o->dtype, .input = all[index].family, .seed = 1,
        .paging = { .size = all[index].size, .prefix = all[index].prefix, .lengths = all[index].lengths, .count = p.batch }
    };
    return all[index].name;
}

/* One sequence of the problem. */
static struct attention one_of(const struct options *o, int64_t b)
{
    struct attention one = o->attention;
    one.batch = 1;
    one.seq_k = length_of(o, b);
    return one;
}

static double units(const struct options *o)
{
    double pairs = 0;
    for (int64_t b = 0; b < o->attention.batch; b++)
        pairs += attention_pairs(one_of(o, b));
    return pairs;
}

/* Queries, outputs, and the keys and values that are there, once each. */
static double useful(const struct options *o)
{
    struct cache c = cache_of(o);
    struct attention queries = o->attention;
    queries.seq_k = 0;
    double sum = attention_bytes(queries, o->dtype) + 2 * (double)bytes_of_keys(o, stored_of(o, c.pages).keys);
    cache_free(&c);
    return sum;
}

/* ---- the step */

void paged_run(const struct attention_step *s, const struct device *device, enum dtype dtype, void *O, float *lse, const void *Q,
               const void *K, const void *V, struct pages pages, struct attention p, void *workspace, cudaStream_t stream)
{
    if (device->apart && dtype == FP16)
        s->paged.gpu_fp16(O, lse, Q, K, V, pages, p, workspace, stream);
    else if (device->apart)
        s->paged.gpu_bf16(O, lse, Q, K, V, pages, p, workspace, stream);
    else
        CALL_FOR(dtype, s->paged.cpu, O, lse, Q, K, V, pages, p);
}

/* The run's pages, their table and lengths where its device can reach them. */
static struct pages pages_of(const struct run *r)
{
    struct pages pages = sizes_of(r->o);
    pages.table = r->tensor[TABLE].data;
    pages.seqlens = r->tensor[SEQLENS].data;
    return pages;
}

/* A step that knows no pages takes every sequence for as long as the longest. */
static void call(const struct run *r)
{
    const struct attention_step *s = r->step;
    const struct buffer *t = r->tensor;
    if (s->paged.cpu)
        paged_run(s, r->device, r->o->dtype, t[O].data, t[LSE].data, t[Q].data, t[K].data, t[V].data, pages_of(r),
                  r->o->attention, r->workspace.data, NULL);
    else
        attention_run(s, r->device, r->o->dtype, t[O].data, t[LSE].data, t[Q].data, t[PLAIN_K].data, t[PLAIN_V].data,
                      r->o->attention, r->workspace.data, NULL);
}

static size_t workspace(const void *step, const struct options *o, const struct device *device)
{
    const struct attention_step *s = step;
    attention_paged_workspace_fn *wants = device->apart ? s->paged.workspace : s->paged.scratch;
    if (!s->paged.cpu)
        return attention_kind.workspace(step, o, device);
    return wants ? wants(o->attention, sizes_of(o), o->dtype) : 0;
}

static struct cost predict(const void *step, const struct options *o, const struct device *device)
{
    const struct attention_step *s = step;
    struct cost sum = { 0 };
    if (!s->paged.cpu)
        return attention_kind.predict(step, o, device);
    for (int64_t b = 0; b < o->attention.batch; b++) {
        struct cost its = s->predict(one_of(o, b), o->dtype);
        sum.bytes += its.bytes;
        sum.exps += its.exps;
    }
    return sum;
}

static struct verdict verify(const struct run *r)
{
    const struct buffer *t = r->host;
    struct pages pages = pages_of(r);
    pages.table = t[TABLE].data;
    pages.seqlens = t[SEQLENS].data;
    return verify_attention_paged(t[O].data, t[LSE].data, t[Q].data, t[K].data, t[V].data, pages, r->o->dtype, r->o->attention,
                                  attention_rounding(r->step, r->device, r->o->dtype),
                                  r->o->seed_given ? r->o->seed : fresh_seed(), r->device->apart);
}

static double verify_bytes(const struct options *o, const struct device *device)
{
    return attention_kind.verify_bytes(o, device) + 2 * (double)bytes_of_keys(o, o->attention.seq_k);
}

/* ---- reporting it */

static void measure(const struct run *r, struct result *result, const struct timing *beside)
{
    static char text[128];
    const struct paging *g = &r->o->paging;
    attention_kind.measure(r, result, beside);
    snprintf(text, sizeof text, "%s, pages of %lld%s", result->input, (long long)page_size(r->o),
             g->lengths ? ", ragged" : g->prefix ? ", shared" : "");
    result->input = text;
}

static void print_problem(const struct options *o)
{
    struct cache c = cache_of(o);
    const struct attention *p = &o->attention;
    int32_t least = c.seqlens[0], most = least;
    for (int64_t b = 1; b < p->batch; b++) {
        least = c.seqlens[b] < least ? c.seqlens[b] : least;
        most = c.seqlens[b] > most ? c.seqlens[b] : most;
    }
    printf("Q is (%lld, %lld, %lld, %lld), K and V (%lld, %lld, %lld, %lld), pages of %lld keys; sequences of %d",
           (long long)p->batch, (long long)p->heads, (long long)p->seq_q, (long long)p->dim, (long long)c.pages.pool,
           (long long)p->kv_heads, (long long)c.pages.size, (long long)p->dim, (long long)c.pages.size, least);
    if (most > least)
        printf(" to %d", most);
    printf(" keys, %s%s, %s\n", dtype_name(o->dtype), p->causal ? ", causal" : "", o->input);
    cache_free(&c);
}

static void print_cost(const struct run *r, const struct result *result, const struct timing *beside)
{
    const struct options *o = r->o;
    struct cache c = cache_of(o);
    struct stored s = stored_of(o, c.pages);
    attention_kind.print_cost(r, result, beside);
    printf("    memory      ");
    print_bytes(2 * (double)bytes_of_keys(o, s.keys));
    printf(" of keys and values in %lld pages of ", (long long)s.pages);
    print_bytes(2 * (double)bytes_of_keys(o, s.pages * c.pages.size));
    printf("; room for the longest in each sequence would be ");
    print_bytes(2 * (double)bytes_of_keys(o, o->attention.batch * o->attention.seq_k));
    printf("\n");
    cache_free(&c);
}

struct kind attention_paged_kind(void)
{
    struct kind k = attention_kind;
    k.inputs = O;
    k.units = units;
    k.useful = useful;
    k.finish = finish;
    k.small = small;
    k.inputs_new = inputs_new;
    k.bytes = bytes;
    k.workspace = workspace;
    k.call = call;
    k.predict = predict;
    k.verify = verify;
    k.verify_bytes = verify_bytes;
    k.measure = measure;
    k.print_problem = print_problem;
    k.print_cost = print_cost;
    return k;
}
