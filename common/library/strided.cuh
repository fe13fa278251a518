/*
 * A Hopper step's tensors as the library has them: in any layout that the copy engine takes, (batch, seq, heads, dim) for one.
 * The library compiles such a step with this as OTHER_MAPS, and hopper.cuh then has it in place of its own attention_map().
 *
 * A step's launcher looks at nothing of a tensor but its alignment, and hands it to attention_map(). So what it is given here is
 * the tensor's description, struct strided of gpu.h, which is aligned as a tensor must be.
 *
 * The steps count heads through all batches, and in a map of theirs all heads are equally far apart. Here batches have a
 * dimension of their own, and a head is taken apart by a multiplication: head / heads = head * reciprocal / 2^32, rounded down,
 * which is exact as long as there are fewer than 2^32 heads times heads of a batch (on_gpu.c sees to that).
 */
#ifndef STRIDED_CUH
#define STRIDED_CUH

#include "library/gpu.h"

struct tensor_map {
    CUtensorMap map;
    unsigned heads, reciprocal; /* of a batch; reciprocal is 0 where there is but one */
};

template <class T> static inline bool attention_map(tensor_map *map, const T *tensor, int64_t, int64_t rows, int dim,
                                                    int box_rows, int panels, int64_t = 0 /* has its own pitch */)
{
    const struct strided *t = (const struct strided *)tensor;
    PFN_cuTensorMapEncodeTiled_v12000 encode = map_encoder();
    map->heads = (unsigned)t->heads;
    map->reciprocal = t->batches > 1 ? (unsigned)((UINT64_C(1) << 32) / (uint64_t)t->heads + 1) : 0;
    cuuint64_t sizes[] = { PANEL, (cuuint64_t)rows, (cuuint64_t)dim / PANEL, (cuuint64_t)t->heads, (cuuint64_t)t->batches };
    cuuint64_t strides[] = { t->row * sizeof(T), PANEL * sizeof(T), t->head * sizeof(T), t->batch * sizeof(T) }; /* in bytes */
    cuuint32_t box[] = { PANEL, (cuuint32_t)box_rows, (cuuint32_t)panels, 1, 1 }, steps[] = { 1, 1, 1, 1, 1 };
    if (encode && encode(&map->map, attention_map_type(T()), 5, t->data, sizes, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS)
        return true;
    refuse();
    return false;
}

struct map_head {
    unsigned head, batch; /* of the batch */
};

/* A copy waits for this, and so load() does it before the place is free that is copied to. The compiler does not see through the
   asm, and cannot put it off; and as it is not volatile, K and V of a block share it. */
INLINE map_head head_of_map(const tensor_map *map, unsigned head)
{
    unsigned batch = __umulhi(head, map->reciprocal), of_batch = head - batch * map->heads;
    asm("" : "+r"(of_batch), "+r"(batch));
    return { of_batch, batch };
}

/* As in ptx.cuh: from (0, row, panel, head of the batch, batch) on. */
INLINE void tma_load(uint32_t shared, const tensor_map *map, uint32_t barrier, int row, int panel, map_head at, uint64_t hint)
{
    HOPPER_ASM("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
               "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;"
               :: "r"(shared), "l"(&map->map), "r"(0), "r"(row), "r"(panel), "r"(at.head), "r"(at.batch), "r"(barrier),
                  "l"(hint) : "memory");
}

INLINE void tma_store(const tensor_map *map, uint32_t shared, int row, int panel, int head)
{
    map_head at = head_of_map(map, head);
    HOPPER_ASM("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];"
               :: "l"(&map->map), "r"(0), "r"(row), "r"(panel), "r"(at.head), "r"(at.batch), "r"(shared) : "memory");
    HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory");
}

#endif
