/*
 * One new token against a cache that lies as frameworks keep it, (batch, position, heads, dim), with room for tokens to come: C.
 *
 *     cc decode.c $(pkg-config --cflags --libs from_softmax) -o decode
 */
#include <from_softmax.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, HEADS = 8, KV_HEADS = 2, ROOM = 512, DIM = 64 };

static float q[BATCH][HEADS][1][DIM], o[BATCH][HEADS][1][DIM], k[BATCH][ROOM][KV_HEADS][DIM], v[BATCH][ROOM][KV_HEADS][DIM];

int main(void)
{
    const int32_t seqlens[BATCH] = { 300, 17 };
    for (int b = 0; b < BATCH; b++)
        for (int key = 0; key < seqlens[b]; key++) /* keys are all alike: each has the same weight */
            for (int i = 0; i < DIM; i++)
                v[b][key][0][i] = v[b][key][1][i] = (float)key;

    const struct fsa_problem p = { BATCH, HEADS, KV_HEADS, 1, ROOM, DIM, 1 / sqrtf(DIM), 0, FSA_FP32 };
    const struct fsa_out O = { o, 0, 0, 0 }; /* dense */
    const struct fsa_in Q = { q, 0, 0, 0 }, K = { k, ROOM * KV_HEADS * DIM, DIM, KV_HEADS * DIM },
                        V = { v, ROOM * KV_HEADS * DIM, DIM, KV_HEADS * DIM };
    const struct fsa_cache cache = { seqlens, NULL, 0, 0, 0 };
    struct fsa_run run = { 0 };
    run.flags = FSA_ASK;
    enum fsa_status status = fsa_decode(&p, &O, NULL, &Q, &K, &V, &cache, &run);
    run.flags = 0;
    run.bytes = run.needed;
    run.workspace = malloc(run.bytes);
    if (status == FSA_OK)
        status = fsa_decode(&p, &O, NULL, &Q, &K, &V, &cache, &run);
    printf("%s: %g and %g, means of 0 to 299 and 0 to 16; %lu bytes of workspace\n", fsa_words(status), o[0][7][0][0],
           o[1][0][0][63], (unsigned long)run.needed);
    free(run.workspace);
    return status != FSA_OK || fabsf(o[0][7][0][0] - 149.5f) > 1e-3f || fabsf(o[1][0][0][63] - 8) > 1e-4f;
}
