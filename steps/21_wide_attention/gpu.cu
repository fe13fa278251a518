/*
 * Step 21, wide attention: step 20, with more queries a warp. Needs sm_80.
 *
 * A warp owns PARTS times 16 query rows, a block BR = 128: a fragment of K or V, once loaded, serves PARTS products.
 *
 *     a fragment of Q   part 0 | part 1        of K      of V
 *     products with it    n        n           PARTS     PARTS      (step 20: one with each of K and V)
 *
 * Changed since step 20: scores() and add_values(), and arrays of PARTS in the kernel.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 4                    /* of a block */
#define PARTS 2                    /* of 16 query rows each, that a warp owns */
#define BR (16 * PARTS * WARPS)    /* query rows of a block */
#define BC 64                      /* keys of a tile */
#define STAGES 2                   /* tiles of K and V with a place in shared memory: the loop alternates between two */
#define THREADS (32 * WARPS)
#define MAX_GRID_Y INT64_C(65535)  /* blocks in a grid's second dimension: the hardware's limit */

/* What a lane holds of 16 x DIM of O: of rows g and g + 8, the columns 2t and 2t + 1 of every eight. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* the maximum, and this lane's part of the sum, of rows g and g + 8 */
};

/* Where chunk `chunk` of row `row` of a tile lies: its first element. */
template <int DIM> static __device__ int swizzled(int row, int chunk)
{
    return row * DIM + (chunk ^ row % 8) * 8;
}

/*
 * Begin to copy a tile. to: (ROWS, DIM), by its address; from: (there, DIM). Rows that are not there become zeros. A thread
 * copies the same chunk of every STEP-th row, so that the block's threads copy whole rows.
 */
template <class T, int DIM, int ROWS> static __device__ void copy_tile(uint32_t to, const T *from, int there)
{
    constexpr int STEP = THREADS / (DIM / 8);
    int copy_row = threadIdx.x / (DIM / 8), copy_chunk = threadIdx.x % (DIM / 8); /* where this thread begins to copy */
    to += swizzled<DIM>(copy_row, copy_chunk) * 2, from += copy_row * DIM + copy_chunk * 8, there -= copy_row;
    for (int row = 0; row < ROWS; row += STEP)
        cp_async(to + row * DIM * 2, from + row * DIM, row < there);
}

/*
 * s: PARTS times 16 x BC, zeros that become scale times the warp's Q times K transposed. q_at, k_at: what the lane passes to the
 * first ldmatrix of each, for the tile's first 16 columns and, of K, 16 rows. To go 16 k elements further in a row is to flip
 * bits of the address; 16 rows further is to add.
 */
template <class T, int DIM>
static __device__ void scores(float (*s)[BC / 8][4], uint32_t q_at, uint32_t k_at, float scale)
{
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t q[PARTS][4];
        for (int part = 0; part < PARTS; part++)
            ldmatrix(q[part], (q_at ^ 32 * k) + 32 * DIM * part);
        for (int n = 0; n < BC / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 keys, two for the next 8 */
            ldmatrix(b, (k_at ^ 32 * k) + 32 * DIM * n);
            for (int part = 0; part < PARTS; part++) {
                mma(s[part][2 * n], q[part], b[0], b[1], T());
                mma(s[part][2 * n + 1], q[part], b[2], b[3], T());
            }
        }
    }
    for (int part = 0; part < PARTS; part++)
        for (int n = 0; n < BC / 8; n++)
            for (int i = 0; i < 4; i++)
                s[part][n][i] *= scale;
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

/* o += P V, where P: PARTS times 16 x BC is what softmax() left in s. v_at: as q_at and k_at in scores(). */
template <class T, int DIM> static __device__ void add_values(struct rows<DIM> *r, float (*s)[BC / 8][4], uint32_t v_at)
{
    for (int k = 0; k < BC / 16; k++) {
        uint32_t weights[PARTS][4];
        for (int part = 0; part < PARTS; part++)
            for (int i = 0; i < 4; i++) /* four quarters of S are four quarters of P */
                weights[part][i] = word_of_floats(&s[part][2 * k + i / 2][i % 2 * 2], T());
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 columns, two for the next 8 */
            ldmatrix_trans(b, (v_at ^ 32 * n) + 32 * DIM * k);
            for (int part = 0; part < PARTS; part++) {
                mma(r[part].o[2 * n], weights[part], b[0], b[1], T());
                mma(r[part].o[2 * n + 1], weights[part], b[2], b[3], T());
            }
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
    wide_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                              unsigned first_head, unsigned group)
{
    needs_sm_80();
    constexpr int ROW = DIM * sizeof(T), TILE = BC * ROW; /* bytes */
    extern __shared__ __align__(256) unsigned char shared[];
    const uint32_t q_tile = shared_address(shared), k_tile = q_tile + BR * ROW, v_tile = k_tile + STAGES * TILE;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    /* Which rows: the last of a head first, because under a causal mask they take longest. */
    const unsigned head = first_head + blockIdx.y;
    const int block_row = (int)(gridDim.x - 1 - blockIdx.x) * BR, warp_row = block_row + warp * 16 * PARTS;
    const int64_t at = head * p.seq_q + warp_row, kv_head = head / group;
    int64_t from = kv_head * p.seq_k * DIM;

    /* How many keys they see: row i all of them, or i + more, but none beyond the end. */
    const int seq_k = (int)p.seq_k, more = (int)(p.seq_k - p.seq_q) + 1;
    const int keys = p.causal ? min(seq_k, block_row + BR - 1 + more) : seq_k; /* any row of the block */
    const int visible = (p.causal ? warp_row + lane / 4 + more : seq_k) - lane % 4 * 2; /* row g, as mask() takes it */

    struct rows<DIM> r[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        r[part].m[0] = r[part].m[1] = -INFINITY;
    copy_tile<T, DIM, BR>(q_tile, Q + (head * p.seq_q + block_row) * DIM, (int)p.seq_q - block_row);
    copy_tile<T, DIM, BC>(k_tile, K + from, seq_k);
    copy_tile<T, DIM, BC>(v_tile, V + from, seq_k);

    /* This lane's row for ldmatrix in the first 16 x 16. Quarters: below each other, then side by side; in K the other way. */
    const uint32_t q_at = q_tile + swizzled<DIM>(warp * 16 * PARTS + lane % 16, lane / 16) * 2;
    const uint32_t k_at = k_tile + swizzled<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 2;
    const uint32_t v_at = v_tile + swizzled<DIM>(lane % 16, lane / 16) * 2;
    for (int key = 0; key < keys; key += BC) {
        cp_async_wait_all();
        __syncthreads(); /* this tile has arrived, and nobody uses the one before it any more */
        const int stage = key / BC % 2 * TILE, next = TILE - stage;
        if (key + BC < keys) {
            from += BC * DIM;
            copy_tile<T, DIM, BC>(k_tile + next, K + from, seq_k - key - BC);
            copy_tile<T, DIM, BC>(v_tile + next, V + from, seq_k - key - BC);
        }

        float s[PARTS][BC / 8][4] = {};
        scores<T, DIM>(s, q_at, k_at + stage, p.scale);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            if (key + BC > visible)
                mask(s[part], visible - key + (p.causal ? 16 * part : 0), p.causal ? 8 : 0);
            softmax(&r[part], s[part]);
        }
        add_values<T, DIM>(r, s, v_at + stage);
    }
    cp_async_wait_all(); /* where there was no tile, copies may still be on their way */
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        int64_t row = at + 16 * part;
        store(O + row * DIM, lse ? lse + row : NULL, &r[part], (int)p.seq_q - warp_row - 16 * part);
    }
}

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    constexpr int bytes = (BR + 2 * STAGES * BC) * DIM * (int)sizeof(T);
    static_assert(bytes <= SHARED_SM_80, "more than a block's shared memory");
    static_assert(PARTS * (DIM / 2 + BC / 2) <= registers_of_thread(2 * THREADS), "O and S are more than a thread's registers");
    cudaFuncSetAttribute(wide_attention_kernel<T, DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    for (int64_t head = 0; head < p.batch * p.heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_q + BR - 1) / BR), (unsigned)min(p.batch * p.heads - head, MAX_GRID_Y));
        wide_attention_kernel<T, DIM><<<blocks, THREADS, bytes, stream>>>(O, lse, Q, K, V, p, (unsigned)head,
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

void wide_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void wide_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
