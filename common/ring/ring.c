/* What all transports share: how a problem is cut, where a rank has what, and how a rank runs. */
#include "ring/ring.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"

#define REPEATS 20         /* of a rank on a GPU, whose clock is asked for */
#define TIMEOUT 600        /* seconds, */
#define MOST_SECONDS 86400 /* and the most that may be asked for */
#define PATIENCE 1000      /* moments, before who waits sleeps between two looks */
#define NAP 50000          /* ns */
#define LONGEST 0.1        /* seconds of a nap that count: who was stopped (SIGSTOP) blames nobody for the time */

static const struct ring_transport *by = &ring_shared;
static int ranks_wanted = 2;
static struct ring last_like;  /* of the last run, */
static struct ring_times *last; /* (ranks), */
static double *last_moments;    /* and (ranks, 3 * ranks, 2) */
static double began;            /* when the rank did that this process is */
void (*ring_delay)(const struct ring *r, int from);

void ring_set_ranks(int ranks)
{
    ranks_wanted = ranks;
}

int ring_ranks(void)
{
    return ranks_wanted;
}

static int most = RING_MOST;

int ring_most(void)
{
    return most;
}

void ring_travels_by(const struct ring_transport *transport)
{
    by = transport;
}

/* That a rank waits for another. */
static double timeout_seconds(void)
{
    const char *asked = getenv("RING_TIMEOUT");
    if (!asked || !*asked)
        return TIMEOUT;
    char *end;
    double seconds = strtod(asked, &end);
    if (*end || !(seconds > 0 && seconds <= MOST_SECONDS))
        usage_error("RING_TIMEOUT '%.50s': seconds, more than 0 and at most %d, are allowed", asked, MOST_SECONDS);
    return seconds;
}

/* Otherwise each would run alone, and say so many times what one says. */
static void refuse_copies(void)
{
    const char *open_mpi = getenv("OMPI_COMM_WORLD_SIZE"), *mpich = getenv("PMI_SIZE"), *size = open_mpi ? open_mpi : mpich;
    if (!by->join && size && atoi(size) > 1)
        fatal("mpirun has started %s of this, which was built without MPI: `make setup MPI=1` adds that; then build again", size);
}

void ring_join(const char *text, int ranks)
{
    ring_be_rank();
    refuse_copies();
    if (by->join)
        most = by->join(text);
    if (ranks > most)
        usage_error("--ranks %d: mpirun has started %d", ranks, most);
    timeout_seconds(); /* what is wrong with it is said now */
    if (ranks || by->join)
        ring_set_ranks(ranks ? ranks : most);
}

void ring_end(void)
{
    by->end();
}

struct ring ring_last(void)
{
    return last_like;
}

struct ring_times ring_times_of(int rank)
{
    return last[rank];
}

const double *ring_moments_of(int rank)
{
    return last_moments + rank * 6 * last_like.ranks;
}

/* ---- pieces */

int64_t ring_queries(const struct ring *r, int rank, int pieces)
{
    int64_t queries = 0;
    for (int i = 0; i < pieces; i++)
        queries += ring_held(r, rank, i).queries;
    return queries;
}

int64_t ring_keys(const struct ring *r, int rank, int pieces)
{
    int64_t keys = 0;
    for (int i = 0; i < pieces; i++)
        keys += ring_held(r, rank, i).keys;
    return keys;
}

static int64_t clamp(int64_t x, int64_t most)
{
    return x < 0 ? 0 : x > most ? most : x;
}

/* Where a piece's keys begin. */
static int64_t first_key(struct attention p, int64_t query, int piece, int pieces)
{
    if (piece == 0 || piece == pieces)
        return piece ? p.seq_k : 0;
    return p.causal ? clamp(query + p.seq_k - p.seq_q, p.seq_k) : p.seq_k * piece / pieces;
}

struct ring_piece ring_piece(struct attention p, int piece, int pieces)
{
    int64_t query = p.seq_q * piece / pieces, end = p.seq_q * (piece + 1) / pieces;
    int64_t key = first_key(p, query, piece, pieces);
    return (struct ring_piece){ piece, query, end - query, key, first_key(p, end, piece + 1, pieces) - key };
}

struct ring_piece ring_held(const struct ring *r, int rank, int i)
{
    return ring_piece(r->p, i ? 2 * r->ranks - 1 - rank : rank, r->held * r->ranks);
}

size_t ring_block_bytes(const struct ring *r, int rank)
{
    return (size_t)(2 * r->p.batch * r->p.kv_heads * ring_keys(r, rank, r->held) * r->p.dim) * dtype_bytes(r->dtype);
}

/* ---- a rank's memory */

static void *place(char *memory, size_t *at, size_t bytes)
{
    char *here = memory ? memory + *at : NULL;
    *at += (bytes + RING_LINE - 1) / RING_LINE * RING_LINE;
    return here;
}

struct ring_room ring_lay(struct ring *r, char *memory)
{
    int64_t queries = 0;
    size_t block = r->gpu ? RING_TOLD : 0, at = 0;
    for (int rank = 0; rank < r->ranks; rank++) { /* all ranks have room for the largest */
        int64_t own = ring_queries(r, rank, r->held);
        queries = own > queries ? own : queries;
        block = ring_block_bytes(r, rank) > block ? ring_block_bytes(r, rank) : block;
    }
    size_t rows = (size_t)(r->p.batch * r->p.heads * queries), row = (size_t)r->p.dim * dtype_bytes(r->dtype);
    struct ring_room room;
    r->times = place(memory, &at, sizeof *r->times);
    r->moments = place(memory, &at, (size_t)r->ranks * 6 * sizeof *r->moments);
    r->O = place(memory, &at, rows * row);
    r->lse = place(memory, &at, rows * sizeof(float));
    room.made = at;
    r->Q = place(memory, &at, rows * row);
    r->block = place(memory, &at, block);
    room.given = at - room.made;
    r->other = place(memory, &at, block);
    r->part_O = place(memory, &at, rows * row);
    r->part_lse = place(memory, &at, rows * sizeof(float));
    if (r->gpu) {
        r->sum = place(memory, &at, rows * (size_t)r->p.dim * sizeof(float));
        r->own = place(memory, &at, block);
        r->workspace = place(memory, &at, RING_WORKSPACE);
    }
    room.all = at;
    return room;
}

size_t ring_memory(struct attention p, enum dtype dtype)
{
    (void)dtype;
    size_t bytes = 0;
    for (int held = 1; held <= 2; held++) { /* the rest that a division leaves may go to another rank */
        struct ring like = { .ranks = ring_ranks(), .p = p, .held = held };
        size_t all = ring_lay(&like, NULL).all;
        bytes = all > bytes ? all : bytes;
    }
    return (size_t)ring_ranks() * bytes;
}

/* ---- from whole tensors to pieces, and back */

/* Rows of one tensor: of each head `count`, the first being row `first`; a head's rows are `pitch` rows from the next head's. */
struct rows {
    char *at;
    int64_t pitch, first;
};

static void copy(struct rows to, struct rows from, int64_t heads, int64_t count, size_t row)
{
    for (int64_t head = 0; head < heads; head++)
        memcpy(to.at + (size_t)(head * to.pitch + to.first) * row, from.at + (size_t)(head * from.pitch + from.first) * row,
               (size_t)count * row);
}

/*
 * Where piece i of a rank lies in its tensor at `at`: (heads, count, row), `before` being the rows of the pieces before it, and
 * `all` those of all pieces. Behind the others; or on a GPU, in each head, beside them.
 */
static struct rows piece_of(const struct ring *r, const void *at, int64_t heads, int64_t before, int64_t count, int64_t all,
                            size_t row)
{
    if (r->gpu)
        return (struct rows){ (char *)at, all, before };
    return (struct rows){ (char *)at + (size_t)(heads * before) * row, count, 0 };
}

/* What is the same for queries and for keys: of tensor `mine` of the rank's, and of a whole one, piece i. */
struct part {
    int64_t heads, whole, first, count, before, all; /* of the whole: rows of a head, and the piece's first */
    size_t row;
};

static struct part queries_of(const struct ring *r, int i)
{
    struct ring_piece piece = ring_held(r, r->rank, i);
    return (struct part){ r->p.batch * r->p.heads, r->p.seq_q, piece.query, piece.queries, ring_queries(r, r->rank, i),
                          ring_queries(r, r->rank, r->held), (size_t)r->p.dim * dtype_bytes(r->dtype) };
}

static struct part keys_of(const struct ring *r, int i)
{
    struct ring_piece piece = ring_held(r, r->rank, i);
    return (struct part){ r->p.batch * r->p.kv_heads, r->p.seq_k, piece.key, piece.keys, ring_keys(r, r->rank, i),
                          ring_keys(r, r->rank, r->held), (size_t)r->p.dim * dtype_bytes(r->dtype) };
}

static void take(const struct ring *r, void *mine, const void *whole, struct part p)
{
    copy(piece_of(r, mine, p.heads, p.before, p.count, p.all, p.row), (struct rows){ (char *)whole, p.whole, p.first }, p.heads,
         p.count, p.row);
}

static void give(const struct ring *r, const void *mine, void *whole, struct part p)
{
    copy((struct rows){ whole, p.whole, p.first }, piece_of(r, mine, p.heads, p.before, p.count, p.all, p.row), p.heads, p.count,
         p.row);
}

void ring_take(struct ring *r, const struct ring_job *job)
{
    for (int i = 0; i < r->held; i++) {
        struct part keys = keys_of(r, i);
        /* A block: of each piece K, and behind it V; on a GPU K of both, and behind that V of both. */
        size_t values = (size_t)keys.heads * keys.row;
        char *K = (char *)r->block + (r->gpu ? 0 : values * (size_t)keys.before);
        take(r, (void *)r->Q, job->Q, queries_of(r, i));
        take(r, K, job->K, keys);
        take(r, K + values * (size_t)(r->gpu ? keys.all : keys.count), job->V, keys);
    }
}

void ring_give(const struct ring *r, const struct ring_job *job)
{
    for (int i = 0; i < r->held; i++) {
        struct part rows = queries_of(r, i);
        give(r, r->O, job->O, rows);
        rows.row = sizeof(float);
        if (job->lse)
            give(r, r->lse, job->lse, rows);
    }
    last[r->rank] = *r->times;
    memcpy(last_moments + r->rank * 6 * r->ranks, r->moments, (size_t)r->ranks * 6 * sizeof *r->moments);
}

/* ---- running */

ptrdiff_t ring_offset(ring_body *body)
{
    return (char *)body - (char *)ring_run;
}

ring_body *ring_at(ptrdiff_t offset)
{
    return (ring_body *)((char *)ring_run + offset);
}

static void run(const struct ring_job *job)
{
    last_like = job->like;
    last = realloc(last, (size_t)ranks_wanted * sizeof *last);
    last_moments = realloc(last_moments, (size_t)ranks_wanted * (size_t)ranks_wanted * 6 * sizeof *last_moments);
    if (!last || !last_moments)
        fatal("not enough CPU memory for %d ranks", ranks_wanted);
    by->run(job);
    for (int rank = 0; rank < ranks_wanted; rank++)
        counts_add(last[rank].exps);
}

void ring_run(ring_body *body, int held, float *O, float *lse, const float *Q, const float *K, const float *V,
              struct attention p)
{
    int threads = cpu_threads() > ranks_wanted ? cpu_threads() / ranks_wanted : 1;
    run(&(struct ring_job){
        .body = body, .like = { .ranks = ranks_wanted, .threads = threads, .p = p, .held = held },
        .O = O, .lse = lse, .Q = Q, .K = K, .V = V,
    });
}

/* ---- on GPUs */

static int repeats; /* that the next run is asked for */

/* RING_SHARE in the environment: ranks share GPUs where there are too few. For tests. */
static bool gpus_are_shared(void)
{
    return getenv("RING_SHARE") != NULL;
}

/* RING_BY=nccl in the environment; and where copy engines reach only some of the ranks. */
static bool wants_nccl(void)
{
    const char *asked = getenv("RING_BY");
    return by->near || (asked && strcmp(asked, "nccl") == 0) || !ring_gpus_reach_each_other(ranks_wanted);
}

const char *ring_gpu_missing(void)
{
    static char why[160];
    int here = by->near && by->near() < ranks_wanted ? by->near() : ranks_wanted;
    if (here > gpu_count() && !gpus_are_shared())
        snprintf(why, sizeof why, "%d ranks take a GPU each, and this machine has %d; --ranks %d runs", here, gpu_count(),
                 gpu_count());
    else if (here > gpu_count() && wants_nccl())
        snprintf(why, sizeof why, "NCCL wants a GPU for each of %d ranks, and this machine has %d", here, gpu_count());
    else if (ranks_wanted > 1 && wants_nccl() && !ring_nccl)
        snprintf(why, sizeof why, "%s, and this build is without it; NCCL_HOME tells where it is",
                 by->near ? "between ranks that mpirun started NCCL carries blocks" :
                 getenv("RING_BY") ? "RING_BY asks for NCCL" : "these GPUs do not reach each other but by NCCL");
    else
        return NULL;
    return why;
}

void ring_run_gpu(ring_body *body, int held, enum dtype dtype, void *O, float *lse, const void *Q, const void *K, const void *V,
                  struct attention p)
{
    size_t rows = (size_t)(p.batch * p.heads * p.seq_q), row = (size_t)p.dim * dtype_bytes(dtype),
           queries = rows * row, keys = (size_t)(p.batch * p.kv_heads * p.seq_k) * row;
    char *host = scratch(2 * queries + 2 * keys + rows * sizeof(float));
    struct ring_job job = {
        .body = body,
        .like = { .ranks = ranks_wanted, .threads = 1, .p = p, .held = held, .dtype = dtype, .gpu = true, .repeats = repeats,
                  .nccl = ranks_wanted > 1 && wants_nccl() },
        .Q = host, .K = host + queries, .V = host + queries + keys, .O = host + queries + 2 * keys,
        .lse = (float *)(void *)(host + 2 * queries + 2 * keys),
    };
    gpu_download((void *)job.Q, Q, queries);
    gpu_download((void *)job.K, K, keys);
    gpu_download((void *)job.V, V, keys);
    run(&job);
    gpu_upload(O, job.O, queries);
    if (lse)
        gpu_upload(lse, job.lse, rows * sizeof(float));
}

double ring_run_once_gpu(const struct work *work)
{
    double slowest = 0;
    repeats = REPEATS;
    work->run(work->arg);
    repeats = 0;
    for (int rank = 0; rank < ranks_wanted; rank++)
        slowest = last[rank].whole > slowest ? last[rank].whole : slowest;
    return slowest;
}

void ring_tell(struct ring *r, void *all, const void *mine, size_t bytes)
{
    char *entry = all;
    memcpy(entry + (size_t)r->rank * bytes, mine, bytes);
    for (int pass = 0; pass + 1 < r->ranks; pass++) {
        int from = (r->rank + r->ranks - pass) % r->ranks, before = (from + r->ranks - 1) % r->ranks;
        memcpy(r->block, entry + (size_t)from * bytes, bytes);
        by->start(r, bytes, bytes);
        by->finish(r, bytes, bytes);
        memcpy(entry + (size_t)before * bytes, r->other, bytes);
    }
}

/* ---- a rank */

/* ms of processor time that this process has had, or this thread. */
static double processor(clockid_t whose)
{
    struct timespec t;
    clock_gettime(whose, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

void ring_rank(struct ring *r, ring_body *body)
{
    cpu_set_threads(r->threads);
    *r->times = (struct ring_times){ 0 };
    if (r->gpu) {
        ring_gpu_rank(r, body);
        return;
    }
    counts_taken();
    double start = processor(CLOCK_PROCESS_CPUTIME_ID);
    began = now();
    body(r);
    r->times->whole = 1e3 * (now() - began);
    r->times->compute += (processor(CLOCK_PROCESS_CPUTIME_ID) - start) / r->threads;
    r->times->exps = counts_taken().exps;
}

/* ---- passing on */

bool ring_patience(struct ring_wait *w)
{
    if (w->moments++ < PATIENCE) {
        sched_yield();
        return true;
    }
    double asleep = now();
    nanosleep(&(struct timespec){ .tv_nsec = NAP }, NULL);
    w->waited += fmin(now() - asleep, LONGEST);
    return w->waited < timeout_seconds();
}

void ring_gives_up(const struct ring *r, const char *what, int whom)
{
    fatal("rank %d of %d: rank %d has %s no block for %g s, and the run ends", r->rank, r->ranks, whom, what, timeout_seconds());
}

/* What is done in a half of a pass, by the rank or beside it. */
typedef void half_fn(struct ring *r, size_t send, size_t receive);

static void do_half(struct ring *r, int from, half_fn *what)
{
    if (ring_delay)
        ring_delay(r, from);
    what(r, ring_block_bytes(r, from), ring_block_bytes(r, (from + r->ranks - 1) % r->ranks));
}

/* The thread beside this rank, in a pass that has one. */
static _Thread_local struct beside {
    struct ring *r;    /* NULL: there is none */
    int from;
    pthread_t thread;
    double start, end; /* now() */
    double busy;       /* ms of processor time */
} beside;

/* One of the two halves of a pass, and its time. */
static void half(struct ring *r, int from, half_fn *what)
{
    clockid_t whose = beside.r ? CLOCK_THREAD_CPUTIME_ID : CLOCK_PROCESS_CPUTIME_ID; /* the thread's is counted apart */
    double start = now(), busy = processor(whose);
    do_half(r, from, what);
    double end = now();
    if (r->times->halves < 2 * r->ranks) {
        double *moment = r->moments + 2 * r->times->halves++;
        moment[0] = 1e3 * (start - began), moment[1] = 1e3 * (end - began);
    }
    r->times->pass += 1e3 * (end - start);
    r->times->compute -= (processor(whose) - busy) / r->threads;
}

void ring_start(struct ring *r, int from)
{
    if (r->gpu)
        ring_gpu_start(r, from);
    else
        half(r, from, by->start);
}

static void *finish_beside(void *arg)
{
    struct beside *b = arg;
    do_half(b->r, b->from, by->finish);
    b->busy = processor(CLOCK_THREAD_CPUTIME_ID);
    b->end = now();
    return NULL;
}

void ring_start_beside(struct ring *r, int from)
{
    ring_start(r, from);
    if (r->gpu) /* nobody need carry: what is launched travels by itself */
        return;
    beside = (struct beside){ .r = r, .from = from, .start = now() };
    if (pthread_create(&beside.thread, NULL, finish_beside, &beside))
        fatal("rank %d of %d: no thread can be made", r->rank, r->ranks);
}

static void join(struct ring *r, size_t send, size_t receive)
{
    (void)r, (void)send, (void)receive;
    pthread_join(beside.thread, NULL);
}

void ring_finish(struct ring *r, int from)
{
    double called = now();
    int pass = r->times->halves / 2;
    if (r->gpu)
        ring_gpu_finish(r, from);
    else
        half(r, from, beside.r ? join : by->finish);
    if (beside.r) {
        double *moment = r->moments + 2 * (2 * r->ranks + pass);
        if (pass < r->ranks)
            moment[0] = 1e3 * (beside.start - began), moment[1] = 1e3 * (beside.end - began);
        r->times->beside += 1e3 * (called - beside.start);
        r->times->compute -= beside.busy / r->threads;
        beside.r = NULL;
    }
    float *block = r->block;
    r->block = r->other;
    r->other = block;
}
