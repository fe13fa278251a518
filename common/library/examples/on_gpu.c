/*
 * Attention on a GPU, of tensors that lie as PyTorch's layers leave them, (batch, position, heads, dim), in bf16: C.
 *
 *     cc on_gpu.c $(pkg-config --cflags --libs from_softmax) -I$CUDA_HOME/include -L$CUDA_HOME/lib64 -lcudart -o on_gpu
 */
#include <cuda_runtime_api.h>
#include <from_softmax.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, SEQ = 1000, HEADS = 8, DIM = 128, ROW = HEADS * DIM, COUNT = BATCH * SEQ * ROW };

static uint16_t v[BATCH][SEQ][HEADS][DIM], o[BATCH][SEQ][HEADS][DIM];

int main(void)
{
    for (int i = 0; i < COUNT; i++)
        (&v[0][0][0][0])[i] = (uint16_t)(0x3f80 + i / ROW % SEQ % 2 * 0x40); /* 1 at even positions, 1.5 at odd ones */
    char *there; /* Q, K and V, then O; Q and K are zeros, and all weights the same */
    if (cudaMalloc((void **)&there, 4 * sizeof v) || cudaMemset(there, 0, 4 * sizeof v) ||
        cudaMemcpy(there + 2 * sizeof v, v, sizeof v, cudaMemcpyHostToDevice))
        return printf("skipped: no GPU: %s\n", cudaGetErrorString(cudaGetLastError())), 0;

    const struct fsa_problem p = { BATCH, HEADS, HEADS, SEQ, SEQ, DIM, 0.088f, 0, FSA_BF16 };
    const struct fsa_in Q = { there, SEQ * ROW, DIM, ROW }, K = { there + sizeof v, SEQ * ROW, DIM, ROW },
                        V = { there + 2 * sizeof v, SEQ * ROW, DIM, ROW };
    const struct fsa_out O = { there + 3 * sizeof v, SEQ * ROW, DIM, ROW };
    struct fsa_run run = { 0 };
    run.device = FSA_GPU; /* on the default stream */
    run.flags = FSA_ASK;
    enum fsa_status status = fsa_attention(&p, &O, NULL, &Q, &K, &V, &run);
    run.flags = 0;
    run.bytes = run.needed;
    if (status == FSA_OK && run.bytes && cudaMalloc(&run.workspace, run.bytes))
        return puts("no memory for the workspace"), 1;
    if (status == FSA_OK)
        status = fsa_attention(&p, &O, NULL, &Q, &K, &V, &run);
    cudaMemcpy(o, O.data, sizeof o, cudaMemcpyDeviceToHost); /* waits */
    printf("%s: %#x, which is 1.25; %lu bytes of workspace\n", fsa_words(status), o[1][999][7][127], (unsigned long)run.needed);
    cudaFree(run.workspace);
    cudaFree(there);
    return status != FSA_OK || o[0][0][0][0] != 0x3fa0 || o[1][999][7][127] != 0x3fa0;
}
