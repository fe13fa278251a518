#!/usr/bin/env python3
"""Time PyTorch's softmax and attention on the shapes that `make bench` uses, and add the rows to the same table.

    common/scripts/peers.py [--part softmax|attention|backward|all] [--device cpu|gpu|all] [--dtype fp32|fp16|bf16|all]
        [--threads N] [--reps N] [--budget SECONDS] [--quick] [--clock] [--library FILE] [--programs FOLDER]

Every peer is given its best: an output that exists already, AVX-512 and huge pages on a CPU, a compiled kernel for each shape on
a GPU. It is timed as a step is (docs/measuring.md): warm up, cold caches, all in turn, the median. Its error
against fp64 is recorded; no verdict is passed on it. On a GPU our own attention steps take turns with it, and their rows replace
those of `make bench` (attention_peers.py). The gradients of attention take turns with ours, too (backward_peers.py).
Without PyTorch: one line, "skipped", and exit status 0.
"""
import argparse
import os
import sys
import time
import warnings

sys.dont_write_bytecode = True  # no plots/__pycache__: a changed tree would not be recorded
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "plots"))
from attention_peers import bench_attention, function_of
from backward_peers import STEP, bench_backward, bench_backward_gpu
from results import COLUMNS as NAMES, append_row

ELEMENTS = {"fp32": 1 << 27, "fp16": 1 << 28, "bf16": 1 << 28}  # of a tensor: 512 MiB
COLUMNS = [1 << k for k in range(7, 25)]
ODD_COLUMNS = [1000, 1023, 4097, 12345]
LONG_ROWS = [(16, 1 << 20), (1, 1 << 24)]
GPU_FLUSH_BYTES = 512 << 20   # read between runs: ten times the largest L2 of today
CPU_FLUSH_BYTES = 1 << 30     # tensors at least this large flush a CPU's caches themselves
MIN_REPS = {"cpu": 5, "cuda": 20}
MAX_REPS = 200
LAUNCH = 1000000              # cycles: half a millisecond, more than the slowest of them takes to launch all its kernels
WAITS = 1000, 1000, 20000     # cycles of the GPU's clock that kernels wait for behind a run, to measure it: 13 us or so in all
CHECKED_ROWS = 8              # compared with fp64
SEED = 1


def options():
    p = argparse.ArgumentParser(
        description="Time PyTorch's softmax and attention on the shapes of `make bench`, into build/results.tsv.")
    p.add_argument("--part", choices=["softmax", "attention", "backward", "all"], default="all")
    p.add_argument("--device", choices=["cpu", "gpu", "all"], default="all")
    p.add_argument("--dtype", choices=["fp32", "fp16", "bf16", "all"],
                   help="default: fp32 on a CPU; on a GPU all three, of attention bf16 and fp32")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    p.add_argument("--reps", type=int, default=0,
                   help="timed runs (default: what fits the budget, 20 or more on a GPU; 40 of attention)")
    p.add_argument("--budget", type=float, default=2.0, help="seconds for a shape (default 2)")
    p.add_argument("--quick", action="store_true", help="four row lengths, two of attention, in bf16 alone")
    p.add_argument("--clock", action="store_true", help="show the GPU's clock, too, behind every run of attention")
    p.add_argument("--programs", help="the folder of our programs, one of which takes turns with PyTorch's gradients on a CPU")
    p.add_argument("--library", help="our attention steps, to take turns with PyTorch's on a GPU")
    o = p.parse_args()
    if o.threads < 0 or o.reps < 0 or o.budget <= 0:
        p.error("--threads and --reps must not be negative, --budget must be more than 0")
    o.seed = SEED
    return o


def shapes(elements, extras, quick):
    columns = [128, 1024, 8192, 1 << 20] if quick else COLUMNS + (ODD_COLUMNS if extras else [])
    return [(elements // c, c) for c in columns if c <= elements] + (LONG_ROWS if extras and not quick else [])


class Table:
    """Rows of the results table, one `add` a row: what is not named is "-"."""

    def __init__(self):
        self.path = os.environ.get("RESULTS") or "build/results.tsv"
        self.rows = 0
        self.ceilings = read_rows(os.environ.get("CEILINGS") or "build/ceilings.tsv")

    def add(self, **cells):
        unknown = set(cells) - set(NAMES)
        assert not unknown, unknown
        text = [word(cells.get(n, "-")) for n in NAMES]
        append_row(self.path, NAMES, text)
        self.rows += 1

    def verified(self, names, cells):
        """These columns of the last row that has these cells and a verdict; empty when there is none."""
        found = [row for row in read_rows(self.path)
                 if row.get("verdict", "-") != "-" and all(row[n] == word(c) for n, c in cells.items())]
        return {n: found[-1][n] for n in names} if found else {}

    def ceiling(self, device, name, dtype):
        """A rate that step 00 measured, 0 when it did not."""
        want = {"device": device.name, "threads": str(device.threads), "name": name, "dtype": dtype}
        return max([float(row["value"]) for row in self.ceilings if want.items() <= row.items()], default=0)


def word(cell):
    return cell if isinstance(cell, str) else "-" if cell != cell else "%.9g" % cell


def read_rows(path):
    """A table's rows as dictionaries; none if there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


class Device:
    """What times: a subclass says how one run is timed, on cold caches."""

    ghz = 0  # the clock behind the last run, where it is measured

    def time_in_turn(self, works, own_bytes, reps, budget, after=None):
        """The sorted times, ms, of each of the works, run round after round, every other round backwards.
        after(i): called after works[i]."""
        for work in works:
            self.time_once(work, own_bytes)
            self.time_once(work, own_bytes)
        least, most = (reps, reps) if reps else (MIN_REPS[self.backend], MAX_REPS)
        times = [[] for _ in works]
        order = list(range(len(works)))
        start = time.perf_counter()
        while works and (len(times[0]) < least or (len(times[0]) < most and time.perf_counter() - start < budget)):
            for i in order:
                times[i].append(self.time_once(works[i], own_bytes))
                if after:
                    after(i)
            order.reverse()
        return [sorted(ms) for ms in times]


class Cpu(Device):
    backend = "cpu"

    def __init__(self, torch, threads):
        self.torch, self.device = torch, "cpu"
        if threads:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.name = "unknown CPU"
        if os.path.exists("/proc/cpuinfo"):
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
            self.name = names[0] if names else self.name
        self.flusher = None

    def memory(self):
        if os.path.exists("/proc/meminfo"):
            with open("/proc/meminfo", encoding="utf-8") as file:
                kib = [int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
            if kib:
                return 1024 * kib[0]
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

    def time_once(self, work, own_bytes):
        if own_bytes < CPU_FLUSH_BYTES:
            if self.flusher is None:
                self.flusher = self.torch.ones(CPU_FLUSH_BYTES // 4)
            self.flusher.sum()
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)

    def cells(self):
        return {"device": self.name, "backend": "cpu", "threads": self.threads}


class Gpu(Device):
    backend = "cuda"
    threads = 0

    def __init__(self, torch, clock):
        self.torch, self.device, self.clock = torch, "cuda", clock
        self.name = torch.cuda.get_device_name()
        major, minor = torch.cuda.get_device_capability()
        self.capability = 10 * major + minor
        self.flusher = torch.ones(GPU_FLUSH_BYTES // 4, device="cuda")
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2 + len(WAITS))]

    def memory(self):
        return self.torch.cuda.mem_get_info()[0]

    def time_once(self, work, own_bytes):
        begin, end, *waits = self.events
        self.flusher.sum()
        self.torch.cuda._sleep(LAUNCH)  # queued in front of the first event, so that the launch of all that follows is hidden
        begin.record()
        work()
        end.record()
        for cycles, wait in zip(WAITS, waits if self.clock else []):
            self.torch.cuda._sleep(cycles)
            wait.record()
        self.events[-1 if self.clock else 1].synchronize()
        if self.clock:  # of the last two the difference, for starting a kernel is in both; the first has their code loaded
            ms = waits[1].elapsed_time(waits[2]) - waits[0].elapsed_time(waits[1])
            self.ghz = 1e-6 * (WAITS[2] - WAITS[1]) / ms if ms > 0 else self.ghz
        return begin.elapsed_time(end)

    def cells(self):
        return {"device": self.name, "backend": "cuda"}


def softmax_peers(torch, device, x, y):
    """(name, function that fills y with the softmax of x, or returns it) of every peer."""
    yield "torch.softmax", lambda: torch.softmax(x, -1, out=y)
    if device.backend == "cuda":
        torch._dynamo.reset()  # one kernel for this shape, not one for all
        compiled = torch.compile(lambda t: torch.softmax(t, -1), dynamic=False)
        yield "torch.compile", lambda: compiled(x)
        quack = function_of("quack.softmax", "softmax_fwd")  # Tri Dao's, if it is installed (quack-kernels)
        if quack:
            yield "quack.softmax", lambda: quack(x)


def worst_error(torch, x, y):
    """Worst relative error of the first rows against fp64, where the result is a normal number of its type."""
    want = torch.softmax(x[:CHECKED_ROWS].double(), -1)
    got = y[:CHECKED_ROWS].double()
    smallest = torch.finfo(x.dtype).tiny
    return ((got - want).abs() / want)[want >= smallest].max().item()


def bench_softmax(torch, device, dtype, table, o):
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    elements, size = ELEMENTS[dtype], 2 if dtype != "fp32" else 4
    while 4 * elements * size > device.memory():  # x, y, a compiled function's own result, and some room
        elements //= 2
    torch.manual_seed(SEED)
    x_all = torch.randn(elements, device=device.device).to(kind)
    y_all = torch.full_like(x_all, float("nan"))
    for rows, cols in shapes(elements, device.backend == "cuda", o.quick):
        x, y = x_all[: rows * cols].view(rows, cols), y_all[: rows * cols].view(rows, cols)
        useful = 2.0 * rows * cols * size
        for name, run in softmax_peers(torch, device, x, y):
            try:
                y.fill_(float("nan"))
                error = worst_error(torch, x, run())
                copy, ms = device.time_in_turn([lambda: y.copy_(x), run], useful, o.reps, o.budget)
            except Exception as why:  # a compiler that is missing, too little memory: the other peers go on
                print("  %s %s %d x %d: skipped: %s" % (name, dtype, rows, cols, str(why).strip().split("\n")[0][:200]))
                continue
            n, median = len(ms), ms[len(ms) // 2]
            speed, copied = (useful * 1e-6 / t for t in (median, copy[len(copy) // 2]))
            cells = device.cells()
            if device.backend == "cuda":  # a CPU's copy_ stores through the caches: no ceiling. The steps' own rows have one
                cells.update(copy_gb_s=copied, percent=100 * speed / copied, ceiling="copy")
            table.add(step=name, dtype=dtype, rows=rows, cols=cols, seed=SEED, input="normal", reps=n, median_ms=median,
                      p10_ms=ms[n // 10], p90_ms=ms[n - 1 - n // 10], useful_bytes=useful, gb_s=speed, error=error, **cells)
            print("  %-14s %s %9d x %-9d %8.3f ms %8.1f GB/s  copy_ %.1f" % (name, dtype, rows, cols, median, speed, copied),
                  flush=True)


def main():
    o = options()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # small kernels, one at a time: no pool of processes to start, and to end
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            if " avx512f" in file.read():
                os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx512")
    except OSError:
        pass
    try:
        import torch
    except ImportError:
        print("peers: skipped: PyTorch is not installed for %s (python3 -m pip install torch)" % sys.executable)
        return 0
    warnings.simplefilter("ignore")  # a backend that PyTorch lacks says so in a page of warnings; one line of ours is enough

    devices = []
    if o.device in ("cpu", "all"):
        devices.append(Cpu(torch, o.threads))
    if o.device in ("gpu", "all"):
        if torch.cuda.is_available():
            devices.append(Gpu(torch, o.clock))
        else:
            print("peers: gpu: skipped: PyTorch sees no CUDA device")
    table = Table()
    for device in devices:
        threads = ", %d thread%s" % (device.threads, "s" * (device.threads > 1)) if device.threads else ""
        print("PyTorch %s on %s%s" % (torch.__version__, device.name, threads))
        gpu = device.backend == "cuda"
        for part, bench, usual in [("softmax", bench_softmax, list(ELEMENTS) if gpu else ["fp32"]),
                                   ("attention", bench_attention, ["bf16"] + ["fp32"] * (not o.quick) if gpu else ["fp32"])]:
            if o.part in (part, "all"):
                for dtype in list(ELEMENTS) if o.dtype == "all" else [o.dtype] if o.dtype else usual:
                    bench(torch, device, dtype, table, o)
        if o.part in ("backward", "all") and (gpu or o.programs):
            for dtype in list(ELEMENTS) if o.dtype == "all" else [o.dtype or ("bf16" if gpu else "fp32")]:
                if gpu:
                    bench_backward_gpu(torch, device, dtype, o)
                else:
                    bench_backward(torch, device, dtype, os.path.join(o.programs, STEP), o)
    print("peers: %d rows added to %s" % (table.rows, table.path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
