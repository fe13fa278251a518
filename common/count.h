/*
 * In a build with COUNT=1 the compiler reads this before a step's cpu.c, and expf, vexp, vexp2 and softmax_merge count what they
 * do: each exponential once, in whichever lane of a vector, and each merge, if it raised the maximum. What is counted is what the
 * source asks for; a compiler that sees the same exponential asked for twice may compute it once. No step includes this.
 */
#ifndef COUNT_H
#define COUNT_H

#include <math.h>

#include "vexp.h"

void count_exp(void); /* common/harness/count.c: out of the compiler's sight, so that it leaves none out */
void count_merge(int raised);

#define exp(x) (count_exp(), exp(x))
#define expf(x) (count_exp(), expf(x))
#define vexp(x) (count_exp(), vexp(x))
#define vexp2(x) (count_exp(), vexp2(x))

#include "merge.h" /* its exponentials are counted, too */

static inline struct softmax_state counted_merge(struct softmax_state a, struct softmax_state b)
{
    count_merge(b.m > a.m);
    return softmax_merge(a, b);
}

#define softmax_merge counted_merge

#endif
