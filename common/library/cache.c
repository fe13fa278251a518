/* cache.h's functions. */
#include "cache.h"

#define PACK 16 /* bytes: on a GPU pages begin on multiples */

static bool is_multiple(const struct tensor *t, int i, int64_t of)
{
    return t->n[i] == 1 || t->stride[i] % of == 0;
}

/* exact: pages of a table have as many keys as it says; otherwise there may be more room behind a batch's keys. */
static bool find_layout(struct layout *l, const struct tensor *t, bool exact)
{
    int64_t seq = t->n[2], dim = t->n[3], row = t->n[1] * dim, size = t->n[1] > 1 ? t->stride[1] / dim : seq;
    int64_t first = t->n[0] > 1 ? t->stride[0] : row * size; /* where the second begins, if there is one */
    if (is_multiple(t, 1, dim) && size >= seq && (!exact || size == seq) && (seq == 1 || t->stride[2] == dim) &&
        is_multiple(t, 0, row * size))
        *l = (struct layout){ size, first / (row * size), 0, 0 };
    else if ((t->n[1] == 1 || t->stride[1] == dim) && is_multiple(t, 2, row) && is_multiple(t, 0, row))
        *l = (struct layout){ 1, first / row, t->stride[2] / row, 0 };
    else
        return false;
    if (__builtin_mul_overflow(l->batch, t->n[0] - 1, &l->pages))
        return false;
    l->pages += l->key * (seq - 1) + 1;
    return l->pages <= INT32_MAX;
}

/* K and V lie alike. On a GPU rows of the pool are counted in 32 bits. */
static bool are_pages(const struct call *c, struct cache *d)
{
    const struct tensor *k = &c->tensor[K], *v = &c->tensor[V];
    bool paged = d->of.table != NULL;
    struct layout *l = &d->layout, of_v;
    if (!find_layout(l, k, paged) || !find_layout(&of_v, v, paged) || l->size != of_v.size ||
        l->batch != of_v.batch || l->key != of_v.key)
        return false;
    return !c->gpu || (l->pages <= INT32_MAX / c->p.kv_heads / l->size && ((uintptr_t)k->data | (uintptr_t)v->data) % PACK == 0);
}

/* Where K and V cannot be pages as they lie, they are copied: dense, each sequence is one page. */
static void plan_keys(struct call *c, struct cache *d)
{
    bool paged = d->of.table != NULL, one_length = !paged && !d->of.seqlens;
    d->plain = one_length && is_dense(&c->tensor[K]) && is_dense(&c->tensor[V]);
    if (d->plain || are_pages(c, d))
        return;
    fail(c, paged, FSA_STRIDE, "K");
    fail(c, c->p.batch > INT32_MAX, FSA_SIZE, "batch");
    d->plain = one_length;
    d->layout = (struct layout){ c->p.seq_k, 1, 0, c->p.batch };
    if (c->gpu && !c->status) {
        use_copy(c, &c->tensor[K], c->dtype, c->p.dim);
        use_copy(c, &c->tensor[V], c->dtype, c->p.dim);
    } else {
        use(c, K, 2, c->dtype);
    }
}

/* The host does not know how many keys there are of all sequences of a GPU: as many as there may be, less one, for step 41 takes
   all sequences to be of one length where none is missing. */
void plan_cache(struct call *c, struct cache *d)
{
    struct pages *g = &d->pages;
    plan_keys(c, d);
    if (c->status || d->plain)
        return;
    *g = (struct pages){ .size = d->layout.size, .pool = d->layout.pages, .table = d->of.table, .seqlens = d->of.seqlens };
    g->most = (c->p.seq_k + g->size - 1) / g->size;
    g->keys = c->p.batch * c->p.seq_k - (g->seqlens ? 1 : 0);
    if (!g->table || d->layout.key || d->layout.batch != 1)
        g->table = d->table = reserve(c, (size_t)(c->p.batch * g->most) * sizeof(int32_t));
    else
        g->most = d->of.most;
    if (!g->seqlens && !c->gpu)
        g->seqlens = d->seqlens = reserve(c, (size_t)c->p.batch * sizeof(int32_t));
}

static struct table table_of(const struct call *c, const struct cache *d)
{
    const struct fsa_cache *g = &d->of;
    return (struct table){ d->table, g->table, g->seqlens, c->p.batch, c->p.seq_k, d->pages.most, d->pages.size, g->most, g->page,
                           d->layout.batch, d->layout.key };
}

void check_cache(struct call *c, struct cache *d)
{
    const struct fsa_cache *g = &d->of;
    const struct table t = table_of(c, d);
    if (c->status || d->plain || !(g->seqlens || g->table))
        return;
    d->pages.keys = 0;
    for (int64_t b = 0; b < t.batch && !c->status; b++) {
        int64_t keys = table_keys(&t, b);
        fail(c, keys < 0 || keys > c->p.seq_k, FSA_PAGE, "seqlens");
        d->pages.keys += keys;
        for (int64_t i = 0; g->table && !c->status && i * g->page < keys; i++)
            fail(c, g->table[b * g->most + i] < 0 || g->table[b * g->most + i] >= g->pool, FSA_PAGE, "table");
    }
}

void fill_cache(const struct call *c, const struct cache *d)
{
    const struct table t = table_of(c, d);
    if (c->gpu && d->table)
        return gpu_table(&t, c->run->stream);
    for (int64_t b = 0; b < t.batch && !c->gpu; b++) {
        if (d->seqlens)
            d->seqlens[b] = (int32_t)t.seq_k;
        for (int64_t i = 0; d->table && i * t.size < table_keys(&t, b); i++)
            t.to[b * t.most + i] = table_entry(&t, b, i);
    }
}
