/*
 * Step 50, scores backward: step 49 with the first two of its five products, S and dP, by mma.sync. Needs sm_80.
 *
 * A block owns BC keys of a head of K and V, for all heads of Q that share it, and walks over their queries, BR at a time. Its
 * dK and dV stay in registers. Of S and dP a warp computes those of KEYS keys:
 *
 *     S = Q K^T, dP = dO V^T                      by tensor cores, as in the forward pass (step 17 draws the fragments)
 *     P = 2^(c S - lse), dS = P (dP - D)          by the lane that holds them; then to shared memory
 *     dV += P^T dO, dK += dS^T Q, dQ += dS K      as in step 49
 *
 * A small kernel before it computes D = sum of dO O - dlse, scales lse, and makes the sums 0; another behind it makes dQ of them.
 *
 * Changed since step 49: two products, and who makes P and dS of them.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define THREADS 256                     /* of a block of the small kernels */
#define MAX_GRID_Y INT64_C(65535)       /* blocks in a grid's second dimension: the hardware's limit */

/* What a block is, for heads of DIM_. */
template <int DIM_> struct config {
    static constexpr int DIM = DIM_, WARPS = 4, BR = 32;
    static constexpr int KEYS = 2048 / DIM, EACH = KEYS * DIM / 32; /* of a warp; a thread has so many dims of one key */
    static constexpr int BC = KEYS * WARPS;
    static constexpr int ROW = DIM * 2, K_TILE = BC * ROW, Q_TILE = BR * ROW; /* bytes: of a row, of tiles */
    static constexpr int BLOCKS = 2; /* on an SM */
    static constexpr int SHARED = 2 * K_TILE + 2 * Q_TILE + 2 * BR * BC * (int)sizeof(float) + BR * (int)sizeof(float2);
};

/* ---- before: D and the like, and sums of 0 */

/*
 * rows: a query's lse, times log2(e), and its sum of dO O, less its dlse where there is one. sums: (rows, dim), zeros. Queries
 * that see no key get an lse of infinity: all weights are 0. A warp has a row.
 */
template <class T> static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float2 *rows, float *sums, const T *O, const float *lse, const T *dO, const float *dlse, int64_t queries,
                   int64_t dim)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (row >= queries)
        return;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < dim; i += 32) {
        sum += to_float(dO[row * dim + i]) * to_float(O[row * dim + i]);
        sums[row * dim + i] = 0.0f;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        rows[row] = make_float2(lse[row] == -INFINITY ? INFINITY : lse[row] * LOG2E, sum - (dlse ? dlse[row] : 0.0f));
}

/* ---- the kernel */

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes. To go k times 16 elements, 2 k chunks, further in a row is to flip
 * bits of the address, too: address ^ 32 * k.
 */
template <class C> static __device__ uint32_t swizzled(int row, int chunk)
{
    return row * C::ROW + (chunk ^ row % 8) * 16;
}

/* Begin to copy a tile, (N, DIM). Rows from `there` on become zeros. */
template <class C, class T, int N> static __device__ void copy_tile(uint32_t to, const T *from, int there)
{
    constexpr int CHUNKS = C::DIM / 8, STEP = 32 * C::WARPS / CHUNKS;
    int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    to += swizzled<C>(first, chunk), from += first * C::DIM + chunk * 8, there -= first;
    for (int row = 0; row < N; row += STEP)
        cp_async(to + row * C::ROW, from + row * C::DIM, row < there);
}

/* What a thread holds: sums for its key; and fragments of 16 x 8. */
template <class C> struct keys {
    float dK[C::EACH], dV[C::EACH];
    float P[C::BR / 16][C::KEYS / 8][4], dS[C::BR / 16][C::KEYS / 8][4]; /* of a tile; at first S and dP */
};

/* Chunk `chunk` of row `row` of a tile, as floats. */
template <class C, class T> static __device__ void read_chunk(float *v, const unsigned char *tile, int row, int chunk, T)
{
    unpack(v, load_pack((const T *)(tile + swizzled<C>(row, chunk))));
}

/* s = a b^T: 16 M rows of Q, or dO, times 8 N rows of K, or V. a_at, b_at: what the lane passes to the first ldmatrix. */
template <class C, class T, int M, int N> static __device__ void multiply(float (&s)[M][N][4], uint32_t a_at, uint32_t b_at)
{
#pragma unroll
    for (int i = 0; i < 4 * M * N; i++)
        ((float *)s)[i] = 0.0f;
#pragma unroll
    for (int k = 0; k < C::DIM / 16; k++) {
        uint32_t a[M][4];
        for (int part = 0; part < M; part++)
            ldmatrix(a[part], (a_at ^ 32 * k) + 16 * C::ROW * part);
        for (int n = 0; n < N / 2; n++) {
            uint32_t b[4]; /* two quarters for 8 keys, two for the next 8 */
            ldmatrix(b, (b_at ^ 32 * k) + 16 * C::ROW * n);
            for (int part = 0; part < M; part++) {
                mma(s[part][2 * n], a[part], b[0], b[1], T());
                mma(s[part][2 * n + 1], a[part], b[2], b[3], T());
            }
        }
    }
}

/*
 * S and dP become P = 2^(c S - lse), or 0 where a key is not seen, and dS = P (dP - D). rows: from the lane's first query on. Of
 * the lane's first row the columns below `visible` are seen; one more each `slope`.
 */
template <class C> INLINE void weigh(keys<C> &me, const float2 *rows, int visible, int slope, float c)
{
#pragma unroll
    for (int part = 0; part < C::BR / 16; part++)
        for (int n = 0; n < C::KEYS / 8; n++)
            for (int i = 0; i < 4; i++) {
                float2 row = rows[16 * part + i / 2 * 8];
                bool seen = 8 * n + i % 2 < visible + slope * (16 * part + i / 2 * 8);
                float P = seen ? ex2(me.P[part][n][i] * c - row.x) : 0.0f;
                me.P[part][n][i] = P;
                me.dS[part][n][i] = P * (me.dS[part][n][i] - row.y);
            }
}

/* The lane's P, or dS, to shared memory, queries down and keys across. to: where its first element belongs. */
template <class C> static __device__ void hand_over(const float (*s)[C::KEYS / 8][4], float *to)
{
#pragma unroll
    for (int part = 0; part < C::BR / 16; part++)
        for (int n = 0; n < C::KEYS / 8; n++)
            for (int i = 0; i < 4; i++)
                to[(16 * part + i / 2 * 8) * C::BC + 8 * n + i % 2] = s[part][n][i];
}

/* sum += s^T b: EACH dims of the thread's key. s: P, or dS; b: BR rows of dO, or Q. */
template <class C, class T> static __device__ void add(float *sum, const float *s, const unsigned char *b)
{
    for (int j = 0; j < C::BR; j++)
#pragma unroll
        for (int i = 0; i < C::EACH; i += 8) {
            float v[8];
            read_chunk<C>(v, b, j, (threadIdx.x / C::BC * C::EACH + i) / 8, T());
            for (int e = 0; e < 8; e++)
                sum[i + e] += s[j * C::BC + threadIdx.x % C::BC] * v[e];
        }
}

/* dS K is added to the tile's sums, 8 dims of a query at a time. */
template <class C, class T> static __device__ void add_to_queries(float *sums, const float *dS, const unsigned char *k, int there)
{
    for (int i = threadIdx.x; i < min(C::BR, there) * C::DIM / 8; i += 32 * C::WARPS) {
        float q[8] = {}, v[8];
        for (int j = 0; j < C::BC; j++) {
            read_chunk<C>(v, k, j, i % (C::DIM / 8), T());
            for (int e = 0; e < 8; e++)
                q[e] += dS[i / (C::DIM / 8) * C::BC + j] * v[e];
        }
        for (int e = 0; e < 8; e++)
            atomicAdd(&sums[i * 8 + e], q[e]);
    }
}

/*
 * As attention_backward_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes, heads of K and V from first_head
 * on. sums, rows: as prepare_kernel left them. c: scale log2(e); group: attention_group(p).
 */
template <class C, class T> static __global__ void __launch_bounds__(32 * C::WARPS, C::BLOCKS)
    scores_backward_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO, const float2 *rows,
                                struct attention p, float c, unsigned first_head, unsigned group)
{
    needs_sm_80();
    constexpr int BR = C::BR, DIM = C::DIM;
    extern __shared__ __align__(256) unsigned char k_tile[]; /* then V, Q, dO, P, dS, and rows */
    unsigned char *q_tile = k_tile + 2 * C::K_TILE, *o_tile = q_tile + C::Q_TILE;
    float *P = (float *)(o_tile + C::Q_TILE), *dS = P + BR * C::BC;
    float2 *row_tile = (float2 *)(dS + BR * C::BC);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;

    /* Which keys; and which queries see some of them: from one on, of each of the group's heads. */
    const int64_t kv = first_head + blockIdx.y;
    const int seq_q = (int)p.seq_q, seq_k = (int)p.seq_k, block_key = (int)blockIdx.x * C::BC;
    const int first_key = block_key + warp * C::KEYS;
    const int first = p.causal ? max(0, block_key + seq_q - seq_k) / BR * BR : 0;
    const int slope = p.causal, limit = p.causal ? seq_k - seq_q + 1 : seq_k; /* query i sees the first limit + slope i keys */

    /* This lane's row for ldmatrix in 16 x 16. Quarters: below each other, then side by side; or the other way. */
    const uint32_t below = swizzled<C>(lane % 16, lane / 16), beside = swizzled<C>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t k_at = shared_address(k_tile), q_at = k_at + 2 * C::K_TILE, o_at = q_at + C::Q_TILE;
    const uint32_t b_at = k_at + warp * C::KEYS * C::ROW + beside; /* K; V is K_TILE further */
    const int mine = g * C::BC + warp * C::KEYS + 2 * t;           /* the lane's first element of P and dS */

    keys<C> me = {};
    const int64_t from = (kv * seq_k + block_key) * DIM;
    copy_tile<C, T, C::BC>(k_at, K + from, seq_k - block_key);
    copy_tile<C, T, C::BC>(k_at + C::K_TILE, V + from, seq_k - block_key);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int at = first; at < seq_q; at += BR) {
            const int64_t query = head * seq_q + at;
            copy_tile<C, T, BR>(q_at, Q + query * DIM, seq_q - at);
            copy_tile<C, T, BR>(o_at, dO + query * DIM, seq_q - at);
            if (threadIdx.x < BR)
                row_tile[threadIdx.x] = threadIdx.x < seq_q - at ? rows[query + threadIdx.x] : make_float2(INFINITY, 0.0f);
            cp_async_wait_all();
            __syncthreads();
            multiply<C, T>(me.P, q_at + below, b_at);
            multiply<C, T>(me.dS, o_at + below, b_at + C::K_TILE);
            weigh(me, &row_tile[g], limit + slope * (at + g) - first_key - 2 * t, slope, c);
            hand_over<C>(me.P, P + mine);
            hand_over<C>(me.dS, dS + mine);
            __syncthreads(); /* P and dS are complete */
            add<C, T>(me.dV, P, o_tile);
            add<C, T>(me.dK, dS, q_tile);
            add_to_queries<C, T>(sums + query * DIM, dS, k_tile, seq_q - at);
            __syncthreads(); /* nobody reads this tile any more */
        }
    const int x = threadIdx.x / C::BC * C::EACH, y = threadIdx.x % C::BC;
#pragma unroll
    for (int i = 0; i < C::EACH; i++)
        if (y < seq_k - block_key) {
            from_float(&dK[from + y * DIM + x + i], p.scale * me.dK[i]);
            from_float(&dV[from + y * DIM + x + i], me.dV[i]);
        }
}

/* ---- behind: dQ from its sums */

/* dQ = scale times the sums, `count` of them. */
template <class T> static __global__ void __launch_bounds__(THREADS)
    convert_kernel(T *dQ, const float *sums, float scale, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        from_float(&dQ[i], scale * sums[i]);
}

/* ---- launchers */

template <class C, class T> static void launch_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO,
                                                      const float2 *rows, struct attention p, cudaStream_t stream)
{
    static_assert(C::SHARED <= SHARED_SM_80, "more than a block's shared memory");
    static_assert(2 * C::EACH + C::BR * C::KEYS / 16 <= registers_of_thread(C::BLOCKS * 32 * C::WARPS),
                  "the sums and scores are more than a thread's registers");
    float c = scale_sign(p.scale) * exponent_scale(p.scale);
    cudaFuncSetAttribute(scores_backward_kernel<C, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SHARED);
    for (int64_t head = 0; head < p.batch * p.kv_heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_k + C::BC - 1) / C::BC), (unsigned)min(p.batch * p.kv_heads - head, MAX_GRID_Y));
        scores_backward_kernel<C, T><<<blocks, 32 * C::WARPS, C::SHARED, stream>>>(
            sums, dK, dV, Q, K, V, dO, rows, p, c, (unsigned)head, (unsigned)attention_group(p));
    }
}

template <class T, int DIM>
static void launch_for(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                       const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    int64_t rows = p.batch * p.heads * p.seq_q;
    float *sums = (float *)workspace;
    float2 *row = (float2 *)(sums + rows * DIM);
    prepare_kernel<<<(unsigned)ceil_div(rows * 32, THREADS), THREADS, 0, stream>>>(row, sums, O, lse, dO, dlse, rows, DIM);
    launch_kernel<config<DIM>, T>(sums, dK, dV, Q, K, V, dO, row, p, stream);
    convert_kernel<<<(unsigned)ceil_div(rows * DIM, THREADS), THREADS, 0, stream>>>(dQ, sums, p.scale, rows * DIM);
}

/* A float for each element of dQ, and two for each query. */
size_t scores_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * p.seq_q) * ((size_t)p.dim + 2) * sizeof(float);
}

template <class T>
static void launch(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                   const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p) || !takes_16_bits(dO, dQ, dK, dV, p))
        return;
    if (p.dim == 64)
        launch_for<T, 64>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
    else
        launch_for<T, 128>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void scores_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                                   const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void scores_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                                   const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}
