/*
 * Step 23, lean attention: step 22, without work for every tile that need not be done for every tile. Needs sm_80.
 *
 * 1. The m that O and l refer to need not be the latest maximum. A maximum 2^LAG above it costs neither accuracy nor range, so
 *    that O is rescaled when that is exceeded, which is rare, and not for every tile.
 * 2. What a thread needs to copy, addresses and what is left, is worked out once.
 * 3. A warp leaves out tiles of which none of its rows sees a key.
 *
 * O leaves through shared memory, so that a lane stores 16 bytes at once.
 *
 * Changed since step 22: these.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 4                    /* of a block */
#define PARTS 2                    /* of 16 query rows each, that a warp owns */
#define BR (16 * PARTS * WARPS)    /* query rows of a block */
#define BC 64                      /* keys of a tile */
#define STAGES 2                   /* tiles of K and V with a place in shared memory: the loop alternates between two */
#define LAG 8.0f                   /* log2 of how far exp(scores) may exceed exp(m): P <= 2^LAG fits fp16, too */
#define FAR 0x1p20f                /* from here on the rounding of c m would be felt in 2^(c s - c m) */
#define THREADS (32 * WARPS)
#define MAX_GRID_Y INT64_C(65535)  /* blocks in a grid's second dimension: the hardware's limit */

/* What a lane holds of 16 x DIM of O: of rows g and g + 8, the columns 2t and 2t + 1 of every eight. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* what o and l refer to, at most LAG / c below the maximum; this lane's part of the sum */
};

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes. To go k times 16 elements, 2 k chunks, further in a row is to flip
 * bits of the address, too: address ^ 32 * k.
 */
template <int DIM> static __device__ uint32_t swizzled(int row, int chunk)
{
    return row * DIM * 2 + (chunk ^ row % 8) * 16;
}

/*
 * Begin to copy a tile: (ROWS, DIM). A thread copies a chunk of every STEP-th row: its first is at `from`, and goes to `to`.
 * `there` rows exist, from that one on; the others become zeros.
 */
template <class T, int DIM, int ROWS> static __device__ void copy_tile(uint32_t to, const T *from, int there)
{
    constexpr int STEP = THREADS / (DIM / 8);
    for (int row = 0; row < ROWS; row += STEP)
        cp_async(to + row * DIM * 2, from + row * DIM, row < there);
}

/* The same for queries under a scale that is not positive: through registers, times its sign. */
template <class T, int DIM, int ROWS> static __device__ void copy_times(unsigned char *to, const T *from, int there, float sign)
{
    constexpr int STEP = THREADS / (DIM / 8);
#pragma unroll 1 /* few registers, rather than fast */
    for (int row = 0; row < ROWS; row += STEP) {
        float v[8] = {};
        if (row < there)
            unpack(v, load_pack(from + row * DIM));
        for (int i = 0; i < 8; i++)
            v[i] *= sign;
        *(pack<T> *)(to + row * DIM * 2) = make_pack<T>(v);
    }
}

/*
 * s: PARTS times 16 x BC, zeros that become the warp's Q times K transposed. q_at, k_at: what the lane passes to the first
 * ldmatrix of each.
 */
template <class T, int DIM> static __device__ void scores(float (*s)[BC / 8][4], uint32_t q_at, uint32_t k_at)
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
}

/* Scores that count for nothing: columns from `visible` on, counted from the lane's first. Row g + 8 sees `step` more than g. */
static __device__ void mask(float (*s)[4], int visible, int step)
{
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 >= visible + i / 2 * step)
                s[n][i] = -INFINITY;
}

/*
 * Let a row's state refer to the row's maximum m, if that exceeds what it refers to by too much: by LAG, times c. l and O follow.
 * Other rows have no say in it.
 */
template <int DIM> static __device__ void follow(struct rows<DIM> *r, const float *m, float c)
{
    for (int h = 0; h < 2; h++) {
        bool exceeded = (m[h] - r->m[h]) * c > LAG;
        float factor = exceeded ? ex2((r->m[h] - m[h]) * c) : 1.0f;
        r->m[h] = exceeded ? m[h] : r->m[h];
        r->l[h] *= factor;
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                r->o[n][i] *= factor;
    }
}

/*
 * What the exponents c s - base refer to is base = c m, rounded once for all of a row, while no product c s is rounded. Where
 * that would be felt, s becomes s - m, and base 0; and where a row has seen nothing: -inf - -inf would be NaN.
 */
static __device__ void center(float (*s)[4], float *base, const float *m)
{
    for (int h = 0; h < 2; h++) {
        bool far = !(fabsf(base[h]) < FAR);
        float shift = far && m[h] != -INFINITY ? m[h] : 0.0f;
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                s[n][i] -= shift;
        base[h] = far ? 0.0f : base[h];
    }
}

/*
 * Merge the tile's scores s into the rows' states; s becomes exp(scale (s - m)). c: scale log2(e). m moves only by follow(), and
 * only where some row of the warp needs that, or center().
 */
template <int DIM> static __device__ void softmax(struct rows<DIM> *r, float (*s)[4], float c)
{
    float m[2] = { -INFINITY, -INFINITY }, base[2];
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            m[i / 2] = fmaxf(m[i / 2], s[n][i]);
    bool rare = false;
    for (int h = 0; h < 2; h++) { /* the four lanes of a row are neighbours */
        m[h] = fmaxf(m[h], __shfl_xor_sync(ALL_LANES, m[h], 1));
        m[h] = fmaxf(m[h], __shfl_xor_sync(ALL_LANES, m[h], 2));
        base[h] = r->m[h] * c;
        rare |= (m[h] - r->m[h]) * c > LAG || !(fabsf(base[h]) < FAR);
    }
    if (__any_sync(ALL_LANES, rare)) {
        follow(r, m, c);
        for (int h = 0; h < 2; h++)
            base[h] = r->m[h] * c;
        center(s, base, r->m);
    }

    for (int h = 0; h < 2; h++)
        for (int n = 0; n < BC / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = ex2(s[n][i] * c - base[h]);
                r->l[h] += s[n][i];
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

/*
 * O: (there, DIM), lse: (there) or NULL: 16 rows, divided by their sums. No key at all: zeros and -inf. They go through `tile`,
 * where these rows of Q were: no other warp reads them.
 */
template <class T, int DIM> static __device__ void store(T *O, float *lse, struct rows<DIM> *r, unsigned char *tile, int there,
                                                         float scale)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int h = 0; h < 2; h++) {
        int row = g + 8 * h;
        float l = r->l[h];
        l += __shfl_xor_sync(ALL_LANES, l, 1);
        l += __shfl_xor_sync(ALL_LANES, l, 2);
        float inverse = l == 0.0f ? 0.0f : __fdividef(1.0f, l); /* otherwise l >= 1 */
        for (int n = 0; n < DIM / 8; n++) {
            float two[2] = { r->o[n][2 * h] * inverse, r->o[n][2 * h + 1] * inverse };
            *(uint32_t *)&tile[swizzled<DIM>(row, n) + 4 * t] = word_of_floats(two, T());
        }
        if (lse && t == 0 && row < there)
            lse[row] = l == 0.0f ? -INFINITY : r->m[h] * scale + logf(l);
    }
    __syncwarp();
    for (int i = lane; i < 16 * DIM / 8; i += 32) {
        int row = i / (DIM / 8), chunk = i % (DIM / 8);
        if (row < there)
            *(pack<T> *)&O[i * 8] = *(const pack<T> *)&tile[swizzled<DIM>(row, chunk)];
    }
}

/*
 * As attention_fp16_gpu_fn in types.h, for p.dim == DIM, p.scale > 0, tensors aligned to 16 bytes, heads from first_head on. The
 * queries count times `sign`: -1, 0 or 1. group: attention_group(p); c, causal: scale log2(e) and p.causal, again: instructions
 * can take an argument from where it is, without a register.
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS, 2)
    lean_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                               float c, float sign, int causal, unsigned first_head, unsigned group)
{
    needs_sm_80();
    constexpr int ROW = DIM * sizeof(T), TILE = BC * ROW; /* bytes */
    extern __shared__ __align__(256) unsigned char q_tile[]; /* BR rows; behind it STAGES tiles of K, and STAGES of V */
    const int thread = threadIdx.x, lane = thread % 32, g = lane / 4, warp = thread / 32;
    const int copy_row = thread / (DIM / 8), copy_chunk = thread % (DIM / 8); /* where this thread begins to copy */

    /* Which rows: the last of a head first, because under a causal mask they take longest. */
    const unsigned head = first_head + blockIdx.y;
    const int64_t kv_head = head / group;
    const int block_row = (int)(gridDim.x - 1 - blockIdx.x) * BR, first_row = block_row + g + warp * 16 * PARTS;

    int64_t from = (kv_head * p.seq_k + copy_row) * DIM + copy_chunk * 8;
    Q += (head * p.seq_q + block_row + copy_row) * DIM + copy_chunk * 8;

    /* How many keys they see: row i all of them, or i + more, but none beyond the end. */
    const int seq_k = (int)p.seq_k, more = (int)(p.seq_k - p.seq_q) + 1;
    const int keys = causal ? min(seq_k, block_row + BR - 1 + more) : seq_k; /* any row of the block */
    const int visible = causal ? first_row + more - lane % 4 * 2 : seq_k - lane % 4 * 2; /* row g, as mask() takes it */

    struct rows<DIM> r[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        r[part].m[0] = r[part].m[1] = -INFINITY;

    /* The first copies. `from` is where in K and V this thread's next chunks are. */
    uint32_t q_at = shared_address(q_tile), k_at = q_at + BR * ROW, v_at = k_at + STAGES * TILE;
    uint32_t copy_at = swizzled<DIM>(copy_row, copy_chunk);
    if (sign == 1.0f)
        copy_tile<T, DIM, BR>(q_at + copy_at, Q, (int)p.seq_q - block_row - copy_row);
    else
        copy_times<T, DIM, BR>(q_tile + copy_at, Q, (int)p.seq_q - block_row - copy_row, sign);
    int left = keys - copy_row; /* of the keys, from where this thread copies */
    copy_tile<T, DIM, BC>(k_at + copy_at, K + from, left);
    copy_tile<T, DIM, BC>(v_at + copy_at, V + from, left);

    /* This lane's row for ldmatrix in the first 16 x 16. Quarters: below each other, then side by side; in K the other way. */
    q_at += swizzled<DIM>(warp * 16 * PARTS + lane % 16, lane / 16);
    k_at += swizzled<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    v_at += swizzled<DIM>(lane % 16, lane / 16);
    copy_at += shared_address(q_tile) + BR * ROW;

    for (int key = 0; key < keys; key += BC) {
        cp_async_wait_all();
        __syncthreads(); /* this tile has arrived, and nobody uses the one before it any more */
        const int stage = (key & BC) * ROW, next = stage ^ TILE;
        if (key + BC < keys) {
            from += BC * DIM;
            copy_tile<T, DIM, BC>(copy_at + next, K + from, left - key - BC);
            copy_tile<T, DIM, BC>(copy_at + next + STAGES * TILE, V + from, left - key - BC);
        }
        if (__any_sync(ALL_LANES, key < visible + 16 * PARTS - 8)) { /* does the warp's last row see any of them? */
            float s[PARTS][BC / 8][4] = {};
            scores<T, DIM>(s, q_at, k_at + stage);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                if (key + BC > visible)
                    mask(s[part], visible - key + (causal ? 16 * part : 0), causal ? 8 : 0);
                softmax(&r[part], s[part], c);
            }
            add_values<T, DIM>(r, s, v_at + stage);
        }
    }

    cp_async_wait_all(); /* where there was no tile, Q may still be on its way */
    __syncthreads();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        int row = block_row + warp * 16 * PARTS + 16 * part;
        int64_t at = head * p.seq_q + row;
        store(O + at * DIM, lse ? lse + at : NULL, &r[part], q_tile + (warp * PARTS + part) * 16 * ROW, (int)p.seq_q - row,
              p.scale);
    }
}

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    constexpr int bytes = (BR + 2 * STAGES * BC) * DIM * (int)sizeof(T);
    static_assert(bytes <= SHARED_SM_80, "more than a block's shared memory");
    static_assert(PARTS * (DIM / 2 + BC / 2) <= registers_of_thread(2 * THREADS), "O and S are more than a thread's registers");
    float c = exponent_scale(p.scale), sign = scale_sign(p.scale);
    p.scale = scale_size(p.scale);
    cudaFuncSetAttribute(lean_attention_kernel<T, DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    for (int64_t head = 0; head < p.batch * p.heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_q + BR - 1) / BR), (unsigned)min(p.batch * p.heads - head, MAX_GRID_Y));
        lean_attention_kernel<T, DIM><<<blocks, THREADS, bytes, stream>>>(O, lse, Q, K, V, p, c, sign, p.causal,
                                                                               (unsigned)head, (unsigned)attention_group(p));
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

void lean_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                             void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void lean_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                             void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
