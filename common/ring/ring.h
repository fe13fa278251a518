/*
 * A ring of ranks. Each is a process with its own memory: it has some of the queries, and the keys and values of the same tokens.
 * It can do two things besides computing: send a block to the next rank, and receive one from the rank before. Rank n - 1's next
 * is rank 0. A step's cpu.c says what one rank does; ring.c cuts the problem, and puts together what the ranks have made of it;
 * shared.c and mpi.c are two ways for a block to travel.
 */
#ifndef RING_H
#define RING_H

#include "types.h"

enum {
    RING_MOST = 256, /* ranks */
    RING_LINE = 64,  /* bytes: tensors begin at multiples */
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

/* One rank. Its tensors are its own pieces, one behind the other: of Q and O each is (batch, heads, queries, dim). */
struct ring {
    int rank, ranks;
    int threads;               /* that a rank has */
    struct attention p;        /* the whole problem */
    int held;                  /* pieces that a rank has: 1, or 2 */
    const float *Q;
    float *O, *lse;            /* to be written */
    float *part_O, *part_lse;  /* as large, for what one block makes */
    float *block, *other;      /* of each piece K, and behind it V: (batch, kv_heads, keys, dim); and room for another's */
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

/* Runs `body` on every rank, each with `held` pieces, and returns when O and lse (or NULL) are whole. Ranks share the threads. */
void ring_run(ring_body *body, int held, float *O, float *lse, const float *Q, const float *K, const float *V,
              struct attention p);
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
    struct ring like;          /* its ranks, p and held are those of every rank */
    float *O, *lse;            /* whole tensors */
    const float *Q, *K, *V;
};

struct ring_transport {
    int (*join)(const char *text); /* as ring_join(); returns how many there are. NULL: ranks are made as they are needed */
    void (*run)(const struct ring_job *job);
    void (*end)(void);
    void (*start)(struct ring *r, size_t send, size_t receive); /* bytes of `block` and of `other` */
    void (*finish)(struct ring *r, size_t send, size_t receive);
};

extern const struct ring_transport ring_shared;
void ring_travels_by(const struct ring_transport *transport); /* before main(), instead of ring_shared */

/* To wait politely: waits a moment, longer ones after some. False: it has been RING_TIMEOUT since `start`. */
struct ring_wait {
    double start; /* now() */
    int moments;
};
bool ring_patience(struct ring_wait *w);
/* Ends the run: rank `whom` has "sent", or "taken", no block. */
_Noreturn void ring_gives_up(const struct ring *r, const char *what, int whom);

/* Puts a rank's tensors into `memory`: first what it makes, then what it is given, then the rest. Returns the bytes of each. */
struct ring_room {
    size_t made, given, all;
} ring_lay(struct ring *r, char *memory);
void ring_take(struct ring *r, const struct ring_job *job);       /* its pieces of the whole tensors */
void ring_give(const struct ring *r, const struct ring_job *job); /* and back */
void ring_rank(struct ring *r, ring_body *body);                  /* runs a rank that has its pieces */

#endif
