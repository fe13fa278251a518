#!/usr/bin/env python3
"""What it costs, on paper, that blocks of keys add to dQ in the order of their keys: the prediction of step 67's lesson.

Each of SMS processors has a block of keys at a time. It has dQ of another block of queries every STEP clocks. Of two threads each
adds every other one: it looks whether it is its turn (LOOK), has the sums added (ADDED; the place in shared memory is free after
READ), and counts, which others see after SEEN. The block waits when both places are full. Printed is the speed as a share of that
in any order. STEP, START and END are step 66's at heads of 128; the others are guesses, ADDED above all. SECTION is
what was predicted with; the step has 32768, since L2, which is not in here, holds no more.
"""
import heapq, random

SMS, BLOCK, KEYS, SECTION = 132, 64, 128, 65536
STEP, START, END = 3650, 8000, 2000
LOOK, ADDED, READ, SEEN = 700, 2500, 700, 1000
TOKENS, HEADS = 16384, 16

# heads of a section, for so many tokens; whether the last keys begin first; whether a block begins with the last queries
ORDERS = {
    "a head after the other, queries rising": (lambda tokens: 1, False, False),
    "sections, queries rising": (lambda tokens: SECTION // tokens, False, False),
    "sections, last keys first, queries rising": (lambda tokens: SECTION // tokens, True, False),
    "sections, queries falling": (lambda tokens: SECTION // tokens, False, True),
}


def tiles(heads, key_blocks, section, last_first):
    """(head, block of keys), in the order in which they begin."""
    for first in range(0, heads, section):
        for key_block in sorted(range(key_blocks), reverse=last_first):
            for head in range(first, min(first + section, heads)):
                yield head, key_block


def clocks(tokens, causal, section, last_first, falling, in_order=True):
    free, turn, late = [0] * SMS, {}, random.Random(1)  # when processors are free; when a block of queries can be added to
    blocks = -(-tokens // BLOCK)
    for head, key_block in tiles(TOKENS // tokens * HEADS, -(-tokens // KEYS), section, last_first):
        queries = range(key_block * KEYS // BLOCK if causal else 0, blocks)
        now, read, added = heapq.heappop(free) + START, [0, 0], [0, 0]
        for n, query_block in enumerate(reversed(queries) if falling else queries):
            place = n % 2
            now = max(now + STEP * late.uniform(0.8, 1.2), read[place])
            begin = max(now, added[place] + LOOK, turn.get((head, query_block), 0) if in_order else 0)
            read[place], added[place] = begin + READ, begin + ADDED
            turn[head, query_block] = added[place] + SEEN
        heapq.heappush(free, max(now, *added if in_order else read) + END)
    return max(free)


def main():
    cases = [(tokens, causal) for causal in (False, True) for tokens in (512, 2048, 8192)]
    print("%-42s" % "heads of 128; tokens", *("%6d%s" % (tokens, " c"[causal]) for tokens, causal in cases))
    free = [clocks(tokens, causal, 16 if causal else 1, False, False, False) for tokens, causal in cases]
    for name, (section, *order) in ORDERS.items():
        shares = (any_order / clocks(*case, section(case[0]), *order) for case, any_order in zip(cases, free))
        print("%-42s" % name, *("%5.0f %%" % (100 * share) for share in shares))


if __name__ == "__main__":
    main()
