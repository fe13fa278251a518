/* The GPU's part of check_hopper_layout.c: tiles are loaded, multiplied and stored as the Hopper steps do it. */
#include "hopper.cuh"
#include "hopper_layout.h"

template <class T, int KEYS, int DIM> struct __align__(1024) tiles {
    T q[LAYOUT_QUERIES * DIM], x[KEYS * DIM];
    uint64_t full;
};

/* As hopper_layout() in hopper_layout.h has it: one block of one warpgroup. */
template <class T, int KEYS, int DIM> static __global__ void layout_kernel(const __grid_constant__ CUtensorMap q,
                                                                           const __grid_constant__ CUtensorMap x,
                                                                           const __grid_constant__ CUtensorMap copy, T *image,
                                                                           float *S, float *O)
{
    needs_hopper();
    if constexpr (HOPPER) {
        extern __shared__ __align__(1024) unsigned char bytes[];
        tiles<T, KEYS, DIM> &t = *(tiles<T, KEYS, DIM> *)bytes;
        const uint32_t full = shared_address(&t.full);
        const int thread = threadIdx.x, row = thread / 32 * 16 + thread % 32 / 4, col = thread % 4 * 2;
        if (thread == 0) {
            mbarrier_init(full, 1);
            mbarrier_init_fence();
            mbarrier_arrive_expect(full, sizeof t.q + sizeof t.x);
            tma_load(shared_address(t.q), &q, full, 0, 0, 0, READ_ONCE);
            tma_load(shared_address(t.x), &x, full, LAYOUT_FIRST_ROW, 0, 0, KEEP_IN_L2);
        }
        __syncthreads();
        mbarrier_wait(full, 0);
        for (int i = thread; i < KEYS * DIM; i += 128)
            image[i] = t.x[i];
        if (thread == 0)
            tma_store(&copy, shared_address(t.x), LAYOUT_FIRST_ROW, 0, 0);

        float s[KEYS / 2], o[DIM / 2];
        begin_scores<DIM>(s, wgmma_descriptor(shared_address(t.q), 0), wgmma_descriptor(shared_address(t.x), 0), T());
        wgmma_wait<0>();
        arrived(s);
        for (int i = 0; i < KEYS / 2; i++)
            S[(row + i / 2 % 2 * 8) * KEYS + i / 4 * 8 + col + i % 2] = s[i];

        uint32_t p[KEYS / 4];
        for (int i = 0; i < KEYS / 4; i++) { /* of rows g and g + 8 two neighbours in 8 keys, and so on */
            int key = LAYOUT_KEY(row + i % 2 * 8, KEYS), at = i / 2 * 8 + col;
            float two[2] = { key == at ? 1.0f : 0.0f, key == at + 1 ? 1.0f : 0.0f };
            p[i] = word_of_floats(two, T());
        }
        begin_values(o, p, wgmma_descriptor(shared_address(t.x), KEYS * 128), false, T());
        end_values(o, p);
        for (int i = 0; i < DIM / 2; i++)
            O[(row + i / 2 % 2 * 8) * DIM + i / 4 * 8 + col + i % 2] = o[i];
        if (thread == 0)
            tma_store_wait_read<0>();
    }
}

template <class T, int KEYS, int DIM> static void launch(struct layout l)
{
    const T *Q = (const T *)l.Q, *X = (const T *)l.X, *copy = (const T *)l.copy;
    int bytes = sizeof(tiles<T, KEYS, DIM>);
    cudaFuncSetAttribute(layout_kernel<T, KEYS, DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    CUtensorMap q, x, c;
    if (!attention_map(&q, Q, 1, LAYOUT_QUERIES, DIM, LAYOUT_QUERIES, DIM / PANEL) ||
        !attention_map(&x, X, LAYOUT_HEADS, l.rows, DIM, KEYS, DIM / PANEL) ||
        !attention_map(&c, copy, LAYOUT_HEADS, l.rows, DIM, KEYS, DIM / PANEL))
        return;
    layout_kernel<T, KEYS, DIM><<<1, 128, bytes>>>(q, x, c,
                                                   (T *)l.image, l.S, l.O);
}

template <class T> static void launch_for(struct layout l)
{
    if (l.keys == 64)
        l.dim == 64 ? launch<T, 64, 64>(l) : launch<T, 64, 128>(l);
    else
        l.dim == 64 ? launch<T, 128, 64>(l) : launch<T, 128, 128>(l);
}

void hopper_layout(struct layout l)
{
    l.dtype == FP16 ? launch_for<fp16>(l) : launch_for<bf16>(l);
}
