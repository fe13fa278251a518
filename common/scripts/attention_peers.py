"""The attention part of common/scripts/peers.py: PyTorch's scaled_dot_product_attention and, on a GPU, our own steps and a matrix
product in turn with it.

Ours are called through $B/libattention.so, which `make peers` links from the objects that the steps' programs are made of. Every
step from 15 on that the library has, in the type and head dimension asked for and for this GPU, is a contender.
"""
import ctypes
import glob
import importlib
import math
import os
import re

TOKENS = int(os.environ.get("BENCH_TOKENS") or 16384)  # as common/scripts/bench.sh has it: tokens in all,
HEADS = int(os.environ.get("BENCH_HEADS") or 32)       # and heads of 64; of 128 half as many
LENGTHS = [512 << k for k in range(6)]
QUICK_LENGTHS = [1024, 8192]
FIRST_STEP = 11
ROUNDS = {"cuda": 40, "cpu": 0}  # 0: as many as fit the budget
SLOW = 4                         # whoever takes so many times the fastest one's time is timed by itself
MATH_PART = 4                    # a CPU's math backend is timed up to TOKENS / 4, as steps 11 to 13 are: it is slow
CHECKED_ROWS = 16                # query rows compared with fp64
MATMUL = 8192                    # rows and columns of the matrix product that takes turns with attention, as step 00 has it
DTYPES = ["fp32", "fp16", "bf16", "fp64"]  # enum dtype of common/types.h
BACKENDS = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}
CLAIMS = ["predicted_bytes", "exps", "error", "tolerance", "verdict"]  # of our steps: from the row that their own program left
STEPS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "steps")


class Attention(ctypes.Structure):
    """struct attention of common/types.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "seq_q", "seq_k", "dim")] + [
        ("causal", ctypes.c_bool), ("scale", ctypes.c_float)]


class Problem:
    """Q, K, V: (batch, heads, tokens, dim), what they cost, and a few exact rows of the result."""

    def __init__(self, torch, device, dtype, tokens, dim, causal):
        self.torch, self.dtype = torch, dtype
        self.batch, self.heads = max(TOKENS // tokens, 1), max(HEADS * 64 // dim, 1)
        self.tokens, self.dim, self.causal, self.scale = tokens, dim, causal, 1 / math.sqrt(dim)
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        size = (self.batch, self.heads, tokens, dim)
        self.q, self.k, self.v = (torch.randn(size, device=device.device).to(kind) for _ in range(3))
        self.pairs = self.batch * self.heads * tokens * ((tokens + 1) / 2 if causal else tokens)
        self.flops = 4 * self.pairs * dim
        self.useful_bytes = 4.0 * self.q.numel() * self.q.element_size()
        self.at = [(i * 7 % self.batch, i * 5 % self.heads, i * (tokens - 1) // (CHECKED_ROWS - 1)) for i in range(CHECKED_ROWS)]
        self.want = torch.stack([self.exact(*at) for at in self.at])

    def exact(self, batch, head, query):
        """One row of the output in fp64."""
        visible = query + 1 if self.causal else self.tokens
        scores = self.k[batch, head, :visible].double() @ self.q[batch, head, query].double() * self.scale
        return self.torch.softmax(scores, 0) @ self.v[batch, head, :visible].double()

    def error(self, out):
        """The worst error of the checked rows, over the largest element of its row; NaN if anything in `out` is NaN."""
        if out.isnan().any().item():
            return math.nan
        got = self.torch.stack([out[at] for at in self.at]).double()
        return ((got - self.want).abs() / self.want.abs().amax(1, keepdim=True)).max().item()

    def cells(self):
        return {"dtype": self.dtype, "batch": self.batch, "heads": self.heads, "kv_heads": self.heads, "seq_q": self.tokens,
                "seq_k": self.tokens, "dim": self.dim, "causal": int(self.causal), "input": "normal"}


# ---- contenders: (name, function that returns the output)


def torch_peers(torch, device, p):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def peer(backend):
        def run():
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(p.q, p.k, p.v, is_causal=p.causal)

        return run

    if device.backend == "cpu":
        names = ["flash", "math"] if p.tokens <= TOKENS // MATH_PART else ["flash"]
    else:
        names = ["efficient", "math"] if p.dtype == "fp32" else ["flash", "cudnn", "math"]
    for name in names:
        if hasattr(SDPBackend, BACKENDS[name]):
            yield "torch.sdpa-" + name, peer(getattr(SDPBackend, BACKENDS[name]))


def function_of(module, name="flash_attn_func"):
    try:
        return getattr(importlib.import_module(module), name)
    except Exception:
        return None


# Each by the first of these modules that is here: from its source, or as a package.
FLASH_ATTENTION = {"flash-attention-3": ("flash_attn_interface", "fa3_fwd_interface"), "flash-attention-4": ("flash_attn.cute",)}


def flash_attention(device, p):
    """FlashAttention-3 and -4, where they are installed. Their layout is (batch, tokens, heads, dim)."""
    for name, modules in FLASH_ATTENTION.items():
        flash_attn_func = next(filter(None, map(function_of, modules)), None)
        if flash_attn_func and device.backend == "cuda" and p.dtype != "fp32":
            q, k, v = (t.transpose(1, 2).contiguous() for t in (p.q, p.k, p.v))

            def run(flash_attn_func=flash_attn_func):
                out = flash_attn_func(q, k, v, causal=p.causal)
                return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

            yield name, run


def takes(main, device, dim):
    """What a step's main.c claims: does it take this head dimension, and this GPU?"""
    with open(main, encoding="utf-8") as file:
        text = file.read()
    dims = re.search(r"\.dims = \{([^}]*)\}", text)
    capability = re.search(r"\.capability = (\d+)", text)
    newer = device.capability - int(capability.group(1)) if capability else 0
    runs_here = newer == 0 if ".hopper = true" in text else newer >= 0
    return runs_here and (not dims or str(dim) in re.findall(r"\d+", dims.group(1)))


def our_steps(device, library, p, main_of="attention_main"):
    """The steps that the library has a function for, and that take this problem, with that function. main_of: what they call."""
    if device.backend != "cuda" or not library:
        return
    of_type = "_gpu" if p.dtype == "fp32" else "_%s_gpu" % p.dtype
    for main in sorted(glob.glob(os.path.join(STEPS, "[0-9][0-9]_*", "main.c"))):
        step = os.path.basename(os.path.dirname(main))
        launch = getattr(library, step[3:] + of_type, None)
        with open(main, encoding="utf-8") as file:
            of_kind = "return %s(" % main_of in file.read()
        if launch and of_kind and int(step[:2]) >= FIRST_STEP and takes(main, device, p.dim):
            yield step, launch


def our_step(torch, library, idea, launch, p, outputs, inputs):
    """A function that runs the step and returns its outputs. inputs: None is NULL."""
    problem = Attention(p.batch, p.heads, p.heads, p.tokens, p.tokens, p.dim, p.causal, p.scale)
    size = getattr(library, idea + "_workspace", None)
    if size:
        size.restype = ctypes.c_size_t
    bytes_wanted = size(problem, ctypes.c_int(DTYPES.index(p.dtype))) if size else 0
    workspace = torch.zeros(max(bytes_wanted, 1), dtype=torch.uint8, device=p.q.device)
    launch.restype = None
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (*outputs, *inputs)]
    space = ctypes.c_void_p(workspace.data_ptr() if bytes_wanted else None)
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def run():
        launch(*pointers, problem, space, stream)
        return outputs

    run.keep = (inputs, workspace)  # the GPU uses them as long as anyone may call run
    return run


def our_attention(torch, device, library, p):
    for step, launch in our_steps(device, library, p):
        outputs = torch.full_like(p.q, math.nan), torch.empty(p.batch, p.heads, p.tokens, device=p.q.device)
        run = our_step(torch, library, step[3:], launch, p, outputs, (p.q, p.k, p.v))
        yield step, lambda run=run: run()[0]


# ---- one problem


def is_ours(name):
    return name[0].isdigit()


def working(contenders, p):
    """Those that run, with their errors. The others are named, with the reason."""
    good = []
    for name, run in contenders:
        try:
            error = p.error(run())
            if math.isnan(error) and is_ours(name):
                raise RuntimeError("it left NaN in its output, or was not built for this GPU")
            good.append((name, run, error))
        except Exception as why:  # a backend that PyTorch was built without, too little memory: the others go on
            print_skipped(name, p, why)
    return good


def print_skipped(name, p, why):
    print("  %s, %s, %d tokens of %d: skipped: %s" % (name, p.dtype, p.tokens, p.dim, str(why).strip().split("\n")[0][:160]))


def matrix_product(torch, device, dtype):
    """What tensor cores do at the clock that this run finds; nothing where attention does not use them."""
    if device.backend != "cuda" or dtype == "fp32":
        return []
    a, b, c = (torch.randn(MATMUL, MATMUL, device=device.device, dtype=torch.bfloat16) for _ in range(3))
    return [lambda: torch.matmul(a, b, out=c)]


def percent_of_ceiling(table, device, p, exps, matmul, ms):
    """The ceiling that alone would take longest, as common/harness/attention.c has it; empty when step 00 has not measured any.
    matmul: TFLOP/s of the matrix product that took turns, 0 if there was none."""
    arithmetic, of_type = ("fma", "fp32") if p.dtype == "fp32" else ("matmul", "bf16")
    copy = table.ceiling(device, "copy", "fp32")
    times = [(work / rate, name) for name, work, rate in [
        ("copy", p.useful_bytes, 1e6 * copy),
        ("exp", exps, 1e6 * table.ceiling(device, "exp", "fp32")),
        (arithmetic, p.flops, 1e9 * (matmul or table.ceiling(device, arithmetic, of_type))),
    ] if rate > 0]
    return {"percent": 100 * max(times)[0] / ms, "ceiling": max(times)[1], "copy_gb_s": copy or "-"} if times else {}


def groups(device, good, p):
    """Who takes turns with whom: all that are not much slower than the fastest, and each of the others with itself."""
    once = {}
    for name, run, _ in good:
        try:
            once[name] = min(device.time_once(run, p.useful_bytes) for _ in range(2))
        except Exception as why:  # memory that was there before
            print_skipped(name, p, why)
    quick, slow = ([c for c in good if c[0] in once and (once[c[0]] <= SLOW * min(once.values())) == is_quick]
                   for is_quick in (True, False))
    return [quick] + [[c] for c in slow]


def bench_problem(torch, device, library, product, p, table, o):
    """Times all contenders, adds their rows. Returns {name: (TFLOP/s, GHz, error)}, and the matrix product's TFLOP/s, or 0."""
    good = working([*our_attention(torch, device, library, p), *torch_peers(torch, device, p), *flash_attention(device, p)], p)
    results, matmul = {}, 0
    for i, group in enumerate(groups(device, good, p)):
        works = [run for _, run, _ in group] + (product if i == 0 else [])
        ghz = [[] for _ in works]
        times = device.time_in_turn(works, p.useful_bytes, o.reps or (ROUNDS[device.backend] if i == 0 else 0),
                                    o.budget, lambda n: ghz[n].append(device.ghz))
        if product and i == 0:
            matmul = 2e-9 * MATMUL ** 3 / times[-1][len(times[-1]) // 2]
        for (name, _, error), ms, clock in zip(group, times, ghz):
            n, median = len(ms), ms[len(ms) // 2]
            cells = {**p.cells(), **device.cells(), "step": name}
            claims = table.verified(CLAIMS, cells) if is_ours(name) else {}
            exps = float(claims.get("exps", p.pairs))
            percent = percent_of_ceiling(table, device, p, exps, matmul, median)
            table.add(**{**cells, "error": error, **claims, **percent}, seed=o.seed, reps=n, median_ms=median, p10_ms=ms[n // 10],
                      p90_ms=ms[n - 1 - n // 10], useful_bytes=p.useful_bytes, flops=p.flops,
                      gb_s=p.useful_bytes / median * 1e-6, tflop_s=p.flops / median * 1e-9)
            results[name] = (p.flops / median * 1e-9, sorted(clock)[n // 2], error)
    return results, matmul


# ---- the table on the terminal


def length_name(n):
    return "%d Ki" % (n // 1024) if n % 1024 == 0 else str(n)


def mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def print_sweep(title, sweep, matmuls, sms, ratios):
    """sweep: {tokens: {name: (TFLOP/s, GHz, error)}}; matmuls: TFLOP/s of the matrix product at each.
    Adds to ratios: {name: [speed over the best peer's]}."""
    names = sorted({name for results in sweep.values() for name in results})
    print("\n%s: TFLOP/s, and over the best peer" % title)
    print("  %-30s%s      mean  worst error" % ("tokens", "".join("%14s" % length_name(n) for n in sweep)))
    for name in names:
        text, here, errors = "", [], [results[name][2] for results in sweep.values() if name in results]
        for results in sweep.values():
            best = max((r[0] for n, r in results.items() if not is_ours(n)), default=0)
            speed = results[name][0] if name in results else 0
            if speed and best:
                here.append(speed / best)
            text += "%9.*f %4s" % (0 if speed >= 10 else 3, speed, "%.2f" % here[-1] if best else "") if speed else " " * 14
        print("  %-30s%s %9s %12.1e" % (name, text, "%.2f" % mean(here) if here else "", max(errors)))
        ratios.setdefault(name, []).extend(here)
    if any(matmuls):
        print("  %-30s%s" % ("a matrix product in turn", "     ".join("%9.0f" % tflops for tflops in matmuls)))
    if any(r[1] for results in sweep.values() for r in results.values()):
        print("  FLOP per clock of an SM, and the clock in GHz behind it")
        for name in names:
            clocks = [results.get(name, (0, 0)) for results in sweep.values()]
            cells = ("%9.0f %4.2f" % (1e3 * r[0] / sms / r[1], r[1]) if r[1] else " " * 14 for r in clocks)
            print("  %-30s%s" % (name, "".join(cells)))


def library_of(device, o):
    here = device.backend == "cuda" and o.library and os.path.exists(o.library)
    return ctypes.CDLL(os.path.abspath(o.library)) if here else None


def print_means(ratios):
    ours = {name: of for name, of in ratios.items() if is_ours(name) and of}
    for name, of in ours.items():
        print("%s%s: %.3f of the best peer, geometric mean of %d shapes; %.3f at worst" % (
            "" if name != min(ours) else "\n", name, mean(of), len(of), min(of)))


def bench_attention(torch, device, dtype, table, o):
    library = library_of(device, o)
    ratios, sms = {}, torch.cuda.get_device_properties(0).multi_processor_count if device.backend == "cuda" else 0
    lengths = [n for n in (QUICK_LENGTHS if o.quick else LENGTHS) if n <= TOKENS]
    torch.manual_seed(o.seed)
    with torch.inference_mode():
        product = matrix_product(torch, device, dtype)
        for dim in (64, 128):
            for causal in (False, True):
                sweep, matmuls = {}, []
                for tokens in lengths:
                    p = Problem(torch, device, dtype, tokens, dim, causal)
                    sweep[tokens], matmul = bench_problem(torch, device, library, product, p, table, o)
                    matmuls.append(matmul)
                    del p
                    if device.backend == "cuda":
                        # the math backend's scores take most of the memory, in pieces of another size each time
                        torch.cuda.empty_cache()
                title = "%s, %d tokens in all, heads of %d%s" % (dtype, TOKENS, dim, ", causal" if causal else "")
                print_sweep(title, sweep, matmuls, sms, ratios)
    print_means(ratios)
