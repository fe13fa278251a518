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

static const char help[] =
    "  --rows N --cols N   shape of x; Ki, Mi and Gi may follow a number   (default 16384 x 8192)\n"
    "  --shape NAME        or a named shape:%s\n"
    "  --dtype TYPE        fp32, fp16 or bf16, where the step has them      (default fp32)\n"
    "  --input FAMILY      %s\n"
    "                                                                       (default normal)\n"
    "  --x FILE.npy        or a tensor of yours: fp16, fp32 or fp64, the last axis is softmaxed\n"
    "  --out FILE.npy      write y there\n"
    "  --device WHICH      cpu, gpu or all                                  (default all)\n"
    "  --threads N         CPU threads                                      (default: all)\n"
    "  --seed N            of the random numbers                            (default 1)\n"
    "  --reps N            timed runs                                       (default: what fits --budget)\n"
    "  --budget SECONDS    time to spend on timing, per device              (default 2)\n"
    "  --sweep             every row length from 128 to 16 Mi, with rows x cols as it is, a line each\n"
    "  --noise             time the step against itself: smaller differences mean nothing\n"
    "  --json              one JSON object per device instead of text\n"
    "  --help              this\n";

enum { ROWS, COLS, SHAPE, DTYPE, INPUT, X, OUT, DEVICE, THREADS, SEED, REPS, BUDGET, SWEEP, NOISE, JSON, HELP };

static const struct option options[] = {
    { "rows", required_argument, NULL, ROWS },       { "cols", required_argument, NULL, COLS },
    { "shape", required_argument, NULL, SHAPE },     { "dtype", required_argument, NULL, DTYPE },
    { "input", required_argument, NULL, INPUT },     { "x", required_argument, NULL, X },
    { "out", required_argument, NULL, OUT },         { "device", required_argument, NULL, DEVICE },
    { "threads", required_argument, NULL, THREADS }, { "seed", required_argument, NULL, SEED },
    { "reps", required_argument, NULL, REPS },       { "budget", required_argument, NULL, BUDGET },
    { "sweep", no_argument, NULL, SWEEP },           { "noise", no_argument, NULL, NOISE },
    { "json", no_argument, NULL, JSON },             { "help", no_argument, NULL, HELP },
    { NULL, 0, NULL, 0 },
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

static enum dtype dtype_of(const char *text)
{
    for (enum dtype d = FP32; d <= BF16; d++)
        if (strcmp(text, dtype_name(d)) == 0)
            return d;
    usage_error("--dtype '%s': fp32, fp16 and bf16 are allowed", text);
}

/* " name (rows x cols), ..." of all named shapes */
static const char *shape_list(void)
{
    static char list[1024];
    size_t at = 0;
    list[0] = '\0';
    for (const struct shape *s = softmax_shapes; s->name && at < sizeof list; s++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s %s", at ? "," : "", s->name);
    return list;
}

static void set_shape(struct options *o, const char *name)
{
    for (const struct shape *s = softmax_shapes; s->name; s++)
        if (strcmp(s->name, name) == 0) {
            o->rows = s->rows;
            o->cols = s->cols;
            return;
        }
    usage_error("--shape '%s': these are allowed:%s", name, shape_list());
}

static void set_device(struct options *o, const char *text)
{
    o->cpu = strcmp(text, "gpu") != 0;
    o->gpu = strcmp(text, "cpu") != 0;
    if (o->cpu && o->gpu && strcmp(text, "all"))
        usage_error("--device '%s': cpu, gpu and all are allowed", text);
}

static void print_help(const char *program, const char *idea)
{
    printf("%s: %s\n\n", program, idea);
    printf(help, shape_list(), input_families);
}

static void parse_one(struct options *o, int option, const char *arg)
{
    switch (option) {
    case ROWS:    o->rows = whole("rows", arg, 1, INT64_MAX); break;
    case COLS:    o->cols = whole("cols", arg, 1, INT64_MAX); break;
    case SHAPE:   set_shape(o, arg); break;
    case DTYPE:   o->dtype = dtype_of(arg); break;
    case X:       o->x_path = arg; break;
    case OUT:     o->out_path = arg; break;
    case DEVICE:  set_device(o, arg); break;
    case THREADS: o->threads = (int)whole("threads", arg, 1, MAX_THREADS); break;
    case SEED:    o->seed = (uint64_t)whole("seed", arg, 0, INT64_MAX); break;
    case REPS:    o->reps = (int)whole("reps", arg, 1, 100000); break;
    case BUDGET:  o->budget = seconds(arg); break;
    case SWEEP:   o->sweep = true; break;
    case NOISE:   o->noise = true; break;
    case JSON:    o->json = true; break;
    case INPUT:
        if (!input_is_family(arg))
            usage_error("--input '%s': these are allowed: %s", arg, input_families);
        o->input = arg;
        break;
    }
}

/* Sizes that were not given, and combinations that make no sense. */
static void complete(struct options *o, bool input_given, bool size_given)
{
    if (o->out_path && o->cpu && o->gpu && gpu_count() > 0)
        usage_error("--out '%s': both devices would write it; choose --device cpu or --device gpu", o->out_path);
    if (o->x_path && (input_given || size_given))
        usage_error("--x '%s': the file is the input and its shape the shape; leave out --rows, --cols, --shape and --input", o->x_path);
    if (o->sweep && (o->x_path || o->out_path))
        usage_error("--sweep: it makes its own shapes; leave out --x and --out");
    if (o->x_path)
        return;
    if (!o->cols)
        o->cols = strcmp(o->input, "real") == 0 ? input_real_cols() : DEFAULT_COLS;
    if (!o->rows)
        o->rows = DEFAULT_ELEMENTS / o->cols > 0 ? DEFAULT_ELEMENTS / o->cols : 1;
    if (o->sweep && strcmp(o->input, "normal") && strcmp(o->input, "uniform"))
        usage_error("--sweep --input '%s': normal and uniform are allowed, which are the same numbers in every shape", o->input);
    int64_t elements, bytes;
    if (__builtin_mul_overflow(o->rows, o->cols, &elements) || __builtin_mul_overflow(elements, 8, &bytes))
        usage_error("--rows %lld --cols %lld: their product is allowed up to 2^60 elements", (long long)o->rows, (long long)o->cols);
}

struct options options_parse(int argc, char **argv, const char *idea)
{
    struct options o = { .dtype = FP32, .input = "normal", .cpu = true, .gpu = true, .seed = 1, .budget = 2 };
    bool input_given = false, size_given = false;
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (option == HELP) {
            print_help(argv[0], idea);
            exit(0);
        }
        if (option == '?')
            usage_error("unknown option '%s'; --help lists what is allowed", argv[optind - 1]);
        if (option == ':')
            usage_error("%s: a value must follow; --help tells which", argv[optind - 1]);
        input_given |= option == INPUT;
        size_given |= option == ROWS || option == COLS || option == SHAPE;
        parse_one(&o, option, optarg);
    }
    if (optind < argc)
        usage_error("'%s': only options are allowed; --help lists them", argv[optind]);
    if (o.gpu && !o.cpu && gpu_count() == 0)
        fatal("--device gpu: %s", gpu_missing());
    complete(&o, input_given, size_given);
    return o;
}
