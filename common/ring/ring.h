/*
 * A ring of ranks. Each is a process with its own memory: it has some of the queries, and the keys and values of the same tokens.
 * It can do two things besides computing: send a block to the next rank, and receive one from the rank before. Rank n - 1's next
 * is rank 0. A step's cpu.c says what one rank does, and its gpu.cu; ring.c cuts the problem, and puts together what the ranks
 * have made of it; shared.c and mpi.c are two ways to start ranks, and for a block to travel. Between GPUs there are two more:
 * gpu.cu and nccl.c.
 */
#ifndef RING_H
#define RING_H

#include "machine.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RING_MOST = 256, /* ranks */
    RING_LINE = 128, /* bytes: tensors begin at multiples. A GPU's cache has lines of 128, a CPU's of 64 or 128 */
};

/* Piece number `number` of the sequence: `queries` queries from `query` on, `keys` keys from `key` on, of every head. */
struct ring_piece {
    int number;
    int64_t query, queries, key, keys;
};

/*
 * Piece number `piece` of `pieces`. The queries are cut evenly. With a mask, the keys are cut where the mask ends at those
 * queries: then a piece sees all keys of the pieces before it, its own by the usual causal mask, and none of the pieces after it,
 * whatever the lengths are. Without one, keys are cut evenly, too. A piece may be empty.
 */
struct ring_piece ring_piece(struct attention p, int piece, int pieces);

/*
 * One rank. Its tensors are its own pieces, one behind the other: of Q and O each is (batch, heads, queries, dim).
 *
 * On a GPU they are fp16 or bf16, whatever the pointers say (lse, part_lse and sum are floats), and pieces lie side by side: all
 * that a rank has of a head is in one place, so that one call attends to both. Q is (batch, heads, queries of both, dim).
 */
struct ring {
    int rank, ranks;
    int threads;               /* that a rank has */
    struct attention p;        /* the whole problem */
    int held;                  /* pieces that a rank has: 1, or 2 */
    enum dtype dtype;          /* fp32 on CPUs */
    bool gpu;                  /* on GPUs, a rank on each; what follows is of those alone */
    bool nccl;                 /* NCCL carries blocks; otherwise copy engines do */
    int device;                /* the rank's GPU */
    int repeats;               /* times that a rank does its work again, for its clock */
    const float *Q;
    float *O, *lse;            /* to be written */
    float *part_O, *part_lse;  /* as large, for what one block makes */
    float *block, *other;      /* of each piece K, and behind it V: (batch, kv_heads, keys, dim); and room for another's */
    float *sum;                /* on a GPU: O while more is to be merged */
    void *workspace;           /* on a GPU: zeroed, of what attends to a block */
    float *own;                /* on a GPU: the rank's own block, for repeats */
    struct ring_times *times;
    double *moments;           /* (3 * ranks, 2), in ms since the rank began: when each half of a pass began and ended, and then
                                  when each pass's block travelled beside, NaN where it did not */
};

struct ring_times {
    double compute; /* ms of each processor's time: what else runs on the machine does not count */
    double pass;    /* ms: passing on, and waiting */
    double beside;  /* ms: of `whole`, those in which a block might travel beside */
    double whole;   /* ms from its beginning to its end */
    int halves;     /* of passes: how many `moments` has */
    int64_t exps;   /* in a build with COUNT=1 */
};

/* The i-th piece of rank `rank`: number `rank` of all, and then, counted from the other end, its mirror image. */
struct ring_piece ring_held(const struct ring *r, int rank, int i);
/* Bytes of the block of keys and values that began its way at `rank`. */
size_t ring_block_bytes(const struct ring *r, int rank);

/*
 * Sends `block`, which began at rank `from`, to the next rank, and receives into `other` what the rank before has: the block of
 * rank from - 1. Between the two, block may be read and other may not. After ring_finish() the two have changed their names.
 * A rank that waits for RING_TIMEOUT seconds (600; the environment may say otherwise) ends the run.
 */
void ring_start(struct ring *r, int from);
void ring_finish(struct ring *r, int from);
/*
 * As ring_start(), for a rank that computes before it calls ring_finish(). What that would do, copying and waiting, a thread does
 * beside it meanwhile, and ring_finish() waits for the thread: somebody must carry a block, and whoever computes does not.
 */
void ring_start_beside(struct ring *r, int from);

typedef void ring_body(struct ring *r);

/* Of the pieces of rank `rank`, the first `pieces`: tokens of a head that has. */
int64_t ring_queries(const struct ring *r, int rank, int pieces);
int64_t ring_keys(const struct ring *r, int rank, int pieces);

/* Runs `body` on every rank, each with `held` pieces, and returns when O and lse (or NULL) are whole. Ranks share the threads. */
void ring_run(ring_body *body, int held, float *O, float *lse, const float *Q, const float *K, const float *V,
              struct attention p);
/*
 * The same on GPUs, one for each rank; the tensors are this process's, on its GPU. `body` launches, and what it has launched is
 * done in order: ring_start() and ring_finish() launch, too. Blocks travel beside whatever is between them.
 */
void ring_run_gpu(ring_body *body, int held, enum dtype dtype, void *O, float *lse, const void *Q, const void *K, const void *V,
                  struct attention p);
/* Why so many ranks cannot run on GPUs here: one line; NULL: they can. Needs a GPU. */
const char *ring_gpu_missing(void);
/* ms that the slowest rank takes of work->run(), a ring on GPUs: from when all have their pieces until the last is done. */
struct work;
double ring_run_once_gpu(const struct work *work);
void ring_set_ranks(int ranks);
int ring_ranks(void);
int ring_most(void); /* ranks that there can be */
/*
 * Before the first ring_run() of a program for `ranks` ranks, or 0 for the usual; `text` says what it was started for. Where all
 * processes are there already, rank 0 alone returns, if they were started for the same; if not, this ends with a line.
 */
void ring_join(const char *text, int ranks);
/* Bytes that all ranks of a problem take together: what a step says that it takes of scratch(). */
size_t ring_memory(struct attention p, enum dtype dtype);
/* Of the last ring_run(): what is the same in every rank, and what rank `rank` did. */
struct ring ring_last(void);
struct ring_times ring_times_of(int rank);
const double *ring_moments_of(int rank);

/* Ends all ranks. The next ring_run() begins anew, and they see what this process has changed since. */
void ring_end(void);

/* For tests: called by a rank before each start and finish, and by its thread beside, if it was set when the ranks began. */
extern void (*ring_delay)(const struct ring *r, int from);

/* ---- what ring.c and a transport are to each other: shared.c and mpi.c are transports */

struct ring_job {
    ring_body *body;
    struct ring like;          /* what is the same in every rank */
    void *O;                   /* whole tensors */
    float *lse;
    const void *Q, *K, *V;
};

struct ring_transport {
    int (*near)(void);         /* ranks on this machine; NULL: all are, and are this program's to start */
    int (*join)(const char *text); /* as ring_join(); returns how many there are. NULL: ranks are made as they are needed */
    void (*run)(const struct ring_job *job);
    void (*end)(void);
    void (*start)(struct ring *r, size_t send, size_t receive); /* bytes of `block` and of `other` */
    void (*finish)(struct ring *r, size_t send, size_t receive);
};

extern const struct ring_transport ring_shared;
void ring_travels_by(const struct ring_transport *transport); /* before main(), instead of ring_shared */

/* To wait politely: waits a moment, longer ones after some. False: for RING_TIMEOUT in all. */
struct ring_wait {
    double waited; /* seconds; begins below 0 in who shall give up later than others */
    int moments;
};
bool ring_patience(struct ring_wait *w);
/* Ends the run: rank `whom` has "sent", or "taken", no block. */
_Noreturn void ring_gives_up(const struct ring *r, const char *what, int whom);

/* Puts a rank's tensors into `memory`: first what it makes, then what it is given, then the rest. Returns the bytes of each. */
struct ring_room {
    size_t made, given, all;
};
struct ring_room ring_lay(struct ring *r, char *memory);
void ring_take(struct ring *r, const struct ring_job *job);       /* its pieces of the whole tensors */
void ring_give(const struct ring *r, const struct ring_job *job); /* and back */
void ring_rank(struct ring *r, ring_body *body);                  /* runs a rank that has its pieces */

/* The functions of a step, by how far they are behind one of them: a process may have its code at another address. */
ptrdiff_t ring_offset(ring_body *body);
ring_body *ring_at(ptrdiff_t offset);
/* If this process was started to be a rank of the process that started it: becomes it, and does not return. */
void ring_be_rank(void);

/* ---- ranks on GPUs: gpu.cu, or gpu_none.c without CUDA */

/* ring_rank(), ring_start() and ring_finish() of a rank whose tensors are in host memory and whose work is done on a GPU. */
void ring_gpu_rank(struct ring *r, ring_body *body);
void ring_gpu_start(struct ring *r, int from);
void ring_gpu_finish(struct ring *r, int from);
bool ring_gpus_reach_each_other(int ranks);

/* Carries blocks between GPUs. */
struct ring_carrier {
    const char *name;
    /* r: the rank on the host, on: on its GPU. All ranks call it at the same time, before the first pass of a run. */
    void (*begin)(struct ring *r, struct ring *on);
    void (*end)(void);
    /* Launches on a stream: on->block goes to the next rank, on->other gets what the rank before has; so many bytes. */
    void (*pass)(struct ring *on, size_t send, size_t receive, cudaStream_t stream);
    const char *(*wrong)(void); /* what went wrong, of which CUDA knows nothing. Or NULL */
};

extern const struct ring_carrier ring_copies; /* gpu.cu: copy engines. On one machine */
/* nccl.c: NCCL, where the program was built with it; NULL otherwise. */
extern const struct ring_carrier *ring_nccl;

/*
 * In host memory, by n - 1 hops of whatever carries blocks there: all[i] becomes rank i's `mine`, of so many bytes, at most
 * RING_TOLD. What r->block and r->other have is lost. Nobody returns before all have called it.
 */
enum { RING_TOLD = 128, RING_WORKSPACE = 64 };
void ring_tell(struct ring *r, void *all, const void *mine, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
