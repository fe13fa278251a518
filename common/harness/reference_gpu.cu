/*
 * Attention in double on a GPU, straight from the definition, so that every row of a large problem can be judged. No tiles, no
 * online softmax, nothing in common with the steps: all scores of a row, their maximum, the weights, their sum, and the weighted
 * mean of V. What it shares with reference.c is bound.h, which says how wrong an answer may be; verify.c compares the two on some
 * rows.
 *
 * A block computes one row of O at a time. For scores a thread has keys of its own; for sums over V, a coordinate and every so
 * many keys.
 */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "bound.h"
#include "harness.h"

#define THREADS 256
#define BLOCKS_PER_SM 8
#define HEAD_NUMBERS (32ll << 20)    /* of K, and of V, that are in memory as doubles at a time: whole heads, one at least */
#define SCRATCH_NUMBERS (64ll << 20) /* the rows in flight: two for each key */
#define WORK 1.0e12                  /* products of a query with a key, times dim, that an H100 is given */
#define H100_SMS 132

/* Like the arguments of reference_attention, on the GPU. K: (heads, dim, seq_k), transposed; V: (heads, seq_k, dim). */
struct task {
    struct attention p;
    enum dtype dtype;
    struct attention_rounding how;
    const void *Q;
    const double *K, *V;
    int64_t first_kv;    /* the first head that K and V have */
    const int64_t *rows; /* (count) */
    int64_t count;
    double *want, *bound, *scratch;
    struct lse *lse;
    enum doubt *doubt;
};

static __device__ double number(const void *x, enum dtype dtype, int64_t at)
{
    return dtype == FP16 ? __half2float(((const __half *)x)[at])
         : dtype == BF16 ? __bfloat162float(((const __nv_bfloat16 *)x)[at])
                         : ((const float *)x)[at];
}

/* K and V: (heads, seq_k, dim) of type dtype, to double; K is transposed. */
static __global__ void convert_kernel(double *wide_K, double *wide_V, const void *K, const void *V, enum dtype dtype,
                                      int64_t heads, int64_t seq_k, int64_t dim)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < heads * seq_k * dim; at += step) {
        int64_t head = at / (seq_k * dim), key = at / dim % seq_k, i = at % dim;
        wide_K[(head * dim + i) * seq_k + key] = number(K, dtype, at);
        wide_V[at] = number(V, dtype, at);
    }
}

/* The sum of all threads' x, to all threads. `shared`: (THREADS) */
static __device__ double block_sum(double x, double *shared)
{
    __syncthreads();
    shared[threadIdx.x] = x;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    return shared[0];
}

/* The larger one; a NaN if there is one. */
static __device__ double larger(double a, double b)
{
    return a >= b || isnan(a) ? a : b;
}

static __device__ double block_max(double x, double *shared)
{
    __syncthreads();
    shared[threadIdx.x] = x;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            shared[threadIdx.x] = larger(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
    return shared[0];
}

/* share: (visible) the scores of this thread's keys; moved: how far they may be off. Returns the row's largest score. */
static __device__ double score_row(double *share, double *moved, const double *q, const double *K, const struct task *t,
                                   int64_t visible, bool *overflow, double *shared)
{
    double max = -INFINITY;
    for (int64_t key = threadIdx.x; key < visible; key += THREADS) {
        double dot = 0, size = 0;
        for (int64_t i = 0; i < t->p.dim; i++) {
            double product = q[i] * K[i * t->p.seq_k + key];
            dot += product;
            size += fabs(product);
        }
        struct score s = score_of(dot, size, t->p.scale, t->p.dim, t->how.scores ? unit16_of(t->dtype) : 0);
        share[key] = s.value;
        moved[key] = s.doubt;
        *overflow |= s.overflow;
        max = larger(max, s.value);
    }
    *overflow = block_max(*overflow, shared) > 0;
    return block_max(max, shared);
}

/* Adds up over a row's keys, a thread for each coordinate and every so many keys; thread i < dim has the sums of coordinate i. */
static __device__ struct sums add_values(const double *share, const double *moved, const double *V, int64_t dim, int64_t visible,
                                         struct loss loss, double (*shared)[THREADS])
{
    int64_t slices = THREADS / dim, i = threadIdx.x % dim, slice = threadIdx.x / dim;
    struct sums s = {};
    for (int64_t key = slice; key < visible && slice < slices; key += slices) {
        s.want += share[key] * V[key * dim + i];
        s.plain += V[key * dim + i];
    }
    __syncthreads();
    shared[0][threadIdx.x] = s.want, shared[1][threadIdx.x] = s.plain;
    __syncthreads();
    s.want = s.plain = 0;
    for (int64_t from = 0; from < slices; from++)
        s.want += shared[0][from * dim + i], s.plain += shared[1][from * dim + i];
    for (int64_t key = slice; key < visible && slice < slices; key += slices) {
        double v = V[key * dim + i], away = fabs(v - s.want);
        s.moved += moved[key] * away;
        s.rounded += (loss.relative * share[key] + loss.absolute) * fabs(v);
        s.furthest = away > s.furthest ? away : s.furthest;
    }
    __syncthreads();
    shared[0][threadIdx.x] = s.moved, shared[1][threadIdx.x] = s.rounded, shared[2][threadIdx.x] = s.furthest;
    __syncthreads();
    s.moved = s.rounded = s.furthest = 0;
    for (int64_t from = 0; from < slices; from++) {
        s.moved += shared[0][from * dim + i], s.rounded += shared[1][from * dim + i];
        s.furthest = fmax(s.furthest, shared[2][from * dim + i]);
    }
    return s;
}

/* As attend() in reference.c, of which every line has its counterpart here. */
static __device__ void attend(const struct task *t, int64_t at, double *share, double *moved)
{
    __shared__ double q[REFERENCE_GPU_DIM], firm[REFERENCE_GPU_DIM], mean[REFERENCE_GPU_DIM], shared[3][THREADS];
    const struct attention p = t->p;
    int64_t row = t->rows[at], head = attention_kv_head(p, row / p.seq_q) - t->first_kv,
            visible = attention_visible(p, row % p.seq_q);
    const double *K = t->K + head * p.dim * p.seq_k, *V = t->V + head * p.seq_k * p.dim;
    double *want = t->want + at * p.dim, *bound = t->bound + at * p.dim;
    int i = threadIdx.x;
    __syncthreads();
    if (i < p.dim)
        q[i] = number(t->Q, t->dtype, row * p.dim + i);
    __syncthreads();

    bool overflow = false;
    double max = score_row(share, moved, q, K, t, visible, &overflow, shared[0]);
    if (max == -INFINITY) {
        if (i < p.dim)
            want[i] = bound[i] = 0;
        t->lse[at] = { -INFINITY, 0 };
        t->doubt[at] = overflow ? OVERFLOW_OF_S : NO_DOUBT;
        return;
    }
    double sum = 0, sum_doubt = 0, furthest = 0, all_moved = 0;
    for (int64_t key = threadIdx.x; key < visible; key += THREADS) {
        double below = max - share[key], weight = exp(-below), d = exponent_doubt(below, moved[key]);
        furthest = fmax(furthest, d);
        moved[key] = weight_doubt(weight, below, d);
        share[key] = weight;
        sum += weight;
        sum_doubt += moved[key];
    }
    furthest = block_max(furthest, shared[0]);
    sum = block_sum(sum, shared[0]);
    sum_doubt = block_sum(sum_doubt, shared[0]) / sum;
    for (int64_t key = threadIdx.x; key < visible; key += THREADS) {
        share[key] /= sum;
        moved[key] = share_doubt(share[key], moved[key] / sum, sum_doubt);
        all_moved += moved[key];
    }
    all_moved = block_sum(all_moved, shared[0]);
    struct loss loss = loss_of(visible, sum, t->dtype, t->how.weights, t->how.parts);
    struct sums s = add_values(share, moved, V, p.dim, visible, loss, shared);
    if (i < p.dim) {
        want[i] = s.want;
        bound[i] = element_bound(s, loss, all_moved);
        firm[i] = firm_bound(s, loss);
        mean[i] = s.plain / (double)visible;
        if (!isfinite(s.want))
            settle_infinite(&want[i], &bound[i], share, moved, V + i, p.dim, visible, loss.absolute);
    }
    __syncthreads();
    if (i == 0) {
        double lse = max + log(sum);
        t->lse[at] = { lse, lse_bound(lse, sum_doubt, furthest, visible) };
        t->doubt[at] = overflow ? OVERFLOW_OF_S : is_blind(want, bound, firm, mean, p.dim) ? BLIND : NO_DOUBT;
    }
}

static __global__ void attend_kernel(struct task t)
{
    double *share = t.scratch + blockIdx.x * 2 * t.p.seq_k, *moved = share + t.p.seq_k;
    for (int64_t at = blockIdx.x; at < t.count; at += gridDim.x)
        attend(&t, at, share, moved);
}

static void *on_gpu(const void *host, size_t bytes)
{
    void *device = gpu_allocate(bytes + 1);
    if (!device)
        fatal("not enough GPU memory: %.2f GiB needed to verify", (double)bytes / (1 << 30));
    if (host)
        gpu_upload(device, host, bytes);
    return device;
}

/* The rows of `t` from its first on that attend to heads of K and V that fit; K and V are uploaded and converted. */
static void attend_some(struct task t, const void *K, const void *V, int64_t heads, int blocks)
{
    int64_t numbers = heads * t.p.seq_k * t.p.dim;
    size_t offset = (size_t)(t.first_kv * t.p.seq_k * t.p.dim) * dtype_bytes(t.dtype),
           bytes = (size_t)numbers * dtype_bytes(t.dtype);
    void *narrow_K = on_gpu((const char *)K + offset, bytes), *narrow_V = on_gpu((const char *)V + offset, bytes);
    double *wide_K = (double *)on_gpu(NULL, (size_t)numbers * sizeof(double)),
           *wide_V = (double *)on_gpu(NULL, (size_t)numbers * sizeof(double));
    convert_kernel<<<blocks, THREADS>>>(wide_K, wide_V, narrow_K, narrow_V, t.dtype, heads, t.p.seq_k, t.p.dim);
    t.K = wide_K;
    t.V = wide_V;
    attend_kernel<<<blocks, THREADS>>>(t);
    gpu_finish("the reference");
    void *all[] = { narrow_K, narrow_V, wide_K, wide_V };
    for (int i = 0; i < 4; i++)
        gpu_release(all[i]);
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

double reference_gpu_bytes(struct attention p, enum dtype dtype)
{
    double rows = (double)(p.batch * p.heads * p.seq_q), keys = (double)p.seq_k, head = keys * (double)p.dim;
    double numbers = 2 * rows * (double)p.dim + 2 * keys + fmin(SCRATCH_NUMBERS, 2.0 * keys * BLOCKS_PER_SM * gpu_sms());
    double kv = 2 * fmin(head * (double)(p.batch * p.kv_heads), HEAD_NUMBERS + head);
    return (numbers + kv) * sizeof(double) + (kv + rows * (double)p.dim) * (double)dtype_bytes(dtype);
}

void reference_attention_gpu(struct answers *a, const void *Q, const void *K, const void *V, struct attention_rounding how)
{
    struct attention p = a->p;
    size_t numbers = (size_t)(a->count * p.dim) * sizeof(double), lse_bytes = (size_t)a->count * sizeof *a->lse,
           doubt_bytes = (size_t)a->count * sizeof *a->doubt;
    int blocks = (int)smaller(BLOCKS_PER_SM * gpu_sms(), SCRATCH_NUMBERS / (2 * p.seq_k) + 1);
    int64_t most_heads = HEAD_NUMBERS / (p.seq_k * p.dim) + 1, kv_heads = p.batch * p.kv_heads;
    struct task all = {};
    all.p = p, all.dtype = a->dtype, all.how = how;
    void *q = on_gpu(Q, (size_t)(p.batch * p.heads * p.seq_q * p.dim) * dtype_bytes(a->dtype));
    int64_t *rows = (int64_t *)on_gpu(a->rows, (size_t)a->count * sizeof *rows);
    double *want = (double *)on_gpu(NULL, numbers), *bound = (double *)on_gpu(NULL, numbers);
    struct lse *lse = (struct lse *)on_gpu(NULL, lse_bytes);
    enum doubt *doubt = (enum doubt *)on_gpu(NULL, doubt_bytes);
    all.scratch = (double *)on_gpu(NULL, (size_t)blocks * 2 * (size_t)p.seq_k * sizeof(double));
    all.Q = q;
    for (int64_t first = 0, end = 0; first < a->count; first = end) {
        struct task t = all;
        t.first_kv = attention_kv_head(p, a->rows[first] / p.seq_q);
        int64_t heads = smaller(most_heads, kv_heads - t.first_kv);
        while (end < a->count && attention_kv_head(p, a->rows[end] / p.seq_q) < t.first_kv + heads)
            end++;
        t.rows = rows + first, t.count = end - first;
        t.want = want + first * p.dim, t.bound = bound + first * p.dim, t.lse = lse + first, t.doubt = doubt + first;
        attend_some(t, K, V, heads, blocks);
    }
    gpu_download(a->want, want, numbers);
    gpu_download(a->bound, bound, numbers);
    gpu_download(a->lse, lse, lse_bytes);
    gpu_download(a->doubt, doubt, doubt_bytes);
    void *used[] = { q, rows, want, bound, lse, doubt, all.scratch };
    for (int i = 0; i < 7; i++)
        gpu_release(used[i]);
}

double reference_gpu_work(void)
{
    int ratio = 2, device = 0; /* fp32 is that much faster than fp64; 2 on an H100, 32 on a T4 */
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&ratio, cudaDevAttrSingleToDoublePrecisionPerfRatio, device);
    return WORK * gpu_sms() / H100_SMS * 2 / ratio;
}
