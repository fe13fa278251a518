/* What a step's CPU version really did, in a build with COUNT=1 (common/count.h). */
#include "count.h"
#include "harness.h"

#ifdef COUNT
const bool counting = true;
#else
const bool counting = false;
#endif

static struct counts mine; /* of each thread, which lives on from one parallel region to the next */
#pragma omp threadprivate(mine)

void count_exp(void)
{
    mine.exps++;
}

void count_merge(int raised)
{
    mine.merges++;
    mine.raised += raised;
}

void counts_add(int64_t exps)
{
    mine.exps += exps;
}

struct counts counts_taken(void)
{
    int64_t exps = 0, merges = 0, raised = 0;
#pragma omp parallel reduction(+ : exps, merges, raised)
    {
        exps += mine.exps, merges += mine.merges, raised += mine.raised;
        mine = (struct counts){ 0 };
    }
    return (struct counts){ exps, merges, raised };
}
