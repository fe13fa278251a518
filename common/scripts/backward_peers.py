"""The backward part of common/scripts/peers.py, on a CPU: the gradients of attention by PyTorch, and in turn with it, a few runs
each, by the program of our fastest step, with as many threads.

No row is added to the table of results for PyTorch, whose attention there is the forward pass: what is printed is all.
"""
import json
import math
import os
import subprocess

from attention_peers import mean

STEP = "31_recomputed_backward"
TOKENS, WIDTH = 2048, 1024   # in all; heads times dim
LENGTHS = [512, 1024, 2048]
QUICK_LENGTHS = [2048]
TURNS, RUNS = 3, 3           # of each
CHECKED_ROWS = 8             # of dQ, compared with fp64


class Gradients:
    """Q, K, V, how the loss changes with O, what the forward pass made; and a few exact rows of the gradients."""

    def __init__(self, torch, dtype, tokens, dim, causal):
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        self.torch, self.dtype, self.causal, self.scale = torch, dtype, causal, 1 / math.sqrt(dim)
        size = self.batch, self.heads, self.tokens, self.dim = TOKENS // tokens, WIDTH // dim, tokens, dim
        self.q, self.k, self.v, self.change = (torch.randn(size).to(kind) for _ in range(4))
        for leaf in self.q, self.k, self.v:
            leaf.requires_grad_()
        self.out = torch.nn.functional.scaled_dot_product_attention(self.q, self.k, self.v, is_causal=causal)
        self.flops = 10 * self.batch * self.heads * dim * tokens * ((tokens + 1) / 2 if causal else tokens)
        self.useful_bytes = 8.0 * self.q.numel() * self.q.element_size()

    def run(self):
        """What autograd runs for the attention that PyTorch chooses on a CPU."""
        return self.torch.autograd.grad(self.out, (self.q, self.k, self.v), self.change, retain_graph=True)

    def error(self):
        """The worst error of some rows of dQ, over their largest element; NaN if any gradient has one."""
        gradients, worst, largest = self.run(), 0, 0
        if any(g.isnan().any().item() for g in gradients):
            return math.nan
        for i in range(CHECKED_ROWS):
            batch, head, row = i * 7 % self.batch, i * 5 % self.heads, i * (self.tokens - 1) // (CHECKED_ROWS - 1)
            q, k, v, change = (t[batch, head].detach().double() for t in (self.q, self.k, self.v, self.change))
            keys = slice(0, row + 1 if self.causal else None)
            weights, by = self.torch.softmax(k[keys] @ q[row] * self.scale, 0), v[keys] @ change[row]
            want = self.scale * (weights * (by - weights @ by)) @ k[keys]
            worst = max(worst, (gradients[0][batch, head, row].double() - want).abs().max().item())
            largest = max(largest, want.abs().max().item())
        return worst / largest


def our_runs(program, threads, p):
    """The row of results of RUNS runs of the step's program on a problem like this, and its times."""
    sizes = {"batch": p.batch, "heads": p.heads, "seq": p.tokens, "dim": p.dim, "dtype": p.dtype, "threads": threads,
             "reps": RUNS}
    words = [word for name, size in sizes.items() for word in ("--" + name, str(size))] + ["--causal"] * p.causal
    done = subprocess.run([program, "--device", "cpu", "--json", *words], stdout=subprocess.PIPE, text=True, check=True,
                          env={**os.environ, "SMALL_PROBLEMS": "0"})
    return json.loads(done.stdout)


def middle(times):
    return sorted(times)[len(times) // 2]


def bench_backward(torch, device, dtype, program, o):
    ratios = []
    torch.manual_seed(o.seed)
    print("\nbackward, %s, %d tokens in all, heads times dim %d: GFLOP/s" % (dtype, TOKENS, WIDTH))
    for dim in (64, 128):
        for causal in (False, True):
            for tokens in QUICK_LENGTHS if o.quick else LENGTHS:
                p, theirs, ours = Gradients(torch, dtype, tokens, dim, causal), [], []
                for _ in range(TURNS):
                    theirs.append(middle(device.time_in_turn([p.run], p.useful_bytes, RUNS, 0)[0]))
                    ours.append(our_runs(program, device.threads, p))
                rates = [1e-6 * p.flops / middle(times) for times in (theirs, [row["median_ms"] for row in ours])]
                ratios.append(rates[1] / rates[0])
                print("  %5d tokens, dim %3d%-8s  torch %7.1f (error %.1e)  %s %7.1f (error %.1e, %s)  %.2fx" % (
                    tokens, dim, ", causal" * causal, rates[0], p.error(), STEP, rates[1], ours[0]["error"], ours[0]["verdict"],
                    ratios[-1]), flush=True)
    print("  %s: %.3f of PyTorch's speed, geometric mean of %d shapes; %.3f at worst" % (
        STEP, mean(ratios), len(ratios), min(ratios)))
