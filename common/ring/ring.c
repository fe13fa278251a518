/* What all transports share: how a problem is cut, where a rank has what, and how a rank runs. */
#include "ring/ring.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"

#define TIMEOUT 600   /* seconds */
#define PATIENCE 1000 /* moments, before who waits sleeps between two looks */
#define NAP 50000     /* ns */

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

void ring_join(const char *text, int ranks)
{
    if (by->join)
        most = by->join(text);
    if (ranks > most)
        usage_error("--ranks %d: mpirun has started %d", ranks, most);
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
    int64_t keys = 0;
    for (int i = 0; i < r->held; i++)
        keys += ring_held(r, rank, i).keys;
    return (size_t)(2 * r->p.batch * r->p.kv_heads * keys * r->p.dim) * sizeof(float);
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
    size_t block = 0, at = 0;
    for (int rank = 0; rank < r->ranks; rank++) { /* all ranks have room for the largest */
        int64_t own = 0;
        for (int i = 0; i < r->held; i++)
            own += ring_held(r, rank, i).queries;
        queries = own > queries ? own : queries;
        block = ring_block_bytes(r, rank) > block ? ring_block_bytes(r, rank) : block;
    }
    size_t rows = (size_t)(r->p.batch * r->p.heads * queries), row = (size_t)r->p.dim * sizeof(float);
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

/* Rows first to first + count - 1 of each head of a whole tensor: (heads, all, dim), and in one piece: (heads, count, dim). */
static float *cut(float *piece, const float *whole, int64_t heads, int64_t all, int64_t first, int64_t count, int64_t dim)
{
    for (int64_t head = 0; head < heads; head++)
        memcpy(piece + head * count * dim, whole + (head * all + first) * dim, (size_t)(count * dim) * sizeof *piece);
    return piece + heads * count * dim;
}

static const float *paste(const float *piece, float *whole, int64_t heads, int64_t all, int64_t first, int64_t count, int64_t dim)
{
    for (int64_t head = 0; head < heads; head++)
        memcpy(whole + (head * all + first) * dim, piece + head * count * dim, (size_t)(count * dim) * sizeof *piece);
    return piece + heads * count * dim;
}

void ring_take(struct ring *r, const struct ring_job *job)
{
    const struct attention p = r->p;
    float *Q = (float *)r->Q, *block = r->block;
    for (int i = 0; i < r->held; i++) {
        struct ring_piece piece = ring_held(r, r->rank, i);
        Q = cut(Q, job->Q, p.batch * p.heads, p.seq_q, piece.query, piece.queries, p.dim);
        block = cut(block, job->K, p.batch * p.kv_heads, p.seq_k, piece.key, piece.keys, p.dim);
        block = cut(block, job->V, p.batch * p.kv_heads, p.seq_k, piece.key, piece.keys, p.dim);
    }
}

void ring_give(const struct ring *r, const struct ring_job *job)
{
    const struct attention p = r->p;
    const float *O = r->O, *lse = r->lse;
    for (int i = 0; i < r->held; i++) {
        struct ring_piece piece = ring_held(r, r->rank, i);
        O = paste(O, job->O, p.batch * p.heads, p.seq_q, piece.query, piece.queries, p.dim);
        if (job->lse)
            lse = paste(lse, job->lse, p.batch * p.heads, p.seq_q, piece.query, piece.queries, 1);
    }
    last[r->rank] = *r->times;
    memcpy(last_moments + r->rank * 6 * r->ranks, r->moments, (size_t)r->ranks * 6 * sizeof *r->moments);
}

/* ---- running */

void ring_run(ring_body *body, int held, float *O, float *lse, const float *Q, const float *K, const float *V,
              struct attention p)
{
    int threads = cpu_threads() > ranks_wanted ? cpu_threads() / ranks_wanted : 1;
    struct ring_job job = {
        .body = body, .like = { .ranks = ranks_wanted, .threads = threads, .p = p, .held = held },
        .O = O, .lse = lse, .Q = Q, .K = K, .V = V,
    };
    last_like = job.like;
    last = realloc(last, (size_t)ranks_wanted * sizeof *last);
    last_moments = realloc(last_moments, (size_t)ranks_wanted * (size_t)ranks_wanted * 6 * sizeof *last_moments);
    if (!last || !last_moments)
        fatal("not enough CPU memory for %d ranks", ranks_wanted);
    by->run(&job);
    for (int rank = 0; rank < ranks_wanted; rank++)
        counts_add(last[rank].exps);
}

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
    counts_taken();
    double start = processor(CLOCK_PROCESS_CPUTIME_ID);
    began = now();
    body(r);
    r->times->whole = 1e3 * (now() - began);
    r->times->compute += (processor(CLOCK_PROCESS_CPUTIME_ID) - start) / r->threads;
    r->times->exps = counts_taken().exps;
}

/* ---- passing on */

static double timeout_seconds(void)
{
    const char *asked = getenv("RING_TIMEOUT");
    return asked && atof(asked) > 0 ? atof(asked) : TIMEOUT;
}

bool ring_patience(struct ring_wait *w)
{
    if (w->moments++ < PATIENCE) {
        sched_yield();
        return true;
    }
    nanosleep(&(struct timespec){ .tv_nsec = NAP }, NULL);
    return now() - w->start < timeout_seconds();
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
