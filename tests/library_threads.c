/*
 * Every function of the library, called by several threads at once, for ThreadSanitizer (sanitize.sh --threads). It knows nothing
 * of OpenMP's threads, so this is built without: the threads are the callers. What comes out has the bits that it has alone.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "from_softmax.h"

enum { CALLERS = 4, ROUNDS = 20, FUNCTIONS = 5, BATCH = 2, HEADS = 4, KV_HEADS = 2, SEQ = 40, DIM = 16, ROW = HEADS * DIM };
enum { Q, K, V, O, CHANGE, DQ, DK, DV, TENSORS, ELEMENTS = BATCH * SEQ * ROW };

struct caller {
    pthread_t thread;
    float t[TENSORS][ELEMENTS], lse[BATCH * HEADS * SEQ], first[FUNCTIONS][ELEMENTS];
    char workspace[4 << 20];
    int wrong;
};

static struct fsa_in in(const struct caller *c, int i, int heads)
{
    return (struct fsa_in){ c->t[i], SEQ * heads * DIM, DIM, heads * DIM }; /* (batch, seq, heads, dim) */
}

static struct fsa_out out(struct caller *c, int i, int heads)
{
    return (struct fsa_out){ c->t[i], SEQ * heads * DIM, DIM, heads * DIM };
}

/* One call of each, and where it writes. Backward takes what attention made. */
static enum fsa_status run(struct caller *c, int function, const float **wrote)
{
    static const int32_t lengths[BATCH] = { 40, 7 };
    static const struct fsa_cache cache = { lengths, NULL, 0, 0, 0 };
    struct fsa_problem p = { BATCH, HEADS, KV_HEADS, function == 3 ? 1 : SEQ, SEQ, DIM, 0.25f, 1, FSA_FP32 };
    struct fsa_run r = { .threads = 1, .workspace = c->workspace, .bytes = sizeof c->workspace };
    struct fsa_in q = in(c, Q, HEADS), k = in(c, K, KV_HEADS), v = in(c, V, KV_HEADS), o = in(c, O, HEADS),
                  change = in(c, CHANGE, HEADS);
    struct fsa_out to = out(c, O, HEADS), dq = out(c, DQ, HEADS), dk = out(c, DK, KV_HEADS), dv = out(c, DV, KV_HEADS);
    *wrote = function == 1 ? c->t[O] : c->t[DQ];
    switch (function) {
    case 0:  return fsa_softmax(c->t[DQ], 0, c->t[Q], 0, ELEMENTS / 20, 20, FSA_FP32, &r);
    case 1:  return fsa_attention(&p, &to, c->lse, &q, &k, &v, &r);
    case 2:  return fsa_attention_backward(&p, &dq, &dk, &dv, &q, &k, &v, &o, c->lse, &change, NULL, &r);
    case 3:  return fsa_decode(&p, &dq, NULL, &q, &k, &v, &cache, &r);
    default: return fsa_softmax_backward(c->t[DQ], 0, c->t[Q], 0, c->t[CHANGE], 0, ELEMENTS / 20, 20, FSA_FP32, &r);
    }
}

static void *again_and_again(void *arg)
{
    struct caller *c = arg;
    for (int i = 0; i < ROUNDS * FUNCTIONS; i++) {
        const float *wrote;
        memset(c->t[DQ], 0, sizeof c->t[DQ]);
        c->wrong += run(c, i % FUNCTIONS, &wrote) != FSA_OK || memcmp(wrote, c->first[i % FUNCTIONS], sizeof c->first[0]) != 0;
    }
    return NULL;
}

/* The first calls of all, at once: what the library finds out about the machine it finds out here. */
static void *once(void *arg)
{
    struct caller *c = arg;
    const float *wrote;
    for (int function = 0; function < FUNCTIONS; function++)
        c->wrong += run(c, function, &wrote) != FSA_OK;
    return NULL;
}

int main(void)
{
    struct caller *all = calloc(CALLERS, sizeof *all);
    int wrong = 0;
    for (int i = 0; i < CALLERS; i++)
        wrong += pthread_create(&all[i].thread, NULL, once, &all[i]) != 0;
    for (int i = 0; i < CALLERS; i++)
        pthread_join(all[i].thread, NULL);
    for (int i = 0; i < CALLERS; i++) {
        for (int at = 0; at < TENSORS * ELEMENTS; at++)
            all[i].t[at / ELEMENTS][at % ELEMENTS] = sinf((float)(at * (i + 3) % 1009));
        for (int function = 0; function < FUNCTIONS; function++) {
            const float *wrote;
            memset(all[i].t[DQ], 0, sizeof all[i].t[DQ]);
            wrong += run(&all[i], function, &wrote) != FSA_OK;
            memcpy(all[i].first[function], wrote, sizeof all[i].first[0]);
        }
    }
    for (int i = 0; i < CALLERS; i++)
        wrong += pthread_create(&all[i].thread, NULL, again_and_again, &all[i]) != 0;
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(all[i].thread, NULL);
        wrong += all[i].wrong;
    }
    printf("library: %d calls by %d threads at once, %d wrong\n", CALLERS * ROUNDS * FUNCTIONS, CALLERS, wrong);
    free(all);
    return wrong != 0;
}
