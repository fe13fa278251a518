/* gpu.h's functions. */
#include "gpu.cuh"
#include "library/gpu.h"
#include "machine.h"
#include "ptx.cuh"

#define THREADS 256
#define MOST_GPUS 64
#define MOST_GRID_Y 65535

/* ---- which GPU */

#define HOPPER_THREADS 64

/* Never launched. Its attributes tell what this was compiled to for the GPU that is here: the threads that it may have. */
static __global__ void __launch_bounds__(HOPPER ? HOPPER_THREADS : 32) built_for_kernel(void) {}

/* What is found out about a GPU is the same whoever asks: two threads may find it at once. */
const struct gpu *gpu_here(void)
{
    static struct gpu found[MOST_GPUS];
    int device = 0;
    cudaGetLastError();
    if (cudaGetDevice(&device) != cudaSuccess || device >= MOST_GPUS) {
        cudaGetLastError();
        return NULL;
    }
    struct gpu *g = &found[device];
    if (__atomic_load_n(&g->capability, __ATOMIC_ACQUIRE) == 0) {
        struct cudaFuncAttributes attributes;
        if (cudaFuncGetAttributes(&attributes, built_for_kernel) != cudaSuccess) {
            cudaGetLastError();
            return NULL;
        }
        int capability = 10 * device_attribute(cudaDevAttrComputeCapabilityMajor) +
                         device_attribute(cudaDevAttrComputeCapabilityMinor);
        __atomic_store_n(&g->hopper, attributes.maxThreadsPerBlock == HOPPER_THREADS, __ATOMIC_RELAXED);
        __atomic_store_n(&g->capability, min(capability, attributes.ptxVersion), __ATOMIC_RELEASE);
    }
    return g;
}

int gpu_sms(void)
{
    return device_attribute(cudaDevAttrMultiProcessorCount);
}

bool gpu_is_well(void)
{
    return cudaGetLastError() == cudaSuccess;
}

/* ---- tables: blockIdx.y and further along are sequences, x its pages */

static __global__ void __launch_bounds__(THREADS) table_kernel(struct table t)
{
    for (int64_t b = blockIdx.y; b < t.batch; b += gridDim.y)
        for (int64_t i = blockIdx.x * THREADS + threadIdx.x; i * t.size < table_keys(&t, b); i += gridDim.x * THREADS)
            t.to[b * t.most + i] = table_entry(&t, b, i);
}

void gpu_table(const struct table *t, cudaStream_t stream)
{
    dim3 blocks((unsigned)min((t->most + THREADS - 1) / THREADS, (int64_t)1024), (unsigned)min(t->batch, (int64_t)MOST_GRID_Y));
    table_kernel<<<blocks, THREADS, 0, stream>>>(*t);
}

/* ---- copies */

void gpu_zero(void *p, size_t bytes, cudaStream_t stream)
{
    cudaMemsetAsync(p, 0, bytes, stream);
}

struct copies {
    struct copy of[MOST_COPIES];
};

/* Eight elements, from and to a multiple of 16 bytes, through fp32; or one. */
template <int N, class TO, class FROM> static __device__ void convert(TO *to, const FROM *from)
{
    if constexpr (N == 1) {
        from_float(to, to_float(*from));
    } else {
        float v[8];
        for (int i = 0; i < 8; i += PER<FROM>)
            unpack(&v[i], load_pack(from + i));
        for (int i = 0; i < 8; i += PER<TO>)
            store_pack(to + i, make_pack<TO>(&v[i]));
    }
}

/* Of one type: as they are. */
template <int N, class T> static __device__ void convert(T *to, const T *from)
{
    if constexpr (N == 1)
        *to = *from;
    else
        for (int i = 0; i < 8; i += PER<T>)
            store_pack(to + i, load_pack(from + i));
}

/* A thread takes N elements of a row, and then as many further along; blockDim.y rows are side by side. z: which copy, y: which
   part of the rows. */
template <int N, class TO, class FROM> static __global__ void __launch_bounds__(THREADS)
    copy_kernel(const __grid_constant__ struct copies all)
{
    const struct copy &c = all.of[blockIdx.z];
    const unsigned seq = (unsigned)c.seq, heads = (unsigned)c.heads, rows = (unsigned)(c.batch * c.heads * c.seq);
    for (unsigned row = blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += gridDim.x * blockDim.y) {
        const unsigned head = row / seq, batch = head / heads;
        const FROM *from = (const FROM *)c.from + batch * c.from_stride[0] + head % heads * c.from_stride[1] +
                           row % seq * c.from_stride[2];
        TO *to = (TO *)c.to + batch * c.to_stride[0] + head % heads * c.to_stride[1] + row % seq * c.to_stride[2];
        for (int64_t i = N * ((int64_t)blockIdx.y * blockDim.x + threadIdx.x); i < c.to_dim; i += N * gridDim.y * blockDim.x) {
            if (i + N <= c.dim)
                convert<N>(to + i, from + i);
            else
                for (int k = 0; k < N; k++)
                    from_float(&to[i + k], 0.0f);
        }
    }
}

/* Whether all rows are whole eights of elements that begin on multiples of 16 bytes. */
static bool is_wide(const struct copy *c)
{
    int64_t all = c->dim | c->to_dim;
    for (int i = 0; i < 3; i++)
        all |= c->to_stride[i] | c->from_stride[i];
    return all % 8 == 0 && ((uintptr_t)c->to | (uintptr_t)c->from) % 16 == 0;
}

template <int N, class TO, class FROM>
static void launch_for(const struct copies *all, int count, int64_t rows, int64_t dim, cudaStream_t stream)
{
    unsigned across = 1;
    while (across < 32 && (int64_t)across * N < dim)
        across *= 2;
    unsigned down = THREADS / across;
    int64_t parts = (dim + N * across * 8 - 1) / (N * across * 8); /* a thread has eight turns in a row */
    dim3 blocks((unsigned)min((rows + down - 1) / down, (int64_t)1 << 20), (unsigned)min(parts, (int64_t)MOST_GRID_Y), count);
    copy_kernel<N, TO, FROM><<<blocks, dim3(across, down), 0, stream>>>(*all);
}

template <class TO, class FROM> static void launch(const struct copy *copies, int count, cudaStream_t stream)
{
    struct copies all;
    int64_t rows = 0, dim = 0;
    bool wide = true;
    for (int i = 0; i < count; i++) {
        all.of[i] = copies[i];
        rows = max(rows, copies[i].batch * copies[i].heads * copies[i].seq);
        dim = max(dim, copies[i].to_dim);
        wide = wide && is_wide(&copies[i]);
    }
    if (wide)
        launch_for<8, TO, FROM>(&all, count, rows, dim, stream);
    else
        launch_for<1, TO, FROM>(&all, count, rows, dim, stream);
}

void gpu_copy(const struct copy *copies, int count, enum dtype to, enum dtype from, cudaStream_t stream)
{
    if (count == 0)
        return;
    if (to == FP32 && from == FP32)
        launch<float, float>(copies, count, stream);
    else if (to == from)
        launch<fp16, fp16>(copies, count, stream); /* bits */
    else if (from == FP16)
        launch<float, fp16>(copies, count, stream);
    else if (from == BF16)
        launch<float, bf16>(copies, count, stream);
    else if (to == FP16)
        launch<fp16, float>(copies, count, stream);
    else
        launch<bf16, float>(copies, count, stream);
}
