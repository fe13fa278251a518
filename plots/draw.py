#!/usr/bin/env python3
"""What each picture shows, chosen and counted here; gnuplot only draws it.

    draw.py [FILE]              draw all there is to draw of FILE, or build/results.tsv, as SVG and PNG into build/plots, and in the terminal.
                                Of a file in plots/recorded, the SVGs that a page shows are put there, too.
    draw.py --text [FILE]       in the terminal alone
    draw.py --timeline FILE [SHAPE]    the chart of `make timeline`

A script NAME.gp is run as `gnuplot -c NAME.gp FOLDER OUTPUT SETTINGS BELOW`: a folder with data files; a picture's name, or "dumb"; lines
NAME=VALUE, which are numbers and plain words; and the line under the title, which may hold a device's name, whatever that is.
"""
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict

sys.dont_write_bytecode = True  # no plots/__pycache__: a changed tree would not be recorded
from results import (Problem, ROOT, Table, bytes_name, copy_speed, devices_of, digits3, heads, length_name,
                     machine_name, of_ceiling, pages, prepare, record_text, results_path, share, slug, tflops, write_whole)

# A step keeps its colour in every plot: line type 1 is step 01, ... (style.gp). The copy and peers have their own.
PEERS = (("compile", 23), ("cudnn", 23), ("math", 24), ("attention-3", 25), ("", 22))
BITS = {"fp32": 23, "fp16": 10, "bf16": 7}  # of a number, behind its leading one
LOG_BEYOND = 8  # an axis of speeds is logarithmic when the best of one step is so many times the best of another


def line_type(step):
    if step[0].isdigit():
        return int(re.match(r"\d+", step)[0])
    return 21 if step == "copy" else next(number for part, number in PEERS if part in step)


def letter(step):
    """What stands for a step in the terminal."""
    if step[0].isdigit():
        return str(line_type(step))
    return {"copy": "c", "torch.softmax": "t", "torch.compile": "T", "flash-attention-3": "F"}.get(step) or step.split("-")[-1][0]


class NothingToDraw(Exception):
    """A file has no data for a plot."""


class View:
    """One machine's results: a table, and a number of threads. `rows` are those worth comparing."""

    def __init__(self, table, threads):
        self.table, self.threads = table, threads
        self.rows = [r for r in table.rows if r.threads == threads and r.usable()]
        self.machine = machine_name(next((r.device for r in table.rows if r.threads == threads), ""), threads)

    def softmax(self, dtype="fp32"):
        return [r for r in self.rows if not r.attends() and r.dtype == dtype]

    def usual(self, dtype, dim=None):
        return [r for r in self.rows if id(r) in self.table.usual and r.dtype == dtype and dim in (None, r.dim)]

    def ceiling(self, name, dtype="fp32"):
        return self.table.ceiling(name, dtype, self.threads)


class Picture:
    """What a script is given: settings, data files as lists of blocks of lines, the text under the title."""

    def __init__(self, script, name, title, below):
        self.script, self.name, self.below = script, name, below
        self.settings, self.files = {"title": title}, defaultdict(list)

    def set(self, **settings):
        self.settings.update(settings)

    def labels(self, names, ends, low, high, far, logarithmic, top=None, prefix="", always_arrow=False):
        """Names at the ends of curves, moved apart where they would overlap: no two nearer than a line of text."""
        scale, back = (math.log, math.exp) if logarithmic else (float, float)
        bottom = scale(low) if logarithmic else 0
        gap = (scale(high) - bottom) / 22
        names = sorted((n for n in names if n in ends), key=lambda n: scale(ends[n][1]))
        ys = [scale(ends[n][1]) for n in names]
        for i in range(1, len(ys)):
            ys[i] = max(ys[i], ys[i - 1] + gap)
        if ys:
            ys[-1] = min(ys[-1], scale(top) if top else bottom + 22 * gap)
        for i in range(len(ys) - 2, -1, -1):
            ys[i] = min(ys[i], ys[i + 1] - gap)
        longest = max((ends[n][0] for n in names), default=0)
        for i, (name, y) in enumerate(zip(names, ys), 1):
            label = {"text": name, "x": far, "y": back(y), "type": line_type(name)}
            if ends[name][0] == longest or always_arrow:
                label.update(fromx=ends[name][0], fromy=ends[name][1])
            self.set(**{"%s%s%d" % (prefix, key, i): value for key, value in label.items()})
        self.set(**{prefix + "labels": len(names)})

    def text(self):
        """The settings, a line each."""
        lines = [""]
        for name, value in self.settings.items():
            if not isinstance(value, str):
                value = re.sub(r"^(-?\d+)e", r"\1.0e", "%.9g" % value)  # gnuplot takes the text "3e-06" for no number
            if not re.fullmatch(r"[ -~]*", value):
                raise Problem("a plot's %s is %r" % (name, value))
            lines.append("%s=%s" % (name, value))
        return "\n".join(lines + [""])

    def draw(self, output):
        with tempfile.TemporaryDirectory() as folder:
            for name, blocks in self.files.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    for block in blocks:
                        file.write("".join("\t".join(v if isinstance(v, str) else "%.9g" % v for v in line) + "\n" for line in block or [(math.nan,) * 3]))
                        file.write("\n\n")
            made = output if output == "dumb" else os.path.join(folder, "out")
            kind = output.rsplit(".", 1)[-1]
            script = os.path.join(ROOT, "plots", self.script + ".gp")
            run = subprocess.run(["gnuplot", "-c", script, folder, made, self.text() + "kind=%s\n" % kind, self.below.encode("utf-8", "replace")],
                                 cwd=ROOT, env=dict(os.environ, LC_ALL="C"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if run.returncode:  # in this locale it warns that it has no degree sign
                raise Problem("gnuplot could not draw %s:\n%s" % (self.script, run.stderr.decode(errors="replace").strip()))
            if output == "dumb":
                print("\n".join(line.rstrip() for line in run.stdout.decode(errors="replace").split("\n")), end="")
            else:
                os.makedirs(os.path.dirname(output), exist_ok=True)
                shutil.move(made, output)


# ---- choosing

def size_octave(row):
    return int(math.log2(row.rows * row.cols) + 0.5)


def main_octave(rows):
    """A file may hold a sweep of one tensor size over its row lengths, and other shapes besides. Of which size most rows are."""
    count = Counter(map(size_octave, rows))
    return max(count, key=lambda o: (count[o], o))


def common_shape(rows):
    """The shape to show steps at: of softmax the course's own, where a step has it; otherwise that of most steps, and of these the nearest."""
    steps, near = defaultdict(set), {}
    for r in rows:
        if not r.is_peer():
            steps[r.shape()].add(r.step)
            near[r.shape()] = -math.log(r.seq_q / 4096) ** 2 - 100 * r.causal - math.log(r.dim / 64) ** 2 if r.attends() else \
                -math.log(r.rows / 16384) ** 2 - math.log(r.cols / 8192) ** 2
    if not steps:
        raise NothingToDraw
    return max(steps, key=lambda s: (s == "16384 x 8192", len(steps[s]), near[s]))


def comparable(view):
    return [r for r in view.rows if r.attends() and r.seq_k == r.seq_q and r.kv_heads == r.heads]


def two_types(rows):
    """One type of 4 bytes and one of 2 are shown together: [(dtype, its rows by step, peers last)]."""
    types = ["fp32", "bf16" if any(r.dtype == "bf16" for r in rows) else "fp16"]
    return [(t, sorted((r for r in rows if r.dtype == t), key=lambda r: (r.is_peer(), r.step))) for t in types]


def tics(picture, first, last):
    found = [n for n in (2 ** i for i in range(64)) if first <= n <= last]
    if last >= 100 * first:
        found = found[::2]
    picture.set(tics=len(found), **{"tic%d" % i: n for i, n in enumerate(found, 1)}, **{"ticname%d" % i: length_name(n) for i, n in enumerate(found, 1)})


def curves(picture, points, prefix=""):
    """points: name -> {x: y}. Lengths that are powers of two make lines, in blocks of "curves"; others are rings. Returns the lines' ends."""
    names = sorted(points, key=lambda n: "00" if n == "copy" else n)
    ends, rings = {}, []
    for name in names:
        line = sorted((x, y) for x, y in points[name].items() if not int(x) & (int(x) - 1))
        if line:
            ends[name] = line[-1]
        rings += [(x, y, line_type(name)) for x, y in sorted(points[name].items()) if int(x) & (int(x) - 1) and name != "copy"]
        picture.files[prefix + "curves"].append([(x, y, letter(name)) for x, y in line])
    picture.files[prefix + "rings"].append(rings)
    picture.set(**{prefix + "curves": len(names), "rings": max(len(rings), picture.settings.get("rings", 0))})
    picture.set(**{"%scurve%d" % (prefix, i): line_type(name) for i, name in enumerate(names, 1)})
    return names, ends


# ---- the pictures, one function each

def steps(view):
    rows = view.softmax()
    shape = common_shape(rows)
    split = "%d x %d" % tuple(int(n) * f for n, f in zip(shape.split(" x "), (1 / 16, 16)))  # step 06 is about longer rows of as large a tensor
    shown = [r for r in rows if r.shape() == shape] + [r for r in rows if r.number() == 6 and r.shape() == split != shape]
    shown.sort(key=lambda r: (r.is_peer(), r.step, r.shape() != shape))
    picture = Picture("steps", "steps", "How much of copy speed does each step reach?", "%s: %s columns, fp32" % (view.machine, shape.replace(" x ", " rows x ")))
    copies = sorted(copy_speed(r) for r in shown if r.shape() == shape and not r.is_peer() and copy_speed(r))
    copy = copies[(len(copies) - 1) // 2] if copies else 0
    top, block = copy, []
    for i, r in enumerate(shown, 1):
        predicted = copy_speed(r) * r.useful_bytes / r.predicted_bytes if copy_speed(r) and r.predicted_bytes else math.nan
        top = max(top, r.gb_s, predicted if predicted == predicted else 0)
        elsewhere = "" if r.shape() == shape else ", " + r.shape()
        value = "%s  %s GB/s" % (share(r), digits3(r.gb_s))
        block.append((i, r.step, r.gb_s, line_type(r.step), predicted, value + elsewhere, r.step[:2] + elsewhere if elsewhere else r.step, value))
    picture.files["bars"] = [block]
    picture.set(bars=len(block), copy=copy, top=top, lines=8 + len(block))
    return picture


def lengths(view, dtype="fp32"):
    rows = view.softmax(dtype)
    if not rows:
        raise NothingToDraw
    octave = main_octave(rows)
    points = defaultdict(dict)
    for r in rows:
        if size_octave(r) == octave:
            points[r.step][r.cols] = r.gb_s
            if copy_speed(r) and not r.is_peer():
                points["copy"][r.cols] = copy_speed(r)
    xs = sorted({x for line in points.values() for x in line})
    if len(xs) < 2:
        raise NothingToDraw
    picture = Picture("lengths", "lengths" + suffix(dtype), "Where does each softmax win?", "%s: %s elements, %s" % (view.machine, length_name(2 ** octave), dtype))
    speeds = [y for line in points.values() for y in line.values()]
    bests = [max(line.values()) for line in points.values()]
    log = max(bests) > LOG_BEYOND * min(bests)
    low, high = (min(speeds) / 1.5, max(speeds) * 1.3) if log else (0, 1.04 * max(speeds))
    names, ends = curves(picture, points)
    picture.set(shortest=xs[0], longest=xs[-1], low=low, high=high, log=log, lines=24)
    tics(picture, xs[0], xs[-1])
    picture.labels(names, ends, low, high, xs[-1] * 1.3, log)
    said = cliffs(picture, view, dtype, xs[0], xs[-1])
    picture.set(cliffsaid=said)
    return picture


def cliffs(picture, view, dtype, first, last):
    """Where the rows in flight, each once in x and once in y, fill a cache: from there on every further trip is a trip to DRAM.
    GPU: 2048 threads an SM, divided among rows by warps or blocks. CPU: a row a thread; the last level is shared."""
    caches = [re.fullmatch(r"(L[123]) (\d+) (KiB|MiB)", line) for line in view.table.facts["cache"]]
    caches = [(c[1], int(c[2]) * (1048576 if c[3] == "MiB" else 1024), "%s %s" % (c[2], c[3])) for c in caches if c]
    sms = int(view.table.fact("sms")) if view.table.fact("sms").isdigit() else 0
    found, each = [], 2 * (4 if dtype == "fp32" else 2)
    for i, (name, size, words) in enumerate(caches, 1):
        if sms and name == "L2":
            found += [(size / each / sms / rows, words_of, "threads") for rows, words_of in ((64, "32"), (8, "256"), (2, "1024"))]
        elif not sms and name != "L1":
            found.append((size / each / ((view.threads or 1) if i == len(caches) else 1), name, words))
    found = [c for c in found if first < c[0] < last]
    picture.set(cliffs=len(found))
    for i, (at, above, under) in enumerate(found, 1):
        picture.set(**{"cliff%d" % i: at, "above%d" % i: above, "under%d" % i: under})
    if not found:
        return ""
    l2 = next((c[2] for c in caches if c[0] == "L2"), "")
    return "dashed: the rows in flight fill the L2 (%s), by threads a row" % l2 if sms else "dashed: the rows in flight fill a cache"


def error(view, dtype="fp32", attention=False):
    rows = view.usual(dtype) if attention else view.softmax(dtype)
    points = defaultdict(dict)
    for r in rows:
        at = r.seq_q if attention else r.cols
        if r.error and math.isfinite(r.error):
            points[r.step][at] = max(r.error, points[r.step].get(at, 0))
    xs = sorted({x for line in points.values() for x in line})
    if len(xs) < 2:
        raise NothingToDraw
    title = "How right is each attention?" if attention else "Who still adds up a long row right?"
    worst = "error of any element checked, over the largest of its row" if attention else "relative error of any element checked"
    picture = Picture("error", ("attention-error" if attention else "error") + suffix(dtype), title, "%s: %s, the worst %s" % (view.machine, dtype, worst))
    values = [y for line in points.values() for y in line.values()] + [2.0 ** -BITS[dtype]]
    low, high = min(values) / 2.5, max(values) * 2
    names, ends = curves(picture, points)
    picture.set(attention=attention, dtype=dtype, bits=BITS[dtype], shortest=xs[0], longest=xs[-1], low=low, high=high)
    tics(picture, xs[0], xs[-1])
    picture.labels(names, ends, low, high, xs[-1] * 1.3, True)
    return picture


def attention_steps(view):
    rows = comparable(view)
    shape = common_shape(rows)
    picture = Picture("attention-steps", "attention-steps", "What does each attention cost, in time and in bytes?", "%s: %s" % (view.machine, shape))
    y, groups, block, times, sizes = 0, 0, [], [], []
    for dtype, shown in two_types([r for r in rows if r.shape() == shape]):
        if not shown:
            continue
        y, groups = y + 1, groups + 1
        picture.set(**{"group%d" % groups: y, "groupname%d" % groups: dtype})
        for r in shown:
            y += 1
            speed = "%s ms, %s" % (digits3(r.median_ms), tflops(r.tflop_s))
            predicted, moved = predicted_ms(view, r), r.predicted_bytes or math.nan
            times += [t for t in (r.median_ms, predicted) if t == t]
            sizes += [b for b in (moved, r.useful_bytes) if b == b]
            block.append((y, r.step, line_type(r.step), r.median_ms, predicted, moved, r.useful_bytes, ", ".join(filter(None, (speed, of_ceiling(r)))),
                          bytes_name(moved) if moved == moved else "", speed + (", %.0f %%" % r.percent if r.percent else "")))
    picture.files["bars"] = [block]
    picture.set(bars=y, groups=groups, fastest=min(times), slowest=max(times), least=min(sizes), most=max(sizes), lines=8 + y)
    return picture


def predicted_ms(view, r):
    """The longest of what a step claims would take: its bytes at copy speed, its exponentials, its products. NaN for peers, which claim nothing."""
    product = ("fma", "fp32") if r.dtype == "fp32" else ("matmul", "bf16")
    work = ((r.predicted_bytes, 1e6, ("copy", "fp32")), (r.exps, 1e6, ("exp", "fp32")), (r.flops, 1e9, product))
    return math.nan if r.is_peer() else max((w / unit / view.ceiling(*rate) for w, unit, rate in work if w and view.ceiling(*rate)), default=math.nan)


def attention_tflops(view, dim, dtype="fp32"):
    rows = view.usual(dtype, dim)
    panels = [c for c in (0, 1) if len({r.seq_q for r in rows if r.causal == c}) > 1]
    if not panels:
        raise NothingToDraw
    limit_name, limit = ("fma", view.ceiling("fma")) if dtype == "fp32" else ("matmul by cuBLAS", view.ceiling("matmul", "bf16"))
    best = max([r.tflop_s for r in rows] + [limit])
    scale, unit = (1000, "GFLOP/s") if best < 1 else (1, "TFLOP/s")
    tokens = {r.batch * r.seq_q for r in rows if not int(r.seq_q) & (int(r.seq_q) - 1)}
    shape = "%s of %d, %s%s" % (heads(rows[0].heads), dim, dtype, "; %d tokens in all" % tokens.pop() if len(tokens) == 1 else "")
    picture = Picture("attention-tflops", "attention-tflops-dim%d%s" % (dim, suffix(dtype)), "How fast is each attention, and how far from the ceiling?",
                      "%s: %s" % (view.machine, shape))
    exps = scale * view.ceiling("exp") * 4 * dim / 1000
    picture.set(panels=len(panels), unit=unit, top=scale * best, limit=scale * limit, limitname=limit_name, exps=exps, lines=24)
    for i, causal in enumerate(panels, 1):
        points, p = defaultdict(dict), "p%d" % i
        for r in rows:
            if r.causal == causal:
                points[r.step][r.seq_q] = scale * r.tflop_s
        xs = sorted({x for line in points.values() for x in line})
        names, ends = curves(picture, points, p)
        picture.set(**{p + "mask": "causal" if causal else "every query sees every key", p + "shortest": xs[0], p + "longest": xs[-1]})
        lone = [(n, *list(points[n].items())[0]) for n in names if len(points[n]) == 1]
        picture.set(**{p + "lone": len(lone)})
        for k, (name, x, y) in enumerate(sorted(lone, key=lambda l: l[2]), 1):  # left and right in turn, since they may lie close
            picture.set(**{"%slone%d" % (p, k): name[:2], "%slonex%d" % (p, k): x, "%sloney%d" % (p, k): y})
        tics(picture, xs[0], xs[-1])
        picture.labels(names, ends, 0, scale * best, xs[-1] * 1.3, False, prefix=p)
    return picture


def attention_scale(view, dtype="fp32"):
    rows = [r for r in view.table.rows if r.threads == view.threads and r.score_size() and r.verdict == "pass" and r.dtype == dtype and r.error and r.tolerance]
    if len({r.score_size() for r in rows}) < 2:
        raise NothingToDraw
    bits = BITS[dtype] + 1  # 2^-bits is the unit roundoff
    picture = Picture("attention-scale", "attention-scale" + suffix(dtype), "What do large scores cost?", "%s: %s, %s" % (view.machine, dtype, rows[-1].shape()))
    names, ends = sorted({r.step for r in rows}), {}
    for i, name in enumerate(names, 1):
        line = sorted((r.score_size(), r.error, r.tolerance) for r in rows if r.step == name)
        picture.files["curves"].append(line)
        picture.set(**{"curve%d" % i: line_type(name)})
        ends[name] = line[-1][:2]
    xs = [r.score_size() for r in rows]
    values = [v for r in rows for v in (r.error, r.tolerance)] + [2.0 ** -bits]
    low, high = min(values) / 2, 6 * max(values)
    picture.set(curves=len(names), dtype=dtype, bits=bits, shortest=min(xs), longest=max(xs), low=low, high=high)
    picture.labels(names, ends, low, high, max(xs) * 1.3, True)
    return picture


def roofline(view):
    """Points where a step's claim (FLOPs for each byte moved) and its speed meet; above them what copy speed and the two kinds of product allow.
    Softmax steps are shown with 5 FLOPs an element, one each for maximum, difference, exponential, sum and quotient."""
    rows = comparable(view)
    shape, copy = common_shape(rows), view.ceiling("copy") / 1000
    if not copy or not view.ceiling("fma"):
        raise NothingToDraw
    scale, unit = (1000, "GFLOP/s") if view.ceiling("fma") < 1 else (1, "TFLOP/s")
    ends = {}

    def point(r, name, flops):
        if r.predicted_bytes and not r.is_peer():
            ends[name] = (flops / r.predicted_bytes, flops / r.median_ms * 1e-9 * scale)

    for dtype, shown in two_types([r for r in rows if r.shape() == shape]):
        for r in shown:
            point(r, "%s, %s" % (r.step.replace("_attention", ""), dtype), r.flops)
    softmax = view.softmax()
    said = "%s: %s" % (view.machine, shape)
    if any(not r.is_peer() for r in softmax):
        at = common_shape(softmax)
        said += "; softmax of " + at
        for r in softmax:
            if r.shape() == at:
                point(r, r.step.replace("_softmax", ""), 5 * r.rows * r.cols)
    picture = Picture("roofline", "roofline", "What limits each step?", said)
    roofs = [(rate / copy, rate * scale, name) for rate, name in ((view.ceiling("fma"), "fma, fp32"), (view.ceiling("matmul", "bf16"), "matmul, bf16, by cuBLAS")) if rate]
    xs, ys = zip(*(list(ends.values()) + [r[:2] for r in roofs]))
    low, high, right = min(ys) / 8, max(ys) * 2.5, max(xs) * 4
    picture.files["points"] = [[(x, y, line_type(name)) for name, (x, y) in ends.items()]]
    picture.files["roofs"] = [roofs]
    picture.set(unit=unit, slope=copy * scale, ridge=max(r[0] for r in roofs), firstridge=min(r[0] for r in roofs), fromx=min(xs) / 2, tox=right, fromy=low, toy=high, points=len(ends))
    for i, (x, y) in enumerate(ends.values(), 1):
        picture.set(**{"px%d" % i: x, "py%d" % i: y, "pt%d" % i: line_type(list(ends)[i - 1])})
    # Names: softmax's in a column beside their points, those far on the right beside the picture, others beside the point.
    left = [n for n in ends if "," not in n]
    column = [n for n in ends if "," in n and ends[n][0] > max(xs) / 10]
    picture.labels(column, ends, low, high, right, True, prefix="right", always_arrow=True)
    if left:
        picture.labels(left, ends, low, high, 2.2 * max(ends[n][0] for n in left), True, top=max(ends[n][1] for n in left), prefix="left", always_arrow=True)
    for i, n in enumerate((n for n in ends if n not in left and n not in column), 1):
        picture.set(beside=i, **{"btext%d" % i: n, "bx%d" % i: ends[n][0], "by%d" % i: ends[n][1]})
    return picture


def memory():
    return Picture("memory", "memory", "How long a sequence fits into memory?", "one sequence, 32 heads of 64, on a GPU: Q, K, V, O, and what the step keeps beside them")


def timeline(path, shape):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise Problem("%s: %s" % (path, error.strerror))
    device = next((line[len("# device: "):] for line in lines if line.startswith("# device: ")), "")
    picture = Picture("timeline", "timeline", "Softmax runs beside products", "%s, step 14%s" % (machine_name(device, None), ", " + shape if shape else ""))
    picture.files["marks"] = [[line.split() for line in lines if re.fullmatch(r"[\d\s.-]+", line) and line.split()]]
    return picture


def suffix(dtype):
    return "" if dtype == "fp32" else "-" + dtype


# ---- all there is to draw of a file

def try_draw(make, *words):
    try:
        return [make(*words)]
    except NothingToDraw:
        return []


def pictures(table):
    """[(name, Picture)]. A machine that was measured with several numbers of threads has pictures for each."""
    found = []
    for i, threads in enumerate(table.threads()):
        view, here = View(table, threads), []
        here += try_draw(steps, view) + try_draw(error, view) + try_draw(attention_steps, view) + try_draw(roofline, view)
        for dtype in BITS:
            here += try_draw(lengths, view, dtype) + try_draw(attention_scale, view, dtype)
        for dtype in ("fp32", "bf16"):
            here += try_draw(error, view, dtype, True)
            for dim in sorted({r.dim for r in view.usual(dtype)}):
                here += try_draw(attention_tflops, view, dim, dtype)
        found += [(("threads-%d-" % threads if i and threads else "") + p.name, p) for p in here]
    return found


def in_text(table):
    for threads in table.threads()[:1]:
        view = View(table, threads)
        dims = sorted({r.dim for r in comparable(view)})[:1]
        for picture in try_draw(steps, view) + try_draw(lengths, view) + try_draw(attention_steps, view) + \
                [p for dim in dims for dtype in ("fp32", "bf16") for p in try_draw(attention_tflops, view, dim, dtype)]:
            picture.draw("dumb")


def shown_pictures():
    """The names of files in plots/recorded that a page shows."""
    found = set()
    for page in pages():
        with open(page, encoding="utf-8") as file:
            found |= set(re.findall(r"\]\([./]*(?:plots/)?recorded/([\w.-]+\.(?:svg|png))\)", file.read()))
    return found


def draw_both(picture, name):
    """As SVG and PNG into build/plots; what a page shows into plots/recorded, if it is from there."""
    for kind in ("svg", "png"):
        picture.draw("build/plots/%s.%s" % (name, kind))


def draw_all(path, text_only):
    table = Table(path)
    files = [(os.path.basename(path)[:-len(".tsv")] if path.endswith(".tsv") else os.path.basename(path), table)]
    if not table.fact("device"):  # results as the programs leave them may be of several devices, and have no header
        files = []
        for device in devices_of(table):
            name = slug(device) + ("-%d" % len(files) if slug(device) in dict(files) else "")
            draft = "build/plots/%s.tsv" % name
            write_whole(draft, record_text(table, device))
            files.append((name, Table(draft)))
    recorded = os.path.dirname(os.path.abspath(path)) == os.path.join(ROOT, "plots", "recorded")
    shown = shown_pictures() if recorded else set()
    for name, table in files:
        if not text_only:
            todo = [("%s-%s" % (name, n), p) for n, p in pictures(table)]
            if any(r.attends() for r in table.rows):
                todo.append(("memory", memory()))  # the same on every machine
            for full, picture in todo:
                draw_both(picture, full)
                if full + ".svg" in shown:
                    with open("build/plots/%s.svg" % full, encoding="utf-8") as file:
                        write_whole("plots/recorded/%s.svg" % full, file.read())
            print("drawn: build/plots/%s-*.svg and .png%s" % (name, ", those that pages show in plots/recorded" if recorded else ""))
        in_text(table)


def main(words):
    timeline_of = words[1:] if words[:1] == ["--timeline"] else []
    text_only = words[:1] == ["--text"]
    files = words[1:] if text_only else words
    if not timeline_of and (len(files) > 1 or any(f.startswith("--") for f in files)) or len(timeline_of) > 2:
        print(__doc__, file=sys.stderr)
        return 2
    prepare()
    try:
        if not shutil.which("gnuplot"):
            raise Problem("gnuplot is not here; make setup installs it")
        path = os.path.abspath(timeline_of[0] if timeline_of else files[0]) if timeline_of or files else None
        os.chdir(ROOT)
        if timeline_of:
            draw_both(timeline(path, " ".join(timeline_of[1:])), "timeline")
        else:
            draw_all(os.path.relpath(path) if path else results_path(), text_only)
    except Problem as problem:
        print("plots: %s" % problem, file=sys.stderr)
        return 1
    except OSError as error:
        print("plots: %s: %s" % (error.filename or "", error.strerror), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
