/*
 * Mutant: the sum is kept in fp16.
 *
 * Looks like: a kernel of fp16 through and through. From 2048 on, fp16 has no odd numbers: adding 0.9 changes nothing
 * any more, and 65520 is infinity.
 * In the wild: zhuzilin/ring-flash-attention#42 (16-bit partial results).
 * Caught by: "long rows": the sum stops growing long before the row ends.
 */
#include <math.h>

#include "half.h"
#include "mutants.h"

void fp16_sum(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const fp16 *in = x + row * cols;
        fp16 *out = y + row * cols;

        float max = -INFINITY;
        for (int64_t col = 0; col < cols; col++) /* not with fmaxf: gcc 12 on aarch64 crashes on that */
            max = fp16_to_float(in[col]) > max ? fp16_to_float(in[col]) : max;
        fp16 sum = { 0 };
        for (int64_t col = 0; col < cols; col++)
            sum = float_to_fp16(fp16_to_float(sum) + expf(fp16_to_float(in[col]) - max));
        for (int64_t col = 0; col < cols; col++)
            out[col] = float_to_fp16(expf(fp16_to_float(in[col]) - max) / fp16_to_float(sum));
    }
}
