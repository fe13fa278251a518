/*
 * NCCL carries blocks between GPUs, of one machine or, where mpirun has started the ranks, of several. Its kernels copy, on SMs:
 * what travels beside computing needs some that nobody else has.
 *
 * This is linked into the programs of rings where there is an NCCL. RING_BY=nccl in the environment asks for it.
 */
#include <nccl.h>

#include "harness.h"
#include "ring/ring.h"

static ncclComm_t comms[RING_MOST + 1]; /* of so many ranks, from when there is the first run of them */
static ncclComm_t comm;

static void check(ncclResult_t status, const char *what)
{
    if (status != ncclSuccess && status != ncclInProgress)
        fatal("%s: %s (NCCL_DEBUG=INFO tells more)", what, ncclGetErrorString(status));
}

static void begin(struct ring *r, struct ring *on)
{
    ncclUniqueId mine, all[RING_MOST];
    (void)on;
    if (!comms[r->ranks]) {
        check(ncclGetUniqueId(&mine), "ncclGetUniqueId"); /* rank 0's is the ring's */
        ring_tell(r, all, &mine, sizeof mine);
        check(ncclCommInitRank(&comms[r->ranks], r->ranks, all[0], r->rank), "ncclCommInitRank");
    }
    comm = comms[r->ranks];
}

static void end(void)
{
}

static void pass(struct ring *on, size_t send, size_t receive, cudaStream_t stream)
{
    check(ncclGroupStart(), "ncclGroupStart");
    check(ncclSend(on->block, send, ncclInt8, (on->rank + 1) % on->ranks, comm, stream), "ncclSend");
    check(ncclRecv(on->other, receive, ncclInt8, (on->rank + on->ranks - 1) % on->ranks, comm, stream), "ncclRecv");
    check(ncclGroupEnd(), "ncclGroupEnd");
}

static const char *wrong(void)
{
    ncclResult_t status = ncclSuccess;
    ncclCommGetAsyncError(comm, &status);
    return status == ncclSuccess || status == ncclInProgress ? NULL : ncclGetErrorString(status);
}

static const struct ring_carrier nccl = { "NCCL", begin, end, pass, wrong };

__attribute__((constructor)) static void is_here(void)
{
    ring_nccl = &nccl;
}
