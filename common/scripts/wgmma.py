#!/usr/bin/env python3
"""Write common/wgmma.cuh: `python3 common/scripts/wgmma.py >common/wgmma.cuh`. A product has up to 128 operands, one by one."""

import textwrap

TYPES = {"fp16": "f16", "bf16": "bf16"}
WIDTHS = {"scores": [64, 128], "values": [64, 128],  # columns of the result: keys of a tile, or the head dimension;
          "across": [64]}  # queries of a tile, in step 63

HEAD = """/*
 * wgmma: products of a warpgroup (128 threads), which run by themselves until wgmma_wait(). Written by wgmma.py.
 *
 *     wgmma_scores(d, a, b, add, T())   D = A B^T (+ D): A is 64 x 16 and B is N x 16, both in shared memory, rows along k
 *     wgmma_values(d, a, b, add, T())   D = A B (+ D):   A is 64 x 16, this lane's fragment in a[4]; B is 16 x N in shared memory
 *     wgmma_across(d, a, b, add, T())   D = A^T B (+ D): A is 16 x 64 and B is 16 x N, both in shared memory, rows across k
 *
 * d[N / 2]: this lane's share of D, 64 x N, in fp32. Its number of elements chooses N. d[4 i + 2 h + e] is row
 * 16 warp + lane / 4 + 8 h and column 8 i + 2 (lane % 4) + e. a, b: descriptors (ptx.cuh). add: to D, or else replace it.
 *
 * Source: "PTX ISA", asynchronous warpgroup-level matrix instructions.
 */
#ifndef WGMMA_CUH
#define WGMMA_CUH

#include "ptx.cuh"
"""


def lines(items, before, after=""):
    """The items, comma-separated, in lines of 120; `before` each line, and `after` it."""
    rows = textwrap.wrap(", ".join(items), 118 - len(before) - len(after), break_long_words=False)
    return [before + row + (" " if after and row != rows[-1] else "") + after for row in rows]


def product(name, n, t):
    registers = n // 2
    d = [f"%{i}" for i in range(registers)]
    if name != "values":
        a, operands, signature = [f"%{registers}"], ['"l"(a)'], "uint64_t a"
        flags = "p, 1, 1, 0, 0" if name == "scores" else "p, 1, 1, 1, 1"
    else:
        a, operands = [f"%{registers + i}" for i in range(4)], [f'"r"(a[{i}])' for i in range(4)]
        signature, flags = "const uint32_t *a", "p, 1, 1, 1"
    b, add = f"%{registers + len(a)}", f"%{registers + len(a) + 1}"
    a = a[0] if name != "values" else "{" + ", ".join(a) + "}"
    print(f'''
INLINE void wgmma_{name}(float (&d)[{registers}], {signature}, uint64_t b, int add, {t})
{{
    HOPPER_ASM("{{ .reg .pred p; setp.ne.b32 p, {add}, 0; "
               "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{TYPES[t]}.{TYPES[t]} {{"''')
    print("\n".join(lines(d, " " * 15 + '"', '"')))
    print(f"""               "}}, {a}, {b}, {flags}; }}"
               :""")
    print("\n".join(lines([f'"+f"(d[{i}])' for i in range(registers)], " " * 17)))
    print(f"""               : {", ".join(operands)}, "l"(b), "r"(add));
}}""")


print(HEAD, end="")
for name, widths in WIDTHS.items():
    for n in widths:
        for t in TYPES:
            product(name, n, t)
print("\n#endif")
