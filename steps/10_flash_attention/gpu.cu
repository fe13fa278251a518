/*
 * Step 10, flash attention on the GPU: step 09 in tiles. A tile of queries meets a tile of keys, so that a key loaded once serves all
 * of the queries, and each thread multiplies 8 queries by 4 keys at a time, so that a number read from shared memory serves 4 or 8
 * multiply-adds, not one.
 *
 *     for each tile of keys:   S = Q K^T      m' = max(m, rows of S)      P = exp(S - m')
 *                              l = l exp(m - m') + rows of P              O = O exp(m - m') + P V
 *     at the end:              O / l
 *
 * A block owns a tile of queries, and its Q tile stays in shared memory; K and V tiles come and go, each copied while the other is
 * multiplied. A warp owns 32 of the queries, and shares nothing but K and V with the other warps. In a warp, 8 lanes share a query:
 *
 *             lane column  0   1   2  ..  7   0   1   2  ..  7   ..            lane column    0       1     ..    7
 *     lane row 0   query 0 |   keys 0 .. 7   |   keys 8 .. 15   | ..     O, query 0   dims 0-3 | 4-7 | .. | 28-31 | 32-35 ..
 *              1         1 |
 *              2         2 |    S: 8 x 4 of these a thread                    O: 8 x dim / 8 of these a thread
 *              3         3 |
 *     lane row 0         4 |
 *     ..                 . |
 *
 * S and O live in registers. P goes through shared memory, because a thread has all keys of no query, but the next product needs them.
 *
 * Elements moved: 4 L dim from DRAM; from L2, K and V once for each tile of queries. FLOPs: 4 L^2 dim, tiles above the diagonal skipped.
 * Changed since step 09: tiles, in shared memory and in registers; the maximum and the rescaling once a tile, not once a key.
 */
#include <cuda_pipeline.h>

#include "common.h"
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#ifndef KEYS
#define KEYS 4                 /* keys that a thread multiplies at a time */
#endif
#define COLUMNS 8              /* lanes that share a query */
#define ROWS (32 / COLUMNS)    /* lane rows in a warp */
#define BC (COLUMNS * KEYS)    /* keys of a tile */
#ifndef MAX_WARPS
#define MAX_WARPS 8            /* of a block: more share a tile of keys, but shared memory and registers end */
#endif
#define PAD 4                  /* floats behind each row in shared memory: 8 rows' packs then lie in 32 different banks */
#ifndef MINB
#define MINB 1
#endif
#ifndef QKU
#define QKU 2
#endif
#ifndef PVU
#define PVU 1
#endif
static constexpr int QK_UNROLL = QKU, PV_UNROLL = PVU;
#define P_STRIDE (BC + COLUMNS)

/* Queries that a thread multiplies at a time. 8, but for large dims, where O would not fit in registers. */
template <int DIM> static constexpr int QUERIES = DIM <= 128 ? 8 : 4;
template <int DIM> static constexpr int WARP_QUERIES = QUERIES<DIM> * ROWS;

/* The number of keys that a query sees: the first so many. */
static __device__ int64_t visible_keys(struct attention p, int64_t query)
{
    int64_t last = query + p.seq_k - p.seq_q; /* the key on the diagonal */
    return p.causal ? max((int64_t)0, min(last + 1, p.seq_k)) : p.seq_k;
}

/* Where a thread stands in its warp. Neighbouring lanes are in the same column, which lets one read of shared memory serve both. */
#ifdef PLAIN
static __device__ int lane_column(void) { return threadIdx.x % COLUMNS; }
static __device__ int lane_row(void) { return threadIdx.x / COLUMNS % ROWS; }
#define FIRST_DISTANCE 1
#else
static __device__ int lane_column(void) { return threadIdx.x / 2 % COLUMNS; }
static __device__ int lane_row(void) { return threadIdx.x / 16 % 2 * 2 + threadIdx.x % 2; }
#define FIRST_DISTANCE 2
#endif

/* The maximum, and the sum, over the lanes that share a query. */
static __device__ float row_max(float v)
{
    for (int distance = FIRST_DISTANCE; distance < FIRST_DISTANCE * COLUMNS; distance *= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, distance));
    return v;
}

static __device__ float row_sum(float v)
{
    for (int distance = FIRST_DISTANCE; distance < FIRST_DISTANCE * COLUMNS; distance *= 2)
        v += __shfl_xor_sync(ALL_LANES, v, distance);
    return v;
}

/* exp(x - m), and 0 where m is the maximum of nothing, -inf: exp(-inf - -inf) would be NaN. */
static __device__ float exp_below(float x, float m)
{
    return __expf(x - (m == -INFINITY ? 0.0f : m));
}

/*
 * Start to copy `rows` rows of `dim` elements to a tile of max_rows x DIM in shared memory; what is missing becomes 0. The whole block
 * takes part. aligned: each row starts on a multiple of 16 bytes.
 */
template <int DIM> static __device__ void load_tile(float *to, int stride, const float *from, int64_t rows, int max_rows, int dim,
                                                    bool aligned)
{
    for (int i = threadIdx.x; i < max_rows * DIM / 4; i += blockDim.x) {
        int row = i / (DIM / 4), d = i % (DIM / 4) * 4;
        float *pack_to = to + row * stride + d;
        const float *pack_from = from + (int64_t)row * dim + d;
        if (aligned && row < rows && d < dim)
            __pipeline_memcpy_async(pack_to, pack_from, 16);
        else
            for (int j = 0; j < 4; j++)
                pack_to[j] = row < rows && d + j < dim ? pack_from[j] : 0.0f;
    }
    __pipeline_commit();
}

/* All copies that this thread started are there, and all that the block's other threads started. */
static __device__ void wait_for_tiles(void)
{
    __pipeline_wait_prior(0);
    __syncthreads();
}

static __device__ float4 load4(const float *x)
{
    return *(const float4 *)x;
}

/* s = Q K^T: dot products of this thread's queries and keys, both tiles in rows of DIM + PAD. */
template <int DIM> static __device__ void multiply_qk(float s[QUERIES<DIM>][KEYS], const float *Q, const float *K, float scale)
{
    for (int i = 0; i < QUERIES<DIM>; i++)
        for (int j = 0; j < KEYS; j++)
            s[i][j] = 0.0f;
#pragma unroll QK_UNROLL
    for (int d = 0; d < DIM; d += 4) {
        float4 k[KEYS];
        for (int j = 0; j < KEYS; j++)
            k[j] = load4(K + j * COLUMNS * (DIM + PAD) + d);
        for (int i = 0; i < QUERIES<DIM>; i++) {
            float4 q = load4(Q + i * ROWS * (DIM + PAD) + d);
            for (int j = 0; j < KEYS; j++) {
                s[i][j] += q.x * k[j].x;
                s[i][j] += q.y * k[j].y;
                s[i][j] += q.z * k[j].z;
                s[i][j] += q.w * k[j].w;
            }
        }
    }
    for (int i = 0; i < QUERIES<DIM>; i++)
        for (int j = 0; j < KEYS; j++)
            s[i][j] *= scale;
}

/* o += P V: this thread's queries and dims, over all keys of the tile. */
template <int DIM> static __device__ void multiply_pv(float o[QUERIES<DIM>][DIM / COLUMNS], const float *P, const float *V)
{
#pragma unroll PV_UNROLL
    for (int key = 0; key < BC; key += 4) {
        float4 w[QUERIES<DIM>];
        for (int i = 0; i < QUERIES<DIM>; i++)
            w[i] = load4(P + i * ROWS * P_STRIDE + key);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int d = 0; d < DIM / COLUMNS; d += 4) {
                float4 v = load4(V + (key + k) * DIM + d * COLUMNS);
                for (int i = 0; i < QUERIES<DIM>; i++) {
                    float weight = k == 0 ? w[i].x : k == 1 ? w[i].y : k == 2 ? w[i].z : w[i].w;
                    o[i][d + 0] += weight * v.x;
                    o[i][d + 1] += weight * v.y;
                    o[i][d + 2] += weight * v.z;
                    o[i][d + 3] += weight * v.w;
                }
            }
    }
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. */
template <int DIM> static __global__ void __launch_bounds__(32 * MAX_WARPS, MINB)
    flash_attention_kernel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p, bool aligned)
{
    constexpr int N = QUERIES<DIM>;
    int br = (int)blockDim.x / 32 * WARP_QUERIES<DIM>, warp = threadIdx.x / 32;
    extern __shared__ __align__(16) float shared[];
    float *Q_tile = shared;
    float *K_tile = Q_tile + br * (DIM + PAD);
    float *V_tile = K_tile + BC * (DIM + PAD);
    float *P_tile = V_tile + BC * DIM + warp * WARP_QUERIES<DIM> * P_STRIDE; /* one a warp */

    /* The blocks of a head, which share K and V, one after another; those with most keys first, so that the last to end are short. */
    int64_t tiles = (p.seq_q + br - 1) / br, head = blockIdx.x / tiles, first_query = (tiles - 1 - blockIdx.x % tiles) * br;
    int64_t kv_head = head / (p.heads / p.kv_heads), queries = min((int64_t)br, p.seq_q - first_query);
    int64_t end = visible_keys(p, first_query + queries - 1); /* nobody in the tile sees a key from here on */
    int64_t all_see = visible_keys(p, first_query);           /* everybody sees the keys before this one */
    K += kv_head * p.seq_k * p.dim;
    V += kv_head * p.seq_k * p.dim;

    /* This thread's first query in the tile; the others follow at distances of ROWS. */
    int row = warp * WARP_QUERIES<DIM> + lane_row(), column = lane_column();
    int64_t query = head * p.seq_q + first_query + row;
    float o[N][DIM / COLUMNS] = {}, s[N][KEYS];
    struct softmax_state state[N]; /* m is the query's, l the part of this lane's keys */
    for (int i = 0; i < N; i++)
        state[i] = softmax_empty();

    load_tile<DIM>(Q_tile, DIM + PAD, Q + (head * p.seq_q + first_query) * p.dim, queries, br, (int)p.dim, aligned);
    load_tile<DIM>(K_tile, DIM + PAD, K, end, BC, (int)p.dim, aligned);
    for (int64_t first_key = 0; first_key < end; first_key += BC) {
        wait_for_tiles(); /* K is here, and nobody needs the last V any more */
        load_tile<DIM>(V_tile, DIM, V + first_key * p.dim, end - first_key, BC, (int)p.dim, aligned);
        multiply_qk<DIM>(s, Q_tile + row * (DIM + PAD), K_tile + column * (DIM + PAD), p.scale);

        if (first_key + BC > all_see)
            for (int i = 0; i < N; i++) {
                int64_t visible = visible_keys(p, first_query + row + i * ROWS) - first_key - column;
                for (int j = 0; j < KEYS; j++)
                    if (j * COLUMNS >= visible)
                        s[i][j] = -INFINITY;
            }
#pragma unroll
        for (int i = 0; i < N; i++) {
            float m = state[i].m;
            for (int j = 0; j < KEYS; j++)
                m = fmaxf(m, s[i][j]);
            m = row_max(m);
            float keep = exp_below(state[i].m, m);
            state[i].m = m;
            state[i].l *= keep;
            for (int j = 0; j < KEYS; j++) {
                float weight = exp_below(s[i][j], m);
                state[i].l += weight;
                P_tile[(lane_row() + i * ROWS) * P_STRIDE + column + j * COLUMNS] = weight;
            }
#pragma unroll
            for (int d = 0; d < DIM / COLUMNS; d++)
                o[i][d] *= keep;
        }

        wait_for_tiles(); /* V is here, so is P, and nobody needs K any more */
        if (first_key + BC < end)
            load_tile<DIM>(K_tile, DIM + PAD, K + (first_key + BC) * p.dim, end - first_key - BC, BC, (int)p.dim, aligned);
        multiply_pv<DIM>(o, P_tile + lane_row() * P_STRIDE, V_tile + 4 * column);
    }

#pragma unroll
    for (int i = 0; i < N; i++) {
        float l = row_sum(state[i].l);
        if (row + i * ROWS >= queries)
            continue;
        float scale = visible_keys(p, first_query + row + i * ROWS) == 0 ? 0.0f : 1.0f / l;
#pragma unroll
        for (int d = 0; d < DIM / COLUMNS; d++) {
            int dim = d / 4 * 4 * COLUMNS + 4 * column + d % 4;
            if (dim < p.dim)
                O[(query + i * ROWS) * p.dim + dim] = o[i][d] * scale;
        }
        if (lse && column == 0)
            lse[query + i * ROWS] = state[i].m + logf(l);
    }
}

/* Bytes of shared memory that a block of so many warps needs. */
template <int DIM> static size_t shared_bytes(int warps)
{
    return (warps * WARP_QUERIES<DIM> * (DIM + PAD + P_STRIDE) + BC * (2 * DIM + PAD)) * sizeof(float);
}

template <int DIM> static void launch(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                                      cudaStream_t stream)
{
    int device = 0, most = 0, warps = MAX_WARPS;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    while (warps > 1 && shared_bytes<DIM>(warps) > (size_t)most)
        warps--;
    size_t bytes = shared_bytes<DIM>(warps);
    int64_t br = warps * WARP_QUERIES<DIM>, blocks = p.batch * p.heads * ((p.seq_q + br - 1) / br);
    bool aligned = p.dim % 4 == 0 && ((uintptr_t)Q | (uintptr_t)K | (uintptr_t)V) % 16 == 0;

    cudaFuncSetAttribute(flash_attention_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    flash_attention_kernel<DIM><<<(unsigned)blocks, 32 * warps, bytes, stream>>>(O, lse, Q, K, V, p, aligned);
}

void flash_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p, void *,
                         cudaStream_t stream)
{
#ifndef ONLY
    if (p.dim <= 32)
        launch<32>(O, lse, Q, K, V, p, stream);
    else
#endif
    if (p.dim <= 64)
        launch<64>(O, lse, Q, K, V, p, stream);
    else if (p.dim <= 128)
        launch<128>(O, lse, Q, K, V, p, stream);
#ifndef ONLY
    else if (p.dim <= 256)
        launch<256>(O, lse, Q, K, V, p, stream);
#endif
    else
        fatal("flash attention takes head dimensions up to 256; this one is %lld", (long long)p.dim);
}
