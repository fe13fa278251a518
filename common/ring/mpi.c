/*
 * A ring of processes that mpirun started, on one machine or on several: mpirun -np 4 build/cpu/69_zigzag_ring. All run the same
 * program with the same options. Rank 0 goes on as if it were alone; when the ring is needed it hands out the pieces, is a rank
 * like the others, and collects what they made. The others wait for work until rank 0 ends.
 *
 * This is linked into the programs of rings where there is an MPI, and used where mpirun has started them.
 */
#include <fcntl.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "ring/ring.h"

#define TEXT 200      /* bytes of what a rank says that it was started for */
#define APART 0.1     /* seconds between two ranks that give up: the first one says so, and ends the others */
/* Rooms are of whole lines; and an int counts 128 GiB of them. */
#define LINES(bytes) ((int)(((bytes) + RING_LINE - 1) / RING_LINE))

enum { ORDER, GIVEN, BLOCK, MADE }; /* messages */

struct order {
    _Alignas(RING_LINE) ptrdiff_t body; /* as ring_offset() has it; 0: the end */
    struct ring like;
};

static struct {
    int rank, size;
    int near, number;         /* ranks on this machine, and which of them this is */
    int threads;              /* of this process, alone */
    bool leads, busy;
    int said;                 /* where stderr was, while it says nothing */
    MPI_Datatype line;
    MPI_Request sent, received;
} me;

static bool has_come(MPI_Request *request)
{
    struct ring_wait wait = { .waited = -APART * me.rank };
    for (int done = 0;;) {
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done || !ring_patience(&wait))
            return done;
    }
}

/* What rank `whom` has "sent", or "taken". */
static void must_come(MPI_Request *request, const char *what, int whom)
{
    if (!has_come(request))
        ring_gives_up(&(struct ring){ .rank = me.rank, .ranks = me.size }, what, whom);
}

/* Never MPI_Send() and MPI_Recv(), which wait for ever. */
static void send_to(const void *data, size_t bytes, int to, int what)
{
    MPI_Request request;
    MPI_Isend(data, LINES(bytes), me.line, to, what, MPI_COMM_WORLD, &request);
    must_come(&request, "taken", to);
}

static void receive_from(void *data, size_t bytes, int from, int what)
{
    MPI_Request request;
    MPI_Irecv(data, LINES(bytes), me.line, from, what, MPI_COMM_WORLD, &request);
    must_come(&request, "sent", from);
}

/* ---- what a rank does */

static void start(struct ring *r, size_t send, size_t receive)
{
    MPI_Irecv(r->other, LINES(receive), me.line, (r->rank + r->ranks - 1) % r->ranks, BLOCK, MPI_COMM_WORLD, &me.received);
    MPI_Isend(r->block, LINES(send), me.line, (r->rank + 1) % r->ranks, BLOCK, MPI_COMM_WORLD, &me.sent);
}

static void finish(struct ring *r, size_t send, size_t receive)
{
    (void)send, (void)receive;
    must_come(&me.received, "sent", (r->rank + r->ranks - 1) % r->ranks);
    must_come(&me.sent, "taken", (r->rank + 1) % r->ranks);
}

/* Puts the tensors of a rank into memory that grows as needed, and stays. */
static struct ring_room lay(struct ring *r, struct buffer *memory)
{
    struct ring_room room = ring_lay(r, NULL);
    if (room.all > memory->bytes) {
        buffer_free(memory);
        *memory = buffer_new(room.all, &cpu_device);
    }
    return ring_lay(r, memory->data);
}

static void run_rank(struct ring *r, ring_body *body)
{
    int beside = r->ranks < me.near ? r->ranks : me.near;
    r->threads = me.threads > beside ? me.threads / beside : 1;
    r->device = me.number;
    memset(r->times, 0xFF, (size_t)((char *)r->Q - (char *)r->times)); /* NaN, so that what a rank leaves out shows */
    ring_rank(r, body);
}

static _Noreturn void work(void)
{
    static struct buffer memory;
    struct order order;
    for (MPI_Request request;;) {
        MPI_Irecv(&order, LINES(sizeof order), me.line, 0, ORDER, MPI_COMM_WORLD, &request);
        while (!has_come(&request))
            ;
        if (!order.body)
            exit(0);
        struct ring ring = order.like;
        ring.rank = me.rank;
        struct ring_room room = lay(&ring, &memory);
        me.busy = true;
        receive_from((void *)ring.Q, room.given, 0, GIVEN);
        run_rank(&ring, ring_at(order.body));
        send_to(memory.data, room.made, 0, MADE);
        me.busy = false;
    }
}

/* ---- what rank 0 does besides */

static void run(const struct ring_job *job)
{
    static struct buffer memory, theirs;
    struct order order = { .body = ring_offset(job->body), .like = job->like };
    struct ring mine = job->like;
    struct ring_room room = lay(&mine, &memory);
    me.busy = true;
    for (int i = 1; i < mine.ranks; i++) {
        struct ring ring = job->like;
        ring.rank = i;
        lay(&ring, &theirs);
        ring_take(&ring, job);
        send_to(&order, sizeof order, i, ORDER);
        send_to(ring.Q, room.given, i, GIVEN);
    }
    ring_take(&mine, job);
    me.threads = cpu_threads();
    run_rank(&mine, job->body);
    cpu_set_threads(me.threads);
    ring_give(&mine, job);
    for (int i = 1; i < mine.ranks; i++) {
        struct ring ring = job->like;
        ring.rank = i;
        lay(&ring, &theirs);
        receive_from(theirs.data, room.made, i, MADE);
        ring_give(&ring, job);
    }
    me.busy = false;
}

/* However the process ends: a ring in the middle of its work is cut off, and ranks that wait for work are sent home. */
static void leave(void)
{
    struct order end = { .body = 0 };
    if (me.busy)
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILED);
    for (int i = 1; i < me.size && me.leads; i++)
        send_to(&end, sizeof end, i, ORDER);
    MPI_Finalize();
}

/* ---- the beginning */

/* Nothing is computed before all are known to have been started for the same. */
static void compare(const char *text)
{
    char *all = calloc((size_t)me.size, TEXT), mine[TEXT] = "";
    snprintf(mine, TEXT, "%s", text);
    if (!all)
        fatal("not enough CPU memory for %d ranks", me.size);
    MPI_Allgather(mine, TEXT, MPI_CHAR, all, TEXT, MPI_CHAR, MPI_COMM_WORLD);
    for (int i = 1; i < me.size; i++) {
        if (strcmp(all, all + i * TEXT) == 0)
            continue;
        if (me.rank)
            exit(EXIT_USAGE);
        usage_error("rank %d was started for %s; and rank 0 for %s", i, all + i * TEXT, all);
    }
    free(all);
}

static int near(void)
{
    return me.near;
}

static int join(const char *text)
{
    MPI_Comm beside;
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided); /* the thread beside a rank calls, while the rank does not */
    atexit(leave);
    if (me.said)
        dup2(me.said, STDERR_FILENO), close(me.said);
    MPI_Comm_rank(MPI_COMM_WORLD, &me.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &me.size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &beside);
    MPI_Comm_size(beside, &me.near);
    MPI_Comm_rank(beside, &me.number);
    MPI_Type_contiguous(RING_LINE, MPI_BYTE, &me.line);
    MPI_Type_commit(&me.line);
    me.threads = cpu_threads();
    compare(text);
    if (provided < MPI_THREAD_SERIALIZED && me.rank)
        exit(EXIT_FAILED); /* rank 0 says why */
    if (provided < MPI_THREAD_SERIALIZED)
        fatal("this MPI can be called by one thread of a process alone, and a rank has two");
    me.leads = me.rank == 0;
    if (!me.leads)
        work();
    return me.size;
}

static void end(void)
{
}

static const struct ring_transport ring_mpi = {
    .near = near, .join = join, .run = run, .start = start, .finish = finish, .end = end,
};

/* The end of a rank that has not joined, and may say nothing. mpirun ends all when one has failed: rank 0 must speak first. */
static void leave_last(void)
{
    if (!me.size)
        sleep(2);
}

/* Before main(). What is wrong with the options all ranks would say, and print the same help: until they join, rank 0 alone. */
__attribute__((constructor)) static void begin(void)
{
    const char *open_mpi = getenv("OMPI_COMM_WORLD_RANK"), *mpich = getenv("PMI_RANK"), *rank = open_mpi ? open_mpi : mpich;
    if (!rank)
        return;
    ring_travels_by(&ring_mpi);
    if (atoi(rank) == 0)
        return;
    atexit(leave_last);
    int nowhere = open("/dev/null", O_WRONLY);
    me.said = dup(STDERR_FILENO);
    dup2(nowhere, STDOUT_FILENO), dup2(nowhere, STDERR_FILENO), close(nowhere);
}
