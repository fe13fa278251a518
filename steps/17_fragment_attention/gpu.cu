/*
 * Step 17, fragment attention: the scores by mma.sync, an instruction by which the 32 lanes of a warp multiply a 16 x 16 by a
 * 16 x 8 matrix, on tensor cores. Elements of 16 bits, sums and softmax in fp32. fp16 needs sm_75, bf16 sm_80.
 *
 * A block owns BR = 64 query rows of a head and walks over the keys, BC at a time; a warp owns 16 of the rows. Their O and states
 * (m, l), S and P stay in the warp's registers; tiles of Q, K and V lie in shared memory.
 *
 * A matrix is spread over a warp in quarters of 8 x 8. Lane 4g + t holds two neighbours: row g, columns 2t and 2t + 1.
 *
 *     column  0 1   2 3   4 5   6 7
 *     row 0  |  0  |  1  |  2  |  3  |  <- lanes         A: a[0] a[2]     B: b0     C: c[0..1]
 *     row 1  |  4  |  5  |  6  |  7  |                      a[1] a[3]        b1        c[2..3]
 *     ...
 *     row 7  | 28  | 29  | 30  | 31  |                   16 x 16          16 x 8    16 x 8
 *
 * An a[i] is a word of two elements, two c[i] are two floats. The quarters of B are transposed: lane 4g + t holds column g, rows
 * 2t and 2t + 1. In S = Q K^T the columns of B are keys, so that b0 is two neighbours in a row of K: one word. O lies as S does.
 * For P V a lane needs what its row's other lanes hold of P: they pass it on, as in step 16.
 *
 * The tiles lie in shared memory as in global memory, a row of DIM elements after another. Such a row is a multiple of all 32
 * banks, so that the eight rows of Q or K which a warp reads at once are in the same banks, and wait for each other.
 *
 * Changed since step 16: S by tensor cores, and so who holds what of S and O.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 4                    /* of a block */
#define BR (16 * WARPS)            /* query rows of a block */
#define BC 64                      /* keys of a tile */
#define THREADS (32 * WARPS)
#define MAX_GRID_Y INT64_C(65535)  /* blocks in a grid's second dimension: the hardware's limit */

/* What a lane holds of 16 x DIM of O: of rows g and g + 8, the columns 2t and 2t + 1 of every eight. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* the maximum, and this lane's part of the sum, of rows g and g + 8 */
};

/* tile: (ROWS, DIM) in shared memory; from: (there, DIM). Rows that are not there become zeros. */
template <class T, int DIM, int ROWS> static __device__ void load_tile(T *tile, const T *from, int there)
{
    for (int i = threadIdx.x * 8; i < ROWS * DIM; i += THREADS * 8) {
        pack<T> zeros = { { 0, 0, 0, 0 } };
        *(pack<T> *)&tile[i] = i / DIM < there ? load_pack(from + i) : zeros;
    }
}

/* This lane's fragment of 16 x 16 elements of a tile, from `row` and column 16 k on, by quarters: A of the product. */
template <int DIM, class T> static __device__ void load_q(uint32_t *r, const T *q_tile, int row, int k)
{
    const T *from = &q_tile[(row + threadIdx.x % 32 / 4) * DIM + 16 * k + threadIdx.x % 4 * 2];
    for (int i = 0; i < 4; i++)
        r[i] = *(const uint32_t *)&from[i % 2 * 8 * DIM + i / 2 * 8];
}

/* The same of K, and B: r[0] and r[1] are for 8 keys, r[2] and r[3] for the next 8; the second of each is 8 columns further. */
template <int DIM, class T> static __device__ void load_k(uint32_t *r, const T *k_tile, int row, int k)
{
    const T *from = &k_tile[(row + threadIdx.x % 32 / 4) * DIM + 16 * k + threadIdx.x % 4 * 2];
    for (int i = 0; i < 4; i++)
        r[i] = *(const uint32_t *)&from[i / 2 * 8 * DIM + i % 2 * 8];
}

/* s: 16 x BC = scale times 16 rows of Q, from `row` on, times k_tile transposed. */
template <class T, int DIM>
static __device__ void scores(float (*s)[4], const T *q_tile, int row, const T *k_tile, float scale)
{
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t q[4];
        load_q<DIM>(q, q_tile, row, k);
        for (int n = 0; n < BC / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 keys, two for the next 8 */
            load_k<DIM>(b, k_tile, 16 * n, k);
            mma(s[2 * n], q, b[0], b[1], T());
            mma(s[2 * n + 1], q, b[2], b[3], T());
        }
    }
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            s[n][i] *= scale;
}

/* Scores that count for nothing: columns from `visible` on, counted from the lane's first. Row g + 8 sees `step` more than g. */
static __device__ void mask(float (*s)[4], int visible, int step)
{
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 >= visible + i / 2 * step)
                s[n][i] = -INFINITY;
}

/* Merge the tile's scores s into the rows' states; s becomes exp(s - m). The merge is step 13's, for 16 rows. */
template <int DIM> static __device__ void softmax(struct rows<DIM> *r, float (*s)[4])
{
    for (int h = 0; h < 2; h++) { /* row g, and row g + 8 */
        float m = r->m[h];
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                m = fmaxf(m, s[n][i]);
        m = warp_max<4>(m); /* the four lanes of a row are neighbours */

        float base = m == -INFINITY ? 0.0f : m; /* -inf - -inf would be NaN */
        float factor = fast_exp(r->m[h] - base);
        r->m[h] = m;
        r->l[h] *= factor;
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                r->o[n][i] *= factor;
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = fast_exp(s[n][i] - base);
                r->l[h] += s[n][i];
            }
    }
}

/*
 * o += P V, where P: 16 x BC is what softmax() left in s: multiply-adds. The four lanes of a row have its weights; lane t has
 * those of keys 2t and 2t + 1 of every eight, and passes them to the others.
 */
template <class T, int DIM> static __device__ void add_values(float (*o)[4], const float (*s)[4], const T *v_tile)
{
#pragma unroll 1 /* so much code is enough */
    for (int t = 0; t < 4; t++)
        for (int k = 0; k < BC / 4; k++) {
            float weight[2], v[2]; /* of rows g and g + 8; of columns 2t and 2t + 1 */
            for (int h = 0; h < 2; h++)
                weight[h] = __shfl_sync(ALL_LANES, s[k / 2][2 * h + k % 2], t, 4);
            const T *row = &v_tile[(k / 2 * 8 + 2 * t + k % 2) * DIM + threadIdx.x % 4 * 2];
            for (int n = 0; n < DIM / 8; n++) {
                word_to_floats(v, *(const uint32_t *)&row[8 * n], T());
                for (int i = 0; i < 4; i++)
                    o[n][i] += weight[i / 2] * v[i % 2];
            }
        }
}

/* O: (there, DIM), lse: (there) or NULL: 16 rows, divided by their sums. No weight: zeros and -inf. */
template <class T, int DIM> static __device__ void store(T *O, float *lse, struct rows<DIM> *r, int there)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int h = 0; h < 2; h++) {
        int row = g + 8 * h;
        float l = warp_sum<4>(r->l[h]);
        float inverse = l == 0.0f ? 0.0f : 1.0f / l;
        if (row >= there)
            continue;
        T *to = O + row * DIM + 2 * t;
        for (int n = 0; n < DIM / 8; n++) {
            float two[2] = { r->o[n][2 * h] * inverse, r->o[n][2 * h + 1] * inverse };
            *(uint32_t *)(to + 8 * n) = word_of_floats(two, T());
        }
        if (lse && t == 0)
            lse[row] = r->m[h] + logf(l);
    }
}

/*
 * As attention_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes, heads from first_head on. group:
 * attention_group(p).
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS, 2)
    fragment_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                              unsigned first_head, unsigned group)
{
    needs_mma_of(T());
    __shared__ __align__(16) T q_tile[BR * DIM], k_tile[BC * DIM], v_tile[BC * DIM];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    /* Which rows: the last of a head first, because under a causal mask they take longest. */
    const unsigned head = first_head + blockIdx.y;
    const int block_row = (int)(gridDim.x - 1 - blockIdx.x) * BR, warp_row = block_row + warp * 16;
    const int64_t at = head * p.seq_q + warp_row, kv_head = head / group;
    K += kv_head * p.seq_k * DIM;
    V += kv_head * p.seq_k * DIM;

    /* How many keys they see: row i all of them, or i + more, but none beyond the end. */
    const int seq_k = (int)p.seq_k, more = (int)(p.seq_k - p.seq_q) + 1;
    const int keys = p.causal ? min(seq_k, block_row + BR - 1 + more) : seq_k; /* any row of the block */
    const int visible = (p.causal ? warp_row + lane / 4 + more : seq_k) - lane % 4 * 2; /* row g, as mask() takes it */

    struct rows<DIM> r = {};
    r.m[0] = r.m[1] = -INFINITY;
    load_tile<T, DIM, BR>(q_tile, Q + (head * p.seq_q + block_row) * DIM, (int)p.seq_q - block_row);

    for (int key = 0; key < keys; key += BC) {
        load_tile<T, DIM, BC>(k_tile, K + (int64_t)key * DIM, seq_k - key);
        load_tile<T, DIM, BC>(v_tile, V + (int64_t)key * DIM, seq_k - key);
        __syncthreads();

        float s[BC / 8][4] = {};
        scores<T, DIM>(s, q_tile, warp * 16, k_tile, p.scale);
        if (key + BC > visible)
            mask(s, visible - key, p.causal ? 8 : 0);
        softmax(&r, s);
        add_values<T, DIM>(r.o, s, v_tile);
        __syncthreads(); /* before the next tile replaces this one */
    }
    store(O + at * DIM, lse ? lse + at : NULL, &r, (int)p.seq_q - warp_row);
}

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    static_assert((BR + 2 * BC) * DIM * sizeof(T) <= SHARED_UNASKED, "more than a block's shared memory");
    static_assert(DIM / 2 + BC / 2 <= registers_of_thread(2 * THREADS), "O and S are more than a thread's registers");
    for (int64_t head = 0; head < p.batch * p.heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_q + BR - 1) / BR), (unsigned)min(p.batch * p.heads - head, MAX_GRID_Y));
        fragment_attention_kernel<T, DIM><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p, (unsigned)head,
                                                                          (unsigned)attention_group(p));
    }
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64)
        launch_for<T, 64>(O, lse, Q, K, V, p, stream);
    else
        launch_for<T, 128>(O, lse, Q, K, V, p, stream);
}

void fragment_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void fragment_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
