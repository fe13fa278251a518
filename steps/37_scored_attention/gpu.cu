/*
 * Step 37, scored attention: the queries of a group are the rows of one tile of a tensor core, which makes their scores.
 *
 * 16 rows cost no more than one. A warp multiplies all queries of its block with 16 keys at once, Q K^T, as step 18 does; a lane
 * loads what it holds of Q and K straight from memory. Scores go through shared memory: there a lane finds those of its group's
 * keys, of every row. The rest is step 35's: a group has a state for each row. Rows that are not there take no part in it.
 *
 *     a warp    K, V  wait  Q K^T  scores to all lanes  row 0, row 1 ...  K, V  wait ...
 *
 * Memory: a part for each row of each piece, and a count for each block of rows.
 * Changed since step 36: 16 rows, and who multiplies them with keys. Heads of 64 and 128, in 16 bits, from sm_80 on.
 */
#include "gpu.cuh"
#include "machine.h"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 2               /* of a block */
#define THREADS (32 * WARPS)
#define ROWS 16               /* of a block: those of a tensor core's tile */
#define RESIDENT 4            /* blocks of an SM: one loads while the others multiply */
#define LEAST 64              /* keys of a piece, at least: two tiles for each warp */
#define IDLE 20               /* one place for a block in so many may be empty, on average */
#define FLOATS 4              /* columns that a thread merges at once: 16 bytes */

/* The state of a query over some of its keys, or as many columns of it: the maximum, and the sums of exp(score - m), and of
   exp(score - m) v. */
template <int COLUMNS> struct __align__(16) part {
    float o[COLUMNS];
    struct softmax_state s;
};

/* How a warp has values of DIM elements, of 16 keys. */
template <class T, int DIM> struct shape {
    static constexpr int LANES = DIM / PER<T> < 32 ? DIM / PER<T> : 32;  /* that have a key together */
    static constexpr int EACH = DIM / PER<T> / LANES;                    /* packs of it that a lane has, LANES apart */
    static constexpr int COLUMNS = EACH * PER<T>;
    static constexpr int GROUPS = 32 / LANES;                            /* of lanes */
    static constexpr int KEYS = 16 / GROUPS;                             /* that a group takes at a time */
    static constexpr int TILE = KEYS * GROUPS * WARPS;                   /* keys that the block takes at a time */
    static constexpr int PARTS = GROUPS * WARPS;
};

/* The column where a lane's pack i begins. */
template <class T, int DIM> static __device__ int column(int i)
{
    return (i * shape<T, DIM>::LANES + threadIdx.x % shape<T, DIM>::LANES) * PER<T>;
}

/* A lane's packs of a row x: (DIM); zeros if it is not `there`. */
template <class T, int DIM> static __device__ void load_row(pack<T> *p, const T *x, bool there)
{
    for (int i = 0; i < shape<T, DIM>::EACH; i++)
        p[i] = there ? load_once(x + column<T, DIM>(i)) : pack<T>{};
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

/* A lane's fragments of the block's rows of Q, A of the product. What is not there is 0. */
template <class T, int DIM> static __device__ void load_q(uint32_t (*q)[4], const T *Q, struct block b, struct attention p)
{
    for (int h = 0; h < 2; h++) {
        int row = threadIdx.x % 32 / 4 + 8 * h;
        const T *from = Q + row_at(b, p, row) * DIM + threadIdx.x % 4 * 2;
        for (int i = 0; i < DIM / 8; i++)
            q[i / 2][i % 2 * 2 + h] = row < b.rows ? *(const uint32_t *)(from + 8 * i) : 0;
    }
}

/* The same of 16 keys, and 16 of their dims from 16 k on, B: two quarters for 8 keys, two for the next 8. */
template <class T, int DIM> static __device__ void load_k(uint32_t *r, const T *K, int there, int k)
{
    const int g = threadIdx.x % 32 / 4;
    for (int i = 0; i < 4; i++) /* keys that are not there get the score of the last one, which will not count */
        r[i] = *(const uint32_t *)(K + min(g + i / 2 * 8, there - 1) * DIM + 16 * k + i % 2 * 8 + threadIdx.x % 4 * 2);
}

/* s: 16 x 16 = Q K^T; K: (there, DIM). */
template <class T, int DIM>
static __device__ void products(float (*s)[4], const uint32_t (*q)[4], const T *K, int there)
{
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t b[4];
        load_k<T, DIM>(b, K, there, k);
        mma(s[0], q[k], b[0], b[1], T());
        mma(s[1], q[k], b[2], b[3], T());
    }
}

/*
 * A lane's columns of the states of the block's rows over its group's share of the keys; K, V: (keys, DIM). Rows g and g + 8 see
 * the first visible[0], visible[1] of them. scores: the warp's, to be filled.
 */
template <class T, int DIM>
static __device__ void attend(struct part<shape<T, DIM>::COLUMNS> *part, const T *Q, const T *K, const T *V, struct block b,
                              int keys, const int *visible, struct attention p, float (*scores)[16])
{
    using S = shape<T, DIM>;
    uint32_t q[DIM / 16][4];
    load_q<T, DIM>(q, Q, b, p);
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < S::COLUMNS; i++)
            part[row].o[i] = 0.0f;
        part[row].s = softmax_empty();
    }

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / S::LANES;
    for (int tile = 0; tile < keys; tile += S::TILE) {
        int first = tile + warp * S::KEYS * S::GROUPS;
        pack<T> v[S::KEYS][S::EACH];
        for (int i = 0; i < S::KEYS; i++) {
            int key = first + group + i * S::GROUPS;
            load_row<T, DIM>(v[i], V + (int64_t)key * DIM, key < keys);
        }
        float s[2][4] = {};
        products<T, DIM>(s, q, K + (int64_t)first * DIM, keys - first);
        for (int n = 0; n < 2; n++)
            for (int i = 0; i < 4; i++) {
                int key = 8 * n + lane % 4 * 2 + i % 2;
                scores[lane / 4 + i / 2 * 8][key] = first + key < visible[i / 2] ? s[n][i] * p.scale : -INFINITY;
            }
        __syncwarp();
#pragma unroll
        for (int row = 0; row < ROWS; row++)
            if (row < b.rows) {
                float w[S::KEYS];
                for (int i = 0; i < S::KEYS; i++)
                    w[i] = scores[row][group + i * S::GROUPS];
                merge_keys<T, DIM>(&part[row], w, v);
            }
        __syncwarp(); /* no lane uses the scores any more: they are the next to be replaced */
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
template <class T> static __device__ void finish(T *O, float *lse, struct part<FLOATS> whole, int column)
{
    float inverse = whole.s.l == 0.0f ? 0.0f : 1.0f / whole.s.l;
    for (int i = 0; i < FLOATS; i++)
        from_float(O + column + i, whole.o[i] * inverse);
    if (lse && column == 0)
        *lse = whole.s.m + logf(whole.s.l);
}

/*
 * As attention_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes. group: attention_group(p); tiles: blocks of
 * rows of a head of K and V. parts: (head, tile, piece, ROWS), counts: (head, tile), zeros, and left so.
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS, RESIDENT)
    scored_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                             int group, int tiles, int pieces,
                             struct part<DIM> *parts, unsigned *counts)
{
    needs_sm_80();
    using S = shape<T, DIM>;
    __shared__ struct part<DIM> groups[S::PARTS * ROWS]; /* of lanes */
    __shared__ float scores[WARPS][ROWS][16];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    const int tile = blockIdx.x % tiles, piece = blockIdx.x / tiles % pieces, all = group * (int)p.seq_q;
    const struct block b = { blockIdx.x / tiles / pieces, group, tile * ROWS, min(all - tile * ROWS, ROWS) };
    const int64_t seen = attention_visible(p, (b.first + b.rows - 1) / group); /* by the last row, and so by any */
    const int first = (int)(seen * piece / pieces), keys = (int)(seen * (piece + 1) / pieces) - first;
    const int64_t at = (b.kv_head * p.seq_k + first) * DIM;
    int visible[2];
    for (int h = 0; h < 2; h++)
        visible[h] = min((int)attention_visible(p, (b.first + min(g + 8 * h, b.rows - 1)) / group) - first, keys);

    struct part<S::COLUMNS> mine[ROWS];
    attend<T, DIM>(mine, Q, K + at, V + at, b, keys, visible, p, scores[warp]);
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
            finish(O + at * DIM, lse ? lse + at : NULL, whole, column);
        }
    }
    if (pieces > 1 && is_last(&counts[b.kv_head * tiles + tile], pieces))
        for (int i = threadIdx.x * FLOATS; i < b.rows * DIM; i += THREADS * FLOATS) {
            int row = i / DIM, column = i % DIM;
            int64_t at = row_at(b, p, row);
            finish(O + at * DIM, lse ? lse + at : NULL, merge_pieces<32>(parts + row, pieces, column), column);
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

template <int DIM, class T>
static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                       void *workspace, cudaStream_t stream)
{
    int64_t tiles = tiles_of(p), blocks = p.batch * p.kv_heads * tiles, pieces = pieces_of(blocks, p.seq_k);
    struct part<DIM> *parts = (struct part<DIM> *)workspace;
    unsigned *counts = pieces > 1 ? (unsigned *)(parts + blocks * pieces * ROWS) : NULL;
    if (p.seq_k > INT_MAX / 2 || attention_group(p) * p.seq_q > INT_MAX / 2 || blocks * pieces > INT_MAX)
        return refuse();
    scored_attention_kernel<T, DIM><<<(unsigned)(blocks * pieces), THREADS, 0, stream>>>(
        O, lse, Q, K, V, p, (int)attention_group(p), (int)tiles, (int)pieces, parts, counts);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                   void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64)
        launch_for<64>(O, lse, Q, K, V, p, workspace, stream);
    else
        launch_for<128>(O, lse, Q, K, V, p, workspace, stream);
}

void scored_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V,
                                struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void scored_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V,
                                struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

size_t scored_attention_workspace(struct attention p, enum dtype)
{
    int64_t blocks = p.batch * p.kv_heads * tiles_of(p), pieces = pieces_of(blocks, p.seq_k);
    return pieces > 1 ? (size_t)blocks * ((size_t)pieces * ROWS * sizeof(struct part<128>) + sizeof(unsigned)) : 0;
}
