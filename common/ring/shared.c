/*
 * A ring of processes on one machine, in memory that they share. They are made when they are first needed, and wait for work
 * from then on: each at its end of a wire to this process, which hands out the pieces and collects the results. A block travels
 * from rank to rank by one copy: a rank offers it, and the next one takes it when it wants it.
 *
 * Nobody waits for a rank that is gone: its wire ends, and this process ends the others and says so. Nor does a rank stay behind.
 *
 * They are forked; but who has used CUDA can have no child that does. So ranks on GPUs begin as this program does, anew, and are
 * told by their environment that they are ranks. They map the memory wherever they can: what lies there is called by offsets.
 */
#define _GNU_SOURCE /* memfd_create */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "harness.h"
#include "ring/ring.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

#define GPU_LEAST (64u << 20) /* bytes of memory for ranks on GPUs: to begin them again takes a second */

/* What a rank and the next one have in common. */
struct link {
    _Alignas(RING_LINE) atomic_uint offered, taken; /* blocks, so far */
    ptrdiff_t block;                           /* that is offered, behind `shared` */
};

/* The memory: this, and behind it that of the ranks. */
static struct shared {
    ptrdiff_t body; /* as ring_offset() has it */
    struct ring like;
    atomic_bool said;    /* one rank has said what is wrong, and that is enough */
    struct link links[]; /* (ranks) */
} *shared;

static struct {
    pid_t parent; /* of these ranks: a process that was forked since has none */
    int ranks;
    bool gpu;     /* on GPUs */
    size_t bytes; /* of `shared` */
    struct { pid_t pid; int wire; } rank[RING_MOST];
} pool;

/* How far behind `shared` rank `rank` has its memory, for a problem like this. */
static size_t place_of(const struct ring *like, int rank)
{
    struct ring any = *like;
    size_t head = (sizeof *shared + RING_MOST * sizeof shared->links[0] + RING_LINE - 1) / RING_LINE * RING_LINE;
    return head + (size_t)rank * ring_lay(&any, NULL).all;
}

static char *memory_of(const struct ring *ring)
{
    return (char *)shared + place_of(ring, ring->rank);
}

/* Puts the tensors of ring->rank into that memory. */
static struct ring_room lay(struct ring *ring)
{
    return ring_lay(ring, memory_of(ring));
}

/* ---- what a rank does */

static void wait_for(const struct ring *r, atomic_uint *count, unsigned wanted, const char *what, int whom)
{
    struct ring_wait wait = { 0 };
    while (atomic_load_explicit(count, memory_order_acquire) != wanted) {
        bool patient = ring_patience(&wait);
        if (getppid() != pool.parent)
            _exit(EXIT_FAILED);
        if (patient)
            continue;
        if (!atomic_exchange(&shared->said, true))
            ring_gives_up(r, what, whom);
        _exit(EXIT_FAILED);
    }
}

static void start(struct ring *r, size_t send, size_t receive)
{
    struct link *out = &shared->links[r->rank];
    (void)send, (void)receive;
    out->block = (char *)r->block - (char *)shared;
    atomic_fetch_add_explicit(&out->offered, 1, memory_order_release);
}

static void finish(struct ring *r, size_t send, size_t receive)
{
    int before = (r->rank + r->ranks - 1) % r->ranks;
    struct link *in = &shared->links[before], *out = &shared->links[r->rank];
    unsigned number = atomic_load_explicit(&out->offered, memory_order_relaxed);
    (void)send;
    wait_for(r, &in->offered, number, "sent", before);
    memcpy(r->other, (char *)shared + in->block, receive);
    atomic_store_explicit(&in->taken, number, memory_order_release);
    wait_for(r, &out->taken, number, "taken", (r->rank + 1) % r->ranks);
}

/* Works whenever it is told to, until the wire ends. On a thread of its own: OpenMP's did not come along with the fork. */
static void *work(void *arg)
{
    int rank = (int)(intptr_t)arg, wire = pool.rank[rank].wire;
    for (char told; read(wire, &told, 1) == 1;) {
        struct ring ring = shared->like;
        ring.rank = ring.device = rank;
        lay(&ring);
        ring_rank(&ring, ring_at(shared->body));
        if (send(wire, &told, 1, MSG_NOSIGNAL) != 1)
            break;
    }
    return NULL;
}

/* The end of a rank that has failed, and said why. What else a program does at its end is its parent's. */
static void leave(void)
{
    _exit(EXIT_FAILED);
}

static _Noreturn void be_rank(int rank)
{
    pthread_t thread;
    atexit(leave);
    if (pthread_create(&thread, NULL, work, (void *)(intptr_t)rank) || pthread_join(thread, NULL))
        fatal("rank %d: no thread can be made", rank);
    _exit(0);
}

/* What the environment says: its number, its wire, and the memory, which are open here. */
void ring_be_rank(void)
{
    const char *said = getenv("RING_RANK");
    int rank, memory;
    if (!said)
        return;
    if (sscanf(said, "%d %d %d %zu", &rank, &pool.rank[0].wire, &memory, &pool.bytes) != 4 || rank < 0 || rank >= RING_MOST)
        fatal("RING_RANK=%s: it is not for you to set", said);
    pool.rank[rank].wire = pool.rank[0].wire;
    pool.parent = getppid();
    shared = mmap(NULL, pool.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (shared == MAP_FAILED)
        fatal("rank %d: no memory is shared", rank);
    be_rank(rank);
}

/* ---- what their parent does */

/* Memory to share: a file without a name, which a program that begins anew can map. -1: it is not for such ones. */
static int memory_file(size_t bytes)
{
    int file = -1;
#ifdef USE_CUDA
    if (pool.gpu && ((file = memfd_create("ring", 0)) < 0 || ftruncate(file, (off_t)bytes)))
        fatal("not enough CPU memory: %.2f GiB needed to be shared", (double)bytes / (1 << 30));
#endif
    (void)bytes;
    return file;
}

/* In the child. memory: as memory_file() has it. */
static _Noreturn void begin_rank(int rank, int memory)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* elsewhere a rank sees that its parent is gone when it next waits */
#endif
    for (int i = 0; i < rank; i++) /* or these wires would not end with the parent */
        close(pool.rank[i].wire);
    if (memory < 0)
        be_rank(rank);
    execl("/proc/self/exe", "rank", (char *)NULL);
    _exit(EXIT_FAILED);
}

static void end_ranks(void)
{
    for (int i = 0; i < pool.ranks; i++) {
        close(pool.rank[i].wire);
        if (pool.rank[i].pid > 0 && kill(pool.rank[i].pid, SIGKILL) == 0)
            waitpid(pool.rank[i].pid, NULL, 0);
    }
    if (pool.bytes)
        munmap(shared, pool.bytes);
    pool.bytes = 0;
    pool.ranks = 0;
}

/* A rank's wire has ended, and the rank has or will. */
static _Noreturn void rank_is_gone(int rank)
{
    int status = 0, ranks = shared->like.ranks;
    pid_t pid = waitpid(pool.rank[rank].pid, &status, 0);
    pool.rank[rank].pid = 0;
    end_ranks();
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status))
        exit(WEXITSTATUS(status)); /* it has said why */
    fatal("rank %d of %d died: %s; the others are ended", rank, ranks,
          WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it left");
}

static void start_ranks(int ranks, size_t bytes, bool gpu)
{
    end_ranks();
    memory_require((double)bytes, &cpu_device);
    pool.gpu = gpu;
    int memory = memory_file(bytes);
    shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (memory < 0 ? MAP_ANONYMOUS : 0), memory, 0);
    if (shared == MAP_FAILED)
        fatal("not enough CPU memory: %.2f GiB needed for %d ranks", (double)bytes / (1 << 30), ranks);
    pool.bytes = bytes;
    pool.parent = getpid();
    fflush(NULL);             /* what is printed already is not printed by every rank */
    signal(SIGCHLD, SIG_DFL); /* where it is ignored, nobody can wait for a process */
    for (int i = 0; i < ranks; i++) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
            fatal("rank %d of %d: no wire can be made", i, ranks);
        char text[100];
        snprintf(text, sizeof text, "%d %d %d %zu", i, ends[1], memory, bytes);
        if (memory >= 0)
            setenv("RING_RANK", text, 1);
        pid_t pid = fork();
        pool.rank[i].pid = pid;
        pool.rank[i].wire = ends[pid == 0];
        close(ends[pid != 0]);
        if (pid == 0)
            begin_rank(i, memory);
        pool.ranks = i + 1;
        if (pid < 0) {
            end_ranks();
            fatal("rank %d of %d: no process can be made", i, ranks);
        }
    }
    if (memory >= 0)
        unsetenv("RING_RANK"), close(memory);
}

static void wait_for_ranks(int ranks)
{
    struct pollfd wires[RING_MOST];
    for (int i = 0; i < ranks; i++)
        wires[i] = (struct pollfd){ .fd = pool.rank[i].wire, .events = POLLIN };
    for (int left = ranks; left > 0;) {
        if (poll(wires, (nfds_t)ranks, -1) < 0)
            continue; /* a signal */
        for (int i = 0; i < ranks; i++) {
            char told;
            if (wires[i].fd < 0 || !wires[i].revents)
                continue;
            if (read(wires[i].fd, &told, 1) != 1)
                rank_is_gone(i);
            wires[i].fd = -1;
            left--;
        }
    }
}

static void run(const struct ring_job *job)
{
    int ranks = job->like.ranks;
    if (pool.parent != getpid())
        pool.ranks = 0, pool.bytes = 0;
    bool gpu = job->like.gpu;
    size_t bytes = place_of(&job->like, ranks);
    if (gpu && bytes < GPU_LEAST)
        bytes = GPU_LEAST;
    if (gpu != pool.gpu)
        end_ranks();
    if (ranks > pool.ranks || bytes > pool.bytes)
        start_ranks(ranks > pool.ranks ? ranks : pool.ranks, bytes > pool.bytes ? bytes : pool.bytes, gpu);
    memset(shared->links, 0, RING_MOST * sizeof shared->links[0]);
    shared->body = ring_offset(job->body);
    shared->like = job->like;
#pragma omp parallel for
    for (int i = 0; i < ranks; i++) {
        struct ring ring = job->like;
        ring.rank = i;
        memset(memory_of(&ring), 0xFF, lay(&ring).made); /* NaN, so that what a rank leaves out shows */
        ring_take(&ring, job);
    }
    for (int i = 0; i < ranks; i++)
        if (send(pool.rank[i].wire, "", 1, MSG_NOSIGNAL) != 1)
            rank_is_gone(i);
    wait_for_ranks(ranks);
#pragma omp parallel for
    for (int i = 0; i < ranks; i++) {
        struct ring ring = job->like;
        ring.rank = i;
        lay(&ring);
        ring_give(&ring, job);
    }
}

const struct ring_transport ring_shared = { .run = run, .start = start, .finish = finish, .end = end_ranks };
