/*
 * Step 15, register-tiled attention on the GPU: step 14 with tiles in registers, too. A thread multiplies 8 queries by 4 or 8
 * keys at a time, so that a number read from shared memory serves 4 or 8 multiply-adds, not one.
 *
 *     for each tile of keys:    S = Q K^T     m' = max(m, S's rows)     P = exp(S - m')
 *                               l = l exp(m - m') + P's rows            O = O exp(m - m') + P V
 *     at the end:               O / l
 *
 * That is the merge of step 13, for a tile of keys instead of one, as in step 14. Nothing is divided by l before the end.
 *
 * A block owns a tile of queries. A warp owns 32 of these, and shares only K and V with the other warps. Its lanes stand in 4
 * rows and 8 columns; the 8 lanes of a row share its queries, and each has some of the keys in S, and some of the dims in O:
 *
 *                             column 0    column 1   ..  column 7   column 0   ..
 *     row 0   queries  0-3       0-3         4-7     ..    28-31      32-35    ..   keys, or dims
 *     row 1   queries  4-7       0-3         4-7     ..    28-31      32-35    ..
 *     row 2   queries  8-11      ..
 *     row 3   queries 12-15      ..
 *     row 0   queries 16-19      0-3         4-7     ..    28-31      32-35    ..
 *     ..
 *
 * S and O stay in registers, and both products are sums of outer products: a column of Q by a column of K, dim after dim; then a
 * column of P by a row of V, key after key. So Q and K lie transposed in shared memory. P goes through it, because in S a thread
 * has few of the keys, and in P V it needs them all.
 *
 * Elements moved: 4 L dim from DRAM; from L2, K and V once for each tile of queries. FLOPs: 4 L^2 dim; tiles above the diagonal
 * are skipped.
 * Changed since step 14: a thread has a square of scores, not one; tiles lie transposed, and are copied in the background.
 */
#include <cuda_pipeline.h>

#include "gpu.cuh"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define LANE_COLUMNS 8  /* lanes that share a query */
#define LANE_ROWS 4     /* groups of such lanes in a warp */
#define PAD 4           /* floats behind each row of a transposed tile: what 32 lanes write to it then goes to 32 banks */

/* What a head dimension allows: O takes most of a thread's registers, Q and K most of the shared memory. */
template <int DIM> static constexpr int QUERIES = DIM <= 128 ? 8 : 4;        /* that a thread multiplies */
template <int DIM> static constexpr int KEYS = DIM <= 64 ? 8 : 4;            /* that it multiplies them by */
template <int DIM> static constexpr int MAX_WARPS = DIM <= 64 ? 4 : 8;       /* of a block, if shared memory lasts: 8 an SM */

template <int DIM> static constexpr int WARP_QUERIES = LANE_ROWS * QUERIES<DIM>;
template <int DIM> static constexpr int BC = LANE_COLUMNS * KEYS<DIM>; /* keys of a tile */

/* Where the i-th of a thread's queries, keys or dims is, from its first on: in packs of 4, at distances of 4 lanes' each. */
static __device__ constexpr int spread(int i, int lanes) { return i / 4 * 4 * lanes + i % 4; }

/*
 * Start to copy `rows` rows of a matrix to shared memory. What is missing to max_rows x DIM becomes 0. Whole tiles are copied in
 * the background, ragged ones at once. V, in rows that start on a multiple of 16 bytes: to[row][d].
 */
template <int DIM> static __device__ void load_tile(float *to, const float *from, int64_t rows, int max_rows, int dim)
{
    if (rows >= max_rows && dim == DIM && (uintptr_t)from % 16 == 0)
        for (int i = threadIdx.x * 4; i < max_rows * DIM; i += blockDim.x * 4)
            __pipeline_memcpy_async(to + i, from + i, 16);
    else
        for (int i = threadIdx.x; i < max_rows * DIM; i += blockDim.x)
            to[i] = i / DIM < rows && i % DIM < dim ? from[i / DIM * dim + i % DIM] : 0.0f;
    __pipeline_commit();
}

/* Q and K, transposed: to[d][row]. A warp copies 8 elements of 4 rows at a time: whole sectors of memory, and 32 banks. */
template <int DIM>
static __device__ void load_transposed(float *to, int stride, const float *from, int64_t rows, int max_rows, int dim)
{
    int first = threadIdx.x % 8;
    for (int row = threadIdx.x / 8; row < max_rows; row += blockDim.x / 8)
        if (rows >= max_rows && dim == DIM)
#pragma unroll
            for (int d = 0; d < DIM; d += 8)
                __pipeline_memcpy_async(to + (first + d) * stride + row, from + row * DIM + first + d, 4);
        else
            for (int d = first; d < DIM; d += 8)
                to[d * stride + row] = row < rows && d < dim ? from[row * dim + d] : 0.0f;
    __pipeline_commit();
}

/* part: N elements of a row in shared memory, in packs of 4 at distances of 4 lanes' each. */
template <int N> static __device__ void load_part(float part[N], const float *row, int lanes)
{
    for (int i = 0; i < N; i += 4)
        *(float4 *)(part + i) = *(const float4 *)(row + i * lanes);
}

/* c += a^T b: this thread's M x N part of the product of two tiles in shared memory, of `depth` rows each. */
template <int M, int N>
static __device__ void multiply(float c[M][N], const float *a, int a_stride, const float *b, int b_stride, int depth)
{
#pragma unroll 8
    for (int k = 0; k < depth; k++) {
        float x[M], y[N];
        load_part<M>(x, a + k * a_stride, LANE_ROWS);
        load_part<N>(y, b + k * b_stride, LANE_COLUMNS);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++)
                c[i][j] += x[i] * y[j];
    }
}

/* 2^(x - m), and 0 where m is the maximum of nothing, -inf: -inf - -inf would be NaN. */
static __device__ float exp2_below(float x, float m)
{
    return ex2(x - (m == -INFINITY ? 0.0f : m));
}

/* The merge of a query's state, (m, l, o), and a tile's scores, which become weights. The lanes of a row do it together. */
template <int N, int D> static __device__ void merge_scores(struct softmax_state *state, float o[D], float s[N])
{
    float m = state->m;
    for (int j = 0; j < N; j++)
        m = fmaxf(m, s[j]);
    m = warp_max<LANE_COLUMNS>(m);
    float keep = exp2_below(state->m, m);
    *state = { m, state->l * keep };
    for (int j = 0; j < N; j++) {
        s[j] = exp2_below(s[j], m);
        state->l += s[j];
    }
    for (int i = 0; i < D; i++)
        o[i] *= keep;
}

/* P: a row a key, as the next product wants it, written 4 queries at a time. */
template <int M, int N> static __device__ void store_weights(float *P, int stride, const float s[M][N])
{
    for (int j = 0; j < N; j++)
        for (int i = 0; i < M; i += 4)
            *(float4 *)&P[spread(j, LANE_COLUMNS) * stride + spread(i, LANE_ROWS)] =
                make_float4(s[i][j], s[i + 1][j], s[i + 2][j], s[i + 3][j]);
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. */
template <int DIM> static __global__ void __launch_bounds__(32 * MAX_WARPS<DIM>, 8 / MAX_WARPS<DIM>)
    register_tiled_attention_kernel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    constexpr int M = QUERIES<DIM>, N = KEYS<DIM>, D = DIM / LANE_COLUMNS, BC = ::BC<DIM>, P_STRIDE = WARP_QUERIES<DIM> + PAD;
    int warp = threadIdx.x / 32, column = threadIdx.x % LANE_COLUMNS, row = threadIdx.x / LANE_COLUMNS % LANE_ROWS;
    int dim = (int)p.dim, BR = (int)blockDim.x / 32 * WARP_QUERIES<DIM>;
    int my_query = warp * WARP_QUERIES<DIM> + 4 * row, my_key = 4 * column; /* the first of this thread's, in the tile */
    extern __shared__ __align__(16) float shared[];
    float *Q_tile = shared;                                   /* [DIM][BR + PAD] */
    float *K_tile = Q_tile + DIM * (BR + PAD);                /* [DIM][BC + PAD] */
    float *V_tile = K_tile + DIM * (BC + PAD);                /* [BC][DIM] */
    float *P_tile = V_tile + BC * DIM + warp * BC * P_STRIDE; /* [BC][WARP_QUERIES + PAD], one a warp */

    /* The blocks of a head, which share K and V, follow each other; those with most keys first, so that short ones end last. */
    int64_t tiles = (p.seq_q + BR - 1) / BR, head = blockIdx.x / tiles, first_query = (tiles - 1 - blockIdx.x % tiles) * BR;
    int64_t queries = min((int64_t)BR, p.seq_q - first_query);
    int64_t kv_head = attention_kv_head(p, head), all_see = attention_visible(p, first_query);
    int64_t end = attention_visible(p, first_query + queries - 1); /* nobody in the tile sees a key from here on */
    Q += (head * p.seq_q + first_query) * dim;
    O += (head * p.seq_q + first_query) * dim;
    K += kv_head * p.seq_k * dim;
    V += kv_head * p.seq_k * dim;

    float o[M][D] = {};
    struct softmax_state state[M]; /* m is the query's, the same in all its lanes; l is of this lane's keys */
    for (int i = 0; i < M; i++)
        state[i] = softmax_empty();
    load_transposed<DIM>(Q_tile, BR + PAD, Q, queries, BR, dim);
    load_transposed<DIM>(K_tile, BC + PAD, K, end, BC, dim);
    for (int64_t first_key = 0; first_key < end; first_key += BC) {
        __pipeline_wait_prior(0);
        __syncthreads(); /* K is here, and nobody needs the last V any more */
        load_tile<DIM>(V_tile, V + first_key * dim, end - first_key, BC, dim);

        float s[M][N] = {};
        multiply<M, N>(s, Q_tile + my_query, BR + PAD, K_tile + my_key, BC + PAD, DIM);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++)
                s[i][j] *= p.scale * LOG2E;
        if (first_key + BC > all_see)
            for (int i = 0; i < M; i++)
                for (int j = 0; j < N; j++)
                    if (first_key + my_key + spread(j, LANE_COLUMNS) >=
                        attention_visible(p, first_query + my_query + spread(i, LANE_ROWS)))
                        s[i][j] = -INFINITY;
        for (int i = 0; i < M; i++)
            merge_scores<N, D>(&state[i], o[i], s[i]);
        store_weights<M, N>(P_tile + my_key * P_STRIDE + 4 * row, P_STRIDE, s);

        __pipeline_wait_prior(0);
        __syncthreads(); /* V is here, so is P, and nobody needs K any more */
        if (first_key + BC < end)
            load_transposed<DIM>(K_tile, BC + PAD, K + (first_key + BC) * dim, end - first_key - BC, BC, dim);
        multiply<M, D>(o, P_tile + 4 * row, P_STRIDE, V_tile + 4 * column, DIM, BC);
    }

    for (int i = 0; i < M; i++) {
        int64_t query = my_query + spread(i, LANE_ROWS);
        float l = warp_sum<LANE_COLUMNS>(state[i].l), inverse = l == 0.0f ? 0.0f : 1.0f / l; /* no weight: zeros */
        for (int d = 0; d < D; d++)
            if (query < queries && 4 * column + spread(d, LANE_COLUMNS) < dim)
                O[query * dim + 4 * column + spread(d, LANE_COLUMNS)] = o[i][d] * inverse;
        if (lse && query < queries && column == 0)
            lse[head * p.seq_q + first_query + query] = (state[i].m + log2f(l)) * LN2;
    }
}

/* Bytes of shared memory that a block of so many warps needs. */
template <int DIM> static constexpr size_t shared_bytes(int warps)
{
    int br = warps * WARP_QUERIES<DIM>, p = warps * BC<DIM> * (WARP_QUERIES<DIM> + PAD);
    return (DIM * (br + PAD) + DIM * (BC<DIM> + PAD) + BC<DIM> * DIM + p) * sizeof(float);
}

template <int DIM> static void launch(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                                      cudaStream_t stream)
{
    static_assert(shared_bytes<DIM>(1) <= SHARED_SM_80, "more than a block's shared memory");
    int warps = MAX_WARPS<DIM>;
    while (warps > 1 && shared_bytes<DIM>(warps) > (size_t)most_shared())
        warps--;
    size_t bytes = shared_bytes<DIM>(warps); /* if it is too much (register_tiled_attention_shared() says so), CUDA refuses it */
    int64_t BR = warps * WARP_QUERIES<DIM>;
    int64_t blocks = p.batch * p.heads * ((p.seq_q + BR - 1) / BR);
    cudaFuncSetAttribute(register_tiled_attention_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    register_tiled_attention_kernel<DIM><<<(unsigned)blocks, 32 * warps, bytes, stream>>>(O, lse, Q, K, V, p);
}

void register_tiled_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    if (p.dim > 256)
        return refuse();
    BY_DIM(p.dim, launch, O, lse, Q, K, V, p, stream);
}

size_t register_tiled_attention_shared(int64_t dim)
{
    return BY_DIM(dim, shared_bytes, 1);
}
