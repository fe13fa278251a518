/*
 * Caches in pages, and the step that reads them: any lengths, any size of page, any order, pages that are shared; and all that no
 * sequence has is NaN, or no page at all, and must not be seen. Pools and tables end at a page of memory that nobody may touch.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "attention_checks.h"
#include "program.h"
#include "steps.h"
#include "streams.h"
#include "suites.h"

#define BATCH 7
#define LONGEST 300  /* keys: more than two tiles of step 41 */

static const int64_t sizes[] = { 1, 7, 16, 64, 127, 128, 1000 };
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale */
static const struct attention shapes[] = {
    { BATCH, 6, 2, 1, LONGEST, 64, false, 0.125f }, { BATCH, 4, 1, 9, LONGEST, 40, true, 0.2f },
    { BATCH, 2, 2, 1, LONGEST, 128, false, 0.1f },
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* None and one key, a page and one key less or more, two pages, many, and the longest. */
static void lengths_around(int32_t *lengths, int64_t size)
{
    const int64_t all[BATCH] = { 0, size - 1, LONGEST, size, 1, size + 1, 2 * size };
    for (int b = 0; b < BATCH; b++)
        lengths[b] = (int32_t)(all[b] < LONGEST ? all[b] : LONGEST - b);
}

static struct options problem(struct attention p, enum dtype dtype, const char *family, int64_t size, const int32_t *lengths)
{
    return (struct options){ .is_attention = true, .attention = p, .dtype = dtype, .input = family, .seed = 1,
                             .paging = { .size = size, .lengths = lengths, .count = p.batch } };
}

static void judge_on(const struct device *device, const struct options *o, const char *what)
{
    struct kind kind = attention_paged_kind();
    struct run r = { .kind = &kind, .step = &paged_attention, .o = o, .device = device };
    struct verdict v = problem_judge(&r, what);
    REQUIRE(v.pass || (v.doubtful && !v.wrong), "%s, %s, pages of %d, prefix %d, %d keys, %d queries: %s", what,
            dtype_name(o->dtype), (int)o->paging.size, (int)o->paging.prefix, (int)o->attention.seq_k, (int)o->attention.seq_q,
            v.what);
    REQUIRE(rows_stand_alone(&r, what), "%s, pages of %d: not the same bits when run again, with another last row", what,
            (int)o->paging.size);
    problem_free(&r);
}

static void judge(const struct options *o, const char *what)
{
    judge_on(&cpu_device, o, what);
}

START_TEST(test_any_lengths_in_any_pages)
{
    static const char *const families[] = { "normal", "adversarial", "peak" };
    for (int i = 0; i < SIZES * SHAPES; i++) {
        int32_t lengths[BATCH];
        lengths_around(lengths, sizes[i % SIZES]);
        struct options o = problem(shapes[i / SIZES], (enum dtype)_i, families[i % 3], sizes[i % SIZES], lengths);
        judge(&o, families[i % 3]);
    }
}
END_TEST

START_TEST(test_pages_that_are_shared)
{
    static const int32_t lengths[BATCH] = { 200, 300, 64, 63, 65, 0, 128 };
    for (int64_t prefix = 1; prefix < 300; prefix += 60)
        for (int i = 0; i < 3; i++) {
            struct options o = problem(shapes[i % SHAPES], (enum dtype)_i, "normal", sizes[i], lengths);
            o.paging.prefix = prefix;
            judge(&o, "shared");
        }
}
END_TEST

START_TEST(test_small_problems)
{
    struct kind kind = attention_paged_kind();
    for (int i = 0;; i++) {
        struct options o = { .is_attention = true, .attention.dim = 64, .dtype = (enum dtype)_i };
        const char *name = kind.small(&paged_attention, &o, i);
        if (!name)
            break;
        judge(&o, name);
    }
}
END_TEST

/* ---- the same bits, wherever keys lie */

enum { Q, K, V, TABLE, SEQLENS };

/* In so many pieces, with tensors that are made anew. */
static void run_pieces(const struct kind *kind, const struct options *o, int pieces, void *O, float *lse)
{
    struct buffer t[MAX_TENSORS];
    kind->inputs_new(o, t);
    struct attention p = o->attention;
    struct pages g = { .size = o->paging.size, .most = (p.seq_k + o->paging.size - 1) / o->paging.size };
    g.pool = (int64_t)(t[K].bytes / dtype_bytes(o->dtype)) / (p.kv_heads * g.size * p.dim);
    g.table = t[TABLE].data;
    g.seqlens = t[SEQLENS].data;
    for (int64_t b = 0; b < p.batch; b++)
        g.keys += g.seqlens[b];
    paged_attention_pieces(O, lse, t[Q].data, t[K].data, t[V].data, g, p, o->dtype, pieces);
    for (int i = 0; i < kind->inputs; i++)
        buffer_free(&t[i]);
}

/* In 1 to 64 pieces, which divide no length, against double precision. */
START_TEST(test_any_number_of_pieces)
{
    struct kind kind = attention_paged_kind();
    const int32_t lengths[BATCH] = { 0, 300, 1, 17, 128, 129, 255 };
    struct options o = problem(shapes[_i % SHAPES], (enum dtype)(_i / SHAPES), "adversarial", 16, lengths);
    struct run r = { .kind = &kind, .step = &paged_attention, .o = &o, .device = &cpu_device };
    problem_judge(&r, "");
    for (int pieces = 1; pieces <= 64; pieces += pieces < 8 ? 1 : 7) {
        buffer_poison(&r.host[kind.inputs]);
        buffer_poison(&r.host[kind.inputs + 1]);
        run_pieces(&kind, &o, pieces, r.host[kind.inputs].data, r.host[kind.inputs + 1].data);
        struct verdict v = kind.verify(&r);
        ck_assert_msg(v.wrong == 0 && (v.pass || v.doubtful), "%s in %d pieces: %s", dtype_name(o.dtype), pieces, v.what);
    }
    problem_free(&r);
}
END_TEST

/* Neither the size of a page, nor their order, nor the number of threads changes a bit; the number of pieces may. */
START_TEST(test_same_bits_in_any_pages)
{
    struct kind kind = attention_paged_kind();
    int32_t lengths[BATCH] = { 0, 300, 1, 17, 128, 129, 255 };
    struct attention p = shapes[_i];
    size_t rows = (size_t)(p.batch * p.heads * p.seq_q), elements = rows * (size_t)p.dim;
    float *first = malloc(elements * sizeof *first), *O = malloc(elements * sizeof *O), *lse = malloc(rows * sizeof *lse);
    int usual = cpu_threads();
    for (int pieces = 1; pieces <= 40; pieces += 13) {
        struct options o = problem(p, FP32, "adversarial", sizes[0], lengths);
        run_pieces(&kind, &o, pieces, first, NULL);
        for (int i = 1; i < SIZES; i++) {
            o.paging.size = sizes[i];
            cpu_set_threads(1 + i % THREADS_UP_TO(5));
            run_pieces(&kind, &o, pieces, O, lse);
            ck_assert_msg(memcmp(O, first, elements * sizeof *O) == 0, "%d pieces, pages of %d: other bits than in pages of 1",
                          pieces, (int)sizes[i]);
        }
    }
    cpu_set_threads(usual);
    free(first), free(O), free(lse);
}
END_TEST

/* Where keys are not split, and all sequences are of one length, it is step 35, to the bit. */
START_TEST(test_one_piece_is_step_27)
{
    struct kind kind = attention_paged_kind();
    struct options o = problem(shapes[_i], BF16, "normal", 16, NULL);
    struct attention p = o.attention;
    size_t rows = (size_t)(p.batch * p.heads * p.seq_q), elements = rows * (size_t)p.dim;
    uint16_t *O = malloc(elements * sizeof *O), *want = malloc(elements * sizeof *want);
    struct qkv t = input_qkv(&o);
    grouped_attention_pieces(want, NULL, t.q.data, t.k.data, t.v.data, p, BF16, 1);
    run_pieces(&kind, &o, 1, O, NULL);
    ck_assert(memcmp(O, want, elements * sizeof *O) == 0);
    buffer_free(&t.q), buffer_free(&t.k), buffer_free(&t.v);
    free(O), free(want);
}
END_TEST

/* ---- a pool of more than 2^32 elements */

/* One sequence of two keys, whose page is the last of a pool that is all zeros, and of which no more exists. */
START_TEST(test_more_elements_than_32_bits_count)
{
    enum { DIM = 256 };
    const struct pages g = { .size = 16, .pool = ((int64_t)1 << 32) / (16 * DIM) + 3, .most = 1, .keys = 2,
                             .table = (int32_t[]){ ((int64_t)1 << 32) / (16 * DIM) + 2 }, .seqlens = (int32_t[]){ 2 } };
    size_t bytes = (size_t)(g.pool * g.size * DIM) * sizeof(float);
    float q[DIM] = { 40 }, O[DIM], lse, *pool[2];
    for (int i = 0; i < 2; i++) {
        pool[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pool[i] == MAP_FAILED) {
            printf("skipped: a pool beyond 2^32 elements: the system grants no address space of %zu GiB\n", bytes >> 30);
            return;
        }
        float *page = pool[i] + (g.pool - 1) * g.size * DIM;
        for (int at = 0; at < DIM; at++)
            page[at] = i ? (float)at : at == 0; /* the other key's score is less by 40, and its value 0 */
    }
    paged_attention_cpu(O, &lse, q, pool[0], pool[1], g, (struct attention){ 1, 1, 1, 1, 2, DIM, false, 1 });
    ck_assert_msg(fabsf(lse - 40) < 1e-4f, "lse is %g", (double)lse);
    for (int at = 0; at < DIM; at++)
        ck_assert_msg(fabsf(O[at] - (float)at) <= 1e-4f * (float)at, "element %d: %g", at, (double)O[at]);
}
END_TEST

/* ---- what judges it */

/* A drawn table: every page once, but for those that are shared; and none where a sequence has no keys. */
START_TEST(test_drawn_tables)
{
    enum { MOST = 6, POOL = 20 };
    const int32_t lengths[] = { 50, 0, 33, 16, 1 };
    const int own[] = { 4, 0, 3, 1, 1 }, shared = _i;
    const struct pages g = { .size = 16, .pool = POOL, .most = MOST, .seqlens = lengths };
    int32_t table[5 * MOST];
    int seen[POOL] = { 0 }, distinct = 0;
    pages_draw(table, g, 5, shared);
    for (int b = 0; b < 5; b++)
        for (int i = 0; i < MOST; i++) {
            int32_t page = table[b * MOST + i];
            ck_assert_msg(i < own[b] ? page >= 0 && page < POOL : page == -1, "sequence %d, page %d: %d", b, i, page);
            if (i < own[b])
                distinct += seen[page]++ == 0;
            if (i < own[b] && i < shared)
                ck_assert_int_eq(page, table[i]); /* the first sequence has as many as any */
        }
    ck_assert_int_eq(distinct, shared == 0 ? 9 : shared == 1 ? 6 : 5);
}
END_TEST

/* Into pages and out again, each key is where the table says, and no other place is written. */
START_TEST(test_fill_and_gather)
{
    static const int32_t lengths[] = { 5, 0, 3 }, table[] = { 4, 0, -1, -1, 2, 1 };
    const struct pages g = { .size = 3, .pool = 5, .most = 2, .table = table, .seqlens = lengths };
    const struct attention p = { 3, 2, 2, 1, 6, 1, false, 1 };
    float plain[3 * 2 * 6], pool[5 * 2 * 3], back[3 * 2 * 6];
    for (int i = 0; i < 36; i++)
        plain[i] = (float)i, back[i] = -1;
    for (int i = 0; i < 30; i++)
        pool[i] = -1;
    pages_fill(pool, plain, g, p, FP32);
    /*                        page 0          page 1                  page 2              page 3                  page 4 */
    const float want[] = { 3, 4, -1, 9, 10, -1, -1, -1, -1, -1, -1, -1, 24, 25, 26, 30, 31, 32, -1, -1, -1, -1, -1, -1,
                           0, 1, 2, 6, 7, 8 };
    ck_assert(memcmp(pool, want, sizeof pool) == 0);
    pages_gather(back, pool, g, p, FP32);
    for (int i = 0; i < 36; i++)
        ck_assert(back[i] == (i % 6 < lengths[i / 12] ? (float)i : -1));
}
END_TEST

/* The inputs that a step gets: NaN wherever no sequence has a key. */
START_TEST(test_poison)
{
    struct kind kind = attention_paged_kind();
    const int32_t lengths[] = { 5, 0, 16 };
    struct options o = problem((struct attention){ 3, 2, 2, 1, 16, 8, false, 1 }, FP32, "normal", 4, lengths);
    struct buffer t[MAX_TENSORS];
    int64_t numbers = 0;
    kind.inputs_new(&o, t);
    for (int64_t i = 0; i < (int64_t)(t[K].bytes / sizeof(float)); i++)
        numbers += !isnan(((float *)t[K].data)[i]);
    ck_assert_int_eq(numbers, (5 + 16) * 2 * 8);
    ck_assert(t[K].bytes / sizeof(float) >= (size_t)(7 * 4 * 2 * 8));
    for (int i = 0; i < kind.inputs; i++)
        buffer_free(&t[i]);
}
END_TEST

/* A single wrong element is found, in whichever sequence, and so is a step that knows no lengths, or reads another's keys. */
START_TEST(test_verdict)
{
    struct kind kind = attention_paged_kind();
    const int32_t lengths[] = { 40, 33, 0, 40 };
    struct options o = problem((struct attention){ 4, 2, 1, 1, 40, 16, false, 0.25f }, FP32, "normal", 16, lengths);
    struct run r = { .kind = &kind, .step = &paged_attention, .o = &o, .device = &cpu_device };
    ck_assert(problem_judge(&r, "").pass);
    float *O = r.host[kind.inputs].data;
    for (int b = 0; b < 4; b++) {
        float kept = O[(b * 2 + 1) * 16 + 3];
        O[(b * 2 + 1) * 16 + 3] = kept + 0.01f;
        struct verdict v = kind.verify(&r);
        char name[32];
        snprintf(name, sizeof name, "sequence %d:", b);
        bool found = !v.pass && v.wrong == 1 && v.first_wrong == b * 2 + 1 && strstr(v.what, name);
        ck_assert_msg(found, "sequence %d: %s", b, v.what);
        ck_assert(v.rows == 8 && v.checked == 8);
        O[(b * 2 + 1) * 16 + 3] = kept;
    }
    r.step = &grouped_attention; /* takes all for as long as the longest */
    kind.call(&r);
    struct verdict v = kind.verify(&r);
    ck_assert_msg(!v.pass && strstr(v.what, "sequence 1:"), "%s", v.what);
    problem_free(&r);
}
END_TEST

/* What is predicted and counted is of the keys that there are: not of the longest, and what is shared only once where it lies. */
START_TEST(test_costs)
{
    struct kind kind = attention_paged_kind();
    const int32_t lengths[] = { 40, 0, 33 };
    struct options o = problem((struct attention){ 3, 4, 2, 1, 40, 8, false, 1 }, FP32, "normal", 16, lengths);
    double queries = 2 * 3 * 4 * 8 * 4, keys = 2 * 73 * 2 * 8 * 4;
    ck_assert(kind.units(&o) == 73 * 4);
    ck_assert(kind.useful(&o) == queries + keys);
    struct cost its = kind.predict(&paged_attention, &o, &cpu_device), before = kind.predict(&grouped_attention, &o, &cpu_device);
    ck_assert(its.bytes == queries + keys && its.exps == 73 * 4);
    ck_assert(before.bytes == queries + 2 * 120 * 2 * 8 * 4 && before.exps == 120 * 4);
    o.paging.prefix = 32;
    ck_assert(kind.useful(&o) == queries + 2 * (73 - 32) * 2 * 8 * 4);
    ck_assert(kind.predict(&paged_attention, &o, &cpu_device).bytes == queries + keys);
}
END_TEST

/* ---- on a GPU, in 16 bits, with heads of 64 and 128. (With all steps it is checked where each sequence is one page.) */

#define PAGES "pages"
#define MANY_SEQUENCES "many sequences"
#define PIECES "pieces of a cache"
#define ANY_PAGES "the same bits in any pages"
#define RAGGED_RUNS "a thousand ragged runs"
#define RUNS 1000
#define SMALL_RUNS 20  /* with TESTS_SMALL */
#define TYPES 2        /* FP16, BF16 */

static enum dtype type_at(int i)
{
    return i % TYPES ? BF16 : FP16;
}

/* False, and said, if this GPU is too old. */
static bool runs_here(const struct attention_subject *s, const char *name)
{
    const char *missing = attention_subject_missing(s);
    progress(attention_subject_name(s), name);
    if (missing)
        printf("skipped: %s: %s\n", attention_subject_name(s), missing);
    return !missing;
}

/* In a test, first: what is tested, or nothing. */
#define ON_GPU(name)                                                                      \
    const struct attention_subject subject = { &paged_attention, type_at(_i), true };     \
    if (!dtype_is_chosen(subject.dtype) || !runs_here(&subject, name))                    \
        return

START_TEST(test_gpu_any_lengths_in_any_pages)
{
    ON_GPU(PAGES);
    for (int i = 0; i < SIZES * SHAPES; i++) {
        int32_t lengths[BATCH];
        lengths_around(lengths, sizes[i % SIZES]);
        struct options o = problem(shapes[i / SIZES], subject.dtype, "adversarial", sizes[i % SIZES], lengths);
        o.attention.dim = o.attention.dim == 40 ? 128 : o.attention.dim;
        o.paging.prefix = i % 2 ? 0 : 130;
        judge_on(&gpu_device, &o, PAGES);
    }
    const int32_t unlike[BATCH] = { 0, 3000, 1, 17, 1280, 129, 2555 };
    for (int i = 0; i < SIZES; i++) { /* so many heads that a warp goes from tile to tile */
        struct attention p = { BATCH, 64, 32, 1, 3000, 64 + i % 2 * 64, false, 0.1f };
        struct options o = problem(p, subject.dtype, "normal", sizes[i], unlike);
        judge_on(&gpu_device, &o, PAGES);
    }
    for (int i = 0;; i++) {
        struct kind kind = attention_paged_kind();
        struct options o = { .is_attention = true, .attention.dim = 64 + i % 2 * 64, .dtype = subject.dtype };
        const char *name = kind.small(&paged_attention, &o, i);
        if (!name)
            break;
        judge_on(&gpu_device, &o, name);
    }
}
END_TEST

/* More than a warp adds up at a time, and lengths that need 0 to 32 pieces of 64 keys. */
START_TEST(test_gpu_many_sequences)
{
    enum { MANY = 101 };
    int32_t lengths[MANY];
    ON_GPU(MANY_SEQUENCES);
    for (int b = 0; b < MANY; b++)
        lengths[b] = b % 9 ? (int32_t)(random_bits(9, (uint64_t)b) % 500) : b * 20;
    for (int i = 0; i < 4; i++) {
        struct attention p = { MANY, 6, 2, 1 + i % 2 * 8, 2000, 64 + i / 2 * 64, i % 2, 0.2f };
        struct options o = problem(p, subject.dtype, "normal", 16 << i, lengths);
        judge_on(&gpu_device, &o, MANY_SEQUENCES);
    }
}
END_TEST

/* Caches of 1 to 64 pieces of 64 keys, beside one of one key; the last piece is full, has a key less, or one key. */
START_TEST(test_gpu_pieces)
{
    ON_GPU(PIECES);
    for (int pieces = 1; pieces <= 64; pieces += pieces < 5 ? 1 : 7)
        for (int i = -1; i < 2; i++) {
            const int32_t lengths[] = { 64 * pieces + i, 1 };
            struct attention p = { 2, 2, 1, 1, lengths[0], 128, false, 0.1f };
            struct options o = problem(p, subject.dtype, "adversarial", 16, lengths);
            judge_on(&gpu_device, &o, PIECES);
        }
}
END_TEST

/* O and lse of a step on a problem, on the host: free them as r's tensors. */
static struct run outputs_on_gpu(const struct kind *kind, const struct options *o)
{
    struct run r = { .kind = kind, .step = &paged_attention, .o = o, .device = &gpu_device };
    struct verdict v = problem_judge(&r, "");
    ck_assert_msg(!v.wrong, "pages of %d: %s", (int)o->paging.size, v.what);
    return r;
}

static bool same_outputs(const struct run *a, const struct run *b)
{
    bool same = true;
    for (int i = a->kind->inputs; i < a->kind->inputs + a->kind->outputs; i++)
        same &= memcmp(a->host[i].data, b->host[i].data, a->host[i].bytes) == 0;
    return same;
}

/* Step 40 on the same keys, as they usually lie; its outputs take the place of r's. */
static void run_step_29(struct run *r)
{
    struct run other = *r;
    other.step = &streamed_attention;
    other.workspace = buffer_new(r->kind->workspace(other.step, r->o, r->device) + 1, &gpu_device);
    gpu_fill(other.workspace.data, 0, other.workspace.bytes);
    r->kind->call(&other);
    gpu_finish("40_streamed_attention");
    for (int i = r->kind->inputs; i < r->kind->inputs + r->kind->outputs; i++)
        gpu_download(r->host[i].data, r->tensor[i].data, r->host[i].bytes);
    buffer_free(&other.workspace);
}

/* Where pages end, and where they lie, changes no bit; and where all sequences are of one length, it is step 40. */
START_TEST(test_gpu_same_bits_in_any_pages)
{
    ON_GPU(ANY_PAGES);
    struct kind kind = attention_paged_kind();
    int32_t lengths[BATCH] = { 0, 3000, 1, 17, 128, 129, 2555 };
    for (int even = 0; even < 2; even++) {
        struct options o = problem((struct attention){ BATCH, 6, 2, 1, 3000, 64, false, 0.125f }, subject.dtype, "adversarial",
                                   1, even ? NULL : lengths);
        struct run first = outputs_on_gpu(&kind, &o);
        for (int i = 1; i < SIZES; i++) {
            struct options other = o;
            other.paging.size = sizes[i];
            struct run r = outputs_on_gpu(&kind, &other);
            ck_assert_msg(same_outputs(&r, &first), "pages of %d: other bits than in pages of 1", (int)sizes[i]);
            if (even)
                run_step_29(&r);
            ck_assert_msg(same_outputs(&r, &first), "other bits than those of step 40");
            problem_free(&r);
        }
        problem_free(&first);
    }
}
END_TEST

/* Whoever comes last merges, and counts from 0 again; outputs are NaN before each run. */
START_TEST(test_gpu_a_thousand_runs)
{
    ON_GPU(RAGGED_RUNS);
    struct kind kind = attention_paged_kind();
    int32_t lengths[BATCH] = { 0, 5000, 1, 300, 64, 4097, 2000 };
    struct options o = problem((struct attention){ BATCH, 8, 2, 2, 5000, 128, true, 0.1f }, subject.dtype, "adversarial", 16,
                               lengths);
    struct run r = outputs_on_gpu(&kind, &o);
    struct buffer first[2], differs = buffer_new(sizeof(unsigned), &gpu_device); /* UINT_MAX: in no run */
    for (int i = 0; i < 2; i++) {
        first[i] = buffer_new(r.host[kind.inputs + i].bytes, &gpu_device);
        gpu_upload(first[i].data, r.host[kind.inputs + i].data, first[i].bytes);
    }
    for (int run = 1; run < (getenv("TESTS_SMALL") ? SMALL_RUNS : RUNS); run++) {
        for (int i = 0; i < 2; i++)
            stream_poison(r.tensor[kind.inputs + i].data, first[i].bytes, NULL);
        kind.call(&r);
        for (int i = 0; i < 2; i++)
            stream_compare(differs.data, r.tensor[kind.inputs + i].data, first[i].data, first[i].bytes, (unsigned)run, NULL);
    }
    gpu_finish(RAGGED_RUNS);
    unsigned run;
    gpu_download(&run, differs.data, sizeof run);
    for (int i = 0; i < 2; i++)
        buffer_free(&first[i]);
    buffer_free(&differs);
    problem_free(&r);
    ck_assert_msg(run == UINT_MAX, "not the same bits in run %u", run);
}
END_TEST

/* How often a test runs: once a type, if it and the step are chosen. */
static int types_of(const char *name)
{
    struct attention_subject s;
    bool chosen = false;
    for (int i = 0; attention_subject_at(&s, i, true); i++)
        chosen |= s.step == &paged_attention;
    return chosen && check_is_chosen(name) ? TYPES : 0;
}

void paged_gpu_tests(TCase *pages)
{
    tcase_add_loop_test(pages, test_gpu_any_lengths_in_any_pages, 0, types_of(PAGES));
    tcase_add_loop_test(pages, test_gpu_many_sequences, 0, types_of(MANY_SEQUENCES));
    tcase_add_loop_test(pages, test_gpu_pieces, 0, types_of(PIECES));
    tcase_add_loop_test(pages, test_gpu_same_bits_in_any_pages, 0, types_of(ANY_PAGES));
    tcase_add_loop_test(pages, test_gpu_a_thousand_runs, 0, types_of(RAGGED_RUNS));
}

Suite *paged_suite(void)
{
    Suite *suite = suite_create("paged");
    TCase *steps = tcase_create("steps"), *bits = tcase_create("bits"), *judges = tcase_create("judges");
    tcase_set_timeout(steps, 120);
    tcase_add_checked_fixture(steps, guard_pages, NULL);
    tcase_add_loop_test(steps, test_any_lengths_in_any_pages, FP32, BF16 + 1);
    tcase_add_loop_test(steps, test_pages_that_are_shared, FP32, BF16 + 1);
    tcase_add_loop_test(steps, test_small_problems, FP32, BF16 + 1);
    suite_add_tcase(suite, steps);
    tcase_set_timeout(bits, 120);
    tcase_add_checked_fixture(bits, guard_pages, NULL);
    tcase_add_loop_test(bits, test_any_number_of_pieces, 0, 3 * SHAPES);
    tcase_add_loop_test(bits, test_same_bits_in_any_pages, 0, SHAPES);
    tcase_add_loop_test(bits, test_one_piece_is_step_27, 0, SHAPES);
    tcase_add_test(bits, test_more_elements_than_32_bits_count);
    suite_add_tcase(suite, bits);
    tcase_set_timeout(judges, 60);
    tcase_add_loop_test(judges, test_drawn_tables, 0, 3);
    tcase_add_test(judges, test_fill_and_gather);
    tcase_add_test(judges, test_poison);
    tcase_add_test(judges, test_verdict);
    tcase_add_test(judges, test_costs);
    suite_add_tcase(suite, judges);
    return suite;
}
