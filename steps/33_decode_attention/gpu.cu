/*
 * Step 33, decode attention on the GPU: one query against a long cache.
 *
 * Each key and each value is used once, so nothing is kept in shared memory: K and V go from memory to registers, 16 bytes a
 * load, as they lie and in the type in which they are stored. What counts is how many bytes are under way. A lane asks for PACKS
 * packs of K and as many of V before it looks at any of them: 64 KB a block.
 *
 * A block owns a query of a head. A warp takes some keys at a time, a group of LANES lanes has each of them together, and all
 * keys of a group are merged at once: one exponential a key, and one more a turn. What each group has seen is a part (m, l, o),
 * and at the end the parts are merged.
 *
 * With fewer queries than SMs, SMs are idle: step 34.
 * Changed since step 13: a block a query, not a warp; several keys at a time; any type of element.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define WARPS 8               /* of a block */
#define THREADS (32 * WARPS)
#define PACKS 8               /* of K, and of V, that a lane has under way */

/* The state of a query over some of its keys, or as many columns of it: the maximum, and the sums of exp(score - m), and of
   exp(score - m) v. */
template <int COLUMNS> struct part {
    float o[COLUMNS];
    struct softmax_state s;
};

/* How a warp has keys of up to DIM elements. */
template <class T, int DIM> struct shape {
    static constexpr int LANES = DIM / PER<T> < 32 ? DIM / PER<T> : 32;  /* that have a key together */
    static constexpr int EACH = DIM / PER<T> / LANES;                    /* packs of it that a lane has, LANES apart */
    static constexpr int COLUMNS = EACH * PER<T>;
    static constexpr int GROUPS = 32 / LANES;                            /* of lanes */
    static constexpr int KEYS = PACKS / EACH;                            /* that a group takes at a time */
    static constexpr int TILE = KEYS * GROUPS * WARPS;                   /* keys that the block takes at a time */
    static constexpr int PARTS = GROUPS * WARPS;
};

/* The column where a lane's pack i begins. */
template <class T, int DIM> static __device__ int column(int i)
{
    return (i * shape<T, DIM>::LANES + threadIdx.x % shape<T, DIM>::LANES) * PER<T>;
}

/* A lane's packs of a row x: (dim); zeros past its end, and if it is not `there`. WIDE: rows are whole packs, where packs lie. */
template <class T, int DIM, bool WIDE> static __device__ void load_row(pack<T> *p, const T *x, int dim, bool there)
{
    for (int i = 0; i < shape<T, DIM>::EACH; i++) {
        int at = column<T, DIM>(i);
        __align__(16) T elements[PER<T>] = {};
        if (!WIDE)
            for (int j = 0; j < PER<T>; j++)
                if (there && at + j < dim)
                    elements[j] = x[at + j];
        p[i] = *(pack<T> *)elements;
        if (WIDE && there && at < dim)
            p[i] = load_once(x + at);
    }
}

/* A lane's part of the product of a query and a key. */
template <class T, int DIM> static __device__ float dot(const float *q, const pack<T> *k)
{
    float sum = 0.0f, x[PER<T>];
    for (int i = 0; i < shape<T, DIM>::EACH; i++) {
        unpack(x, k[i]);
        for (int j = 0; j < PER<T>; j++)
            sum += q[i * PER<T> + j] * x[j];
    }
    return sum;
}

/* Merge keys with scores w (-inf: not there) and values v, a lane's packs of them, into a part: all KEYS at once, the merge of
   step 13 with a set for each key. */
template <class T, int DIM, int COLUMNS, int KEYS, int EACH>
static __device__ void merge_keys(struct part<COLUMNS> *part, const float (&w)[KEYS], const pack<T> (&v)[KEYS][EACH])
{
    float m = part->s.m, x[PER<T>];
    for (int key = 0; key < KEYS; key++)
        m = fmaxf(m, w[key]);
    float base = m == -INFINITY ? 0.0f : m; /* no key with any weight yet: -inf - -inf would be NaN */
    float keep = fast_exp(part->s.m - base), l = part->s.l * keep;
    for (int i = 0; i < COLUMNS; i++)
        part->o[i] *= keep;
    for (int key = 0; key < KEYS; key++) {
        float weight = fast_exp(w[key] - base);
        l += weight;
        for (int i = 0; i < EACH; i++) {
            unpack(x, v[key][i]);
            for (int j = 0; j < PER<T>; j++)
                part->o[i * PER<T> + j] += weight * x[j];
        }
    }
    part->s = { m, l };
}

/* A lane's columns of the state of query q: (dim) over its group's share of the keys; K, V: (keys, dim). */
template <class T, int DIM, bool WIDE>
static __device__ void attend(struct part<shape<T, DIM>::COLUMNS> *part, const T *q, const T *K, const T *V, int64_t keys,
                              int dim, float scale)
{
    using S = shape<T, DIM>;
    pack<T> q_packs[S::EACH];
    float query[S::COLUMNS];
    load_row<T, DIM, WIDE>(q_packs, q, dim, true);
    for (int i = 0; i < S::EACH; i++)
        unpack(query + i * PER<T>, q_packs[i]);
    for (int i = 0; i < S::COLUMNS; i++)
        part->o[i] = 0.0f;
    part->s = softmax_empty();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t tile = 0; tile < keys; tile += S::TILE) {
        int64_t first = tile + warp * S::KEYS * S::GROUPS + lane / S::LANES;
        pack<T> k[S::KEYS][S::EACH], v[S::KEYS][S::EACH];
        float w[S::KEYS];
        for (int i = 0; i < S::KEYS; i++)
            load_row<T, DIM, WIDE>(k[i], K + first * dim + i * S::GROUPS * dim, dim, first + i * S::GROUPS < keys);
        for (int i = 0; i < S::KEYS; i++)
            load_row<T, DIM, WIDE>(v[i], V + first * dim + i * S::GROUPS * dim, dim, first + i * S::GROUPS < keys);
        for (int i = 0; i < S::KEYS; i++) {
            float score = scale * warp_sum<S::LANES>(dot<T, DIM>(query, k[i]));
            w[i] = first + i * S::GROUPS < keys ? score : -INFINITY;
        }
        merge_keys<T, DIM>(part, w, v);
    }
}

/* What a part's sums count for in a union whose maximum is m. The empty part, with its m of -inf, counts for nothing. */
static __device__ float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : fast_exp(part.m - m);
}

/* The union of `count` parts, added up in their order: its state, and column i of its o. */
template <int DIM> static __device__ struct part<1> merge_parts(const struct part<DIM> *parts, int count, int i)
{
    struct part<1> whole = { { 0.0f }, softmax_empty() };
    for (int k = 0; k < count; k++)
        whole.s.m = fmaxf(whole.s.m, parts[k].s.m);
    for (int k = 0; k < count; k++) {
        float counts = share(parts[k].s, whole.s.m);
        whole.s.l += parts[k].s.l * counts;
        whole.o[0] += parts[k].o[i] * counts;
    }
    return whole;
}

/* Column i of O, and once the lse. No weight: zeros and -inf. */
template <class T> static __device__ void finish(T *O, float *lse, struct part<1> whole, int i)
{
    from_float(O + i, whole.s.l == 0.0f ? 0.0f : whole.o[0] / whole.s.l);
    if (lse && i == 0)
        *lse = whole.s.m + logf(whole.s.l);
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. lse: (batch, heads, seq_q), or NULL. */
template <class T, int DIM, bool WIDE> static __global__ void __launch_bounds__(THREADS, 1) /* registers for all packs */
    decode_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p)
{
    using S = shape<T, DIM>;
    __shared__ struct part<DIM> shared[S::PARTS];
    const int dim = (int)p.dim;
    const int64_t row = blockIdx.x, at = attention_kv_head(p, row / p.seq_q) * p.seq_k * dim;
    const int64_t keys = attention_visible(p, row % p.seq_q);

    struct part<S::COLUMNS> mine;
    attend<T, DIM, WIDE>(&mine, Q + row * dim, K + at, V + at, keys, dim, p.scale);
    for (int i = 0; i < S::COLUMNS; i++)
        shared[threadIdx.x / S::LANES].o[column<T, DIM>(i / PER<T>) + i % PER<T>] = mine.o[i];
    shared[threadIdx.x / S::LANES].s = mine.s;
    __syncthreads();
    if (threadIdx.x < dim)
        finish(O + row * dim, lse ? lse + row : NULL, merge_parts(shared, S::PARTS, threadIdx.x), threadIdx.x);
}

static int64_t rows_of(struct attention p)
{
    return p.batch * p.heads * p.seq_q;
}

template <int DIM, bool WIDE = true, class T>
static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                       cudaStream_t stream)
{
    static_assert(THREADS >= DIM, "at the end a thread has a column");
    decode_attention_kernel<T, DIM, WIDE><<<(unsigned)rows_of(p), THREADS, 0, stream>>>(O, lse, Q, K, V, p);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                   cudaStream_t stream)
{
    bool wide = p.dim % PER<T> == 0 && ((uintptr_t)Q | (uintptr_t)K | (uintptr_t)V) % 16 == 0;
    if (p.dim > 256 || rows_of(p) > INT_MAX)
        refuse();
    else if (!wide)
        launch_for<256, false>(O, lse, Q, K, V, p, stream);
    else
        BY_DIM(p.dim, launch_for, O, lse, Q, K, V, p, stream);
}

void decode_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V,
                          struct attention p, void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void decode_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V,
                               struct attention p, void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void decode_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V,
                               struct attention p, void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}
