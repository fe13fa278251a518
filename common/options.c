/* The command line. Anything wrong in it: one line that names the option, the value and what is allowed, and status 2. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define DEFAULT_ROWS 16384  /* "llama3-8b-scores", and where trips over memory show: 512 MiB do not fit any cache */
#define DEFAULT_COLS 8192
#define DEFAULT_ELEMENTS ((int64_t)DEFAULT_ROWS * DEFAULT_COLS)
#define MAX_THREADS 4096

static const char softmax_help[] =
    "  --rows N --cols N   shape of x; Ki, Mi and Gi may follow a number    (default 16384 x 8192)\n"
    "  --shape NAME        or a named shape:%s\n"
    "  --dtype TYPE        fp32, fp16 or bf16, where the step has them      (default fp32)\n"
    "  --input FAMILY      %s\n"
    "                                                                       (default normal)\n"
    "  --x FILE.npy        or a tensor of yours: fp16, fp32 or fp64, the last axis is softmaxed\n"
    "  --out FILE.npy      write y there\n"
    "  --sweep             every row length from 128 to 16 Mi, with rows x cols as it is, a line each\n";
static const char attention_help[] =
    "  --batch N --heads N --kv-heads N --dim N                             (default 1, 32, heads, 64)\n"
    "  --seq-q N --seq-k N queries and keys a head; --seq N sets both       (default 4096 on a GPU, 1024 on a CPU)\n"
    "  --causal            query i sees key j if j <= i + seq_k - seq_q\n"
    "  --scale X           scores are X times a query times a key           (default 1 / sqrt(dim))\n"
    "  --shape NAME        or a named shape:%s\n"
    "  --dtype TYPE        fp32, fp16 or bf16, where the step has them      (default: the first it has)\n"
    "  --input FAMILY      %s\n"
    "                                                                       (default normal)\n"
    "  --q, --k, --v FILE.npy   or tensors of yours, all three: (batch, heads, tokens, dim)\n"
    "  --out FILE.npy      write O there\n"
    "  --lse FILE.npy      write the logarithm of each row's sum of exp(score) there\n"
    "  --sweep             every length from 512 to 16 Ki, with tokens in all as they are, a line each\n"
    "  --sweep-scale       scores 1/4 to 64 times as large as usual, a line each\n";
static const char common_help[] =
    "  --device WHICH      cpu, gpu or all                                  (default all)\n"
    "  --threads N         CPU threads                                      (default: all)\n"
    "  --seed N            of the random numbers                            (default 1)\n"
    "  --reps N            timed runs                                       (default: what fits --budget)\n"
    "  --budget SECONDS    time to spend on timing, per device              (default 2)\n"
    "  --noise             time the step against itself: smaller differences mean nothing\n"
    "  --json              one JSON object per device instead of text\n"
    "  --help              this\n";

enum {
    ROWS, COLS, X,                                                          /* softmax */
    BATCH, HEADS, KV_HEADS, SEQ, SEQ_Q, SEQ_K, DIM, CAUSAL, SCALE, SWEEP_SCALE, Q, K, V, LSE, /* attention */
    SHAPE, DTYPE, INPUT, OUT, SWEEP, DEVICE, THREADS, SEED, REPS, BUDGET, NOISE, JSON, HELP,
};

#define VALUE(name, code) { name, required_argument, NULL, code }
#define FLAG(name, code) { name, no_argument, NULL, code }
#define SHARED                                                                                                         \
    VALUE("shape", SHAPE), VALUE("dtype", DTYPE), VALUE("input", INPUT), VALUE("out", OUT), FLAG("sweep", SWEEP),      \
    VALUE("device", DEVICE), VALUE("threads", THREADS), VALUE("seed", SEED), VALUE("reps", REPS),                      \
    VALUE("budget", BUDGET), FLAG("noise", NOISE), FLAG("json", JSON), FLAG("help", HELP), { NULL, 0, NULL, 0 }

static const struct option softmax_options[] = { VALUE("rows", ROWS), VALUE("cols", COLS), VALUE("x", X), SHARED };
static const struct option attention_options[] = {
    VALUE("batch", BATCH), VALUE("heads", HEADS), VALUE("kv-heads", KV_HEADS), VALUE("seq", SEQ), VALUE("seq-q", SEQ_Q),
    VALUE("seq-k", SEQ_K), VALUE("dim", DIM), FLAG("causal", CAUSAL), VALUE("scale", SCALE),
    FLAG("sweep-scale", SWEEP_SCALE), VALUE("q", Q), VALUE("k", K), VALUE("v", V), VALUE("lse", LSE), SHARED,
};

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
        usage_error("--%s '%s': a whole number from %lld to %lld is allowed", option, text, (long long)low, (long long)high);
    return n;
}

static double seconds(const char *text)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end || !(s > 0 && s <= 3600))
        usage_error("--budget '%s': seconds, more than 0 and at most 3600, are allowed", text);
    return s;
}

static float scale_of(const char *text)
{
    char *end;
    float scale = strtof(text, &end);
    if (end == text || *end || !(scale >= 1e-6f && scale <= 1e6f))
        usage_error("--scale '%s': from 1e-6 to 1e6 is allowed", text);
    return scale;
}

static enum dtype dtype_of(const char *text)
{
    for (enum dtype d = FP32; d <= BF16; d++)
        if (strcmp(text, dtype_name(d)) == 0)
            return d;
    usage_error("--dtype '%s': fp32, fp16 and bf16 are allowed", text);
}

static const struct shape *shapes_of(const struct options *o)
{
    return o->is_attention ? attention_shapes : softmax_shapes;
}

/* " name, name, ..." of all named shapes */
static const char *shape_list(const struct options *o)
{
    static char list[1024];
    size_t at = 0;
    list[0] = '\0';
    for (const struct shape *s = shapes_of(o); s->name && at < sizeof list; s++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s %s", at ? "," : "", s->name);
    return list;
}

static void set_shape(struct options *o, const char *name)
{
    for (const struct shape *s = shapes_of(o); s->name; s++)
        if (strcmp(s->name, name) == 0) {
            o->rows = s->rows;
            o->cols = s->cols;
            float scale = o->attention.scale; /* no shape has one of its own */
            o->attention = s->attention;
            o->attention.scale = scale;
            return;
        }
    usage_error("--shape '%s': these are allowed:%s", name, shape_list(o));
}

static void set_device(struct options *o, const char *text)
{
    o->cpu = strcmp(text, "gpu") != 0;
    o->gpu = strcmp(text, "cpu") != 0;
    if (o->cpu && o->gpu && strcmp(text, "all"))
        usage_error("--device '%s': cpu, gpu and all are allowed", text);
}

static void set_input(struct options *o, const char *name)
{
    if (!input_is_family(name, o->is_attention))
        usage_error("--input '%s': these are allowed: %s", name, o->is_attention ? attention_families : input_families);
    o->input = name;
    o->input_given = true;
}

static void print_help(const struct options *o, const char *program, const char *idea)
{
    printf("%s: %s\n\n", program, idea);
    if (o->is_attention)
        printf(attention_help, shape_list(o), attention_families);
    else
        printf(softmax_help, shape_list(o), input_families);
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
    case SCALE:    p->scale = scale_of(arg); break;
    case SWEEP_SCALE: o->sweep_scale = true; break;
    case Q:        o->q_path = arg; break;
    case K:        o->k_path = arg; break;
    case V:        o->v_path = arg; break;
    case LSE:      o->lse_path = arg; break;
    case SHAPE:    set_shape(o, arg); break;
    case DTYPE:    o->dtype = dtype_of(arg), o->dtype_given = true; break;
    case INPUT:    set_input(o, arg); break;
    case OUT:      o->out_path = arg; break;
    case DEVICE:   set_device(o, arg); break;
    case THREADS:  o->threads = (int)whole("threads", arg, 1, MAX_THREADS); break;
    case SEED:     o->seed = (uint64_t)whole("seed", arg, 0, INT64_MAX); break;
    case REPS:     o->reps = (int)whole("reps", arg, 1, 100000); break;
    case BUDGET:   o->budget = seconds(arg); break;
    case SWEEP:    o->sweep = true; break;
    case NOISE:    o->noise = true; break;
    case JSON:     o->json = true; break;
    }
    o->size_given |= option == ROWS || option == COLS || option == SHAPE || (option >= BATCH && option <= DIM);
}

/* What makes no sense together. */
static void check(const struct options *o)
{
    const char *file = o->x_path ? o->x_path : o->q_path, *out = o->out_path ? o->out_path : o->lse_path;
    if (o->gpu && !o->cpu && gpu_count() == 0)
        fatal("--device gpu: %s", gpu_missing());
    if (out && o->cpu && o->gpu && gpu_count() > 0)
        usage_error("'%s': both devices would write it; choose --device cpu or --device gpu", out);
    if (!o->q_path != !o->k_path || !o->q_path != !o->v_path)
        usage_error("--q, --k, --v: all three are needed, or none");
    if (file && (o->input_given || o->size_given))
        usage_error("--%c '%s': the file is the input and its shape the shape; leave out %s, --shape and --input", o->x_path ? 'x' : 'q', file,
                    o->is_attention ? "--batch, --heads, --kv-heads, --seq, --seq-q, --seq-k, --dim" : "--rows, --cols");
    if (o->sweep && (file || out))
        usage_error("--sweep: it makes its own shapes; leave out files");
    if (o->sweep_scale && (o->sweep || out || o->attention.scale != 0))
        usage_error("--sweep-scale: it runs one shape at many scales; leave out --sweep, --scale, --out and --lse");
    if (o->sweep && strcmp(o->input, "normal") && strcmp(o->input, "uniform"))
        usage_error("--sweep --input '%s': normal and uniform are allowed, which are the same numbers in every shape", o->input);
}

/* Sizes that were not given. */
static void complete_softmax(struct options *o)
{
    if (o->x_path)
        return;
    if (!o->cols)
        o->cols = strcmp(o->input, "real") == 0 ? input_real_cols() : DEFAULT_COLS;
    if (!o->rows)
        o->rows = DEFAULT_ELEMENTS / o->cols > 0 ? DEFAULT_ELEMENTS / o->cols : 1;
    int64_t elements, bytes;
    if (__builtin_mul_overflow(o->rows, o->cols, &elements) || __builtin_mul_overflow(elements, 8, &bytes))
        usage_error("--rows %lld --cols %lld: their product is allowed up to 2^60 elements", (long long)o->rows, (long long)o->cols);
}

struct options options_parse(int argc, char **argv, const char *idea, bool is_attention)
{
    struct options o = { .is_attention = is_attention, .input = "normal", .cpu = true, .gpu = true, .seed = 1, .budget = 2 };
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":", is_attention ? attention_options : softmax_options, NULL)) != -1;) {
        if (option == HELP) {
            print_help(&o, argv[0], idea);
            exit(0);
        }
        if (option == '?' && isgraph(optopt)) /* a letter; of what begins with -- getopt keeps no letter */
            usage_error("unknown option '-%c'; --help lists what is allowed", optopt);
        if (option == '?')
            usage_error("unknown option '%s'; --help lists what is allowed", argv[optind - 1]);
        if (option == ':')
            usage_error("%s: a value must follow; --help tells which", argv[optind - 1]);
        parse_one(&o, option, optarg);
    }
    if (optind < argc)
        usage_error("'%s': only options are allowed; --help lists them", argv[optind]);
    check(&o);
    if (!is_attention)
        complete_softmax(&o);
    return o;
}
