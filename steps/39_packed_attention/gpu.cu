/*
 * Step 39, packed attention: tiles of K and V come through shared memory, and a warp has its own.
 *
 * The queries of a group are the rows of one tile of a tensor core, as in steps 37 and 38. The products are step 18's, on tiles
 * in shared memory as step 19 has them.
 *
 * A block owns ROWS rows and a piece of the keys that they see. Its warps go their own ways: each takes every WARPS-th tile of
 * KEYS keys, copies it, waits, multiplies, and has a state of its own. No barrier, until at the end the warps' states are merged,
 * and then the pieces'; of a block's rows all at once, four columns a thread.
 *
 *     a warp    copy  wait  multiply  copy  wait  multiply ...
 *
 * Memory: a part for each row of each piece, and a count for each block of rows.
 * Changed since step 38: K and V are copied row by row, and taken apart in shared memory; one block of four warps an SM.
 */
#include "gpu.cuh"
#include "machine.h"
#include "merge.h"
#include "ptx.cuh"
#include "steps.h"

#define WARPS 4               /* of a block */
#define THREADS (32 * WARPS)
#define ROWS 16               /* of a block */
#define KEYS 16               /* of a tile */
#define STEP (WARPS * KEYS)   /* keys from a warp's tile to its next */
#define RESIDENT 2            /* blocks of an SM, where there are so many: one begins while the other works */
#define LEAST 64              /* keys of a piece, at least: a tile for each warp */
#define IDLE 20               /* one SM in so many may be idle, on average */
#define FLOATS 4              /* columns that a thread merges at once: 16 bytes */

/* The state of a row over some of its keys, or so many columns of it. */
template <int COLUMNS> struct __align__(16) part {
    float o[COLUMNS];
    struct softmax_state s;
};

/* What a lane holds of 16 rows: of rows g and g + 8, the columns 2t and 2t + 1 of every eight, as step 18 draws it. */
template <int DIM> struct rows {
    float o[DIM / 8][4];
    float m[2], l[2];  /* the maximum, and this lane's part of the sum */
};

template <int DIM> static constexpr int TILE = KEYS * DIM * 2; /* bytes of a tile of K, or of V, in shared memory */

/* Where 16 bytes of a tile lie, relative to its start; step 19 says why. */
template <int DIM> static __device__ uint32_t swizzled(int row, int chunk)
{
    return row * DIM * 2 + (chunk ^ row % 8) * 16;
}

/* A sequence's keys and values of a head: (seq_k, DIM). */
template <class T> struct cache {
    const T *K, *V;
};

/* A warp begins to copy a tile of K or V: (KEYS, DIM). Rows from `there` on become zeros. */
template <class T, int DIM> static __device__ void copy_tile(uint32_t to, const T *from, int there)
{
    constexpr int CHUNKS = DIM / 8;
    const int lane = threadIdx.x % 32, chunk = lane % CHUNKS;
    for (int i = 0; i < KEYS; i += 32 / CHUNKS) {
        int row = i + lane / CHUNKS;
        cp_async(to + swizzled<DIM>(row, chunk), from + row * DIM + 8 * chunk, row < there);
    }
}

/* The warp copies the tiles of K and V from `key` on, and waits for them. */
template <class T, int DIM> static __device__ void copy_tiles(uint32_t to, struct cache<T> c, int key, int last)
{
    copy_tile<T, DIM>(to, c.K + (int64_t)key * DIM, last - key);
    copy_tile<T, DIM>(to + TILE<DIM>, c.V + (int64_t)key * DIM, last - key);
    cp_async_wait_all();
    __syncwarp();
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

/* s: 16 x KEYS = Q K^T. k_at: what the lane passes to the first ldmatrix. */
template <class T, int DIM> static __device__ void products(float (*s)[4], const uint32_t (*q)[4], uint32_t k_at)
{
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t b[4]; /* two quarters for 8 keys, two for the next 8 */
        ldmatrix(b, k_at ^ 32 * k);
        mma(s[0], q[k], b[0], b[1], T());
        mma(s[1], q[k], b[2], b[3], T());
    }
}

/* Merge the scores of a tile into the rows' states; s becomes exp(s - m). */
template <int DIM> static __device__ void softmax(struct rows<DIM> *r, float (*s)[4])
{
    for (int h = 0; h < 2; h++) { /* row g, and row g + 8 */
        float m = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
        m = fmaxf(r->m[h], warp_max<4>(m)); /* the four lanes of a row are neighbours */

        float base = m == -INFINITY ? 0.0f : m; /* -inf - -inf would be NaN */
        float keep = fast_exp(r->m[h] - base);
        r->m[h] = m;
        r->l[h] *= keep;
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++)
                r->o[n][i] *= keep;
        for (int n = 0; n < KEYS / 8; n++)
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = fast_exp(s[n][i] - base);
                r->l[h] += s[n][i];
            }
    }
}

/* o += P V, where P: 16 x KEYS is what softmax() left in s. v_at: as k_at. */
template <class T, int DIM> static __device__ void add_values(struct rows<DIM> *r, const float (*s)[4], uint32_t v_at)
{
    uint32_t weights[4];
    for (int i = 0; i < 4; i++) /* four quarters of S are four quarters of P */
        weights[i] = word_of_floats(&s[i / 2][i % 2 * 2], T());
    for (int n = 0; n < DIM / 16; n++) {
        uint32_t b[4]; /* two quarters for 8 columns, two for the next 8 */
        ldmatrix_trans(b, v_at ^ 32 * n);
        mma(r->o[2 * n], weights, b[0], b[1], T());
        mma(r->o[2 * n + 1], weights, b[2], b[3], T());
    }
}

/*
 * Merges the warp's tiles of keys from `first` up to `last` into the states of the block's rows. at: where its tiles of K and V
 * lie, one of each. q: the rows' fragments. visible: keys that rows g and g + 8 see.
 */
template <class T, int DIM>
static __device__ void attend(struct rows<DIM> *r, uint32_t at, struct cache<T> c, int first, int last, const uint32_t (*q)[4],
                              const int *visible, float scale)
{
    const int lane = threadIdx.x % 32;
    const uint32_t k_lane = swizzled<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t v_lane = swizzled<DIM>(lane % 16, lane / 16) + TILE<DIM>;

    first += threadIdx.x / 32 * KEYS;
    for (int key = first; key < last; key += STEP) {
        copy_tiles<T, DIM>(at, c, key, last);

        float s[KEYS / 8][4] = {};
        products<T, DIM>(s, q, at + k_lane);
        for (int n = 0; n < KEYS / 8; n++)
            for (int i = 0; i < 4; i++) {
                bool sees = key + 8 * n + lane % 4 * 2 + i % 2 < visible[i / 2];
                s[n][i] = sees ? s[n][i] * scale : -INFINITY;
            }
        softmax(r, s);
        add_values<T, DIM>(r, s, at + v_lane);
        __syncwarp(); /* no lane uses the tile any more: it is the next to be replaced */
    }
}

/* The warp's states as parts: (ROWS). */
template <int DIM> static __device__ void store_parts(struct part<DIM> *parts, const struct rows<DIM> *r)
{
    const int lane = threadIdx.x % 32;
    for (int h = 0; h < 2; h++) {
        struct part<DIM> *part = &parts[lane / 4 + 8 * h];
        for (int n = 0; n < DIM / 8; n++)
            *(float2 *)&part->o[8 * n + lane % 4 * 2] = make_float2(r->o[n][2 * h], r->o[n][2 * h + 1]);
        float l = warp_sum<4>(r->l[h]);
        if (lane % 4 == 0)
            part->s = { r->m[h], l };
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
    packed_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                            int group, int tiles, int pieces,
                            struct part<DIM> *parts, unsigned *counts)
{
    needs_sm_80();
    __shared__ __align__(256) struct part<DIM> warps[WARPS * ROWS]; /* and before that, its warps' tiles */
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    const int tile = blockIdx.x % tiles, piece = blockIdx.x / tiles % pieces, all = group * (int)p.seq_q;
    const struct block b = { blockIdx.x / tiles / pieces, group, tile * ROWS, min(all - tile * ROWS, ROWS) };

    uint32_t q[DIM / 16][4];
    load_q<T, DIM>(q, Q, b, p);
    int visible[2];
    for (int h = 0; h < 2; h++)
        visible[h] = (int)attention_visible(p, (b.first + min(g + 8 * h, b.rows - 1)) / group);
    const int seen = (int)attention_visible(p, (b.first + b.rows - 1) / group); /* by the last row, and so by any */
    const int each = ((seen + pieces - 1) / pieces + KEYS - 1) / KEYS * KEYS;
    const int first = piece * each, last = min(first + each, seen);
    for (int h = 0; h < 2; h++)
        visible[h] = min(visible[h], last);

    struct rows<DIM> r = {};
    r.m[0] = r.m[1] = -INFINITY;
    const int64_t of_head = b.kv_head * p.seq_k * DIM;
    const struct cache<T> c = { K + of_head, V + of_head };
    attend<T, DIM>(&r, shared_address(warps) + warp * 2 * TILE<DIM>, c, first, last, q, visible, p.scale);

    __syncthreads(); /* no warp has a tile any more */
    store_parts(warps + warp * ROWS, &r);
    __syncthreads();
    parts += (b.kv_head * tiles + tile) * pieces * ROWS;
    for (int i = threadIdx.x * FLOATS; i < b.rows * DIM; i += THREADS * FLOATS) {
        int row = i / DIM, column = i % DIM;
        struct part<FLOATS> whole = merge_pieces<WARPS>(warps + row, WARPS, column);
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
            finish(O + at * DIM, lse ? lse + at : NULL, merge_pieces<16>(parts + row, pieces, column), column);
        }
}

/* Blocks of rows of a head of K and V. */
static int64_t tiles_of(struct attention p)
{
    return (attention_group(p) * p.seq_q + ROWS - 1) / ROWS;
}

/*
 * How many pieces the keys of each of so many blocks of rows are cut into: the fewest that leave no more than one SM in IDLE
 * without a block, and no more than keys allow. (One block has enough bytes under way for an SM.) With as many pieces as SMs none
 * is idle: the search ends there.
 */
static int64_t pieces_of(int64_t blocks, int64_t keys)
{
    int64_t pieces = 1, most = keys / LEAST, places = gpu_sms();
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
    static_assert(ROWS * sizeof(struct part<DIM>) >= 2 * TILE<DIM>, "parts take the place of the tiles");
    int64_t tiles = tiles_of(p), blocks = p.batch * p.kv_heads * tiles, pieces = pieces_of(blocks, p.seq_k);
    struct part<DIM> *parts = (struct part<DIM> *)workspace;
    unsigned *counts = pieces > 1 ? (unsigned *)(parts + blocks * pieces * ROWS) : NULL;
    if (attention_group(p) * p.seq_q > INT_MAX / 2 || blocks * pieces > INT_MAX)
        return refuse();
    packed_attention_kernel<T, DIM><<<(unsigned)(blocks * pieces), THREADS, 0, stream>>>(
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

void packed_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V,
                               struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void packed_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V,
                               struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

size_t packed_attention_workspace(struct attention p, enum dtype)
{
    int64_t blocks = p.batch * p.kv_heads * tiles_of(p), pieces = pieces_of(blocks, p.seq_k);
    return pieces > 1 ? (size_t)blocks * ((size_t)pieces * ROWS * sizeof(struct part<128>) + sizeof(unsigned)) : 0;
}
