/*
 * What judges the steps: the command line, inputs, references, verdicts, clocks and reports. Grouped by the file that defines it.
 * A step's main.c includes this header; its cpu.c and gpu.cu cannot.
 *
 * Sizes are elements unless a name ends in `bytes`. Times are milliseconds. Tensors are row-major.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "machine.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- error.c: one clear line, and the right exit status */

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

/*
 * Print "program: message" on stderr, in one line that is safe for a terminal whatever a value holds, and exit. Bad usage ends
 * with status 2; whatever else goes wrong, by fatal() of machine.h, with 1.
 */
_Noreturn void usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Copy text with its control characters, and bytes that are no UTF-8,
   as \n and \x1b. Cut to `size` bytes, which should be 6 or more. */
void printable(char *out, size_t size, const char *text);

/* ---- device.c: where tensors lie, and where work runs */

struct work;

struct device {
    const char *name, *backend;                   /* cpu or gpu; as tables have it: cpu or cuda */
    bool apart;                                   /* it has memory of its own, which the host cannot reach */
    const char *(*model)(void);
    int (*threads)(void);                         /* 0 on a GPU */
    const char *(*missing)(void);                 /* why there is none, in one line; NULL: it is here. All that follow need it */
    size_t (*memory)(void);                       /* bytes that can still be had */
    void *(*allocate)(size_t bytes);              /* NULL when there is too little */
    void (*release)(void *p);
    void (*fill)(void *p, int byte, size_t bytes);
    void (*upload)(void *device, const void *host, size_t bytes);
    void (*download)(void *host, const void *device, size_t bytes);
    void (*finish)(const char *what);             /* waits; fatal if anything failed since the last call */
    double (*run_once)(const struct work *work);  /* ms, from cold caches */
    int64_t (*flush_bytes)(void);                 /* that are read to make them cold */
};

extern const struct device cpu_device, gpu_device;

/* ---- memory.c: guarded buffers */

/*
 * A buffer between two guard bands of GUARD_BYTES. Buffer and bands start as 0xFF bytes, which is NaN in every element
 * type: an element that is never written shows, and so does a write outside. data is aligned to
 * 4096 bytes; but with GUARD_PAGES=1 in the environment, a CPU's ends where a page begins that nobody may touch, instead of the
 * second band: what so much as reads past the end then crashes, and the alignment is that of the size. For tests.
 */
struct buffer {
    void *data;
    size_t bytes;
    const struct device *device;
    size_t behind;  /* bytes of the second band */
    void *base;     /* of the allocation, and its page that nobody may touch, or NULL */
    void *locked;
};

enum { GUARD_BYTES = 4096 };

/* fatal when there is too little memory: says how much, of how much */
struct buffer buffer_new(size_t bytes, const struct device *device);
void buffer_free(struct buffer *b);
void buffer_poison(struct buffer *b);             /* all NaN again, bands included */
bool buffer_guards_intact(const struct buffer *b);
/* within limits of control groups and of ulimit; /proc and /sys lie below `root`, for tests */
size_t cpu_memory_available(const char *root);
/* fatal when there is less: a run says at its start what it needs in all */
void memory_require(double bytes, const struct device *device);

/* ---- file.c: files that appear whole or not at all */

/*
 * Open a file for writing that appears under its name, or takes the place of the old one, when close_whole() says so. A symbolic
 * link stays one, and what it points to is written; a device or a pipe is written as it is. One at a time. NULL and errno when it
 * cannot be.
 */
FILE *open_whole(const char *path);
int close_whole(FILE *file);               /* 0 when it is there; otherwise -1 and errno, and all is as it was */
void discard_whole(FILE *file);            /* all is as it was */
FILE *open_table(const char *path); /* to read; never waits for a pipe's other end. NULL and errno */
bool writable_whole(const char *path);     /* whether open_whole() would do; otherwise errno says why not */
bool same_file(const char *a, const char *b); /* whether writing one would overwrite the other; neither need exist */
void make_folder(const char *path);        /* that the file will lie in, one level deep */

/* ---- npy.c: NumPy's .npy, fp16, fp32, fp64, and integers, which become fp64; C order */

enum { NPY_MAX_DIMS = 8 };

struct npy {
    int dims;
    int64_t shape[NPY_MAX_DIMS];
    enum dtype dtype;  /* FP16, FP32 or FP64 */
    void *data;        /* free() it */
};

/* 0 when read; otherwise -1 and one line in `why` (size bytes) that names the file and what is wrong with it. */
int npy_read_header(const char *path, struct npy *out, char *why, size_t size); /* everything but the numbers: data is NULL */
int npy_read(const char *path, struct npy *out, char *why, size_t size);
/* Write a file that appears when it is whole (file.c). bf16 is written as fp32. */
int npy_write(const char *path, const void *data, enum dtype dtype, int dims, const int64_t *shape, char *why, size_t size);

/* ---- input.c: tensors to run on */

size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype);
void element_set(void *x, enum dtype dtype, int64_t at, double value); /* fp32, fp16 or bf16; rounded once */
uint64_t random_bits(uint64_t seed, uint64_t index);                  /* 64 bits that depend on nothing else */

/* Families of inputs, each a function of (seed, row, col) alone: the same on every machine and for any thread count. */
extern const char *const input_families; /* "normal, uniform, rising, ...": for messages */
extern const char *const attention_families;
bool input_is_family(const char *name, bool attention);
/* x: (rows, cols). `real` repeats the rows of tests/data/scores.npy, and refuses any other cols than those. */
void input_fill(void *x, enum dtype dtype, int64_t rows, int64_t cols, const char *family, uint64_t seed);

/* A .npy file seen as a matrix: the last axis is cols, all others are rows. Fatal when it cannot be read. */
struct npy input_matrix(const char *path, int64_t *rows, int64_t *cols);
int64_t input_real_cols(void);

/* Shapes that real models run; lists that end with a NULL name. */
struct named_shape {
    const char *name;
    int64_t rows, cols;          /* of a softmax */
    struct attention attention;  /* or this */
};
extern const struct named_shape softmax_shapes[], attention_shapes[];

/* ---- options.c: the command line */

enum { MAX_TRACED = 16 }; /* numbers of the row that --trace takes */

/* A cache in pages, as it is asked for. 0 and NULL: not given. */
struct paging {
    int64_t size, pool;       /* keys of a page; pages of the pool */
    int64_t prefix;           /* keys that all sequences begin with, in the same pages as far as they fill them */
    const int32_t *lengths;   /* (count) keys of each sequence; NULL: seq_k each */
    int64_t count;
    const char *table_path, *lengths_path;
    int64_t most;             /* pages of a row of its table */
    int32_t *table;           /* (batch, most), where it is from a file; NULL: one that is drawn */
};

struct options {
    bool is_attention;
    int64_t rows, cols;             /* softmax */
    struct attention attention;     /* attention */
    const struct named_shape *named;      /* --shape: what it says holds for what is not given */
    const struct attention *usual;        /* and then this, where the step has a problem of its own: a decoding step's */
    enum dtype dtype;
    bool dtype_given, input_given, size_given, seed_given, scale_given;
    const char *input;              /* family, or "file" */
    const char *x_path, *out_path;
    const char *q_path, *k_path, *v_path, *lse_path;
    const char *o_path;             /* --o: of a step that goes back, which then reads --lse, too */
    const char *change_path, *dlse_path; /* --dy or --do, --dlse; and it writes to these: */
    const char *dq_path, *dk_path, *dv_path;
    int dims;                       /* of x_path's tensor, for out_path's; 0 without a file */
    int64_t shape[NPY_MAX_DIMS];
    double file_bytes;              /* of the largest input file */
    bool cpu, gpu;                  /* devices asked for */
    uint64_t seed;
    int reps, threads;              /* 0: as many as fit the budget; 0: all */
    int ranks;                      /* of a ring; 0: not given */
    int parts;                      /* of a reader's answer (tests/try.c): threads, ranks, pieces of keys; 0: as it chooses */
    struct paging paging;
    double budget;                  /* seconds */
    bool json, noise, sweep;
    bool sweep_scale;               /* attention: one shape at many scales */
    int traced;                     /* numbers of --trace's row; 0 without it */
    float trace[MAX_TRACED], values[MAX_TRACED]; /* the row; of attention it is scores, and each has a value */
};

/* What a problem is where nothing is said: the help names these numbers, too. */
enum { DEFAULT_ROWS = 16384, DEFAULT_COLS = 8192, DEFAULT_HEADS = 16, DEFAULT_SEQ = 2048, DEFAULT_DIM = 64,
       DEFAULT_PAGE = 16 };
/* --sweep starts at so many columns or tokens, doubles them, and ends there; the size of the problem stays what it is. */
enum { SWEEP_COLS_FROM = 128, SWEEP_COLS_TO = 16 << 20, SWEEP_SEQ_FROM = 512, SWEEP_SEQ_TO = 16384,
       SWEEP_KEYS_FROM = 1024 }; /* of a decoding step: keys */

enum step_kind { SOFTMAX_STEP, ATTENTION_STEP, CEILINGS_STEP }; /* what a program takes; step 00 measures the machine alone */

/* The whole command line, finished: sizes and scale are known, from options, a named shape, files or defaults (usual, if that is
   not NULL). Or usage_error. */
struct options options_parse(int argc, char **argv, const char *idea, enum step_kind kind, const struct attention *usual);
/* usage_error for what makes no sense together, on so many GPUs */
void options_check(const struct options *o, int gpus);
struct output {
    const char *option, *path;      /* the option without its -- */
};
struct output options_output(const struct options *o); /* the first of the files that are to be written; path: NULL without one */
/* the sizes and the scale that were not given (0, scale_given) */
void options_finish(struct options *o);
float default_scale(int64_t dim);                                     /* 1 / sqrt(dim) */
/* those of the files that are to be read, from their headers */
void input_sizes(struct options *o);
struct buffer input_tensor(const struct options *o);                  /* x, from a file or a family */
void output_write(const struct options *o, const void *y);            /* y, in x's shape, to --out */
/* How the loss changes with each result of the forward step, in the shape of y or O: from --dy or --do, or normal random. */
struct buffer input_change(const struct options *o, uint64_t seed);
void input_results_sizes(struct options *o); /* whether files of results, and of their changes, have their shapes: or fatal() */
/* A file's numbers as `dtype`, each rounded once. A finite one that becomes infinite is not what was meant: usage_error. */
struct buffer input_file(const char *option, const char *path, enum dtype dtype, int64_t count);
/* What input_file() made of it must be finite: or usage_error. */
void input_require_finite(const char *option, const char *path, const struct buffer *b, enum dtype dtype);

/* A .npy file's numbers, which must be whole ones from 0 to INT32_MAX. Fatal when it cannot be read; otherwise usage_error. */
struct npy input_whole(const char *option, const char *path);
/* Q, K and V of an attention problem. */
struct qkv {
    struct buffer q, k, v;
};

struct qkv input_qkv(const struct options *o); /* from files or a family */

/* ---- reference.c: fp64, independent of every step */

double element(const void *x, enum dtype dtype, int64_t at);
void elements(double *out, const void *x, enum dtype dtype, int64_t at, int64_t count); /* out: (count) */

struct row_facts {
    double max;     /* maximum of the row */
    double spread;  /* mean of (max - x), weighted by the softmax itself: how far below the maximum the weight lies */
};

/* want: (cols) = softmax(x), x: (cols) of type dtype. Any NaN or +inf, or nothing but -inf: all NaN. */
struct row_facts reference_softmax_row(double *want, const void *x, enum dtype dtype, int64_t cols);

/* The softmax of all rows. */
struct softmax_answers {
    double *want;           /* (rows, cols) */
    struct row_facts *facts; /* (rows) */
};

struct softmax_answers reference_softmax(const void *x, enum dtype dtype, int64_t rows, int64_t cols);
void softmax_answers_free(struct softmax_answers *a);

/* How an attention step rounds on the way, besides its fp32 arithmetic. */
struct attention_rounding {
    bool scores;   /* the scores are rounded to the 16-bit type */
    bool weights;  /* so are the weights, exp(score - max), before they multiply V; in the gradient, dS, too */
    bool early;    /* in the gradient: the weights are, before dS is made of them */
    bool parts;    /* so are the results over some keys that are merged */
};

/* Whether a row can be judged at all. */
enum doubt {
    NO_DOUBT,
    BLIND,         /* the scores are so large that fp32 cannot tell the weights: zeros, or a plain mean of V, would pass */
    OVERFLOW_OF_S, /* a score, or a sum on the way to it, may leave fp32 */
};

struct lse {
    double want, bound;
};

/*
 * What rows of O and lse must be, in fp64 from the definition, and how far a step may be from it (docs/numerics.md). An element
 * that is not finite: with a bound of 0 nothing else will do; with an infinite bound, any other that is not finite.
 */
struct answers {
    struct attention p;
    enum dtype dtype;
    int64_t count;
    int64_t *rows;         /* (count): which rows of (batch, heads, seq_q), in ascending order */
    double *want, *bound;  /* (count, dim) */
    struct lse *lse;       /* (count) */
    enum doubt *doubt;     /* (count) */
    double *largest;       /* (batch, kv_heads, dim): of the |V| that are finite */
};

/*
 * Q, K and V: host memory, of type dtype. Every key that a query sees takes part, also with a weight of 0, and 0 * inf is NaN.
 * But a row with no key to attend to, or none but of score -inf: zeros, and an lse of -inf. On a GPU: the same by other code,
 * reference_gpu.cu. rows: (count), in ascending order; NULL: the first `count`.
 */
struct answers reference_attention(const void *Q, const void *K, const void *V, enum dtype dtype, struct attention p,
                                   struct attention_rounding how, const int64_t *rows, int64_t count, bool gpu);
void answers_free(struct answers *a);
void reference_attention_gpu(struct answers *a, const void *Q, const void *K, const void *V, struct attention_rounding how);
double reference_gpu_work(void);  /* on a GPU: products of a query with a key, times dim, that a second or so is good for */
enum { REFERENCE_GPU_DIM = 256 }; /* the largest dim that it takes */

/* ---- reference_backward.c: the gradients in fp64, from the definition */

/* want: (cols) = dx, from y, dy: (cols) of type dtype. Returns sum y dy; *size: sum |y dy|. */
double reference_softmax_backward_row(double *want, const void *y, const void *dy, enum dtype dtype, int64_t cols, double *size);

/* Q, K, V; O and lse, as an attention step would hand them over; what the loss changes by with those two. In host memory. */
struct backward_inputs {
    const void *Q, *K, *V, *O;
    const float *lse;
    const void *dO;
    const float *dlse; /* NULL: zeros */
};

/* Gradients of one head of K and V and its group of heads of Q, and how far a step may be from them (docs/numerics.md). */
struct gradients {
    double *dQ, *dQ_bound; /* (group, seq_q, dim) */
    double *dK, *dK_bound; /* (seq_k, dim) */
    double *dV, *dV_bound;
    int64_t doubtful;      /* queries whose weights fp32 does not know to a quarter */
};

/* kv: counted through all batches. O and lse are computed again: how far those that a step is given are off is in the bounds. */
struct gradients reference_attention_backward(const struct backward_inputs *in, enum dtype dtype, struct attention p,
                                              struct attention_rounding how, int64_t kv);
void gradients_free(struct gradients *g);
double reference_backward_bytes(struct attention p); /* of memory that one head takes */

/* ---- count.c: what a CPU version did, in a build with COUNT=1 */

struct counts {
    int64_t exps, merges, raised; /* exponentials; calls of softmax_merge; those of them that raised the maximum */
};

extern const bool counting;        /* this is such a build: it counts one run, and times none */
struct counts counts_taken(void);  /* by all threads, since the last call */
void counts_add(int64_t exps);     /* another process has done so many for this one */

/* ---- verify.c: verdicts */

/* How a step adds up a row, which decides how far rounding may carry it (docs/numerics.md). */
struct rounding {
    int lanes;      /* partial sums that share a row and are added in a tree at its end; 0 is 1 */
    int extra;      /* additions in the longest chain besides those; for steps that take fewer lanes for shorter rows, too */
    int64_t block;  /* columns after which partial sums are closed and added in double; 0 is never */
    double unit;    /* unit roundoff of the arithmetic; 0 is fp32's, 2^-24 */
};

struct verdict {
    bool pass;            /* nothing is wrong, and nothing is in doubt */
    double error;         /* worst relative error: |got - want| / want; NaN where one of the two is NaN and the other is not */
    double tolerance;     /* the bound at that element, relative too */
    int64_t rows;         /* that there are */
    int64_t checked;      /* of those, compared element by element */
    int64_t wrong;        /* elements outside their bound */
    /* rows that cannot be judged: their bound would let zeros or a plain mean pass, or something overflows */
    int64_t doubtful;
    int64_t first_wrong;  /* row, -1 for none */
    uint64_t seed;        /* of the sample, where rows are one */
    char what[160];       /* the first wrong element, in words; without one, the first doubt */
};

const char *verdict_word(const struct verdict *v); /* "pass", "FAIL" or "in doubt" */
/* What was compared: "all 2048 rows", or "512 of 2048 rows, sample seed 7". Good until the next call. */
const char *verdict_coverage(const struct verdict *v);
uint64_t fresh_seed(void); /* another one in each run */

/*
 * Compare y with the fp64 softmax of x, both (rows, cols) of type dtype in host memory: every element. Pass only if
 * |got - want| <= bound holds for each: NaN fails, unless want is NaN; and if zeros would not pass.
 */
struct verdict verify_softmax(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols, struct rounding how);
struct verdict verify_softmax_answers(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols,
                                      struct rounding how,
                                      const struct softmax_answers *a); /* with answers that are there already */
/*
 * Compare O and lse, in host memory, with fp64 attention. All rows where that takes a second or so; of larger problems rows drawn
 * at random by `seed`, and some of those whose O is not finite. lse may be NULL. gpu: the reference is computed on the GPU, and
 * compared with the CPU's on a few rows that `seed` draws.
 */
double verify_softmax_bytes(int64_t rows, int64_t cols); /* of memory that verifying takes, besides the tensors */
double verify_attention_bytes(struct attention p);
double reference_gpu_bytes(struct attention p, enum dtype dtype); /* of the GPU's */
struct verdict verify_attention(const void *O, const float *lse, const void *Q, const void *K, const void *V, enum dtype dtype,
                                struct attention p, struct attention_rounding how, uint64_t seed, bool gpu);
/* The same with about `wanted` rows. */
struct verdict verify_attention_rows(const void *O, const float *lse, const void *Q, const void *K, const void *V,
                                     enum dtype dtype, struct attention p, struct attention_rounding how, double wanted,
                                     uint64_t seed, bool gpu);
/* The same of a cache in pages: each sequence by itself, its keys and values gathered into tensors as they usually lie. */
struct verdict verify_attention_paged(const void *O, const float *lse, const void *Q, const void *K, const void *V,
                                      struct pages pages, enum dtype dtype, struct attention p, struct attention_rounding how,
                                      uint64_t seed, bool gpu);
struct verdict verify_answers(const void *O, const float *lse, const struct answers *a); /* with answers that are there already */
/* dx with the gradient in fp64 of the softmax y, where the loss changes by dy: every element. */
struct verdict verify_softmax_backward(const void *dx, const void *y, const void *dy, enum dtype dtype, int64_t rows,
                                       int64_t cols, struct rounding how);
/* The gradients of attention: of all heads of K and V where that takes some seconds, otherwise of some that `seed` draws, whole,
   and of the first that are not finite. */
struct verdict verify_attention_backward(const void *dQ, const void *dK, const void *dV, const struct backward_inputs *in,
                                         enum dtype dtype, struct attention p, struct attention_rounding how, uint64_t seed);
/* The same with gradients that are there already. known: (batch kv_heads), zeros at first, of these inputs and this `how` alone:
   keeps those that are computed for the next call. Then gradients_free() each. */
struct verdict verify_gradients(const void *dQ, const void *dK, const void *dV, const struct backward_inputs *in,
                                enum dtype dtype, struct attention p, struct attention_rounding how, uint64_t seed,
                                struct gradients *known);
/* The bound on |got - want|. want: the exact value; below: the row's maximum minus x; spread: as in struct row_facts. */
double softmax_bound(double want, double below, double spread, enum dtype dtype, int64_t cols, struct rounding how);

/* ---- timing.c, gpu.cu: clocks */

struct timing {
    double median, p10, p90; /* ms */
    int reps;
};

/* Something to be timed. */
typedef double timed_fn(const struct work *work); /* runs it, and returns ms */
struct work {
    void (*run)(void *arg);
    void *arg;
    int64_t bytes;       /* that it touches */
    timed_fn *timed;     /* on a GPU: the work has a clock of its own. Or NULL */
    struct timing time;  /* filled in */
};

/*
 * Warm up, then run all works in turn, round after round, until `reps` rounds are done (0: until `budget` seconds are
 * spent, at least 3 rounds and at most 200). Taking turns gives all of them the same clock and the same neighbours. run_once is a
 * device's: caches are flushed before every run, by reading a buffer larger than the last level.
 */
void time_in_turn(struct work *works, int count, int reps, double budget, double (*run_once)(const struct work *));
double run_once_cpu(const struct work *work);   /* ms */
double run_once_gpu(const struct work *work);
#define GPU_FLUSH_BYTES (512ll << 20)           /* ten times the largest L2 of today */
int64_t cpu_flush_bytes(void);
/* no more than these bytes are read to flush a CPU's caches: tests make do with less */
extern int64_t flush_limit;
int64_t cpu_bytes_flushed(void);                /* so far: for tests */
struct timing timing_of(double *ms, int count); /* sorts ms */
extern double (*now)(void);                     /* seconds, on a clock that never goes back; a test puts its own in its place */

/* ---- machine.c: what this runs on */

const char *cpu_name(void);
void cpu_set_threads(int threads);
void cpu_set_parts(int parts); /* the same, of the next work; without OpenMP one thread does all parts, one after the other */

/* ---- gpu.cu, or gpu_none.c in a build without CUDA. All but the first two need a device. */

int gpu_count(void);
const char *gpu_missing(void);        /* one line: why gpu_count() is 0, and what to do */
const char *gpu_name(void);
int gpu_capability(void);             /* 90 for sm_90 */
struct gpu_build {                    /* what the code that runs here was compiled for */
    int capability;                   /* 75 for sm_75; of a newer GPU it is what its driver compiles from PTX */
    bool hopper;                      /* for sm_90a, and not for sm_90 */
};
struct gpu_build gpu_built_for(void);
size_t gpu_shared_bytes(void);        /* shared memory that a block may have */
int64_t gpu_l2_bytes(void);
size_t gpu_memory_available(void);
void *gpu_allocate(size_t bytes);     /* NULL when there is too little */
void gpu_release(void *p);
void gpu_fill(void *p, int byte, size_t bytes);
void gpu_upload(void *device, const void *host, size_t bytes);
void gpu_download(void *host, const void *device, size_t bytes);
extern int gpu_sms_left;              /* SMs that steps leave to others: gpu_sms() does not count them */
void gpu_flush(void);                 /* launches what leaves nothing of what was there in L2 */
const char *gpu_error(void);          /* waits for the GPU; CUDA's reason if anything failed since the last call, or NULL */
void gpu_finish(const char *what);    /* the same, fatal */

/* ---- ceilings.c: what step 00 measures, in build/ceilings.tsv (CEILINGS overrides the path) */

struct ceiling {
    char device[128];
    int threads;      /* 0 on a GPU */
    char name[16];    /* copy, copy_cached, read, fma, exp, matmul */
    enum dtype dtype;
    double value;
    char unit[16];    /* GB/s (of copies read + written), TFLOP/s, Gexp/s */
};

const char *ceilings_path(void);
double ceiling_get(const char *device, int threads, const char *name, enum dtype dtype); /* 0 when not measured */
void ceiling_put(const struct ceiling *c);

#define READ_SUM 0x5eed5eedu /* what read_gpu() looks for where nothing is to be found: hardly any thread's sum */

struct ceilings_step {
    const char *name, *idea;
    void (*copy_cpu)(void *y, const void *x, size_t bytes);        /* stores past the caches */
    void (*copy_cached_cpu)(void *y, const void *x, size_t bytes); /* ordinary stores */
    uint64_t (*read_cpu)(const void *x, size_t bytes);             /* returns the sum of the words; writes nothing */
    double (*fma_cpu)(int64_t rounds);                             /* returns the FLOPs done */
    double (*exp_cpu)(int64_t rounds);                             /* returns the exponentials done */
    bool (*matmul_cpu)(float *c, const float *a, const float *b, int m, int n, int k);
    void (*copy_gpu)(void *y, const void *x, size_t bytes, cudaStream_t stream);
    void (*read_gpu)(uint32_t *found, const void *x, const void *y, size_t bytes, uint32_t wanted, cudaStream_t stream);
    double (*fma_gpu)(float *out, int64_t rounds, cudaStream_t stream);
    double (*exp_gpu)(float *out, int64_t rounds, cudaStream_t stream);
    double (*matmul_gpu)(void *c, const void *a, const void *b, int n, enum dtype dtype, cudaStream_t stream);
};

/* main() of step 00: measure, print a card of the machine, and keep the ceilings for the other steps. */
int ceilings_main(const struct ceilings_step *step, int argc, char **argv);

/* ---- report.c: text, TSV, JSON */

struct result {
    const char *step, *device, *backend;                 /* backend: cpu, cuda */
    enum dtype dtype;
    int64_t rows, cols;                                  /* softmax */
    int64_t batch, heads, kv_heads, seq_q, seq_k, dim;   /* attention; 0 elsewhere */
    bool causal;
    uint64_t seed;
    const char *input;
    int threads;                                         /* 0 on a GPU */
    struct timing time;
    double useful_bytes;                                 /* compulsory: every input read once, every output written once */
    double predicted_bytes, flops, exps;
    double copy_gbs;                                     /* a copy of the same bytes, in turn with the runs */
    double percent;                                      /* of the tightest ceiling */
    const char *ceiling;                                 /* its name */
    bool excused;                                        /* a percentage above 100 is no error: what is compared took turns */
    struct verdict verdict;
};

/* Of the times of two works. least: of fast runs of the first (p10) and slow ones of the second (p90); most: turned round. */
struct ratio {
    double median, least, most;
};

/* The step before, timed in turn with this one on the same problem. */
struct before {
    const char *step;       /* NULL: there is none */
    char why_not[128];      /* why it was not timed; empty if it was */
    struct ratio time;      /* its, over this step's */
    double bytes, exps;     /* what it predicts */
};

const char *results_path(void);
/* Appends a row to build/results.tsv (RESULTS overrides it), whole or
   not at all, whoever else does; its first line names the columns. */
void report_tsv(const struct result *r);
void print_bytes(double bytes);           /* "537 MB" */
void report_json(const struct result *r); /* one line on stdout */
void report_json_ceiling(const struct ceiling *c);
/*
 * The time of `before` over that of `run`, in turn, for `reps` rounds, or if that is 0 for half of `budget` seconds; both may
 * write the same output. Where one run of `before` takes longer than that, it is one round.
 */
struct ratio time_ratio(struct work run, struct work before, const struct device *device, int reps, double budget);
/* The same ratio in a recorded table, for r's problem, and the device's name; 0 when it is not there. */
double report_recorded_ratio(const char *path, const struct result *r, const char *before, char *device, size_t size);
void print_before(const struct result *r, const struct before *b, const char *predicted); /* its line; predicted: in words */
bool above_ceiling(const struct result *r);   /* by more than noise, and what it is above is a ceiling: cuBLAS is a peer */
void report_recorded(const char *step);   /* prints what an H100 did, for machines that cannot run the step */

/* ---- softmax.c, attention.c: a step's program (program.h says what they share) */

/* What a step is predicted to move and to compute on a problem. */
struct cost {
    double bytes;  /* DRAM traffic */
    double exps;
};

/* One softmax step: what it claims, and the functions that are held to it. */
struct softmax_step {
    const char *name;                    /* the folder */
    const char *idea;                    /* one line */
    const char *exercise;                /* what make start-N leaves to the reader: functions; f.loop: the longest loop of f;
                                            then options: what make try-N judges, where another size tells more */
    double reads, writes;                /* trips over the tensor: predicted DRAM traffic */
    double cpu_reads;                    /* on a CPU, where that differs */
    double exps, gpu_exps;               /* exponentials per element; on a GPU, where that differs */
    struct rounding cpu_sum, gpu_sum;    /* how a row is added up */
    softmax_cpu_fn *cpu;                 /* NULL where the step has no such version */
    softmax_gpu_fn *gpu;
    softmax_fp16_cpu_fn *cpu_fp16;
    softmax_fp16_gpu_fn *gpu_fp16;
    softmax_bf16_cpu_fn *cpu_bf16;
    softmax_bf16_gpu_fn *gpu_bf16;
    softmax_backward_cpu_fn *backward_cpu; /* of a step for softmax_backward_main(), in place of all those */
    softmax_backward_fp16_cpu_fn *backward_cpu_fp16;
    softmax_backward_bf16_cpu_fn *backward_cpu_bf16;
    softmax_backward_gpu_fn *backward_gpu;
    bool overflows;                      /* on purpose: it is judged on ordinary inputs alone */
    double fp16_unit;                    /* unit roundoff of the fp16 versions' arithmetic; 0: they compute in fp32 */
    workspace_fn *workspace;             /* bytes of zeroed workspace that the GPU version wants; NULL: none */
};

/*
 * main() of a softmax step: parse, fill, run, verify, time, report on every device asked for. before: the step that takes turns
 * with it, or NULL. Returns the exit status.
 */
int softmax_main(const struct softmax_step *step, const struct softmax_step *before, int argc, char **argv);
/* The same of a step that computes the gradient. */
int softmax_backward_main(const struct softmax_step *step, const struct softmax_step *before, int argc, char **argv);

extern int small_limit; /* no more small problems than these are judged in a run: for tests */

/* Whether the step has a version for this device and type; run it; how it adds up. Tensors: where the device can reach them. */
bool softmax_has(const struct softmax_step *s, const struct device *device, enum dtype dtype);
void softmax_run(const struct softmax_step *s, const struct device *device, enum dtype dtype, void *y, const void *x,
                 int64_t rows, int64_t cols, void *workspace);
struct rounding softmax_rounding(const struct softmax_step *s, const struct device *device, enum dtype dtype);

/* The functions of a step that computes the gradient of attention. */
struct attention_backward {
    attention_backward_cpu_fn *cpu;
    attention_backward_gpu_fn *gpu;
    attention_backward_fp16_cpu_fn *cpu_fp16;
    attention_backward_fp16_gpu_fn *gpu_fp16;
    attention_backward_bf16_cpu_fn *cpu_bf16;
    attention_backward_bf16_gpu_fn *gpu_bf16;
    bool any_order;                      /* its GPU version adds in whatever order: not the same bits when run again */
};

/* The functions of a step whose cache lies in pages; its claims are those of one sequence. */
struct attention_paged {
    attention_paged_cpu_fn *cpu;
    attention_paged_fp16_cpu_fn *cpu_fp16;
    attention_paged_fp16_gpu_fn *gpu_fp16;
    attention_paged_bf16_cpu_fn *cpu_bf16;
    attention_paged_bf16_gpu_fn *gpu_bf16;
    attention_paged_workspace_fn *scratch, *workspace; /* bytes: from scratch(), and of a GPU's, zeroed */
};

/* One attention step: what it claims, and the functions that are held to it. */
struct attention_step {
    const char *name, *idea, *exercise;
    struct cost (*predict)(struct attention p, enum dtype dtype);
    double cpu_exps;                     /* exponentials for a pair of query and key on a CPU, where that differs */
    attention_cpu_fn *cpu;               /* NULL where the step has no such version */
    attention_gpu_fn *gpu;
    attention_fp16_cpu_fn *cpu_fp16;
    attention_fp16_gpu_fn *gpu_fp16;
    attention_bf16_cpu_fn *cpu_bf16;
    attention_bf16_gpu_fn *gpu_bf16;
    struct attention_backward backward;  /* of a step for attention_backward_main(), in place of all those */
    struct attention_paged paged;        /* of a step whose cache lies in pages, in place of all those */
    attention_workspace_fn *workspace;   /* bytes of workspace that the GPU version wants, zeroed; NULL: none */
    attention_workspace_fn *scratch;     /* bytes that the CPU version takes from scratch(); NULL: none */
    struct attention_rounding rounding;  /* of the 16-bit versions on a GPU */
    int capability;                      /* the GPU it needs: 80 for sm_80; 0: any */
    int bf16_capability;                 /* the same for its bf16 version, where that needs a newer one */
    attention_shared_fn *shared;         /* shared memory that a block needs; NULL: what any GPU has */
    bool hopper;                         /* no other will do: it is compiled for sm_90a, which has instructions of its own */
    int dims[8];                         /* head dimensions that it takes, up to a 0; none listed: 1 to 256 */
    int gpu_dims[8];                     /* the same of its GPU version, where that takes fewer */
    struct attention usual;              /* of a decoding step, measured against reading: its problem where none is given */
    bool (*ready)(void);                 /* whether the CPU version can run in this build; NULL: it can */
    bool ring;                           /* its ranks are processes (common/ring) */
};

/* Why the GPU in this machine cannot run the step on such heads: one line; NULL if it can. Needs a GPU. */
const char *attention_gpu_missing(const struct attention_step *step, enum dtype dtype, int64_t dim);

/* As for softmax; and whether it takes heads of this dimension. lse may be NULL; the stream is for a GPU. */
bool attention_has(const struct attention_step *s, const struct device *device, enum dtype dtype);
bool attention_takes(const struct attention_step *s, const struct device *device, int64_t dim);
void attention_run(const struct attention_step *s, const struct device *device, enum dtype dtype, void *O, float *lse,
                   const void *Q, const void *K, const void *V, struct attention p, void *workspace, cudaStream_t stream);
struct attention_rounding attention_rounding(const struct attention_step *s, const struct device *device, enum dtype dtype);

/* ---- paged.c: a cache in pages */

/* As attention_run(), for a step whose cache lies in pages. */
void paged_run(const struct attention_step *s, const struct device *device, enum dtype dtype, void *O, float *lse, const void *Q,
               const void *K, const void *V, struct pages pages, struct attention p, void *workspace, cudaStream_t stream);
/*
 * Keys, or values, of all sequences, into pages and out of them. plain: (batch, kv_heads, seq_k, dim). What a sequence does not
 * have is left as it is: in a pool that is all NaN, what no sequence has stays NaN.
 */
void pages_fill(void *pool, const void *plain, struct pages pages, struct attention p, enum dtype dtype);
void pages_gather(void *plain, const void *pool, struct pages pages, struct attention p, enum dtype dtype);
/*
 * table: (batch, most) = pages in an order that is drawn, for pages.seqlens keys. The first `shared` pages of all sequences are
 * the same; what a sequence does not have is -1. The pool must have them all.
 */
void pages_draw(int32_t *table, struct pages pages, int64_t batch, int64_t shared);

/* The step before on a CPU, where that is another, which has a CPU version: main() says so. NULL: none. */
extern const struct attention_step *before_on_cpu;
/* main() of an attention step. Returns the exit status. */
int attention_main(const struct attention_step *step, const struct attention_step *before, int argc, char **argv);
int attention_backward_main(const struct attention_step *step, const struct attention_step *before, int argc, char **argv);

/* Q, K, V and O, once each: what any attention must move at least. */
double attention_bytes(struct attention p, enum dtype dtype);
/* Pairs of a query and a key that it sees: batch * heads * seq_q * seq_k, or fewer with a causal mask. */
double attention_pairs(struct attention p);

#ifdef __cplusplus
}
#endif
#endif
