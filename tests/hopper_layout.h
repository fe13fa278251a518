/* Tiles on a Hopper GPU: what check_hopper_layout.c asks of hopper_layout.cu. */
#ifndef HOPPER_LAYOUT_H
#define HOPPER_LAYOUT_H

#include "harness.h"

#define LAYOUT_QUERIES 64   /* of a warpgroup */
#define LAYOUT_HEADS 2
#define LAYOUT_FIRST_ROW 20 /* of the box, in head 0 */
#define LAYOUT_MISSING 10   /* rows of the box beyond the last of head 0: in memory, head 1 begins there */

/* Q has one 1 in a row, and so has P: a product picks one column of X, or one row. */
#define LAYOUT_COLUMN(query, dim) ((query) * 7 % (dim))
#define LAYOUT_KEY(query, keys) ((query) * 5 % (keys))

/* Device pointers. keys: 64 or 128, rows of the box; dim: 64 or 128. */
struct layout {
    enum dtype dtype; /* FP16 or BF16 */
    int keys, dim;
    int64_t rows;        /* of a head of X: FIRST_ROW + keys - MISSING */
    const void *Q, *X;   /* (QUERIES, dim), (HEADS, rows, dim) */
    void *copy, *image;  /* X, stored from shared memory again; (keys * dim), the box of X as it lies in shared memory */
    float *S, *O;        /* (QUERIES, keys) = Q box^T; (QUERIES, dim) = P box */
};

#ifdef USE_CUDA
#ifdef __cplusplus
extern "C"
#endif
void hopper_layout(struct layout l); /* launches; needs sm_90a */
#else
static inline void hopper_layout(struct layout l) { (void)l; }
#endif
#endif
