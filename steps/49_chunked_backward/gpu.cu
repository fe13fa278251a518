/*
 * Step 49, chunked backward: step 48 with tiles in 16 bits, of which 8 elements are copied, and read, at once. Needs sm_80.
 *
 * A block owns BC keys of a head of K and V, for all heads of Q that share it, and walks over their queries, BR at a time. Its
 * dK and dV stay in registers. Per tile:
 *
 *     P = 2^(c q k^T - lse), dP = do v^T, dS = P (dP - D)          a thread every 128th element; P and dS to shared memory
 *     dV += P^T do, dK += dS^T q                                   a thread EACH dims of one key
 *     dQ += dS k                                                   a thread 8 dims of a query: added to fp32 sums in memory
 *
 * A chunk, 8 elements or 16 bytes, goes from memory to shared memory by itself, past the registers. Chunk c of row r has place
 * c ^ r % 8 (step 19): threads that read one column of different rows have banks of their own.
 *
 * A small kernel before it computes D = sum of dO O - dlse, scales lse, and makes the sums 0; another behind it makes dQ of them.
 *
 * Changed since step 48: tiles, and what a thread does with them; a tile has more keys than queries.
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

/* Where chunk `chunk` of row `row` of a tile lies, in bytes. */
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

/* What a thread holds for its key. */
template <class C> struct keys {
    float dK[C::EACH], dV[C::EACH];
};

/* Chunk `chunk` of row `row` of a tile, as floats. */
template <class C, class T> static __device__ void read_chunk(float *v, const unsigned char *tile, int row, int chunk, T)
{
    unpack(v, load_pack((const T *)(tile + swizzled<C>(row, chunk))));
}

/* Row i of a times row j of b. */
template <class C, class T> static __device__ float dot(const unsigned char *a, int i, const unsigned char *b, int j)
{
    float sum = 0.0f, x[8], y[8];
    for (int chunk = 0; chunk < C::DIM / 8; chunk++) {
        read_chunk<C>(x, a, i, chunk, T());
        read_chunk<C>(y, b, j, chunk, T());
        for (int e = 0; e < 8; e++)
            sum += x[e] * y[e];
    }
    return sum;
}

/*
 * P and dS of the tile, queries down and keys across; 0 where a key is not seen. The first query sees the first `visible` of the
 * keys; one more each `slope`.
 */
template <class C, class T>
static __device__ void weigh(float *P, float *dS, const unsigned char *k, const unsigned char *v, const unsigned char *q,
                             const unsigned char *o, const float2 *rows, int visible, int slope, float c)
{
    for (int i = threadIdx.x; i < C::BR * C::BC; i += 32 * C::WARPS) {
        int x = i % C::BC, y = i / C::BC;
        P[i] = x < visible + slope * y ? ex2(dot<C, T>(q, y, k, x) * c - rows[y].x) : 0.0f;
        dS[i] = P[i] * (dot<C, T>(o, y, v, x) - rows[y].y);
    }
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
    chunked_backward_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO, const float2 *rows,
                                struct attention p, float c, unsigned first_head, unsigned group)
{
    needs_sm_80();
    constexpr int BR = C::BR, DIM = C::DIM;
    extern __shared__ __align__(256) unsigned char k_tile[]; /* then V, Q, dO, P, dS, and rows */
    unsigned char *v_tile = k_tile + C::K_TILE, *q_tile = v_tile + C::K_TILE, *o_tile = q_tile + C::Q_TILE;
    float *P = (float *)(o_tile + C::Q_TILE), *dS = P + BR * C::BC;
    float2 *row_tile = (float2 *)(dS + BR * C::BC);

    /* Which keys; and which queries see some of them: from one on, of each of the group's heads. */
    const int64_t kv = first_head + blockIdx.y;
    const int seq_q = (int)p.seq_q, seq_k = (int)p.seq_k, block_key = (int)blockIdx.x * C::BC;
    const int first = p.causal ? max(0, block_key + seq_q - seq_k) / BR * BR : 0;
    const int slope = p.causal, limit = p.causal ? seq_k - seq_q + 1 : seq_k; /* query i sees the first limit + slope i keys */

    const uint32_t k_at = shared_address(k_tile), q_at = k_at + 2 * C::K_TILE, o_at = q_at + C::Q_TILE;

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
            weigh<C, T>(P, dS, k_tile, v_tile, q_tile, o_tile, row_tile, limit + slope * at - block_key, slope, c);
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
    static_assert(2 * C::EACH <= registers_of_thread(C::BLOCKS * 32 * C::WARPS),
                  "the sums are more than a thread's registers");
    float c = scale_sign(p.scale) * exponent_scale(p.scale);
    cudaFuncSetAttribute(chunked_backward_kernel<C, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SHARED);
    for (int64_t head = 0; head < p.batch * p.kv_heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_k + C::BC - 1) / C::BC), (unsigned)min(p.batch * p.kv_heads - head, MAX_GRID_Y));
        chunked_backward_kernel<C, T><<<blocks, 32 * C::WARPS, C::SHARED, stream>>>(
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
size_t chunked_backward_workspace(struct attention p, enum dtype)
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

void chunked_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                                   const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void chunked_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                                   const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}
