#!/usr/bin/env python3
"""How long a ring of ranks takes, on paper: `make scaling`, and docs/scaling.md, which explains it.

    ring_model.py [--ranks 8,64,1024] [--seq 1Mi | --tokens 8Ki] [--mask none|causal|zigzag] ...    (--help lists all)

Every rank has a clock. In a pass it computes (its FLOPs at one rank's speed, then the merge of O at memory speed), and gets the
next block from the rank before (latency, then bytes at the link's speed): after that if nothing overlaps, or else at the same
time. It goes on when it has both, and when its own block is gone. What it needs to know are rates of one rank and of one hop.

Before anything is predicted, the same model is given the rates that runs of steps 68 to 70 printed of one rank and one hop. It
must come within 10 % of the times that step 68 printed of 2 ranks, each with a core of its own, of those that all three printed
of 2 GPUs, and of all balances.
"""
import argparse, collections, dataclasses, functools, math, os, random, re, sys

sys.dont_write_bytecode = True  # no plots/__pycache__: a changed tree would not be recorded

from results import ROOT, Problem, Table, digits3, length_name, read

CROWDED, SHARED, MISSED = "more ranks than cores", "the machine was shared", "missed, and why is not known"
# Of each: how many runs, the first, had the machine to themselves; why the model is not held to the times of these.
RECORDS = (("plots/recorded/epyc-ring.txt", 3, ""), ("plots/recorded/epyc-zigzag.txt", 3, MISSED),
           ("plots/recorded/h100-ring.txt", math.inf, ""))
MERGE_OF_TWO = 6  # bytes for each number of O: the first merge reads two of 16 bits, and the last, the same, writes one
WITHIN = 0.10


@dataclasses.dataclass(frozen=True)
class Ring:
    ranks: int
    seq: float             # tokens in all
    heads: float
    kv_heads: float
    dim: int
    bytes: int             # of a number of K and V; O is merged in fp32
    mask: str              # none, causal (ranks have consecutive tokens), zigzag (causal; a rank has pieces r and 2n - 1 - r)
    rate: float            # FLOP/s of one rank
    memory: float          # bytes/s, read and written
    link: tuple            # s, bytes/s: of a hop between ranks of one node
    between: tuple         # and to another node
    node: int              # ranks of a node
    overlap: bool = True   # a block travels while one is computed
    rings: bool = False    # a ring in each node, whose blocks go on to the next node when all of its ranks have had them
    cores: float = 0       # that all ranks share; 0: each has its own
    merge: int = 12        # bytes of memory for each number of O that is merged: two are read, one is written
    jitter: float = 0      # each pass computes longer by this share on average, at random

    def tokens(self):
        return self.seq / self.ranks

    def block(self):
        """Bytes of what a hop carries."""
        return 2 * self.kv_heads * self.tokens() * self.dim * self.bytes

    def compute(self, which):
        """Seconds for a rank's own block, that of an earlier rank, or of a later one."""
        t, masked = self.tokens(), self.mask != "none"
        pairs, rows = {"own": (t * (t + 1) / 2 if masked else t * t, 0), "earlier": (t * t, t), "later": (t * t, t)}[which]
        if which != "own" and self.mask == "zigzag":  # one call: half of the keys for all queries, all keys for half of them
            pairs, rows = t * t / 2, t if which == "earlier" else t / 2
        if which == "later" and self.mask == "causal":
            pairs = rows = 0
        return 4 * self.heads * self.dim * pairs / self.rate + self.merge * self.heads * self.dim * rows / self.memory

    def flops(self):
        return 4 * self.heads * self.dim * self.seq * (self.seq if self.mask == "none" else (self.seq + 1) / 2)

    def hop(self, link):
        return (link[0] + self.block() / link[1]) * (max(1, self.ranks / self.cores) if self.cores else 1)


@functools.lru_cache(maxsize=None)  # tables ask more than once
def simulate(s):
    """(seconds of all, mean of what ranks compute over the longest)."""
    n, g, dice = s.ranks, s.node if s.rings else s.ranks, random.Random(1)
    own, earlier, later, near, far = *map(s.compute, ("own", "earlier", "later")), s.hop(s.link), s.hop(s.between)
    start, busy = [0.0] * n, [0.0] * n
    entered = start  # when the block that goes on to the next node came to this one
    for p in range(n):
        turns, i = divmod(p, g)
        origin = [(r // g - turns) % (n // g) * g + (r - i) % g for r in range(n)]
        work = [own if o == r else earlier if o < r else later for r, o in enumerate(origin)]
        if s.jitter:
            work = [w * (1 + s.jitter * dice.expovariate(1)) for w in work]
        # Where ranks share cores, a pass lasts until the cores have done all of it.
        stretch = max(1, sum(work) / s.cores / max(work)) if s.cores else 1
        busy = [b + w for b, w in zip(busy, work)]
        done = [b + w * stretch for b, w in zip(start, work)]
        if p == n - 1:
            return max(done), sum(busy) / n / max(busy)
        to_next_node = s.rings and (p + 1) % g == 0
        begun = done if not s.overlap else entered if to_next_node else start
        before = [(r - g) % n if to_next_node else r // g * g + (r - 1) % g for r in range(n)]
        hops = [far if r // s.node != b // s.node else near for r, b in enumerate(before)]
        here, gone = [max(begun[r], begun[b]) + hops[r] for r, b in enumerate(before)], [0.0] * n
        for r, b in enumerate(before):
            gone[b] = here[r]
        start = [max(times) for times in zip(done, here, gone)]
        if to_next_node:
            entered = start


def efficiency(s, seconds=None):
    """Of n ranks: what they did over what they would at one rank's speed."""
    return s.flops() / (s.ranks * s.rate * (seconds or simulate(s)[0]))


def sent(s):
    """Bytes that a rank sends in all: (in a ring, all-to-all, all-to-all with K and V copied for ranks that share a head); None:
    not with so many ranks. All-to-all gives each rank whole heads, of Q and of K and V: Q, K and V go, and O comes back."""
    n, number = s.ranks, 2 * s.tokens() * s.dim * s.bytes * (s.ranks - 1) / s.ranks
    copied = s.heads % n == 0 and n % s.kv_heads == 0 and n > s.kv_heads
    return (n - 1) * s.block(), (s.heads + s.kv_heads) * number if s.kv_heads % n == 0 else None, \
        (s.heads + n) * number if copied else None


def all_to_all(s):
    """Seconds: heads instead of keys among the ranks of a node, as far as there are heads of K and V, and a ring between such
    groups, whose members have one link each. Nothing hides the exchange of Q, K and V, and of O. Ranks have equal work."""
    group = max(g for g in range(1, s.node + 1) if s.ranks % g == 0 and s.kv_heads % g == 0)
    inner = dataclasses.replace(s, ranks=s.ranks // group, heads=s.heads / group, kv_heads=s.kv_heads / group, node=1)
    sent = 2 * (s.heads + s.kv_heads) * s.tokens() * s.dim * s.bytes * (group - 1) / group
    return simulate(inner)[0] + sent / s.link[1] + 2 * s.link[0] * (group > 1)


# ---- held to what was recorded

# What a run printed of a number of ranks, and what the model says: balance is 0 where it is not known, and `why` is not
# empty where the model is not held to the time. Balance is of processor time, which other work leaves as it is. one_ms: of one
# rank, on all cores.
Point = collections.namedtuple("Point", "what ranks one_ms ms ms_said balance balance_said why")


def recorded():
    """The Points of all records, but for those of NCCL, whose hops the model does not know."""
    for path, quiet, why in RECORDS:
        for number, run in enumerate(read(path).split("\n$ ")[1:]):
            if "NCCL between" not in run:
                yield from points_of(run, why if number < quiet else SHARED)


def points_of(run, why):
    """The model knows what the same run printed of one rank and of one hop; on GPUs, how fast one is that has a rank's tokens."""
    *numbers, dtype, causal = re.search(
        r"Q is \(1, (\d+), (\d+), (\d+)\), K and V \(1, (\d+), (\d+), .*?(fp32|bf16)(, causal)?", run).groups()
    heads, seq, dim, kv_heads, keys = map(int, numbers)
    step, asked, balance = (int(re.search(form, run)[1]) for form in (r"/(\d+)_", r"ring +(\d+)", r"average (\d+) %"))
    latency, link = map(float, re.search(r"a hop of (\S+) us and (\S+) GB/s", run).groups())
    times = {int(n): float(ms) for n, ms in re.findall(r"[ ;] (\d+): (\S+) ms,", run)}
    alone, cpu, one_ms = re.search(r"alone .*ms, (\S+) TFLOP/s", run), re.search(r"cpu: .* (\d+) threads", run), times.pop(1)
    cores = int(cpu[1]) if cpu else 0
    on_a_core = max(1, asked / cores) if cpu else 1  # ranks on a core when the hop was measured
    hop = latency * 1e-6 / on_a_core, link * 1e9 * on_a_core
    one = Ring(ranks=1, seq=seq, heads=heads, kv_heads=kv_heads, dim=dim, bytes=4 if dtype == "fp32" else 2, rate=1,
               mask="none" if not causal else "causal" if step == 68 else "zigzag", link=hop, between=hop, node=asked,
               memory=2 * hop[1] if cpu else h100()[1],  # a core's hop reads what it carries, and writes it
               overlap=step == 70, cores=cores, merge=12 if cpu else MERGE_OF_TWO)
    rate = one.flops() / (1e-3 * one_ms * cores) if cpu else 1e12 * float(alone[1])
    what = "%d: %d tokens, %d/%d heads%s%s" % (step, seq, heads, kv_heads, causal or "", "" if cpu else ", two H100")
    for n, ms in times.items():
        if keys == seq:  # the model knows no others
            seconds, equal = simulate(dataclasses.replace(one, ranks=n, rate=rate))
            yield Point(what, n, one_ms, ms, 1e3 * seconds, balance if n == asked else 0, 100 * equal,
                        CROWDED if cpu and n > cores else why)


def held(points):
    """Whether all that the model is held to is within WITHIN."""
    return all(abs(said / was - 1) <= WITHIN for p in points
               for was, said in ((0 if p.why else p.ms, p.ms_said), (p.balance, p.balance_said)) if was)


def recorded_cells(points):
    yield ["steps 68 and 69 on two cores, 68 to 70 on GPUs", "ranks", "ms", "predicted", "off by", "balance", "predicted",
           "time not held to, because"]
    for p in points:
        yield [p.what, str(p.ranks), digits3(p.ms), digits3(p.ms_said), "%+.1f %%" % (100 * (p.ms_said / p.ms - 1)),
               *(["%d %%" % p.balance, "%.0f %%" % p.balance_said] if p.balance else ["", ""]), p.why]


# ---- predictions

H100, STEP = "plots/recorded/h100.tsv", "32_optimistic_attention"


@functools.lru_cache(maxsize=None)
def h100():
    """(FLOP/s of the fastest step, bytes/s of a copy), as recorded."""
    table = Table(H100)
    rate = max(r.tflop_s for r in table.rows if (r.step, r.dtype, r.dim, r.seq_q, r.causal) == (STEP, "bf16", 128, 8192, 0))
    return 1e12 * rate, 1e9 * table.ceilings()["copy", "fp32", None][0]


def whole(least, most):
    def take(text):
        found = re.fullmatch(r"(\d{1,9})(Ki|Mi|Gi)?", text, re.ASCII)
        value = int(found[1]) * 1024 ** (None, "Ki", "Mi", "Gi").index(found[2]) if found else -1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError("'%s': a whole number from %d to %d is allowed; 8Ki is 8 * 1024" % (
                text, least, most))
        return value
    return take


def real(least, most):
    def take(text):
        if not re.fullmatch(r"\d+\.?\d*", text, re.ASCII) or not least <= float(text) <= most:
            raise argparse.ArgumentTypeError("'%s': a number from %g to %g is allowed" % (text, least, most))
        return float(text)
    return take


def options(words):
    p = argparse.ArgumentParser(prog="scaling", description="How long a ring of ranks takes, on paper: docs/scaling.md",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    p.error = lambda message: p.exit(2, "scaling: %s\n" % message.replace("argument ", ""))  # one line, without the usage
    add = p.add_argument
    add("--ranks", type=lambda text: [whole(1, 4096)(word) for word in text.split(",")], default="8,16,64,256,1024",
        help="numbers of GPUs, with commas between them")
    add("--seq", type=whole(1, 2 ** 40), default="1Mi", help="tokens in all")
    add("--tokens", type=whole(1, 2 ** 31), help="tokens of each rank, instead")
    add("--heads", type=whole(1, 1024), default=32, help="of Q")
    add("--kv-heads", type=whole(1, 1024), default=8, help="of K and V")
    add("--dim", type=whole(1, 1024), default=128, help="of a head")
    add("--bytes", type=whole(1, 8), default=2, help="of a number of Q, K and V")
    add("--mask", choices=("none", "causal", "zigzag"), default="zigzag", help="zigzag is causal, and balanced")
    add("--rate", type=real(1e-3, 1e6), help="TFLOP/s of a rank; None: as recorded of step 32 on an H100")
    add("--memory", type=real(1e-3, 1e6), help="GB/s, read and written, of a rank; None: as recorded there")
    add("--merge", type=whole(0, 1000), default=12, help="bytes of it to merge a number of O; 0: the kernel does it on the way")
    add("--node", type=whole(1, 4096), default=8, help="GPUs that NVLink joins")
    add("--link", type=real(1e-3, 1e6), default="450", help="GB/s from one to the next, in a node")
    add("--latency", type=real(0, 1e6), default="3", help="us of a hop there")
    add("--between", type=real(1e-3, 1e6), default="50", help="GB/s from a GPU to one of another node")
    add("--between-latency", type=real(0, 1e6), default="30", help="us of a hop there")
    add("--no-overlap", action="store_true", help="a block travels when all is computed")
    add("--jitter", type=real(0, 1000), default="0", help="%% by which a pass computes longer, on average, at random")
    o = p.parse_args(words)
    if o.heads % o.kv_heads:
        p.error("--heads: '%d': a multiple of --kv-heads is allowed, which is %d" % (o.heads, o.kv_heads))
    for n in o.ranks:
        if n > o.node and n % o.node:
            p.error("--ranks: '%d': at most --node, which is %d, or a multiple of it, is allowed" % (n, o.node))
    return o


def ring_of(o, ranks):
    rate, memory = h100()
    return Ring(ranks=ranks, seq=o.tokens * ranks if o.tokens else o.seq, heads=o.heads, kv_heads=o.kv_heads, dim=o.dim,
                bytes=o.bytes, mask=o.mask, rate=1e12 * o.rate if o.rate else rate,
                memory=1e9 * o.memory if o.memory else memory, link=(1e-6 * o.latency, 1e9 * o.link),
                between=(1e-6 * o.between_latency, 1e9 * o.between), node=min(o.node, ranks), overlap=not o.no_overlap,
                merge=o.merge, jitter=o.jitter / 100)


def predicted_cells(o):
    """A row for each number of ranks: of a pass, the longest that a rank computes and what a hop takes; of all, efficiencies."""
    yield ["ranks", "tokens of each", "computes and merges, ms", "hop in a node", "to another", "one ring, ms",
           "efficiency of it", "of a ring of rings", "of all-to-all and a ring", "balance"]
    for s in (ring_of(o, n) for n in o.ranks):
        (seconds, balance), nodes, percent = simulate(s), s.ranks > s.node, lambda x: "%.1f %%" % (100 * x)
        rings = simulate(dataclasses.replace(s, rings=True))[0] if nodes else 0
        yield [str(s.ranks), length_name(int(s.tokens())), digits3(1e3 * s.compute("earlier")), digits3(1e3 * s.hop(s.link)),
               digits3(1e3 * s.hop(s.between)) if nodes else "-", digits3(1e3 * seconds), percent(efficiency(s, seconds)),
               percent(efficiency(s, rings)) if nodes else "-", percent(efficiency(s, all_to_all(s))), percent(balance)]


def sent_cells(o):
    yield ["ranks", "a ring sends, GB", "all-to-all", "with K and V copied", "all-to-all over ring"]
    for s in (ring_of(o, n) for n in o.ranks):
        ring, heads, copied = sent(s)
        other = heads or copied
        yield [str(s.ranks), *("-" if sum is None else digits3(1e-9 * sum) for sum in (ring, heads, copied)),
               digits3(other / ring) if other and ring else "-"]


def cells(kind, *words):
    """Of `make scaling` with these words: what it is held to, what it predicts, what a rank sends."""
    if kind == "recorded":
        return recorded_cells(recorded())
    return {"predicted": predicted_cells, "sent": sent_cells}[kind](options(words))


def show(rows):
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *row in rows:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row, widths[1:]))]).rstrip())


def main(words):
    os.chdir(ROOT)
    o = options(words)
    try:
        points = list(recorded())
        show(recorded_cells(points))
        if not held(points):
            raise Problem("the model is more than %.0f %% off what was recorded: it predicts nothing" % (100 * WITHIN))
        s = ring_of(o, o.ranks[0])
        print("\n%d heads of %d, %d of K and V; mask: %s. A rank: %s TFLOP/s, memory %s GB/s. A hop: %g GB/s in a node of %d, %g"
              " to another" % (s.heads, s.dim, s.kv_heads, s.mask, digits3(1e-12 * s.rate), digits3(1e-9 * s.memory), o.link,
                               o.node, o.between))
        show(predicted_cells(o))
        print("\nAll that a rank sends; -: there are not so many heads")
        show(sent_cells(o))
    except (Problem, OSError) as problem:
        print("scaling: %s" % problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
