"""The backward part of common/scripts/peers.py: the gradients of attention by PyTorch, and in turn with it by ours. On a CPU
that is the program of our fastest step, a few runs each, with as many threads; on a GPU all steps that the library has, which
attention_peers.py calls, too.

No row is added to the table of results for PyTorch, whose attention there is the forward pass: what is printed is all.
"""
import functools
import json
import math
import os
import subprocess

from attention_peers import (
    BACKENDS, FLASH_ATTENTION, function_of, library_of, mean, our_step, our_steps, print_means, print_skipped, print_sweep)

STEP = "47_joined_backward"
TOKENS, WIDTH = {"cpu": 2048, "cuda": 16384}, {"cpu": 1024, "cuda": 2048}  # in all; heads times dim
LENGTHS = {"cpu": [512, 1024, 2048], "cuda": [512 << k for k in range(6)]}
QUICK_LENGTHS = {"cpu": [2048], "cuda": [1024, 8192]}
TURNS, RUNS = 3, 3           # of each on a CPU
ROUNDS = 24                  # on a GPU
CHECKED_ROWS = 8             # of dQ, compared with fp64


class Gradients:
    """Q, K, V, how the loss changes with O, what the forward pass made; and a few exact rows of the gradients."""

    def __init__(self, torch, device, dtype, tokens, dim, causal):
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        self.torch, self.dtype, self.causal, self.scale = torch, dtype, causal, 1 / math.sqrt(dim)
        size = self.batch, self.heads, self.tokens, self.dim = (
            TOKENS[device.backend] // tokens, WIDTH[device.backend] // dim, tokens, dim)
        self.q, self.k, self.v, self.change = (torch.randn(size, device=device.device).to(kind) for _ in range(4))
        for leaf in self.q, self.k, self.v:
            leaf.requires_grad_()
        self.flops = 10 * self.batch * self.heads * dim * tokens * ((tokens + 1) / 2 if causal else tokens)
        self.useful_bytes = 8.0 * self.q.numel() * self.q.element_size()

    def attend(self, backend=None):
        """Attention by PyTorch: as it chooses, or by one of its ways."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        function = self.torch.nn.functional.scaled_dot_product_attention
        if not backend:
            return function(self.q, self.k, self.v, is_causal=self.causal)
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[backend])):
            return function(self.q, self.k, self.v, is_causal=self.causal)

    def back_from(self, out):
        """What autograd runs for this result of attention."""
        return lambda: self.torch.autograd.grad(out, (self.q, self.k, self.v), self.change, retain_graph=True)

    def error(self, gradients):
        """The worst error of some rows of dQ, over their largest element; NaN if any gradient has one."""
        worst, largest = 0, 0
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
    print("\nbackward, %s, %d tokens in all, heads times dim %d: GFLOP/s" % (dtype, TOKENS["cpu"], WIDTH["cpu"]))
    for dim in (64, 128):
        for causal in (False, True):
            for tokens in (QUICK_LENGTHS if o.quick else LENGTHS)["cpu"]:
                p, theirs, ours = Gradients(torch, device, dtype, tokens, dim, causal), [], []
                run = p.back_from(p.attend())
                for _ in range(TURNS):
                    theirs.append(middle(device.time_in_turn([run], p.useful_bytes, RUNS, 0)[0]))
                    ours.append(our_runs(program, device.threads, p))
                rates = [1e-6 * p.flops / middle(times) for times in (theirs, [row["median_ms"] for row in ours])]
                ratios.append(rates[1] / rates[0])
                print("  %5d tokens, dim %3d%-8s  torch %7.1f (error %.1e)  %s %7.1f (error %.1e, %s)  %.2fx" % (
                    tokens, dim, ", causal" * causal, rates[0], p.error(run()), STEP, rates[1], ours[0]["error"],
                    ours[0]["verdict"], ratios[-1]), flush=True)
    print("  %s: %.3f of PyTorch's speed, geometric mean of %d shapes; %.3f at worst" % (
        STEP, mean(ratios), len(ratios), min(ratios)))


# ---- on a GPU


def torch_gradients(p):
    for name in ("efficient",) if p.dtype == "fp32" else ("flash", "cudnn"):
        yield "torch.sdpa-" + name, lambda name=name: p.back_from(p.attend(name))
    for name, modules in FLASH_ATTENTION.items():
        attend = next(filter(None, map(function_of, modules)), None)  # (what only attends says so when it is asked for gradients)
        if attend and p.dtype != "fp32":
            def start(attend=attend):
                out = attend(*(t.transpose(1, 2) for t in (p.q, p.k, p.v)), causal=p.causal)
                return p.back_from((out[0] if isinstance(out, tuple) else out).transpose(1, 2))

            yield name, start


def our_gradients(torch, device, library, p):
    """Each of our steps, given O and lse by PyTorch."""
    with torch.no_grad():
        forward = torch.ops.aten._scaled_dot_product_efficient_attention(p.q, p.k, p.v, None, True, 0.0, p.causal) \
            if p.dtype == "fp32" else torch.ops.aten._scaled_dot_product_flash_attention(p.q, p.k, p.v, 0.0, p.causal)
    out, lse = forward[0].contiguous(), forward[1][..., :p.tokens].contiguous()
    for step, launch in our_steps(device, library, p, "attention_backward_main"):
        gradients = tuple(torch.full_like(p.q, math.nan, requires_grad=False) for _ in range(3))
        inputs = (p.q, p.k, p.v, out, lse, p.change, None)
        yield step, functools.partial(our_step, torch, library, step[3:], launch, p, gradients, inputs)


def bench_backward_gpu(torch, device, dtype, o):
    library, ratios, sms = library_of(device, o), {}, torch.cuda.get_device_properties(0).multi_processor_count
    torch.manual_seed(o.seed)
    for dim in (64, 128):
        for causal in (False, True):
            sweep = {}
            for tokens in (QUICK_LENGTHS if o.quick else LENGTHS)["cuda"]:
                p, good = Gradients(torch, device, dtype, tokens, dim, causal), []
                for name, start in [*our_gradients(torch, device, library, p), *torch_gradients(p)]:
                    try:
                        run = start()
                        good.append((name, run, p.error(run())))
                    except Exception as why:  # what PyTorch was built without: the others go on
                        print_skipped(name, p, why)
                times = device.time_in_turn([run for _, run, _ in good], p.useful_bytes, o.reps or ROUNDS, o.budget)
                sweep[tokens] = {name: (1e-9 * p.flops / middle(ms), 0, error) for (name, _, error), ms in zip(good, times)}
            title = "backward, %s, %d tokens in all, heads of %d%s" % (dtype, TOKENS["cuda"], dim, ", causal" * causal)
            print_sweep(title, sweep, [], sms, ratios)
    print_means(ratios)
