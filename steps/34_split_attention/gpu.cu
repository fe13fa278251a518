/*
 * Step 34, split attention on the GPU: the keys of a query are shared by all SMs.
 *
 * The keys of a query are cut into pieces, and a block takes a piece: it leaves its part (m, l, o) in the workspace, and counts
 * itself. The last block of a query to come merges all parts, in the order of the pieces, whoever came when: the same bits in
 * every run. There is one launch, and nobody waits. A piece without keys is the empty part, and changes nothing.
 *
 *     time  ~  rounds of pieces / pieces a query,      rounds = pieces of all queries / places for blocks, rounded up
 *
 * Memory: a part for each piece, and a count for each query.
 * Changed since step 33: pieces, their number, and the merge at the end.
 */
#include "gpu.cuh"
#include "machine.h"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 8               /* of a block */
#define THREADS (32 * WARPS)
#define PACKS 8               /* of K, and of V, that a lane has under way */
#define RESIDENT 2            /* blocks of an SM: one has 64 KB under way, more than it needs, while the other begins or ends */
#define LEAST 64              /* keys of a piece, at least: as many as a block has under way in fp32 at heads of 128 */
#define MERGED 8              /* parts that are merged at a time: they are asked for together */
#define IDLE 20               /* one place for a block in so many may be empty, on average */

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

/* Merge keys with scores w and values v into a part: all KEYS of them at once, the merge of step 13 with a set for each key. */
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

/*
 * The union of every STEP-th of `pieces` parts, from `first` on, in their order, MERGED at a time: its state, and columns
 * `column`, `column` + 32, ... of its o.
 */
template <int STEP, int COLUMNS, int DIM>
static __device__ struct part<COLUMNS> merge_pieces(const struct part<DIM> *parts, int first, int pieces, int column)
{
    struct part<COLUMNS> whole = { {}, softmax_empty() };
    for (int piece = first; piece < pieces; piece += MERGED * STEP) {
        struct part<COLUMNS> some[MERGED];
        float m = whole.s.m;
        for (int k = 0; k < MERGED; k++) {
            const struct part<DIM> *part = &parts[min(piece + k * STEP, pieces - 1)];
            some[k].s = piece + k * STEP < pieces ? part->s : softmax_empty();
            for (int i = 0; i < COLUMNS; i++)
                some[k].o[i] = part->o[column + 32 * i];
        }
        for (int k = 0; k < MERGED; k++)
            m = fmaxf(m, some[k].s.m);
        float keep = share(whole.s, m);
        whole.s.l *= keep;
        for (int i = 0; i < COLUMNS; i++)
            whole.o[i] *= keep;
        for (int k = 0; k < MERGED; k++) {
            float counts = share(some[k].s, m);
            whole.s.l += some[k].s.l * counts;
            for (int i = 0; i < COLUMNS; i++)
                whole.o[i] += some[k].o[i] * counts;
        }
        whole.s.m = m;
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

/* The part of the block, in the thread's column: all groups of lanes have left theirs in `groups`. */
template <int DIM, int PARTS> static __device__ struct part<1> block_part(const struct part<DIM> *groups)
{
    __syncthreads();
    return merge_pieces<1, 1>(groups, 0, PARTS, threadIdx.x % DIM);
}

/*
 * Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. lse: (batch, heads, seq_q), or NULL.
 * parts: (row, piece), counts: (row), zeros, and left so.
 */
template <class T, int DIM, bool WIDE> static __global__ void __launch_bounds__(THREADS, 1) /* registers for all packs */
    split_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, int pieces,
                           struct part<DIM> *parts, unsigned *counts)
{
    using S = shape<T, DIM>;
    __shared__ struct part<DIM> shared[S::PARTS];
    const int dim = (int)p.dim, piece = blockIdx.x % pieces, thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int64_t row = blockIdx.x / pieces, visible = attention_visible(p, row % p.seq_q), first = visible * piece / pieces;
    const int64_t keys = visible * (piece + 1) / pieces - first;
    const int64_t at = (attention_kv_head(p, row / p.seq_q) * p.seq_k + first) * dim;

    struct part<S::COLUMNS> mine;
    attend<T, DIM, WIDE>(&mine, Q + row * dim, K + at, V + at, keys, dim, p.scale);
    for (int i = 0; i < S::COLUMNS; i++)
        shared[thread / S::LANES].o[column<T, DIM>(i / PER<T>) + i % PER<T>] = mine.o[i];
    shared[thread / S::LANES].s = mine.s;
    struct part<1> whole = block_part<DIM, S::PARTS>(shared);

    if (pieces > 1) {
        parts += row * pieces;
        if (thread < DIM)
            parts[piece].o[thread] = whole.o[0];
        if (thread == 0)
            parts[piece].s = whole.s;
        if (!is_last(&counts[row], pieces))
            return;
        /* A warp merges every WARPS-th piece, and then the block what its warps have. */
        struct part<DIM / 32> some = merge_pieces<WARPS, DIM / 32>(parts, warp, pieces, lane);
        for (int i = 0; i < DIM / 32; i++)
            shared[warp].o[lane + 32 * i] = some.o[i];
        shared[warp].s = some.s;
        whole = block_part<DIM, WARPS>(shared);
    }
    if (thread < dim)
        finish(O + row * dim, lse ? lse + row : NULL, whole, thread);
}

static int64_t rows_of(struct attention p)
{
    return p.batch * p.heads * p.seq_q;
}

/*
 * How many pieces the keys of each of so many blocks are cut into (a block would have a query, then): the fewest that leave no
 * more than one place for a block in IDLE empty, and no more than keys allow. With as many pieces as places none is empty: the
 * search ends there.
 */
static int64_t pieces_of(int64_t blocks, int64_t keys)
{
    int64_t pieces = 1, most = keys / LEAST, places = gpu_sms() * RESIDENT;
    for (; pieces < most; pieces++) {
        int64_t rounds = (blocks * pieces + places - 1) / places;
        if (IDLE * blocks * pieces >= (IDLE - 1) * rounds * places)
            break;
    }
    return pieces;
}

template <int DIM, bool WIDE = true, class T>
static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                       void *workspace, cudaStream_t stream)
{
    static_assert(THREADS >= DIM, "at the end a thread has a column");
    int64_t rows = rows_of(p), pieces = pieces_of(rows, p.seq_k);
    struct part<DIM> *parts = (struct part<DIM> *)((unsigned *)workspace + rows);
    split_attention_kernel<T, DIM, WIDE><<<(unsigned)(rows * pieces), THREADS, 0, stream>>>(
        O, lse, Q, K, V, p, (int)pieces, parts, (unsigned *)workspace);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                   void *workspace, cudaStream_t stream)
{
    bool wide = p.dim % PER<T> == 0 && ((uintptr_t)Q | (uintptr_t)K | (uintptr_t)V) % 16 == 0;
    if (p.dim > 256 || rows_of(p) > INT_MAX)
        refuse();
    else if (!wide)
        launch_for<256, false>(O, lse, Q, K, V, p, workspace, stream);
    else
        BY_DIM(p.dim, launch_for, O, lse, Q, K, V, p, workspace, stream);
}

void split_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V,
                         struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void split_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V,
                              struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void split_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V,
                              struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

size_t split_attention_workspace(struct attention p, enum dtype)
{
    int64_t rows = rows_of(p), pieces = pieces_of(rows, p.seq_k);
    return pieces > 1 ? (size_t)rows * (sizeof(unsigned) + (size_t)pieces * sizeof(struct part<256>)) : 0;
}
