/* The command line. Anything wrong in it: one line that names the option, the value and what is allowed, and status 2. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "ring/ring.h"

#define MAX_THREADS 4096
#define MAX_SHOWN 60  /* bytes of a value that a message quotes */

#define NOISE_HELP "  --noise             time the step against itself: smaller differences mean nothing\n"
static const char softmax_help[] =
    "  --rows N --cols N   shape of x; Ki, Mi and Gi may follow a number    (default %d x %d)\n"
    "  --shape NAME        a named shape, for what is not given:%s\n"
    "  --dtype TYPE        fp32, fp16 or bf16, where the step has them      (default fp32)\n"
    "  --input FAMILY      %s\n"
    "                                                                       (default normal)\n"
    "  --x FILE.npy        or a tensor of yours: fp16, fp32 or fp64, the last axis is softmaxed\n"
    "  --out FILE.npy      write y there; steps that go back: dx\n"
    "  --dy FILE.npy       how the loss changes with y, in steps that go back (default normal random)\n"
    "  --sweep             every row length from %d to %d Mi, with rows x cols as it is, a line each\n"
    "  --trace X,X,...     no run: how (m, l) grows over a row of up to %d numbers, as 1,3,2\n"
    NOISE_HELP;
static const char attention_help[] =
    "  --batch N --heads N --kv-heads N --dim N                             (default 1, %d, %s, %d)\n"
    "  --seq-q N --seq-k N queries and keys a head; --seq N sets both       (default %s)\n"
    "  --causal            query i sees key j if j <= i + seq_k - seq_q\n"
    "  --scale X           scores are X times a query times a key           (default 1 / sqrt(dim))\n"
    "  --shape NAME        a named shape, for what is not given:%s\n"
    "  --dtype TYPE        fp32, fp16 or bf16, where the step has them      (default fp32, or else bf16)\n"
    "  --input FAMILY      %s\n"
    "                                                                       (default normal)\n"
    "  --q, --k, --v FILE.npy   or tensors of yours, all three: (batch, heads, tokens, dim)\n"
    "  --out FILE.npy      write O there\n"
    "  --lse FILE.npy      write the logarithm of each row's sum of exp(score) there\n"
    "  --o, --lse FILE.npy what attention made of Q, K and V, in steps that go back (default: computed in double)\n"
    "  --do, --dlse FILE.npy    how the loss changes with O and lse, in steps that go back (default normal random both;\n"
    "                      one alone: the other 0)\n"
    "  --dq, --dk, --dv FILE.npy   write these gradients there\n"
    "  --sweep             every length from %d to %s Ki, with tokens in all as they are, a line each\n"
    "  --ranks N           processes of a ring, in steps that have one      (default 2)\n"
    "  --page-size N       keys of a page, in steps that have pages         (default %d)\n"
    "  --seqlens N,N,...   keys of each sequence, 0 to seq-k; or FILE.npy   (default seq-k each)\n"
    "  --prefix N          keys that all sequences begin with, in the same pages\n"
    "  --table FILE.npy    or a table of yours, (batch, pages), of pages from 0 to N - 1, where --pages N says\n"
    "  --pages N           how many there are                               (default what is needed, and some)\n"
    "  --sweep-scale       scores 1/4 to 64 times as large as usual, a line each\n"
    "  --trace S:V,S:V,... no run: how (m, l, o) grows over up to %d scores with a value each, as 1:10,3:20\n"
    NOISE_HELP;
static const char common_help[] =
    "  --device WHICH      cpu, gpu or all                                  (default all)\n"
    "  --threads N         CPU threads                                      (default: all)\n"
    "  --seed N            of the random numbers                            (default 1)\n"
    "  --reps N            timed runs                                       (default: what fits --budget)\n"
    "  --budget SECONDS    time to spend on timing, per device              (default 2)\n"
    "  --json              one JSON object per device instead of text\n"
    "  --help              this\n";

enum { /* no letters: getopt has those for what begins with one - */
    ROWS = 256, COLS, X, DY,                                                           /* softmax */
    BATCH, HEADS, KV_HEADS, SEQ, SEQ_Q, SEQ_K, DIM, CAUSAL, SCALE, RANKS, SWEEP_SCALE, /* attention */
    Q, K, V, O, LSE, DO, DLSE, DQ, DK, DV,
    PAGE_SIZE, SEQLENS, PREFIX, TABLE, PAGES,
    SHAPE, DTYPE, INPUT, OUT, SWEEP, TRACE, DEVICE, THREADS, SEED, REPS, BUDGET, NOISE, JSON, HELP,
};

#define VALUE(name, code) { name, required_argument, NULL, code }
#define FLAG(name, code) { name, no_argument, NULL, code }
#define COMMON                                                                                                         \
    VALUE("device", DEVICE), VALUE("threads", THREADS), VALUE("seed", SEED), VALUE("reps", REPS),                      \
    VALUE("budget", BUDGET), FLAG("json", JSON), FLAG("help", HELP), { NULL, 0, NULL, 0 }
#define SHARED                                                                                                         \
    VALUE("shape", SHAPE), VALUE("dtype", DTYPE), VALUE("input", INPUT), VALUE("out", OUT), FLAG("sweep", SWEEP),      \
    VALUE("trace", TRACE), FLAG("noise", NOISE), COMMON

static const struct option softmax_options[] = {
    VALUE("rows", ROWS), VALUE("cols", COLS), VALUE("x", X), VALUE("dy", DY), SHARED,
};
static const struct option attention_options[] = {
    VALUE("batch", BATCH), VALUE("heads", HEADS), VALUE("kv-heads", KV_HEADS), VALUE("seq", SEQ), VALUE("seq-q", SEQ_Q),
    VALUE("seq-k", SEQ_K), VALUE("dim", DIM), FLAG("causal", CAUSAL), VALUE("scale", SCALE),
    VALUE("ranks", RANKS), FLAG("sweep-scale", SWEEP_SCALE), VALUE("q", Q), VALUE("k", K), VALUE("v", V), VALUE("o", O),
    VALUE("lse", LSE), VALUE("do", DO), VALUE("dlse", DLSE), VALUE("dq", DQ), VALUE("dk", DK), VALUE("dv", DV),
    VALUE("page-size", PAGE_SIZE), VALUE("seqlens", SEQLENS), VALUE("prefix", PREFIX), VALUE("table", TABLE),
    VALUE("pages", PAGES), SHARED,
};
static const struct option common_options[] = { COMMON };
static const struct option *const options_of[] = {
    [SOFTMAX_STEP] = softmax_options, [ATTENTION_STEP] = attention_options, [CEILINGS_STEP] = common_options,
};

/* A value as messages quote it: its beginning, if it is long. Good until the next call. */
static const char *shown(const char *text)
{
    static char cut[MAX_SHOWN + 4];
    snprintf(cut, sizeof cut, "%.*s...", MAX_SHOWN, text);
    return strlen(text) <= MAX_SHOWN ? text : cut;
}

/* A whole number from low to high, perhaps with Ki, Mi or Gi behind it. */
static int64_t whole(const char *option, const char *text, int64_t low, int64_t high)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    int shift = strcmp(end, "Ki") == 0 ? 10 : strcmp(end, "Mi") == 0 ? 20 : strcmp(end, "Gi") == 0 ? 30 : 0;
    bool bad = errno || end == text || isspace((unsigned char)text[0]) || (*end && !shift) ||
               __builtin_mul_overflow(n, 1ll << shift, &n) || n < low || n > high;
    if (bad)
        usage_error("--%s '%s': a whole number from %lld to %lld is allowed; 8Ki is 8 * 1024, and there are Mi and Gi", option,
                    shown(text), (long long)low, (long long)high);
    return n;
}

/* A number and nothing else; NaN if it is not one, or one that is not 0 and too small for a float or a double. */
static double number(const char *text, bool single)
{
    char *end;
    errno = 0;
    double x = single ? (double)strtof(text, &end) : strtod(text, &end);
    return end == text || *end || isspace((unsigned char)text[0]) || (x == 0 && errno == ERANGE) ? NAN : x;
}

static double seconds(const char *text)
{
    double s = number(text, false);
    if (!(s > 0 && s <= 3600))
        usage_error("--budget '%s': seconds, more than 0 and at most 3600, are allowed", shown(text));
    return s;
}

static float scale_of(const char *text)
{
    double scale = number(text, true);
    if (!isfinite(scale))
        usage_error("--scale '%s': any finite number that fp32 holds is allowed", shown(text));
    return (float)scale;
}

float default_scale(int64_t dim)
{
    return 1 / sqrtf((float)dim);
}

static enum dtype dtype_of(const char *text)
{
    for (enum dtype d = FP32; d <= BF16; d++)
        if (strcmp(text, dtype_name(d)) == 0)
            return d;
    usage_error("--dtype '%s': fp32, fp16 and bf16 are allowed", shown(text));
}

static const struct named_shape *shapes_of(const struct options *o)
{
    return o->is_attention ? attention_shapes : softmax_shapes;
}

/* " name, name, ..." of all named shapes */
static const char *shape_list(const struct options *o)
{
    static char list[1024];
    size_t at = 0;
    list[0] = '\0';
    for (const struct named_shape *s = shapes_of(o); s->name && at < sizeof list; s++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s %s", at ? "," : "", s->name);
    return list;
}

static const struct named_shape *shape_named(const struct options *o, const char *name)
{
    for (const struct named_shape *s = shapes_of(o); s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    usage_error("--shape '%s': these are allowed:%s", shown(name), shape_list(o));
}

static void set_device(struct options *o, const char *text)
{
    o->cpu = strcmp(text, "gpu") != 0;
    o->gpu = strcmp(text, "cpu") != 0;
    if (o->cpu && o->gpu && strcmp(text, "all"))
        usage_error("--device '%s': cpu, gpu and all are allowed", shown(text));
}

static void set_input(struct options *o, const char *name)
{
    if (!input_is_family(name, o->is_attention))
        usage_error("--input '%s': these are allowed: %s", shown(name), o->is_attention ? attention_families : input_families);
    o->input = name;
    o->input_given = true;
}

/* The number that a text begins with, and where it ends; NULL if there is none that fp32 holds. -inf is one: a masked element. */
static const char *read_float(const char *text, float *x)
{
    char *end;
    errno = 0;
    *x = strtof(text, &end);
    return end == text || errno ? NULL : end;
}

static int32_t *lengths_new(int64_t count)
{
    int32_t *lengths = malloc((size_t)count * sizeof *lengths);
    if (!lengths)
        fatal("not enough CPU memory for %lld lengths", (long long)count);
    return lengths;
}

static void set_trace(struct options *o, const char *text)
{
    const char *at = text;
    for (o->traced = 0;; at++) {
        at = read_float(at, &o->trace[o->traced]);
        if (at && o->is_attention)
            at = *at == ':' ? read_float(at + 1, &o->values[o->traced]) : NULL;
        o->traced++;
        if (!at || *at != ',' || o->traced == MAX_TRACED)
            break;
    }
    if (!at || *at)
        usage_error("--trace '%s': up to %d numbers%s are allowed, with commas between them, as in %s", shown(text), MAX_TRACED,
                    o->is_attention ? ", each with a value," : "", o->is_attention ? "1:10,3:20,2:30" : "1,3,2");
}

/* Lengths with commas between them, or a file of them, whose name has a point. */
static void set_lengths(struct options *o, const char *text)
{
    static int32_t *lengths; /* those of the last call */
    int64_t count = 1;
    free(lengths);
    if (!strchr(text, '.')) {
        for (const char *at = text; *at; at++)
            count += *at == ',';
        lengths = lengths_new(count);
        for (int64_t i = 0; i < count; i++, text += strcspn(text, ",") + 1) {
            char *one = strndup(text, strcspn(text, ","));
            lengths[i] = (int32_t)whole("seqlens", one, 0, INT32_MAX);
            free(one);
        }
    } else {
        struct npy file = input_whole("seqlens", text);
        for (int d = 0; d < file.dims; d++)
            count *= file.shape[d];
        lengths = lengths_new(count);
        for (int64_t i = 0; i < count; i++)
            lengths[i] = (int32_t)element(file.data, file.dtype, i);
        free(file.data);
        o->paging.lengths_path = text;
    }
    o->paging.lengths = lengths;
    o->paging.count = count;
}

static void print_attention_help(const struct options *o)
{
    const struct attention *usual = o->usual;
    char kv_heads[32] = "heads", lengths[64], longest[32];
    snprintf(lengths, sizeof lengths, "%d", DEFAULT_SEQ);
    snprintf(longest, sizeof longest, "%d", SWEEP_SEQ_TO >> 10);
    if (usual)
        snprintf(lengths, sizeof lengths, "%lld and %lld", (long long)usual->seq_q, (long long)usual->seq_k);
    if (usual)
        snprintf(longest, sizeof longest, "%lld", (long long)usual->seq_k >> 10);
    if (usual && usual->kv_heads)
        snprintf(kv_heads, sizeof kv_heads, "%lld", (long long)usual->kv_heads);
    printf(attention_help, usual ? (int)usual->heads : DEFAULT_HEADS, kv_heads, usual ? (int)usual->dim : DEFAULT_DIM, lengths,
           shape_list(o), attention_families, usual ? SWEEP_KEYS_FROM : SWEEP_SEQ_FROM, longest, DEFAULT_PAGE, MAX_TRACED);
}

static void print_help(const struct options *o, const char *program, const char *idea, enum step_kind kind)
{
    printf("%s: %s\n\n", program, idea);
    if (kind == ATTENTION_STEP)
        print_attention_help(o);
    else if (kind == SOFTMAX_STEP)
        printf(softmax_help, DEFAULT_ROWS, DEFAULT_COLS, shape_list(o), input_families, SWEEP_COLS_FROM, SWEEP_COLS_TO >> 20,
               MAX_TRACED);
    fputs(common_help, stdout);
}

static void parse_one(struct options *o, int option, const char *arg)
{
    struct attention *p = &o->attention;
    switch (option) {
    case ROWS:     o->rows = whole("rows", arg, 1, INT64_MAX); break;
    case COLS:     o->cols = whole("cols", arg, 1, INT64_MAX); break;
    case X:        o->x_path = arg; break;
    case BATCH:    p->batch = whole("batch", arg, 1, INT32_MAX); break;
    case HEADS:    p->heads = whole("heads", arg, 1, INT32_MAX); break;
    case KV_HEADS: p->kv_heads = whole("kv-heads", arg, 1, INT32_MAX); break;
    case SEQ:      p->seq_q = p->seq_k = whole("seq", arg, 1, INT32_MAX); break;
    case SEQ_Q:    p->seq_q = whole("seq-q", arg, 1, INT32_MAX); break;
    case SEQ_K:    p->seq_k = whole("seq-k", arg, 1, INT32_MAX); break;
    case DIM:      p->dim = whole("dim", arg, 1, 256); break;
    case CAUSAL:   p->causal = true; break;
    case SCALE:    p->scale = scale_of(arg), o->scale_given = true; break;
    case RANKS:    o->ranks = (int)whole("ranks", arg, 1, RING_MOST); break;
    case SWEEP_SCALE: o->sweep_scale = true; break;
    case PAGE_SIZE: o->paging.size = whole("page-size", arg, 1, INT32_MAX); break;
    case PAGES:    o->paging.pool = whole("pages", arg, 1, INT32_MAX); break;
    case PREFIX:   o->paging.prefix = whole("prefix", arg, 1, INT32_MAX); break;
    case SEQLENS:  set_lengths(o, arg); break;
    case TABLE:    o->paging.table_path = arg; break;
    case Q:        o->q_path = arg; break;
    case K:        o->k_path = arg; break;
    case V:        o->v_path = arg; break;
    case LSE:      o->lse_path = arg; break;
    case O:        o->o_path = arg; break;
    case DY:
    case DO:       o->change_path = arg; break;
    case DLSE:     o->dlse_path = arg; break;
    case DQ:       o->dq_path = arg; break;
    case DK:       o->dk_path = arg; break;
    case DV:       o->dv_path = arg; break;
    case SHAPE:    o->named = shape_named(o, arg); break;
    case DTYPE:    o->dtype = dtype_of(arg), o->dtype_given = true; break;
    case INPUT:    set_input(o, arg); break;
    case OUT:      o->out_path = arg; break;
    case DEVICE:   set_device(o, arg); break;
    case THREADS:  o->threads = (int)whole("threads", arg, 1, MAX_THREADS); break;
    case SEED:     o->seed = (uint64_t)whole("seed", arg, 0, INT64_MAX), o->seed_given = true; break;
    case REPS:     o->reps = (int)whole("reps", arg, 1, 100000); break;
    case BUDGET:   o->budget = seconds(arg); break;
    case SWEEP:    o->sweep = true; break;
    case TRACE:    set_trace(o, arg); break;
    case NOISE:    o->noise = true; break;
    case JSON:     o->json = true; break;
    }
    o->size_given |= option == ROWS || option == COLS || option == SHAPE || (option >= BATCH && option <= DIM);
}

enum { READ = 12, OUTPUTS = 5 }; /* files that must stay what they are, and those that are written */

static struct output output_number(const struct options *o, int i)
{
    const struct output all[OUTPUTS] = {
        { "out", o->out_path }, { "lse", o->o_path ? NULL : o->lse_path },
        { "dq", o->dq_path }, { "dk", o->dk_path }, { "dv", o->dv_path },
    };
    return all[i];
}

struct output options_output(const struct options *o)
{
    int i = 0;
    while (i < OUTPUTS - 1 && !output_number(o, i).path)
        i++;
    return output_number(o, i);
}

/* What would overwrite an input, another output or the table of results; and what cannot be written at all. */
static void check_outputs(const struct options *o)
{
    struct output others[READ + OUTPUTS] = {
        { "--x", o->x_path }, { "--q", o->q_path }, { "--k", o->k_path }, { "--v", o->v_path },
        { o->is_attention ? "--do" : "--dy", o->change_path }, { "--seqlens", o->paging.lengths_path },
        { "--table", o->paging.table_path }, { "--o", o->o_path }, { "--lse", o->o_path ? o->lse_path : NULL },
        { "--dlse", o->dlse_path },
        { "the table of results,", results_path() }, { "the table of ceilings,", ceilings_path() },
    };
    for (int i = 0; i < OUTPUTS; i++) {
        struct output out = output_number(o, i);
        for (int j = 0; out.path && j < READ + i; j++)
            if (others[j].path && same_file(out.path, others[j].path))
                usage_error("--%s '%s': it is the file of %s%s '%s', and would overwrite it", out.option, out.path,
                            j < READ ? "" : "--", others[j].option, others[j].path);
        if (out.path && !writable_whole(out.path))
            fatal("--%s '%s': it cannot be written: %s", out.option, out.path, strerror(errno));
        others[READ + i] = out;
    }
}

void options_check(const struct options *o, int gpus)
{
    const char *file = o->x_path ? o->x_path : o->q_path;
    struct output out = options_output(o);
    if (o->gpu && !o->cpu && gpus == 0)
        fatal("--device gpu: %s", gpu_missing());
    if (out.path && o->cpu && o->gpu && gpus > 0)
        usage_error("--%s '%s': both devices would write it; choose --device cpu or --device gpu", out.option, out.path);
    if (!o->q_path != !o->k_path || !o->q_path != !o->v_path)
        usage_error("--q, --k, --v: all three are needed, or none");
    if (o->o_path && !o->lse_path)
        usage_error("--o '%s': --lse is needed, too, the other result of the same attention", o->o_path);
    if (file && (o->input_given || o->size_given))
        usage_error("--%c '%s': the file is the input and its shape the shape; leave out %s, --shape and --input",
                    o->x_path ? 'x' : 'q', file,
                    o->is_attention ? "--batch, --heads, --kv-heads, --seq, --seq-q, --seq-k, --dim" : "--rows, --cols");
    if (o->sweep && (file || o->change_path || o->o_path || o->dlse_path || out.path))
        usage_error("--sweep: it makes its own shapes; leave out files");
    if (o->sweep_scale && (o->sweep || o->o_path || out.path || o->scale_given))
        usage_error("--sweep-scale: it runs one shape at many scales; leave out --sweep, --scale, --o and files to write");
    if (o->sweep && strcmp(o->input, "normal") && strcmp(o->input, "uniform"))
        usage_error("--sweep --input '%s': normal and uniform are allowed, which are the same numbers in every shape", o->input);
    if (o->is_attention && strcmp(o->input, "real") == 0 && o->size_given)
        usage_error("--input real: it has a shape of its own; leave out sizes and --shape");
}

/* ---- what was not given: from the named shape, or else the default */

static int64_t first_given(int64_t given, int64_t named, int64_t otherwise)
{
    return given ? given : named ? named : otherwise;
}

static void finish_softmax(struct options *o, const struct named_shape *named)
{
    if (o->x_path) {
        input_sizes(o);
        return;
    }
    bool real = strcmp(o->input, "real") == 0;
    o->cols = first_given(o->cols, named->cols, real ? input_real_cols() : DEFAULT_COLS);
    if (real && o->cols != input_real_cols())
        usage_error("--cols %lld: --input real has rows of %lld; leave out --cols and --shape", (long long)o->cols,
                    (long long)input_real_cols());
    int64_t elements = (int64_t)DEFAULT_ROWS * DEFAULT_COLS, bytes;
    o->rows = first_given(o->rows, named->rows, elements / o->cols > 0 ? elements / o->cols : 1);
    if (__builtin_mul_overflow(o->rows, o->cols, &elements) || __builtin_mul_overflow(elements, 8, &bytes))
        usage_error("--rows %lld --cols %lld: their product is allowed up to 2^60 elements", (long long)o->rows,
                    (long long)o->cols);
    if (o->sweep && elements < SWEEP_COLS_FROM)
        usage_error("--sweep: x has %lld elements; %d or more are needed", (long long)elements, SWEEP_COLS_FROM);
}

/* 1 at least: no tensor is empty. */
static int64_t longest_of(const struct paging *g)
{
    int64_t longest = 1;
    for (int64_t i = 0; i < g->count; i++)
        longest = g->lengths[i] > longest ? g->lengths[i] : longest;
    return longest;
}

static void finish_attention(struct options *o, const struct attention *named)
{
    const struct attention course = { .heads = DEFAULT_HEADS, .dim = DEFAULT_DIM, .seq_q = DEFAULT_SEQ };
    const struct attention *usual = o->usual ? o->usual : &course;
    struct attention *p = &o->attention;
    if (o->q_path || strcmp(o->input, "real") == 0) {
        input_sizes(o);
        return;
    }
    p->causal |= named->causal;
    p->batch = first_given(p->batch, o->paging.count ? o->paging.count : named->batch, 1);
    if (o->paging.count && !p->seq_k)
        p->seq_k = longest_of(&o->paging);
    p->heads = first_given(p->heads, named->heads, p->kv_heads ? p->kv_heads : usual->heads);
    bool shared = usual->kv_heads && p->heads % usual->kv_heads == 0;
    p->kv_heads = first_given(p->kv_heads, named->kv_heads, shared ? usual->kv_heads : p->heads);
    p->seq_q = first_given(p->seq_q, named->seq_q, p->seq_k && !o->usual ? p->seq_k : usual->seq_q);
    p->seq_k = first_given(p->seq_k, named->seq_k, o->usual ? usual->seq_k : p->seq_q);
    p->dim = first_given(p->dim, named->dim, usual->dim);
    if (p->heads % p->kv_heads)
        usage_error("--kv-heads %lld: it must divide --heads, %lld", (long long)p->kv_heads, (long long)p->heads);
    int64_t size = 16;
    if (__builtin_mul_overflow(size, p->batch, &size) || __builtin_mul_overflow(size, p->heads, &size) ||
        __builtin_mul_overflow(size, p->seq_q > p->seq_k ? p->seq_q : p->seq_k, &size) ||
        __builtin_mul_overflow(size, p->dim, &size))
        usage_error("--batch, --heads, --seq, --dim: their product is allowed up to 2^59 elements");
    int64_t tokens = p->batch * (o->usual ? p->seq_k : p->seq_q), least = o->usual ? SWEEP_KEYS_FROM : SWEEP_SEQ_FROM;
    if (o->sweep && tokens < least)
        usage_error("--sweep: there are %lld tokens in all; %lld or more are needed", (long long)tokens, (long long)least);
}

void options_finish(struct options *o)
{
    static const struct named_shape none;
    const struct named_shape *named = o->named ? o->named : &none;
    if (o->is_attention)
        finish_attention(o, &named->attention);
    else
        finish_softmax(o, named);
    if (o->is_attention && !o->scale_given)
        o->attention.scale = default_scale(o->attention.dim);
}

struct options options_parse(int argc, char **argv, const char *idea, enum step_kind kind, const struct attention *usual)
{
    struct options o = {
        .is_attention = kind == ATTENTION_STEP, .usual = usual, .input = "normal", .cpu = true, .gpu = true, .seed = 1,
        .budget = 2
    };
    opterr = 0;
    optind = 0; /* a second call, as in tests, begins anew; 1 would go on within the word where the first one stopped */
    int given = 0;
    for (int option; (option = getopt_long(argc, argv, ":", options_of[kind], NULL)) != -1; given++) {
        if (option == HELP) {
            print_help(&o, argv[0], idea, kind);
            exit(0);
        }
        if (option == '?' && optopt < ROWS && isgraph(optopt)) /* a letter; of what begins with -- getopt keeps no letter */
            usage_error("unknown option '-%c'; --help lists what is allowed", optopt);
        if (option == '?')
            usage_error("unknown option '%s'; --help lists what is allowed", shown(argv[optind - 1]));
        if (option == ':')
            usage_error("%s: a value must follow; --help tells which", shown(argv[optind - 1]));
        parse_one(&o, option, optarg);
    }
    if (optind < argc)
        usage_error("'%s': only options are allowed; --help lists them", shown(argv[optind]));
    if (o.traced && given > 1)
        usage_error("--trace: it is one short row on a CPU, and takes no other option");
    options_check(&o, gpu_count());
    if (kind != CEILINGS_STEP)
        options_finish(&o);
    check_outputs(&o);
    return o;
}
