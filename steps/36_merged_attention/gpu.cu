/*
 * Step 36, merged attention: the rows of a block are merged side by side, four columns a thread.
 *
 * Step 35 merges a row after the other, all warps together: it waits for memory, and for its warps, once for each row. Here all
 * rows' columns are spread over the block, FLOATS of them, 16 bytes, a thread, which merges all their parts by itself. The parts
 * of a piece lie row after row: first those of the groups of lanes, in shared memory, then, in the last block, all pieces'.
 *
 *     threads     0 .. 31    32 .. 63    64 .. 95    96 .. 127     heads of 128
 *     row         0          1           2           3
 *
 * Memory: a part for each row of each piece, and a count for each block of rows.
 * Changed since step 35: who merges what, and hence where parts lie.
 */
#include "gpu.cuh"
#include "machine.h"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 8               /* of a block */
#define THREADS (32 * WARPS)
#define PACKS 4               /* of K, and of V, that a lane has under way */
#define ROWS 4                /* queries of a block: they share each load */
#define RESIDENT 2            /* blocks of an SM: its registers hold no more rows, and one loads while the other multiplies */
#define LEAST 64              /* keys of a piece, at least: twice as many as a block has under way in fp32 at heads of 128 */
#define IDLE 20               /* one place for a block in so many may be empty, on average */
#define FLOATS 4              /* columns that a thread merges at once: 16 bytes */

/* The state of a query over some of its keys, or as many columns of it: the maximum, and the sums of exp(score - m), and of
   exp(score - m) v. */
template <int COLUMNS> struct __align__(16) part {
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

/* What a block knows of its rows. */
struct block {
    int64_t kv_head;
    int group, first, rows;  /* heads of Q to a head of K and V; its first row of that head, and how many it has */
};

/* Where the block's row i lies among those of Q. */
static __device__ int64_t row_at(struct block b, struct attention p, int i)
{
    int row = b.first + i;
    return (b.kv_head * b.group + row % b.group) * p.seq_q + row / b.group;
}

/*
 * A lane's columns of the states of the block's rows over its group's share of the keys; K, V: (keys, dim). A row sees the first
 * visible[row] of them.
 */
template <class T, int DIM, bool WIDE>
static __device__ void attend(struct part<shape<T, DIM>::COLUMNS> *part, const T *Q, const T *K, const T *V, struct block b,
                              int keys, const int *visible, struct attention p)
{
    using S = shape<T, DIM>;
    const int64_t dim = p.dim;
    pack<T> q_packs[S::EACH];
    float query[ROWS][S::COLUMNS];
    for (int row = 0; row < ROWS; row++) {
        load_row<T, DIM, WIDE>(q_packs, Q + row_at(b, p, row) * dim, dim, row < b.rows);
        for (int i = 0; i < S::EACH; i++)
            unpack(query[row] + i * PER<T>, q_packs[i]);
        for (int i = 0; i < S::COLUMNS; i++)
            part[row].o[i] = 0.0f;
        part[row].s = softmax_empty();
    }

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int tile = 0; tile < keys; tile += S::TILE) {
        int first = tile + warp * S::KEYS * S::GROUPS + lane / S::LANES;
        pack<T> k[S::KEYS][S::EACH], v[S::KEYS][S::EACH];
        float w[ROWS][S::KEYS];
        for (int i = 0; i < S::KEYS; i++)
            load_row<T, DIM, WIDE>(k[i], K + first * dim + i * S::GROUPS * dim, dim, first + i * S::GROUPS < keys);
        for (int i = 0; i < S::KEYS; i++)
            load_row<T, DIM, WIDE>(v[i], V + first * dim + i * S::GROUPS * dim, dim, first + i * S::GROUPS < keys);
        for (int i = 0; i < S::KEYS; i++)
            for (int row = 0; row < ROWS; row++) {
                float score = p.scale * warp_sum<S::LANES>(dot<T, DIM>(query[row], k[i]));
                w[row][i] = first + i * S::GROUPS < visible[row] ? score : -INFINITY;
            }
        for (int row = 0; row < ROWS; row++)
            merge_keys<T, DIM>(&part[row], w[row], v);
    }
}

/* What a part's sums count for in a union whose maximum is m. The empty part, with its m of -inf, counts for nothing. */
static __device__ float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : fast_exp(part.m - m);
}

/* The union of `pieces` parts that lie ROWS apart, in their order, MERGED at a time: its state, and columns of its o. */
template <int MERGED, int DIM>
static __device__ struct part<FLOATS> merge_pieces(const struct part<DIM> *parts, int pieces, int column)
{
    struct part<FLOATS> whole = { {}, softmax_empty() };
    for (int piece = 0; piece < pieces; piece += MERGED) {
        struct part<FLOATS> some[MERGED];
        float m = whole.s.m;
        for (int k = 0; k < MERGED; k++) {
            const struct part<DIM> *part = &parts[min(piece + k, pieces - 1) * ROWS];
            some[k].s = piece + k < pieces ? part->s : softmax_empty();
            *(float4 *)some[k].o = *(const float4 *)&part->o[column];
        }
        for (int k = 0; k < MERGED; k++)
            m = fmaxf(m, some[k].s.m);
        float keep = share(whole.s, m);
        whole.s.l *= keep;
        for (int i = 0; i < FLOATS; i++)
            whole.o[i] *= keep;
        for (int k = 0; k < MERGED; k++) {
            float counts = share(some[k].s, m);
            whole.s.l += some[k].s.l * counts;
            for (int i = 0; i < FLOATS; i++)
                whole.o[i] += some[k].o[i] * counts;
        }
        whole.s.m = m;
    }
    return whole;
}

/* Columns of a row of O, and once its lse. No weight: zeros and -inf. */
template <class T> static __device__ void finish(T *O, float *lse, struct part<FLOATS> whole, int column, int dim)
{
    float inverse = whole.s.l == 0.0f ? 0.0f : 1.0f / whole.s.l;
    for (int i = 0; i < FLOATS && column + i < dim; i++)
        from_float(O + column + i, whole.o[i] * inverse);
    if (lse && column == 0)
        *lse = whole.s.m + logf(whole.s.l);
}

/*
 * Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. lse: (batch, heads, seq_q), or NULL.
 * group: attention_group(p); tiles: blocks of rows of a head of K and V. parts: (head, tile,
 * piece, ROWS), counts: (head, tile), zeros, and left so.
 */
template <class T, int DIM, bool WIDE> static __global__ void __launch_bounds__(THREADS, RESIDENT)
    merged_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                             int group, int tiles, int pieces,
                             struct part<DIM> *parts, unsigned *counts)
{
    using S = shape<T, DIM>;
    __shared__ struct part<DIM> groups[S::PARTS * ROWS]; /* of lanes */
    const int dim = (int)p.dim;
    const int tile = blockIdx.x % tiles, piece = blockIdx.x / tiles % pieces, all = group * (int)p.seq_q;
    const struct block b = { blockIdx.x / tiles / pieces, group, tile * ROWS, min(all - tile * ROWS, ROWS) };
    const int64_t seen = attention_visible(p, (b.first + b.rows - 1) / group); /* by the last row, and so by any */
    const int first = (int)(seen * piece / pieces), keys = (int)(seen * (piece + 1) / pieces) - first;
    const int64_t at = (b.kv_head * p.seq_k + first) * dim;
    int visible[ROWS];
    for (int i = 0; i < ROWS; i++)
        visible[i] = min((int)attention_visible(p, (b.first + min(i, b.rows - 1)) / group) - first, keys);

    struct part<S::COLUMNS> mine[ROWS];
    attend<T, DIM, WIDE>(mine, Q, K + at, V + at, b, keys, visible, p);
    for (int row = 0; row < ROWS; row++) {
        struct part<DIM> *to = &groups[threadIdx.x / S::LANES * ROWS + row];
        for (int i = 0; i < S::COLUMNS; i++)
            to->o[column<T, DIM>(i / PER<T>) + i % PER<T>] = mine[row].o[i];
        to->s = mine[row].s;
    }
    __syncthreads();
    parts += (b.kv_head * tiles + tile) * pieces * ROWS;
    for (int i = threadIdx.x * FLOATS; i < b.rows * DIM; i += THREADS * FLOATS) {
        int row = i / DIM, column = i % DIM;
        struct part<FLOATS> whole = merge_pieces<8>(groups + row, S::PARTS, column);
        if (pieces > 1) {
            struct part<DIM> *to = &parts[piece * ROWS + row];
            *(float4 *)&to->o[column] = *(float4 *)whole.o;
            if (column == 0)
                to->s = whole.s;
        } else {
            int64_t at = row_at(b, p, row);
            finish(O + at * dim, lse ? lse + at : NULL, whole, column, dim);
        }
    }
    if (pieces > 1 && is_last(&counts[b.kv_head * tiles + tile], pieces))
        for (int i = threadIdx.x * FLOATS; i < b.rows * DIM; i += THREADS * FLOATS) {
            int row = i / DIM, column = i % DIM;
            int64_t at = row_at(b, p, row);
            finish(O + at * dim, lse ? lse + at : NULL, merge_pieces<16>(parts + row, pieces, column), column, dim);
        }
}

/* Blocks of rows of a head of K and V. */
static int64_t tiles_of(struct attention p)
{
    return (attention_group(p) * p.seq_q + ROWS - 1) / ROWS;
}

/*
 * How many pieces the keys of each of so many blocks of rows are cut into: the fewest that leave no more than one place for a
 * block in IDLE empty, and no more than keys allow. With as many pieces as places none is empty: the search ends there.
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
    int64_t tiles = tiles_of(p), blocks = p.batch * p.kv_heads * tiles, pieces = pieces_of(blocks, p.seq_k);
    struct part<DIM> *parts = (struct part<DIM> *)workspace;
    unsigned *counts = pieces > 1 ? (unsigned *)(parts + blocks * pieces * ROWS) : NULL;
    if (p.seq_k > INT_MAX / 2 || attention_group(p) * p.seq_q > INT_MAX / 2 || blocks * pieces > INT_MAX)
        return refuse();
    merged_attention_kernel<T, DIM, WIDE><<<(unsigned)(blocks * pieces), THREADS, 0, stream>>>(
        O, lse, Q, K, V, p, (int)attention_group(p), (int)tiles, (int)pieces, parts, counts);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                   void *workspace, cudaStream_t stream)
{
    bool wide = p.dim % PER<T> == 0 && ((uintptr_t)Q | (uintptr_t)K | (uintptr_t)V) % 16 == 0;
    if (p.dim > 256)
        refuse();
    else if (!wide)
        launch_for<256, false>(O, lse, Q, K, V, p, workspace, stream);
    else
        BY_DIM(p.dim, launch_for, O, lse, Q, K, V, p, workspace, stream);
}

void merged_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V,
                           struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void merged_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V,
                                struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void merged_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V,
                                struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

size_t merged_attention_workspace(struct attention p, enum dtype)
{
    int64_t blocks = p.batch * p.kv_heads * tiles_of(p), pieces = pieces_of(blocks, p.seq_k);
    return pieces > 1 ? (size_t)blocks * ((size_t)pieces * ROWS * sizeof(struct part<256>) + sizeof(unsigned)) : 0;
}
