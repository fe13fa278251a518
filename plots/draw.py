"""What each picture shows, chosen and counted here; gnuplot only draws it. (`results.py plots` draws.)

A script NAME.gp is run as `gnuplot -c NAME.gp FOLDER OUTPUT SETTINGS BELOW`: a folder with data files; a picture's name, or
"dumb"; lines NAME=VALUE, which are numbers and plain words; and the line under the title, which may hold a device's name,
whatever that is.
"""
import dataclasses, math, os, re, shutil, subprocess, tempfile
from collections import Counter, defaultdict, namedtuple

import ring_model
from results import (Problem, ROOT, TOKEN, Table, bytes_name, digits3, heads, length_name, machine_name, pages, read, record_text,
                     slug, write_whole)

# A step keeps its colour in every plot: line type 1 is step 01, ... (style.gp). The copy and peers have their own.
PEERS = (("copy", 91), ("compile", 93), ("cudnn", 93), ("math", 94), ("attention-", 95), ("quack", 95), ("", 92))
LINES = 22  # of text, from the bottom of a picture to its top
LETTERS = {"copy": "c", "torch.softmax": "t", "torch.compile": "T", "flash-attention-3": "F"}  # in the terminal
BITS = {"fp32": 23, "fp16": 10, "bf16": 7}  # of a number, behind its leading one
LOG_BEYOND = 8  # an axis of speeds is logarithmic when the best of one step is so many times the best of another
BACKWARD = "_backward"  # ends the names of steps whose problem is a gradient: their pictures are others


def line_type(step):
    return int(re.match(r"\d+", step)[0]) if step[0].isdigit() else next(number for part, number in PEERS if part in step)


def letter(step):
    return str(line_type(step)) if step[0].isdigit() else LETTERS.get(step) or step.split("-")[-1][0]


def suffix(dtype):
    return "" if dtype == "fp32" else "-" + dtype


class NothingToDraw(Exception):
    """A file has no data for a plot."""


class Picture:
    """What a script is given: settings, data files as lists of blocks of lines, the text under the title."""

    def __init__(self, script, name, title, below):
        self.script, self.name, self.below, self.settings, self.files = script, name, below, {"title": title}, defaultdict(list)

    def set(self, prefix="", **settings):
        self.settings.update((prefix + name, value) for name, value in settings.items())

    def each(self, prefix="", **lists):
        """NAME1, NAME2, ... of a list."""
        self.set(prefix, **{"%s%d" % (n, i): v for n, values in lists.items() for i, v in enumerate(values, 1) if v is not None})

    def labels(self, ends, low, high, far, log, prefix="", top=None, arrows=False):
        """Names at the ends of curves, moved apart where they would overlap: no two nearer than a line of text."""
        scale, back = (math.log, math.exp) if log else (float, float)
        gap = (scale(high) - scale(low)) / LINES
        limit, names, ys = scale(top) if top else scale(high), sorted(ends, key=lambda n: ends[n][1]), []
        for name in names:
            ys.append(max([scale(ends[name][1])] + [y + gap for y in ys[-1:]]))
        for i in reversed(range(len(ys))):
            ys[i] = min(ys[i], limit)
            limit = ys[i] - gap
        longest = max((x for x, _ in ends.values()), default=0)
        tied = [ends[n] if arrows or ends[n][0] == longest else (None, None) for n in names]
        self.each(prefix, text=names, x=[far] * len(names), y=map(back, ys), type=map(line_type, names),
                  fromx=[x for x, _ in tied], fromy=[y for _, y in tied])
        self.set(prefix, labels=len(names))

    def curves(self, points, low, high, log, prefix=""):
        """points: name -> {x: y}. Lengths that are powers of two make lines, in blocks of "curves"; others are rings. y is drawn
        from low to high."""
        xs = sorted({x for line in points.values() for x in line})
        if len(xs) < 2:
            raise NothingToDraw
        names, ends, rings = sorted(points, key=lambda n: "" if n == "copy" else n), {}, []
        for name in names:
            line = sorted((x, y) for x, y in points[name].items() if not int(x) & (int(x) - 1))
            ends.update({name: end for end in line[-1:]})
            if name != "copy":
                rings += [(x, y, line_type(name)) for x, y in sorted(points[name].items()) if int(x) & (int(x) - 1)]
            self.files[prefix + "curves"].append([(x, y, letter(name)) for x, y in line])
        self.files[prefix + "rings"].append(rings)
        tics = [2 ** i for i in range(64) if xs[0] <= 2 ** i <= xs[-1]][::2 if xs[-1] >= 100 * xs[0] else 1]
        self.set(prefix, curves=len(names), shortest=xs[0], longest=xs[-1])
        self.each(prefix, curve=map(line_type, names))
        self.set(rings=max(len(rings), self.settings.get("rings", 0)), tics=len(tics))
        self.each(tic=tics, ticname=map(length_name, tics))
        self.labels(ends, low, high, 1.3 * xs[-1], log, prefix)

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
                    for line in (line for block in blocks for line in (block or [(math.nan,) * 3]) + [(), ()]):
                        file.write("\t".join(v if isinstance(v, str) else "%.9g" % v for v in line) + "\n")
            made = output if output == "dumb" else os.path.join(folder, "out")
            command = ["gnuplot", "-c", os.path.join(ROOT, "plots", self.script + ".gp"), folder, made,
                       self.text() + "kind=%s\n" % output.rsplit(".", 1)[-1], self.below.encode("utf-8", "replace")]
            run = subprocess.run(command, cwd=ROOT, env=dict(os.environ, LC_ALL="C"), stdin=subprocess.DEVNULL,
                                 capture_output=True)
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


def common_shape(rows):
    """The shape to show steps at: of softmax the course's own, where a step has it; or that of most steps, then the nearest."""
    steps, near = defaultdict(set), {}
    for r in (r for r in rows if not r.peer):
        steps[r.shape()].add(r.step)
        pairs = ((r.seq_q, 4096), (r.dim, 64)) if r.attends else ((r.rows, 16384), (r.cols, 8192))
        near[r.shape()] = -100 * r.causal - sum(math.log(a / b) ** 2 for a, b in pairs)
    if not steps:
        raise NothingToDraw
    return max(steps, key=lambda s: (s == "16384 x 8192", len(steps[s]), near[s]))


def softmax(view, dtype="fp32"):
    return [r for r in view.rows if not r.attends and r.dtype == dtype]


def usual(view, dtype):
    return [r for r in view.rows if id(r) in view.table.usual and r.dtype == dtype]


def two_types(view):
    """Attention at its common shape, in a type of 4 bytes and one of 2: the shape, [(dtype, its rows by step, peers last)]."""
    rows = [r for r in view.rows if r.plain]
    shape = common_shape(rows)
    rows = sorted((r for r in rows if r.shape() == shape), key=lambda r: (r.peer, r.step))
    types = "fp32", "bf16" if any(r.dtype == "bf16" for r in rows) else "fp16"
    return shape, [(t, found) for t in types for found in [[r for r in rows if r.dtype == t]] if found]


def points_of(rows, at, value, worst=False):
    points = defaultdict(dict)
    for r in rows:
        x, y = getattr(r, at), getattr(r, value)
        if y and math.isfinite(y):
            points[r.step][x] = max(y, points[r.step].get(x, 0)) if worst else y
    return points


# ---- the pictures, one function each

def steps(view):
    rows = softmax(view)
    shape = common_shape(rows)
    # Steps 09 and 10 are about longer rows of as large a tensor.
    split = "%d x %d" % tuple(int(n) * f for n, f in zip(shape.split(" x "), (1 / 16, 16)))
    shown = [r for r in rows if r.shape() == shape or r.number in (8, 9) and r.shape() == split]
    shown.sort(key=lambda r: (r.peer, r.step, r.shape() != shape))
    picture = Picture("steps", "steps", "How much of copy speed does each step reach?",
                      "%s: %s columns, fp32" % (view.name, shape.replace(" x ", " rows x ")))
    copies = sorted(r.copy() for r in shown if r.shape() == shape and not r.peer and r.copy())
    copy, block = copies[(len(copies) - 1) // 2] if copies else 0, []
    for i, r in enumerate(shown, 1):
        predicted = r.copy() * r.useful_bytes / r.predicted_bytes if r.copy() and r.predicted_bytes else math.nan
        elsewhere = "" if r.shape() == shape else ", " + r.shape()
        value = "%s  %s" % (r.share(), r.speed())
        name = r.step[:2] + elsewhere if elsewhere else r.step
        block.append((i, r.step, r.gb_s, line_type(r.step), predicted, value + elsewhere, name, value))
    picture.files["bars"] = [block]
    top = max([copy] + [v for line in block for v in (line[2], line[4]) if v == v])
    picture.set(bars=len(block), copy=copy, limitname="copy", top=top, lines=8 + len(block), beyond=0,
                measure="effective bandwidth, GB/s (the input read and the result written once, over the time taken)")
    return picture


def ladder(view):
    """A bar an attention, in 16 bits where it has them; peers last. At heads of 128, where they are recorded."""
    rows = [r for r in view.rows if r.plain]
    rows = [r for r in rows if r.dim == 128] or rows
    shape, best = common_shape(rows), {}
    for r in sorted((r for r in rows if r.shape() == shape), key=lambda r: ("fp32", "fp16", "bf16").index(r.dtype)):
        best[r.step] = r
    if len(best) < 2:
        raise NothingToDraw
    shown = sorted(best.values(), key=lambda r: (r.peer, r.tflop_s if r.peer else 0, r.step))
    picture = Picture("steps", "ladder", "How fast is each attention?", "%s: %s; bf16, or what is said" % (view.name, shape))
    picture.files["bars"] = [[(i, r.step, r.tflop_s * view.scale, line_type(r.step), math.nan,
                               digits3(r.tflop_s * view.scale) + ("" if r.dtype == "bf16" else ", " + r.dtype), r.step, r.speed())
                              for i, r in enumerate(shown, 1)]]
    top = max(r.tflop_s for r in shown) * view.scale
    picture.set(bars=len(shown), copy=0, top=top, lines=8 + len(shown), beyond=0.02 * top, measure=view.unit,
                height=160 + 18 * max(8, len(shown)))
    return picture


def token(view):
    """A bar a step of decoding: a token of a model, in 16 bits, against reading K and V."""
    rows = [r for r in view.rows if r.ceiling == "read" and all(getattr(r, n) == v for n, v in TOKEN.items())]
    rows = {r.step: r for dtype in ("fp16", "bf16") for r in rows if r.dtype == dtype}
    if len(rows) < 2:
        raise NothingToDraw
    shown = [rows[step] for step in sorted(rows)]
    read = max(100 * r.gb_s / r.percent for r in shown)
    picture = Picture("steps", "token", "How much of reading does each step reach?",
                      "%s: a token of llama3-8b, %d heads of %d on %d, %d keys, %s" % (
                          view.name, *(TOKEN[n] for n in ("heads", "dim", "kv_heads", "seq_k")), shown[-1].dtype))
    picture.files["bars"] = [[(i, r.step, r.gb_s, line_type(r.step), read * r.useful_bytes / r.predicted_bytes,
                               "%.0f %%  %s" % (r.percent, r.speed()), r.step, "%.0f %%  %s" % (r.percent, r.speed()))
                              for i, r in enumerate(shown, 1)]]
    picture.set(bars=len(shown), copy=read, limitname="reading", top=read, lines=8 + len(shown), beyond=0,
                height=400, measure="effective bandwidth, GB/s (K and V read once, over the time taken)")
    return picture


def lengths(view, dtype="fp32"):
    """Of the tensor size that most rows have: a file may hold a sweep of one over its row lengths, and other shapes besides."""
    sizes = Counter(map(size_octave, softmax(view, dtype)))
    if not sizes:
        raise NothingToDraw
    octave = max(sizes, key=lambda o: (sizes[o], o))
    rows = [r for r in softmax(view, dtype) if size_octave(r) == octave]
    points = points_of(rows, "cols", "gb_s")
    points["copy"] = {r.cols: r.copy() for r in rows if r.copy() and not r.peer}
    most = max(map(len, points.values()))
    points = {name: line for name, line in points.items() if len(line) > 1 or len(line) == most}  # one length alone is no curve
    speeds, bests = [y for line in points.values() for y in line.values()], [max(line.values()) for line in points.values()]
    log = max(bests) > LOG_BEYOND * min(bests)
    low, high = (min(speeds) / 1.5, max(speeds) * 1.3) if log else (0, 1.04 * max(speeds))
    picture = Picture("lengths", "lengths" + suffix(dtype), "Where does each softmax win?",
                      "%s: %s elements, %s" % (view.name, length_name(2 ** octave), dtype))
    picture.curves(points, low, high, log)
    picture.set(low=low, high=high, log=log, lines=24)
    cliffs(picture, view, dtype)
    return picture


def cliffs(picture, view, dtype):
    """Where the rows in flight, each once in x and once in y, fill a cache: from there on every further trip is a trip to DRAM.
    GPU: 2048 threads an SM, divided among rows by warps or blocks. CPU: a row a thread; the last level is shared."""
    caches = [re.fullmatch(r"(L[123]) (\d+) (KiB|MiB)", line) for line in view.table.facts["cache"]]
    caches = [(c[1], int(c[2]) * (1048576 if c[3] == "MiB" else 1024), "%s %s" % (c[2], c[3])) for c in caches if c]
    sms = int(view.table.fact("sms")) if view.table.fact("sms").isdigit() else 0
    found, each, said = [], 2 * (4 if dtype == "fp32" else 2), "dashed: the rows in flight fill a cache"
    for i, (name, size, words) in enumerate(caches, 1):
        if sms and name == "L2":
            found += [(size / each / sms / (2048 / threads), str(threads), "threads") for threads in (32, 256, 1024)]
            said = "dashed: the rows in flight fill the L2 (%s), by threads a row" % words
        elif not sms and name != "L1":
            found.append((size / each / ((view.threads or 1) if i == len(caches) else 1), name, words))
    found = [c for c in found if picture.settings["shortest"] < c[0] < picture.settings["longest"]]
    picture.set(cliffs=len(found), cliffsaid=said if found else "")
    picture.each(**{name: [c[i] for c in found] for i, name in enumerate(("cliff", "above", "under"))})


def error(view, dtype="fp32", attention=False):
    points = points_of(usual(view, dtype) if attention else softmax(view, dtype), "seq_q" if attention else "cols", "error", True)
    title, name, of = ("How right is each attention?", "attention-error",
                       "error of any element checked, over the largest of its row") \
        if attention else ("Who still adds up a long row right?", "error", "relative error of any element checked")
    picture = Picture("error", name + suffix(dtype), title, "%s: %s, the worst %s" % (view.name, dtype, of))
    values = [y for line in points.values() for y in line.values()] + [2.0 ** -BITS[dtype]]
    low, high = min(values) / 2.5, max(values) * 2
    picture.curves(points, low, high, True)
    picture.set(attention=attention, dtype=dtype, bits=BITS[dtype], low=low, high=high)
    return picture


def attention_steps(view):
    shape, types = two_types(view)
    picture = Picture("attention-steps", "attention-steps", "What does each attention cost, in time and in bytes?",
                      "%s: %s" % (view.name, shape))
    y, tops, block = 0, [], []
    for dtype, shown in types:
        tops.append(y + 1)
        for y, r in enumerate(shown, y + 2):
            time, bytes_said = digits3(r.median_ms) + " ms, ", bytes_name(r.predicted_bytes) if r.predicted_bytes else ""
            block.append((y, r.step, line_type(r.step), r.median_ms, predicted_ms(view, r), r.predicted_bytes or math.nan,
                          r.useful_bytes, time + r.reached(), bytes_said,
                          time + r.speed() + (", %.0f %%" % r.percent if r.percent else "")))
    picture.files["bars"] = [block]
    times, sizes = ([v for line in block for v in line[i:i + 2] if v == v] for i in (3, 5))
    picture.each(group=tops, groupname=[dtype for dtype, _ in types])
    picture.set(bars=y, groups=len(types), fastest=min(times), slowest=max(times), least=min(sizes), most=max(sizes), lines=8 + y)
    return picture


def predicted_ms(view, r):
    """The longest of what a step claims would take: its bytes at copy speed, its exponentials, its products. NaN for peers."""
    product = ("fma", "fp32") if r.dtype == "fp32" else ("matmul", "bf16")
    work = ((r.predicted_bytes, 1e6, ("copy", "fp32")), (r.exps, 1e6, ("exp", "fp32")), (r.flops, 1e9, product))
    claims = [w / unit / view.ceiling(*rate) for w, unit, rate in work if w and view.ceiling(*rate) and not r.peer]
    return max(claims, default=math.nan)


def attention_tflops(view, dim, dtype="fp32"):
    rows = [r for r in usual(view, dtype) if r.dim == dim]
    panels = [c for c in (0, 1) if len({r.seq_q for r in rows if r.causal == c}) > 1]
    if not panels:
        raise NothingToDraw
    limitname, limit = ("fma", view.ceiling("fma")) if dtype == "fp32" else ("cuBLAS", view.ceiling("matmul", "bf16"))
    top, scale = max([r.tflop_s for r in rows] + [limit]), view.scale
    tokens = {r.batch * r.seq_q for r in rows if not int(r.seq_q) & (int(r.seq_q) - 1)}
    what, flops = ("gradient", 10) if rows[0].step.endswith(BACKWARD) else ("attention", 4)  # for each dim of a score
    picture = Picture("attention-tflops", "%s-tflops-dim%d%s" % (what, dim, suffix(dtype)),
                      "How fast is each %s, and how far from the ceiling?" % what, "%s: %s of %d, %s%s" % (
                          view.name, heads(rows[0].heads), dim, dtype, "; %d tokens in all" % tokens.pop() if len(tokens) == 1
                          else ""))
    picture.set(panels=len(panels), unit=view.unit, top=scale * top, limit=scale * limit, limitname=limitname,
                exps=scale * view.ceiling("exp") * flops * dim / 1000, lines=24)
    for i, causal in enumerate(panels, 1):
        prefix = "p%d" % i
        points = points_of((r for r in rows if r.causal == causal), "seq_q", "tflop_s")
        points = {n: {x: scale * y for x, y in line.items()} for n, line in points.items()}
        picture.curves(points, 0, scale * top, False, prefix)
        lone = sorted(((n[:2], *xy) for n in sorted(points) if len(points[n]) == 1 for xy in points[n].items()),
                      key=lambda l: l[2])
        picture.set(prefix, mask="causal" if causal else "every query sees every key", lone=len(lone))
        picture.each(prefix, **{name: [l[k] for l in lone] for k, name in enumerate(("lone", "lonex", "loney"))})
    return picture


def attention_scale(view, dtype="fp32", only=()):
    """Of all steps, or of those of these numbers."""
    rows = [r for r in view.scaled if r.verdict == "pass" and r.dtype == dtype and r.error and r.tolerance]
    rows = [r for r in rows if not only or r.number in only]
    xs, names = {r.score_size for r in rows}, sorted({r.step for r in rows})
    if len(xs) < 2 or len(names) < len(only):
        raise NothingToDraw
    bits = BITS[dtype] + 1  # 2^-bits is the unit roundoff
    picture = Picture("attention-scale", "attention-scale" + suffix(dtype) + "".join("-%d" % n for n in only),
                      "What do large scores cost?", "%s: %s, %s" % (view.name, dtype, rows[-1].shape()))
    blocks = [sorted((r.score_size, r.error, r.tolerance) for r in rows if r.step == name) for name in names]
    values = [v for block in blocks for line in block for v in line[1:]] + [2.0 ** -bits]
    low, high = min(values) / 2, 6 * max(values)
    picture.files["curves"] = blocks
    picture.each(curve=map(line_type, names))
    picture.set(curves=len(names), dtype=dtype, bits=bits, shortest=min(xs), longest=max(xs), low=low, high=high)
    picture.labels({name: block[-1][:2] for name, block in zip(names, blocks)}, low, high, max(xs) * 1.3, True)
    return picture


def roofline(view):
    """Points where a step's claim (FLOPs for each byte moved) and its speed meet; above them what copy speed and both kinds of
    product allow. Softmax has 5 FLOPs an element, one each for maximum, difference, exponential, sum and quotient."""
    shape, types = two_types(view)
    copy, said, scale = view.ceiling("copy") / 1000, "%s: %s" % (view.name, shape), view.scale
    if not copy or not view.ceiling("fma"):
        raise NothingToDraw
    shown = [("%s, %s" % (r.step.replace("_attention", ""), dtype), r, r.flops) for dtype, rows in types for r in rows]
    if any(not r.peer for r in softmax(view)):
        at = common_shape(softmax(view))
        said += "; softmax of " + at
        shown += [(r.step.replace("_softmax", ""), r, 5 * r.rows * r.cols) for r in softmax(view) if r.shape() == at]
    ends = {name: (flops / r.predicted_bytes, flops / r.median_ms * 1e-9 * scale) for name, r, flops in shown
            if r.predicted_bytes and not r.peer}
    rates = (view.ceiling("fma"), "fma, fp32"), (view.ceiling("matmul", "bf16"), "matmul, bf16, by cuBLAS")
    roofs = [(rate / copy, rate * scale, name) for rate, name in rates if rate]
    xs, ys = zip(*(list(ends.values()) + [r[:2] for r in roofs]))
    # Names: softmax's in a column that begins at their points, those far on the right beside the picture, others at theirs.
    left = {n: end for n, end in ends.items() if "," not in n}
    column = {n: end for n, end in ends.items() if n not in left and end[0] > max(xs) / 10}
    beside = [n for n in ends if n not in left and n not in column]
    high, right, low = max(ys) * 2.5, max(xs) * 4, min(ys) / 8
    for names in filter(None, (left, column)):  # each a line, below the highest of their points
        top, part = max(end[1] for end in names.values()), (len(names) - 0.5) / LINES
        low = min(low, top * (top / high) ** (part / (1 - part)))
    picture = Picture("roofline", "roofline", "What limits each step?", said)
    picture.files["points"] = [[(x, y, line_type(name)) for name, (x, y) in ends.items()]]
    picture.files["roofs"] = [roofs]
    picture.set(unit=view.unit, slope=copy * scale, ridge=max(r[0] for r in roofs), firstridge=min(r[0] for r in roofs),
                fromx=min(xs) / 2, tox=right, fromy=low, toy=high, points=len(ends))
    picture.each(pt=map(line_type, ends))
    picture.labels(column, low, high, right, True, "right", max((end[1] for end in column.values()), default=high), arrows=True)
    if left:
        far, top = (max(end[i] for end in left.values()) for i in (0, 1))
        picture.labels(left, low, high, 2.2 * far, True, "left", top, arrows=True)
    if beside:
        picture.set(beside=len(beside))
        picture.each(btext=beside, bx=[ends[n][0] for n in beside], by=[ends[n][1] for n in beside])
    return picture


def memory():
    return Picture("memory", "memory", "How long a sequence fits into memory?",
                   "one sequence, 32 heads of 64, on a GPU: Q, K, V, O, and what the step keeps beside them")


# What is drawn of a block of keys: from one clock to another (of a line: 0 warpgroup, 1 block, then clocks: 2 K is there,
# 3 products begun, 4 scores there, 5 P V there, 6 softmax done, 7 and 8 copies of K and V begun); how far below its warpgroup's
# line; half its height, or its name.
SPANS = ((2, 4, 0, 0.15), (3, 5, 0.3, 0.15), (2, 3, 0.9, 0.35), (4, 5, 0.9, 0.35), (5, 6, 0.9, 0.35))
SPAN_NAMES = ((4, 6, 0.9, "%d", 0), (2, 4, 0, "S %d", 0), (3, 5, 0.3, "PV %d", -1))
FIRST, BLOCKS = 10, 8


def timeline(path, shape=""):
    """The window is from where a block of warpgroup 0 begins to where another one does."""
    text = read(path)
    lines = [line.split() for line in text.split("\n") if re.fullmatch(r"[\d\s.-]+", line) and line.split()]
    marks = [[math.nan if cell == "-" else float(cell) for cell in line] for line in lines]
    begins = {m[1]: m[2] for m in marks if m[0] == 0}
    if FIRST not in begins or FIRST + BLOCKS not in begins:
        raise Problem("%s: not enough blocks of keys for a chart" % path)
    start, end = begins[FIRST], begins[FIRST + BLOCKS]
    device = machine_name((re.findall(r"^# device: (.*)", text, re.M) + [""])[0])
    said = "%s, step 29%s: a block of keys takes %.0f clocks" % (device, shape and ", " + shape, (end - start) / BLOCKS)
    picture = Picture("timeline", "timeline", "Softmax runs beside products", said)
    line, clip = lambda m: 2.0 + 2.3 * m[0], lambda x: min(max(x, start), end) - start
    seen = lambda a, b, least: [(m, clip(m[a]), clip(m[b])) for m in marks if clip(m[b]) - clip(m[a]) > least * (end - start)]
    picture.files["bars"] = [[(left, right, line(m) + at - high, line(m) + at + high) for m, left, right in seen(a, b, 0)]
                             for a, b, at, high in SPANS]
    picture.files["names"] = [[((left + right) / 2, line(m) + at, name % (m[1] + plus)) for m, left, right in seen(a, b, 0.028)]
                              for a, b, at, name, plus in SPAN_NAMES]
    copies = [(m[c], y, "%d" % m[1]) for c, y in ((7, 0.5), (8, 1.0)) for m in marks]
    picture.files["copies"] = [[(x - start, y, name) for x, y, name in copies if start <= x <= end]]
    picture.set(width=end - start, groups=1 + max(m[0] for m in marks if m[2] == m[2]))  # those that have clocks of K
    return picture


# ---- Part III: from recorded text, and from the model of a ring

# points and dots: (x, y); apart: dots that are drawn as rings.
Curve = namedtuple("Curve", "name kind points dash dots apart", defaults=(1, (), ()))


def panel(picture, title, xlabel, curves, high, tics, names, key="bottom left"):
    number = picture.settings["panels"] = picture.settings.get("panels", 0) + 1
    prefix, xs = "p%d" % number, [x for c in curves for x, _ in [*c.points, *c.dots, *c.apart]]
    picture.files[prefix + "curves"] = [c.points for c in curves]
    picture.files[prefix + "dots"] = [c.dots for c in curves]
    picture.files[prefix + "apart"] = [[(x, y, c.kind) for c in curves for x, y in c.apart]]
    picture.set(prefix, title=title, xlabel=xlabel, high=high, curves=len(curves), tics=len(tics), key=key,
                least=min(xs) / 1.1, most=max(xs) * 1.1)
    picture.each(prefix, tic=tics, ticname=names, name=[c.name for c in curves], type=[c.kind for c in curves],
                 dash=[c.dash for c in curves])


READERS = (("reading K and V, one launch", 91), ("40_streamed_attention", 40), ("34_split_attention", 34),
           ("torch.sdpa-cudnn", 93), ("flash-attention-3", 95))


def recorded_decoding(what):
    """(device, shapes) of h100-decode.txt in bf16; what: a pattern of the number that is wanted of each of READERS."""
    text = read("plots/recorded/h100-decode.txt")
    first = text[text.index("== bf16"):text.index("== fp16")]
    shapes = [(int(batch), heads, int(keys), float(mb),
               [float(re.search(re.escape(name) + what, lines)[1]) for name, _ in READERS])
              for batch, heads, keys, mb, lines in re.findall(
                  r"^bf16, batch (\d+), (.*), (\d+) keys, .* ([\d.]+) MB\n((?:    .*\n)+)", first, re.M)]
    return re.search(r"^(NVIDIA .*?),", text, re.M)[1], shapes


def of_one_sequence(shapes):
    return [s for s in shapes if s[:2] == (1, "32 heads, 8 of K and V")]


def decoding():
    """Bandwidth: against the length of one sequence, and of all that was recorded against what is read."""
    device, shapes = recorded_decoding(r" .* (\d+) GB/s")
    picture = Picture("panels", "h100-decode", "How fast is a cache read?",
                      device + ": bf16, heads of 128, one query; K and V once, over the time")
    picture.set(ylabel="GB/s")
    one = of_one_sequence(shapes)
    curves = [Curve(name, kind, points, dots=() if kind == 91 else points)
              for i, (name, kind) in enumerate(READERS) for points in [[(s[2], s[4][i]) for s in one]]]
    tics = [2 ** n for n in (10, 12, 14, 16)]
    panel(picture, "one sequence, 32 heads, 8 of K and V", "keys", curves, 3500, tics, map(length_name, tics), "top left")
    curves = [Curve(name, kind, points if kind == 91 else (), dots=() if kind == 91 else points)
              for i, (name, kind) in enumerate(READERS) for points in [sorted((s[3], s[4][i]) for s in shapes)]]
    panel(picture, "all that was recorded: 1 to 64 sequences", "bytes of K and V", curves, 3500, [4, 32, 256, 2048],
          ["4 MB", "32 MB", "256 MB", "2 GB"], "none")
    return picture


def decoding_time():
    """Time of one sequence: above reading, whatever the length; and in all, where reading is short."""
    device, shapes = recorded_decoding(r" +([\d.]+) us ")
    picture = Picture("panels", "h100-decode-time", "How long does a token wait?",
                      device + ": bf16, one sequence, 32 heads of 128, 8 of K and V, one query; launches included")
    picture.set(ylabel="us")
    for title, high, key, shown in (
            ("in all", 60, "top left", [(s[2], s[4]) for s in of_one_sequence(shapes) if s[4][0] < 60]),
            ("above reading alone", 20, "none", [(s[2], [t - s[4][0] for t in s[4]]) for s in of_one_sequence(shapes)])):
        curves = [Curve(name, kind, points, dots=() if kind == 91 else points) for i, (name, kind) in enumerate(READERS)
                  if not name.startswith("34") for points in [[(keys, times[i]) for keys, times in shown]]]
        tics = [keys for keys, _ in shown]
        panel(picture, title, "keys", curves, high, tics, map(length_name, tics), key)
    return picture


def ring_ranks(most=1024):
    """Efficiency against the number of ranks: recorded and modelled on two cores, and predicted for GPUs."""
    points = [p for p in ring_model.recorded() if "2048" in p.what]
    share = lambda p, ms: 100 * p.one_ms / ms
    picture = Picture("panels", "ring-ranks", "What does each rank more bring?",
                      "efficiency: share of the processors' speed, as one rank uses them. "
                      "Filled: recorded; hollow: more ranks than cores")
    curves = [Curve(name, kind, [(1, 100)] + [(p.ranks, share(p, p.ms_said)) for p in of[:2]], dash=2,
                    dots=[(p.ranks, share(p, p.ms)) for p in of if p.why != ring_model.CROWDED],
                    apart=[(p.ranks, share(p, p.ms)) for p in of if p.why == ring_model.CROWDED])
              for name, kind, causal in (("68, no mask", 29, False), ("68, causal", 33, True), ("69, causal", 34, True))
              for of in [[p for p in points if (p.what[:2], p.what.endswith("causal")) == (name[:2], causal)]]]
    picture.set(ylabel="efficiency, %")
    panel(picture, "two cores: 2048 tokens, 16 heads of 64. Dashed: predicted", "ranks", curves, 105, [1, 2, 4], ["1", "2", "4"])
    ranks = [2 ** i for i in range(11) if 2 ** i <= most]
    panel(picture, "H100, predicted: 1 Mi tokens. Dashed: no merges", "ranks, 8 of a node",
          ring_curves(ranks, lambda n, *words: ring_model.ring_of(ring_model.options(words), n)), 105, ranks[::2],
          ["%d" % n for n in ranks[::2]])
    return picture


def ring_lengths(most=65536):
    """The same against the tokens of a rank, of 8 and of 64."""
    picture = Picture("panels", "ring-lengths", "From how many tokens on does a ring hide what it sends?",
                      "predicted for H100, causal, 32/8 heads of 128. Dashed: merged by the kernel, not in memory")
    tokens = [2 ** i for i in range(9, 17) if 2 ** i <= most]
    picture.set(ylabel="efficiency, %")
    for n, title, key in ((8, "8 GPUs, NVLink", "bottom right"), (64, "64 GPUs, InfiniBand between nodes of 8", "none")):
        of = lambda t, *words: ring_model.ring_of(ring_model.options(["--tokens", str(t), *words]), n)
        panel(picture, title, "tokens of each", ring_curves(tokens, of), 105, tokens[::2],
              map(length_name, tokens[::2]), key)
    return picture


def ring_curves(xs, of):
    """of(x, options): a Ring. Of rings there is one where there is one node, and none is drawn."""
    percent = lambda s, seconds=None: 100 * ring_model.efficiency(s, seconds)
    of_rings = lambda s: percent(dataclasses.replace(s, rings=True)) if s.ranks > s.node else math.nan
    kinds = [("one ring, consecutive pieces", 33, ("--mask", "causal"), percent), ("one ring, zigzag", 34, (), percent),
             ("ring of rings, zigzag", 35, (), of_rings),
             ("all-to-all in a node, ring", 13, (), lambda s: percent(s, ring_model.all_to_all(s)))]
    return [Curve(name if dash == 1 else "", kind, [(x, value(of(x, "--merge", merge, *words))) for x in xs], dash)
            for name, kind, words, value in kinds for merge, dash in (("12", 1), ("0", 2))]


def draw_part3():
    for picture in (decoding(), decoding_time(), ring_ranks(), ring_lengths()):
        draw_both(picture, picture.name, True)
    print("drawn: build/plots/h100-decode, h100-decode-time, ring-ranks, ring-lengths, what pages show in plots/recorded")


# ---- all there is to draw of a file

def pictures(table):
    """name -> Picture. A machine that was measured with several numbers of threads has pictures for each."""
    found, two = {}, ("fp32", "bf16")
    for i, view in enumerate(table.views()):
        of_gradients = view.part(lambda r: r.step.endswith(BACKWARD))
        view = view.part(lambda r: not r.step.endswith(BACKWARD))
        todo = [(steps,), (ladder,), (token,), (error,), (attention_steps,), (roofline,)]
        todo += [(make, t) for t in BITS for make in (lengths, attention_scale)] + [(error, t, True) for t in two]
        todo += [(attention_scale, "bf16", (12, 18))]  # for step 18, whose reader has met no others
        todo = [(make, view, *words) for make, *words in todo]
        todo += [(attention_tflops, of, dim, t) for of in (view, of_gradients) for t in two
                 for dim in sorted({r.dim for r in usual(of, t)})]
        for make, *words in todo:
            try:
                picture = make(*words)
                found[("threads-%d-" % view.threads if i and view.threads else "") + picture.name] = picture
            except NothingToDraw:
                pass
    if any(r.attends for r in table.rows):
        found["memory"] = memory()  # the same on every machine
    return found


def in_text(found):
    first = min((int(n) for n in re.findall(r"^attention-tflops-dim(\d+)", "\n".join(found), re.M)), default=0)
    for name in ("steps", "lengths", "attention-steps", "attention-tflops-dim%d" % first, "attention-tflops-dim%d-bf16" % first):
        if name in found:
            found[name].draw("dumb")


def shown_pictures():
    """The names of files in plots/recorded that a page shows."""
    return {name for page in pages() for name in re.findall(r"\]\([./]*(?:plots/)?recorded/([\w.-]+\.(?:svg|png))\)", read(page))}


def draw_both(picture, name, recorded):
    """As SVG and PNG into build/plots; the SVG of a record that a page shows is put there, too."""
    for kind in ("svg", "png"):
        picture.draw("build/plots/%s.%s" % (name, kind))
    if recorded and name + ".svg" in shown_pictures():
        write_whole("plots/recorded/%s.svg" % name, read("build/plots/%s.svg" % name))


def is_recorded(path):
    return os.path.dirname(os.path.abspath(path)) == os.path.join(ROOT, "plots", "recorded")


def draw_timeline(path, shape=""):
    draw_both(timeline(path, shape), os.path.splitext(os.path.basename(path))[0], is_recorded(path))


def draw_all(path, text_only):
    tables = {re.sub(r"\.tsv$", "", os.path.basename(path)): Table(path)}
    table, = tables.values()
    if not table.fact("device"):  # results as the programs leave them may be of several devices, and have no header
        tables = {}
        for device in table.devices():
            name = slug(device) + ("-%d" % len(tables) if slug(device) in tables else "")
            write_whole("build/plots/%s.tsv" % name, record_text(table, device))
            tables[name] = Table("build/plots/%s.tsv" % name)
    for name, table in tables.items():
        found = pictures(table)
        if not text_only:
            for kind, picture in found.items():
                draw_both(picture, "%s-%s" % (name, kind) if kind != "memory" else kind, is_recorded(path))
            said = ", what pages show in plots/recorded" if is_recorded(path) else ""
            print("drawn: build/plots/%s-*.svg and .png%s" % (name, said) if set(found) - {"memory"} else
                  "nothing to draw of %s: too few right results on random input" % name)
        in_text(found)
