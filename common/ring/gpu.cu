/*
 * A rank that works on a GPU: its tensors come from host memory, and what it has made of them goes back there, as on a CPU. What
 * is between is launched, on two streams, and the host waits at the end alone:
 *
 *     the usual one    what the rank computes, one thing after the other
 *     the other        its blocks' travel. A pass begins when all is done that was launched before it began, and what is launched
 *                      after it has finished begins when the block has come
 *
 * Who carries blocks is a struct ring_carrier: nccl.c, or the copy engines, below.
 */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "ring/ring.h"

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess)                                                                                    \
            fatal("%s:%d: %s: %s", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                            \
    } while (0)

#define MARKS 5     /* moments of a pass that are kept */
#define MOST_REPEATS 64
#define APART 0.1   /* seconds between two ranks that give up: the first one says so, and its parent ends the others */

enum { STARTS, LEAVES, COMES, WAITS, GOES_ON }; /* marks */

const struct ring_carrier *ring_nccl; /* where nccl.c is linked, it says so */

static struct {
    char *memory;
    size_t bytes;
    cudaStream_t travel;
    cudaEvent_t begin, end, computed, arrived, mark[RING_MOST][MARKS];
    const struct ring_carrier *carrier;
    bool marks;  /* whether moments are kept: not while the clock runs */
} me;

/* ---- a pass */

static void mark(const struct ring *r, int what, cudaStream_t stream)
{
    int pass = r->times->halves / 2;
    if (!me.marks || pass >= RING_MOST)
        return;
    if (!me.mark[pass][what])
        CHECK(cudaEventCreate(&me.mark[pass][what]));
    CHECK(cudaEventRecord(me.mark[pass][what], stream));
}

static void start(struct ring *r, size_t send, size_t receive)
{
    mark(r, STARTS, NULL);
    CHECK(cudaEventRecord(me.computed, NULL));
    CHECK(cudaStreamWaitEvent(me.travel, me.computed, 0));
    mark(r, LEAVES, me.travel);
    me.carrier->pass(r, send, receive, me.travel);
    mark(r, COMES, me.travel);
    CHECK(cudaEventRecord(me.arrived, me.travel));
}

static void finish(struct ring *r)
{
    mark(r, WAITS, NULL);
    CHECK(cudaStreamWaitEvent(NULL, me.arrived, 0));
    mark(r, GOES_ON, NULL);
}

void ring_gpu_start(struct ring *r, int from)
{
    start(r, ring_block_bytes(r, from), ring_block_bytes(r, (from + r->ranks - 1) % r->ranks));
}

void ring_gpu_finish(struct ring *r, int from)
{
    (void)from;
    finish(r);
    r->times->halves += 2;
}

/* ---- copy engines: each rank writes into the memory of the next, which is mapped here. Nobody's SM is asked for anything */

/* Counters in a rank's memory, which its neighbours write, and its own stream waits for. */
struct flags {
    uint32_t room; /* passes for which the next rank has room */
    uint32_t came; /* blocks that have come here */
};

struct told { /* to other ranks */
    cudaIpcMemHandle_t handle;
    ptrdiff_t flags; /* behind it */
};

static struct {
    struct flags *flags;
    char *next, *before;         /* their memory */
    struct flags *next_flags, *before_flags;
    uint32_t passes;
    PFN_cuStreamWaitValue32_v11070 wait;
    PFN_cuStreamWriteValue32_v11070 write;
} copies;

static void *driver_function(const char *name)
{
    void *function = NULL;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    CHECK(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
    CHECK(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
    if (!function)
        fatal("the driver has no %s", name);
    return function;
}

static char *map(const struct told *of)
{
    void *memory;
    CHECK(cudaIpcOpenMemHandle(&memory, of->handle, cudaIpcMemLazyEnablePeerAccess));
    return (char *)memory;
}

static void copies_begin(struct ring *r, struct ring *on)
{
    struct told mine, all[RING_MOST];
    int next = (r->rank + 1) % r->ranks, before = (r->rank + r->ranks - 1) % r->ranks;
    static_assert(sizeof mine <= RING_TOLD, "more than can be told");
    copies.wait = (PFN_cuStreamWaitValue32_v11070)driver_function("cuStreamWaitValue32");
    copies.write = (PFN_cuStreamWriteValue32_v11070)driver_function("cuStreamWriteValue32");
    copies.flags = (struct flags *)((char *)on->workspace + RING_WORKSPACE / 2);
    copies.passes = 0;
    CHECK(cudaMemset(copies.flags, 0, sizeof *copies.flags));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaIpcGetMemHandle(&mine.handle, me.memory));
    mine.flags = (char *)copies.flags - me.memory;
    ring_tell(r, all, &mine, sizeof mine); /* and by now everybody's flags are 0 */
    copies.next = map(&all[next]);
    copies.before = before == next ? copies.next : map(&all[before]);
    copies.next_flags = (struct flags *)(copies.next + all[next].flags);
    copies.before_flags = (struct flags *)(copies.before + all[before].flags);
}

static void copies_end(void)
{
    CHECK(cudaIpcCloseMemHandle(copies.next));
    if (copies.before != copies.next)
        CHECK(cudaIpcCloseMemHandle(copies.before));
}

static void set(cudaStream_t stream, uint32_t *flag)
{
    if (copies.write(stream, (CUdeviceptr)flag, copies.passes, CU_STREAM_WRITE_VALUE_DEFAULT) != CUDA_SUCCESS)
        fatal("a stream cannot write into another GPU's memory");
}

static void wait_for(cudaStream_t stream, uint32_t *flag)
{
    if (copies.wait(stream, (CUdeviceptr)flag, copies.passes, CU_STREAM_WAIT_VALUE_GEQ) != CUDA_SUCCESS)
        fatal("a stream cannot wait for another GPU");
}

/* What is before it on the stream was done with on->other: the rank before may write there. */
static void copies_pass(struct ring *on, size_t send, size_t receive, cudaStream_t stream)
{
    (void)receive;
    copies.passes++;
    set(stream, &copies.before_flags->room);
    wait_for(stream, &copies.flags->room);
    CHECK(cudaMemcpyAsync(copies.next + ((char *)on->other - me.memory), on->block, send, cudaMemcpyDeviceToDevice, stream));
    set(stream, &copies.next_flags->came);
    wait_for(stream, &copies.flags->came);
}

static const char *copies_wrong(void)
{
    return NULL;
}

const struct ring_carrier ring_copies = { "copy engines", copies_begin, copies_end, copies_pass, copies_wrong };

bool ring_gpus_reach_each_other(int ranks)
{
    for (int rank = 0; rank < ranks && ranks > 1; rank++) {
        int reaches = 0;
        int one = rank % gpu_count(), other = (rank + 1) % ranks % gpu_count();
        if (one != other)
            CHECK(cudaDeviceCanAccessPeer(&reaches, one, other));
        if (one != other && !reaches)
            return false;
    }
    return true;
}

/* ---- a rank's work */

/* A rank that gives up must be gone at once: CUDA would wait for what was launched. */
static void leave(void)
{
    _exit(EXIT_FAILED);
}

static void begin_once(const struct ring *r)
{
    static bool begun;
    if (begun)
        return;
    begun = true;
    if (gpu_count() == 0)
        fatal("rank %d of %d: %s", r->rank, r->ranks, gpu_missing());
    gpu_sms_left = getenv("RING_SMS_LEFT") ? atoi(getenv("RING_SMS_LEFT")) : 0; /* NCCL's kernels want some */
    CHECK(cudaSetDevice(r->device % gpu_count())); /* who may share one has been asked already */
    CHECK(cudaStreamCreateWithFlags(&me.travel, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&me.begin));
    CHECK(cudaEventCreate(&me.end));
    CHECK(cudaEventCreateWithFlags(&me.computed, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&me.arrived, cudaEventDisableTiming));
    if (getenv("RING_RANK"))
        atexit(leave);
}

/* Waits for both streams, but not for ever. */
static void wait_for_streams(const struct ring *r)
{
    struct ring_wait wait = { -APART * r->rank, 0 };
    for (;;) {
        cudaError_t status = cudaEventQuery(me.end);
        const char *wrong = me.carrier ? me.carrier->wrong() : NULL;
        if (status != cudaErrorNotReady && status != cudaSuccess)
            fatal("rank %d of %d: %s", r->rank, r->ranks, cudaGetErrorString(status));
        if (wrong)
            fatal("rank %d of %d: %s", r->rank, r->ranks, wrong);
        if (status == cudaSuccess)
            return;
        if (!ring_patience(&wait))
            ring_gives_up(r, "sent", (r->rank + r->ranks - 1) % r->ranks);
    }
}

/* The work, from when all ranks begin it: they do together, when each has passed a line on to all. Returns ms. */
static double work(const struct ring *on, ring_body *body)
{
    float ms;
    struct ring mine = *on;
    mine.times->halves = 0;
    if (on->repeats) {
        CHECK(cudaMemcpyAsync(mine.block, on->own, ring_block_bytes(on, on->rank), cudaMemcpyDeviceToDevice, NULL));
        gpu_flush(); /* and while that lasts, the host launches what follows */
    }
    bool marks = me.marks;
    me.marks = false;
    for (int pass = 0; pass + 1 < on->ranks; pass++) {
        start(&mine, RING_LINE, RING_LINE);
        finish(&mine);
    }
    me.marks = marks;
    CHECK(cudaEventRecord(me.begin, NULL));
    body(&mine);
    CHECK(cudaEventRecord(me.end, NULL));
    CHECK(cudaGetLastError());
    wait_for_streams(on);
    CHECK(cudaEventElapsedTime(&ms, me.begin, me.end));
    return ms;
}

static double moment(int pass, int what)
{
    float ms;
    CHECK(cudaEventElapsedTime(&ms, me.begin, me.mark[pass][what]));
    return ms;
}

/* What struct ring_times and `moments` have, from the marks of the last work(). */
static void keep_marks(struct ring *r, double whole)
{
    struct ring_times *t = r->times;
    for (int pass = 0; pass < t->halves / 2 && pass < RING_MOST; pass++) {
        double waits = moment(pass, WAITS), goes_on = moment(pass, GOES_ON), leaves = moment(pass, LEAVES);
        t->pass += goes_on - waits;
        t->beside += waits > leaves ? waits - leaves : 0;
        if (pass >= r->ranks)
            continue;
        double *half = r->moments + 4 * pass, *travel = r->moments + 2 * (2 * r->ranks + pass);
        half[0] = half[1] = moment(pass, STARTS);
        half[2] = waits, half[3] = goes_on;
        travel[0] = leaves, travel[1] = moment(pass, COMES);
    }
    t->halves = t->halves < 2 * r->ranks ? t->halves : 2 * r->ranks;
    t->compute = whole - t->pass;
}

/* The rank's tensors, in memory that grows as needed, and stays. */
static struct ring on_gpu(const struct ring *r)
{
    struct ring on = *r;
    size_t bytes = ring_lay(&on, NULL).all;
    if (bytes > me.bytes) {
        CHECK(cudaFree(me.memory));
        if (bytes > gpu_memory_available() || cudaMalloc(&me.memory, bytes) != cudaSuccess)
            fatal("rank %d of %d: not enough memory on GPU %d: %.2f GiB needed", r->rank, r->ranks, r->device,
                  (double)bytes / (1 << 30));
        me.bytes = bytes;
    }
    ring_lay(&on, me.memory);
    on.times = r->times;
    on.moments = r->moments;
    return on;
}

void ring_gpu_rank(struct ring *r, ring_body *body)
{
    double ms[MOST_REPEATS];
    begin_once(r);
    struct ring on = on_gpu(r);
    size_t made = (size_t)((char *)r->Q - (char *)r->O), given = (size_t)((char *)r->other - (char *)r->Q);
    CHECK(cudaMemset(on.O, 0xFF, made)); /* NaN, so that what a rank leaves out shows */
    CHECK(cudaMemset(on.workspace, 0, RING_WORKSPACE));
    CHECK(cudaMemcpy((void *)on.Q, r->Q, given, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(on.own, on.block, ring_block_bytes(r, r->rank), cudaMemcpyDeviceToDevice));
    me.carrier = r->ranks == 1 ? NULL : r->nccl ? ring_nccl : &ring_copies;
    if (me.carrier)
        me.carrier->begin(r, &on);
    me.marks = true;
    int repeats = r->repeats < MOST_REPEATS ? r->repeats : MOST_REPEATS;
    if (repeats) {
        work(&on, body); /* the first of a process loads code */
        me.marks = false;
        for (int i = 0; i < repeats; i++)
            ms[i] = work(&on, body);
        me.marks = true;
    }
    double whole = work(&on, body);
    keep_marks(r, whole);
    r->times->whole = repeats ? timing_of(ms, repeats).median : whole;
    CHECK(cudaDeviceSynchronize());
    if (me.carrier)
        me.carrier->end();
    CHECK(cudaMemcpy(r->O, on.O, made, cudaMemcpyDeviceToHost));
}
