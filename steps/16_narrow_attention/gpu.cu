/*
 * Step 16, narrow attention: step 14 with elements of 16 bits. Tiles hold them as they come, and what is computed is fp32.
 *
 *     for each tile of keys:    s = q K^T     m' = max(m, the tile's s)     p = exp(s - m')
 *                               l = l exp(m - m') + the tile's p            o = o exp(m - m') + p V
 *     at the end:               o / l
 *
 * A block owns BR queries of a head. A warp owns one of them, and its lanes share the work as in step 14: in s = q K^T a lane has
 * a key, in p V two neighbouring dims of every 64.
 *
 * Elements are loaded eight at a time, a pack of 16 bytes, or in p V two, a word. Rows are a multiple of all 32 banks, so that
 * the lanes, which have a row of K each, begin at different packs: 8 lanes read 8 different groups of banks.
 *
 * Elements moved: 4 L dim from DRAM, of half as many bytes. From shared memory two elements of 16 bits for a multiply-add, as in
 * step 14, but many at a time. Each is converted before it is used. (log2(e) is multiplied into differences, not into scores:
 * the rounding of large ones would be felt.)
 * Changed since step 14: the type of elements, and how many are loaded at a time. From here to step 32 heads have 64 or 128
 * elements, and an int holds every length.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define BR 32                      /* queries of a block, a warp each */
#define BC 32                      /* keys of a tile, a lane each */
#define THREADS (32 * BR)
#define MAX_GRID_Y INT64_C(65535)  /* blocks in a grid's second dimension: the hardware's limit */

/* tile: (ROWS, DIM) in shared memory; from: (there, DIM). Rows that are not there become zeros. */
template <class T, int DIM, int ROWS> static __device__ void load_tile(T *tile, const T *from, int there)
{
    for (int i = threadIdx.x * 8; i < ROWS * DIM; i += THREADS * 8) {
        pack<T> zeros = { { 0, 0, 0, 0 } };
        *(pack<T> *)&tile[i] = i / DIM < there ? load_pack(from + i) : zeros;
    }
}

/* The product of a row of Q and a row of K. Lane by lane it begins at another pack, which lies in other banks. */
template <class T, int DIM> static __device__ float score(const T *q, const T *k)
{
    float sum = 0.0f;
    for (int i = 0; i < DIM / 8; i++) {
        int d = (i + threadIdx.x) % (DIM / 8) * 8;
        float x[8], y[8];
        unpack(x, load_pack(q + d));
        unpack(y, load_pack(k + d));
        for (int j = 0; j < 8; j++)
            sum += x[j] * y[j];
    }
    return sum;
}

/* The merge of a query's state, (m, l, o), and a tile's scores, which become weights. The lanes of a warp do it together. */
template <int D> static __device__ void merge_scores(struct softmax_state *state, float o[D], float *s)
{
    float m = fmaxf(state->m, warp_max(*s));
    float base = m == -INFINITY ? 0.0f : m; /* -inf - -inf would be NaN */
    float factor = fast_exp(state->m - base);
    *s = fast_exp(*s - base);
    *state = { m, state->l * factor };
    state->l += *s;
    for (int i = 0; i < D; i++)
        o[i] *= factor;
}

/*
 * As attention_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes, heads from first_head on. group:
 * attention_group(p).
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS, 1)
    narrow_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                              unsigned first_head, unsigned group)
{
    constexpr int D = DIM / 32;
    __shared__ __align__(16) T q_tile[BR * DIM], k_tile[BC * DIM], v_tile[BC * DIM];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    /* Which rows: the last of a head first, because under a causal mask they take longest. */
    const unsigned head = first_head + blockIdx.y;
    const int block_row = (int)(gridDim.x - 1 - blockIdx.x) * BR, warp_row = block_row + warp;
    const int64_t at = head * p.seq_q + warp_row, kv_head = head / group;
    K += kv_head * p.seq_k * DIM;
    V += kv_head * p.seq_k * DIM;

    /* How many keys they see: row i all of them, or i + more, but none beyond the end. */
    const int seq_k = (int)p.seq_k, more = (int)(p.seq_k - p.seq_q) + 1;
    const int keys = p.causal ? min(seq_k, block_row + BR - 1 + more) : seq_k; /* any row of the block */
    const int visible = p.causal ? warp_row + more : seq_k;

    float o[D] = {};
    struct softmax_state state = softmax_empty(); /* m is the query's, the same in all lanes; l is of this lane's keys */
    load_tile<T, DIM, BR>(q_tile, Q + (head * p.seq_q + block_row) * DIM, (int)p.seq_q - block_row);

    for (int key = 0; key < keys; key += BC) {
        load_tile<T, DIM, BC>(k_tile, K + (int64_t)key * DIM, seq_k - key);
        load_tile<T, DIM, BC>(v_tile, V + (int64_t)key * DIM, seq_k - key);
        __syncthreads();

        float s = score<T, DIM>(&q_tile[warp * DIM], &k_tile[lane * DIM]);
        s = key + lane < visible ? p.scale * s : -INFINITY;
        merge_scores<D>(&state, o, &s);
        for (int i = 0; i < BC; i++) {
            float weight = __shfl_sync(ALL_LANES, s, i), v[2];
            for (int d = 0; d < D; d += 2) {
                word_to_floats(v, *(const uint32_t *)&v_tile[i * DIM + d * 32 + 2 * lane], T());
                o[d] += weight * v[0];
                o[d + 1] += weight * v[1];
            }
        }
        __syncthreads(); /* before the next tile replaces this one */
    }

    float l = warp_sum(state.l);
    float inverse = l == 0.0f ? 0.0f : 1.0f / l; /* no weight: zeros */
    for (int d = 0; d < D; d += 2) {
        float two[2] = { o[d] * inverse, o[d + 1] * inverse };
        if (warp_row < p.seq_q)
            *(uint32_t *)&O[at * DIM + d * 32 + 2 * lane] = word_of_floats(two, T());
    }
    if (lse && warp_row < p.seq_q && lane == 0)
        lse[at] = state.m + logf(l);
}

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    static_assert((BR + 2 * BC) * DIM * sizeof(T) <= SHARED_UNASKED, "more than a block's shared memory");
    for (int64_t head = 0; head < p.batch * p.heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_q + BR - 1) / BR), (unsigned)min(p.batch * p.heads - head, MAX_GRID_Y));
        narrow_attention_kernel<T, DIM><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p, (unsigned)head,
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

void narrow_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void narrow_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
