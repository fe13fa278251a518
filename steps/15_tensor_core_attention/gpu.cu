/*
 * Step 15, tensor core attention: both products of flash attention by mma.sync, an instruction by which the 32 lanes of a warp
 * multiply a 16 x 16 by a 16 x 8 matrix. Elements of 16 bits, sums and softmax in fp32. Needs sm_80.
 *
 * A block owns BR = 64 query rows of a head and walks over the keys, BC at a time; a warp owns 16 of the rows. Their Q, O and
 * states (m, l) stay in the warp's registers, tiles of K and V lie in shared memory, S and P never leave registers at all.
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
 * 2t and 2t + 1. Two things follow. In S = Q K^T the columns of B are keys, so that b0 is two neighbours in a row of K: one word.
 * And in P V, where P is A, what a lane holds of S is just what it must hold of P: rounded, two by two, in the same order.
 *
 * The tiles lie in shared memory as in global memory, a row of DIM elements after another. Such a row is a multiple of all 32
 * banks, so that the eight rows of K which a warp reads at once are in the same banks, and wait for each other; likewise in V.
 *
 * Changed since step 14: the products, and who holds what for them. Tile by tile, the algorithm is the same.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 4              /* of a block */
#define BR (16 * WARPS)      /* query rows of a block */
#define BC 64                /* keys of a tile */
#define THREADS (32 * WARPS)
#define MAX_GRID_Y INT64_C(65535)  /* blocks in a grid's second dimension: the hardware's limit */

/* What a lane holds of 16 x DIM of O: of rows g and g + 8, the columns 2t and 2t + 1 of every eight. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* the maximum, and this lane's part of the sum, of rows g and g + 8 */
};

/* tile: (BC, DIM) in shared memory; from: (there, DIM). Rows that are not there become zeros. */
template <class T, int DIM> static __device__ void load_tile(T *tile, const T *from, int there)
{
    constexpr int PACKS = DIM / PER<T>; /* of a row */
    for (int i = threadIdx.x; i < BC * PACKS; i += THREADS) {
        pack<T> zeros = { { 0, 0, 0, 0 } };
        *(pack<T> *)&tile[i * PER<T>] = i / PACKS < there ? load_pack(from + i * PER<T>) : zeros;
    }
}

/* q: the warp's fragments of Q, from: (there, DIM) in global memory. Rows that are not there become zeros. */
template <class T, int DIM> static __device__ void load_q(uint32_t (*q)[4], const T *from, int there)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int k = 0; k < DIM / 16; k++)
        for (int i = 0; i < 4; i++) {
            int row = g + i % 2 * 8, col = 16 * k + i / 2 * 8 + 2 * t;
            q[k][i] = row < there ? *(const uint32_t *)&from[row * DIM + col] : 0;
        }
}

/* s: 16 x BC = scale times the warp's Q times k_tile transposed. */
template <class T, int DIM>
static __device__ void scores(float (*s)[4], const uint32_t (*q)[4], const T *k_tile, float scale)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int n = 0; n < BC / 8; n++) {
        for (int i = 0; i < 4; i++)
            s[n][i] = 0.0f;
        for (int k = 0; k < DIM / 16; k++) {
            const T *b = &k_tile[(8 * n + g) * DIM + 16 * k + 2 * t];
            mma(s[n], q[k], *(const uint32_t *)b, *(const uint32_t *)(b + 8), T());
        }
        for (int i = 0; i < 4; i++)
            s[n][i] *= scale;
    }
}

/* Scores that count for nothing: columns from `visible` on, counted from the lane's first. Row g + 8 sees `step` more than g. */
static __device__ void mask(float (*s)[4], int visible, int step)
{
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 >= visible + i / 2 * step)
                s[n][i] = -INFINITY;
}

/* Merge the tile's scores s into the rows' states; s becomes exp(s - m). The merge is step 12's, 16 rows at a time. */
template <int DIM> static __device__ void softmax(struct rows<DIM> *r, float (*s)[4])
{
    for (int h = 0; h < 2; h++) { /* row g, and row g + 8 */
        float m = r->m[h];
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                m = fmaxf(m, s[n][i]);
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 1)); /* the four lanes of a row are neighbours */
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 2));

        float base = m == -INFINITY ? 0.0f : m; /* exp(-inf - -inf) would be NaN */
        float factor = __expf(r->m[h] - base);
        r->m[h] = m;
        r->l[h] *= factor;
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                r->o[n][i] *= factor;
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = __expf(s[n][i] - base);
                r->l[h] += s[n][i];
            }
    }
}

/* o += P V, where P: 16 x BC is what softmax() left in s. */
template <class T, int DIM> static __device__ void add_values(float (*o)[4], const float (*s)[4], const T *v_tile)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int k = 0; k < BC / 16; k++) {
        uint32_t weights[4];
        for (int i = 0; i < 4; i++) /* four quarters of S are four quarters of P */
            weights[i] = word_of_floats(&s[2 * k + i / 2][i % 2 * 2], T());
        for (int n = 0; n < DIM / 8; n++) {
            const T *b = &v_tile[(16 * k + 2 * t) * DIM + 8 * n + g]; /* neighbours in a column: two loads for a word */
            uint32_t b0 = b[0].bits | (uint32_t)b[DIM].bits << 16;
            uint32_t b1 = b[8 * DIM].bits | (uint32_t)b[9 * DIM].bits << 16;
            mma(o[n], weights, b0, b1, T());
        }
    }
}

/* O: (there, DIM), lse: (there) or NULL: 16 rows, divided by their sums. No key at all: zeros and -inf. */
template <class T, int DIM> static __device__ void store(T *O, float *lse, struct rows<DIM> *r, int there)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int h = 0; h < 2; h++) {
        int row = g + 8 * h;
        float l = r->l[h];
        l += __shfl_xor_sync(ALL_LANES, l, 1);
        l += __shfl_xor_sync(ALL_LANES, l, 2);
        float inverse = l == 0.0f ? 0.0f : 1.0f / l;
        if (row >= there)
            continue;
        for (int n = 0; n < DIM / 8; n++) {
            float two[2] = { r->o[n][2 * h] * inverse, r->o[n][2 * h + 1] * inverse };
            *(uint32_t *)&O[row * DIM + 8 * n + 2 * t] = word_of_floats(two, T());
        }
        if (lse && t == 0)
            lse[row] = l == 0.0f ? -INFINITY : r->m[h] + logf(l);
    }
}

/* As attention_fp16_gpu_fn in types.h, for p.dim == DIM, tensors
   aligned to 16 bytes, heads from first_head on; attention_group(p). */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS)
    tensor_core_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                 unsigned first_head, unsigned group)
{
    needs_sm_80();
    __shared__ __align__(16) T k_tile[BC * DIM], v_tile[BC * DIM];

    const int lane = threadIdx.x % 32, g = lane / 4, warp = threadIdx.x / 32;

    /* Which rows: the last of a head first, because under a causal mask they take longest. */
    const unsigned head = first_head + blockIdx.y;
    const int64_t kv_head = head / group;
    const int block_row = (int)(gridDim.x - 1 - blockIdx.x) * BR, warp_row = block_row + warp * 16;
    const int64_t at = head * p.seq_q + warp_row;
    const int there = (int)p.seq_q - warp_row;
    K += kv_head * p.seq_k * DIM;
    V += kv_head * p.seq_k * DIM;

    /* How many keys they see: row i all of them, or i + more, but none beyond the end. */
    const int seq_k = (int)p.seq_k, more = (int)(p.seq_k - p.seq_q) + 1;
    const int keys = p.causal ? min(seq_k, block_row + BR - 1 + more) : seq_k; /* any row of the block */
    const int visible = (p.causal ? warp_row + g + more : seq_k) - lane % 4 * 2; /* row g, as mask() takes it */

    uint32_t q[DIM / 16][4];
    struct rows<DIM> r = {};
    r.m[0] = r.m[1] = -INFINITY;
    load_q<T, DIM>(q, Q + at * DIM, there);

    for (int key = 0; key < keys; key += BC) {
        load_tile<T, DIM>(k_tile, K + (int64_t)key * DIM, seq_k - key);
        load_tile<T, DIM>(v_tile, V + (int64_t)key * DIM, seq_k - key);
        __syncthreads();

        float s[BC / 8][4];
        scores<T, DIM>(s, q, k_tile, p.scale);
        if (key + BC > visible)
            mask(s, visible - key, p.causal ? 8 : 0);
        softmax(&r, s);
        add_values<T, DIM>(r.o, s, v_tile);
        __syncthreads(); /* before the next tile replaces this one */
    }
    store<T, DIM>(O + at * DIM, lse ? lse + at : NULL, &r, there);
}

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    static_assert(2 * BC * DIM * sizeof(T) <= SHARED_UNASKED, "more than a block's shared memory");
    static_assert(DIM / 4 + DIM / 2 + BC / 2 <= registers_of_thread(THREADS), "Q, O and S are more than a thread's registers");
    for (int64_t head = 0; head < p.batch * p.heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_q + BR - 1) / BR), (unsigned)min(p.batch * p.heads - head, MAX_GRID_Y));
        tensor_core_attention_kernel<T, DIM><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p, (unsigned)head,
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

void tensor_core_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p, void *,
                                    cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void tensor_core_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p, void *,
                                    cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
