/*
 * Step 41, paged attention on the GPU: keys and values lie in pages of a pool, and a table says in which.
 *
 * A tile does not know of pages. Lane i asks the table where key i of the tile lies, while the tile before that is multiplied,
 * and tells it to the lanes that copy the key. From there on the code is step 40's.
 *
 * Sequences have lengths of their own. The host knows their sum, not them: it says how many keys a piece has, and a sequence has
 * as many pieces as it needs, one at least. All pieces lie side by side, and a block finds out whose the piece is that it has.
 *
 *     seqlens 40, 7, 25, pieces of 16:    0 0 0 | 1 | 2 2
 *
 * Heads of 64 and 128, in 16 bits, from sm_80 on.
 *
 * Memory: a part for each row of each piece, and a count for each block of rows.
 * Changed since step 40: where a key lies, and whose piece a block has.
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
#define RING 384              /* columns of K, and of V, of the tiles of a ring: 3 tiles at heads of 128, 6 at 64 */
#define RESIDENT 2            /* blocks of an SM, where there are so many: one begins while the other works */
#define LEAST 64              /* keys of a piece, at least: a tile for each warp */
#define IDLE 20               /* one SM in so many may be idle, on average */
#define SHARE 8               /* pieces that an SM has, on average, where sequences differ in length */
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

/* A warp's tiles. */
template <int DIM> struct ring {
    static constexpr int STAGES = RING / DIM, BYTES = STAGES * 2 * TILE<DIM>;
};

/* Where 16 bytes of a tile lie, relative to its start; step 19 says why. */
template <int DIM> static __device__ uint32_t swizzled(int row, int chunk)
{
    return row * DIM * 2 + (chunk ^ row % 8) * 16;
}

/* A key of a sequence: number in_page of that page of its own. */
struct place {
    int key, page, in_page;
};

/* A sequence's keys and values of a head. */
template <class T> struct cache {
    const T *K, *V;        /* the head's part of page 0 */
    const int32_t *table;  /* the pages of the sequence */
    int size, stride;      /* keys of a page; rows from a page to the next */
    struct place step;     /* key STEP */
};

/* The row of a lane's key in K and in V, or any if it is not before `last`. Then at is STEP keys on: without a division, which
   takes as long as the products of a tile. */
template <class T> static __device__ int find_key(struct place *at, struct cache<T> c, int last)
{
    int row = at->key < last ? c.table[at->page] * c.stride + at->in_page : 0;
    *at = { at->key + c.step.key, at->page + c.step.page, at->in_page + c.step.in_page };
    if (at->in_page >= c.size) {
        at->in_page -= c.size;
        at->page++;
    }
    return row;
}

/*
 * The warp begins to copy the tiles of K and V from `key` on, if that comes before `last`: (KEYS, DIM) each. row: where the
 * tile's row lies that has the lane's number. Rows from `last` on become zeros. The copies are a group, even if there are none.
 */
template <class T, int DIM> static __device__ void copy_tiles(uint32_t to, struct cache<T> c, int row, int key, int last)
{
    constexpr int CHUNKS = DIM / 8;
    const int lane = threadIdx.x % 32, chunk = lane % CHUNKS;
    const T *K = c.K + 8 * chunk, *V = c.V + 8 * chunk;
    for (int first = 0; first < KEYS && key < last; first += 32 / CHUNKS) {
        int i = first + lane / CHUNKS;
        uint32_t at = to + swizzled<DIM>(i, chunk);
        int64_t from = (int64_t)__shfl_sync(ALL_LANES, row, i) * DIM;
        cp_async(at, K + from, key + i < last);
        cp_async(at + TILE<DIM>, V + from, key + i < last);
    }
    cp_async_commit();
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
 * Merges the warp's tiles of keys from `first` up to `last` into the states of the block's rows. at: its ring, of STAGES
 * tiles, all but one of which travel while that one is multiplied. q: the rows' fragments. visible: keys that rows g and g + 8
 * see.
 */
template <class T, int DIM>
static __device__ void attend(struct rows<DIM> *r, uint32_t at, struct cache<T> c, int first, int last, const uint32_t (*q)[4],
                              const int *visible, float scale)
{
    constexpr int STAGES = ring<DIM>::STAGES, TILES = 2 * TILE<DIM>;
    const int lane = threadIdx.x % 32;
    const uint32_t k_lane = swizzled<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t v_lane = swizzled<DIM>(lane % 16, lane / 16) + TILE<DIM>;

    first += threadIdx.x / 32 * KEYS;
    const int mine = first + lane % KEYS;
    struct place place = { mine, mine / c.size, mine % c.size };
    int row[STAGES]; /* of this lane's key of the first tiles; then the last is that of the tile to be copied next */
    for (int i = 0; i < STAGES; i++)
        row[i] = find_key(&place, c, last);
    for (int i = 0; i < STAGES - 1; i++)
        copy_tiles<T, DIM>(at + i * TILES, c, row[i], first + i * STEP, last);
    int stage = 0;
    for (int key = first; key < last; key += STEP) {
        cp_async_wait<STAGES - 2>();
        __syncwarp(); /* this tile has arrived, and no lane uses the one before it any more: it is the next to be replaced */
        copy_tiles<T, DIM>(at + (stage + STAGES - 1) % STAGES * TILES, c, row[STAGES - 1], key + (STAGES - 1) * STEP, last);
        row[STAGES - 1] = find_key(&place, c, last);

        float s[KEYS / 8][4] = {};
        products<T, DIM>(s, q, at + stage * TILES + k_lane);
        for (int n = 0; n < KEYS / 8; n++)
            for (int i = 0; i < 4; i++) {
                bool sees = key + 8 * n + lane % 4 * 2 + i % 2 < visible[i / 2];
                s[n][i] = sees ? s[n][i] * scale : -INFINITY;
            }
        softmax(r, s);
        add_values<T, DIM>(r, s, at + stage * TILES + v_lane);
        stage = (stage + 1) % STAGES;
    }
    cp_async_wait_all(); /* none are left that write */
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

/* A piece of a sequence's keys. */
struct piece {
    int sequence, keys;  /* how many that has */
    int before;          /* pieces of the sequences before it */
    int piece, pieces;   /* this one, of so many */
};

/*
 * The piece that is number `at` of all pieces, of `each` keys; sequence -1 if there are fewer. most: pieces of the longest
 * sequence. A warp adds up 32 sequences at a time; but where all are as long as the longest, none need be looked at.
 */
static __device__ struct piece find_piece(int at, int each, int most, struct pages pages, struct attention p)
{
    const int lane = threadIdx.x % 32;
    if (pages.keys == p.batch * p.seq_k)
        return { at / most, (int)p.seq_k, at / most * most, at % most, most };
    for (int first = 0, before = 0; first < p.batch; first += 32) {
        bool there = first + lane < p.batch;
        int keys = there ? pages.seqlens[first + lane] : 0;
        int pieces = there ? max((keys + each - 1) / each, 1) : 0, sum = sum_up_to(pieces);
        unsigned beyond = __ballot_sync(ALL_LANES, before + sum > at);
        if (beyond) {
            int found = __ffs(beyond) - 1;
            pieces = __shfl_sync(ALL_LANES, pieces, found);
            before += __shfl_sync(ALL_LANES, sum, found) - pieces;
            return { first + found, __shfl_sync(ALL_LANES, keys, found), before, at - before, pieces };
        }
        before += __shfl_sync(ALL_LANES, sum, 31);
    }
    return { -1 };
}

/*
 * As attention_paged_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes. group: attention_group(p); tiles:
 * blocks of rows of a head of K and V; each, most: as of find_piece(). step: as in a cache. parts: (sequence, head, tile, piece,
 * ROWS), counts: (sequence, head, tile), zeros, and left so.
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS, RESIDENT)
    paged_attention_kernel(T *O, float *lse, const T *Q, const T *K, const T *V, struct pages pages, struct attention p,
                           int group, int tiles, int each, int most, struct place step,
                           struct part<DIM> *parts, unsigned *counts)
{
    needs_sm_80();
    extern __shared__ __align__(256) unsigned char shared[];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, blocks = (int)p.kv_heads * tiles; /* of a piece */
    const int head = blockIdx.x % blocks / tiles, tile = blockIdx.x % tiles, all = group * (int)p.seq_q;
    const struct piece x = find_piece(blockIdx.x / blocks, each, most, pages, p);
    if (x.sequence < 0)
        return;
    const int piece = x.piece, pieces = x.pieces;
    const struct block b = { x.sequence * p.kv_heads + head, group, tile * ROWS, min(all - tile * ROWS, ROWS) };
    p.seq_k = x.keys; /* its own, from here on */

    uint32_t q[DIM / 16][4];
    load_q<T, DIM>(q, Q, b, p);
    int visible[2];
    for (int h = 0; h < 2; h++)
        visible[h] = (int)attention_visible(p, (b.first + min(g + 8 * h, b.rows - 1)) / group);
    const int seen = (int)attention_visible(p, (b.first + b.rows - 1) / group); /* by the last row, and so by any */
    const int first = piece * each, last = min(first + each, seen);
    for (int h = 0; h < 2; h++)
        visible[h] = min(visible[h], last);

    struct rows<DIM> r = {};
    r.m[0] = r.m[1] = -INFINITY;
    const int64_t of_head = head * pages.size * DIM;
    const struct cache<T> c = { K + of_head, V + of_head, pages.table + x.sequence * pages.most,
                                (int)pages.size, (int)(p.kv_heads * pages.size), step };
    attend<T, DIM>(&r, shared_address(shared) + warp * ring<DIM>::BYTES, c, first, last, q, visible, p.scale);

    struct part<DIM> *warps = (struct part<DIM> *)shared; /* (WARPS, ROWS) */
    __syncthreads(); /* the rings are empty */
    store_parts(warps + warp * ROWS, &r);
    __syncthreads();
    parts += ((int64_t)x.before * blocks + (head * tiles + tile) * (int64_t)pieces) * ROWS;
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

/*
 * Keys of a piece. Where all sequences are of one length, as in step 40; otherwise so many that an SM has SHARE of them: whoever
 * is free takes the next, and at the end nobody waits for longer than one takes.
 */
static int64_t keys_of_piece(struct attention p, struct pages pages)
{
    int64_t blocks = p.kv_heads * tiles_of(p), each = blocks * pages.keys / (gpu_sms() * SHARE);
    if (pages.keys == p.batch * p.seq_k) {
        int64_t pieces = pieces_of(p.batch * blocks, p.seq_k);
        each = (p.seq_k + pieces - 1) / pieces;
    }
    return (max(each, (int64_t)LEAST) + KEYS - 1) / KEYS * KEYS;
}

/* Pieces of the longest sequence. */
static int64_t most_pieces(struct attention p, struct pages pages)
{
    int64_t each = keys_of_piece(p, pages);
    return (p.seq_k + each - 1) / each;
}

/* Pieces of all sequences, at most: each has one that is not full, or none; and no more than the longest. */
static int64_t pieces_in_all(struct attention p, struct pages pages)
{
    return min(pages.keys / keys_of_piece(p, pages) + p.batch, p.batch * most_pieces(p, pages));
}

template <int DIM, class T>
static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct pages pages, struct attention p,
                       void *workspace, cudaStream_t stream)
{
    constexpr int bytes = WARPS * ring<DIM>::BYTES;
    static_assert(bytes <= SHARED_SM_80, "more than a block's shared memory");
    static_assert(WARPS * ROWS * sizeof(struct part<DIM>) <= bytes, "parts take the place of the rings");
    int64_t tiles = tiles_of(p), blocks = pieces_in_all(p, pages) * p.kv_heads * tiles;
    struct part<DIM> *parts = (struct part<DIM> *)workspace;
    unsigned *counts = (unsigned *)(parts + blocks * ROWS);
    int64_t rows = pages.pool * p.kv_heads * pages.size; /* of the pool: they are counted in 32 bits */
    if (attention_group(p) * p.seq_q > INT_MAX / 2 || blocks > INT_MAX || rows > INT_MAX)
        return refuse();
    int size = (int)pages.size, each = (int)keys_of_piece(p, pages), most = (int)most_pieces(p, pages);
    struct place step = { STEP, STEP / size, STEP % size };
    cudaFuncSetAttribute(paged_attention_kernel<T, DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    paged_attention_kernel<T, DIM><<<(unsigned)blocks, THREADS, bytes, stream>>>(
        O, lse, Q, K, V, pages, p, (int)attention_group(p), (int)tiles, each, most, step, parts, counts);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct pages pages, struct attention p,
                   void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64)
        launch_for<64>(O, lse, Q, K, V, pages, p, workspace, stream);
    else
        launch_for<128>(O, lse, Q, K, V, pages, p, workspace, stream);
}

void paged_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct pages pages,
                              struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, pages, p, workspace, stream);
}

void paged_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct pages pages,
                              struct attention p, void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, pages, p, workspace, stream);
}

size_t paged_attention_workspace(struct attention p, struct pages pages, enum dtype)
{
    int64_t blocks = p.kv_heads * tiles_of(p);
    size_t of_piece = ROWS * sizeof(struct part<128>), of_counts = (size_t)p.batch * sizeof(unsigned);
    return most_pieces(p, pages) > 1 ? (size_t)blocks * ((size_t)pieces_in_all(p, pages) * of_piece + of_counts) : 0;
}
