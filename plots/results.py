#!/usr/bin/env python3
"""Everything between a table of results and what a reader sees. README.md, beside this file, describes the tables and their format.

    results.py table [FILE]           the terminal's table: each device's steps at the shape that most of them were run at
    results.py tables [--check]       write the tables of the pages from plots/recorded; --check: change nothing, name stale pages
    results.py record [NAME]          keep build/results.tsv as plots/recorded/NAME.tsv, under a header that says where it is from

FILE is build/results.tsv, or $RESULTS, unless it is given. The order below: reading, words for numbers, tables, record. Pictures: draw.py.
Names from a file never become a command. All but a device's and an input's are plain words, or their row is left out.
"""
import fcntl
import glob
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from types import SimpleNamespace

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Problem(Exception):
    """What is wrong, for a person to read; the exit status is 1."""


def warn(text):
    print("results: " + text, file=sys.stderr)


# ---- reading: a Table has the facts of the header lines and a Row for each run; of runs of the same thing the last counts

WORDS = "step device backend dtype input ceiling verdict".split()
NUMBERS = ("rows cols batch heads kv_heads seq_q seq_k dim causal seed threads reps median_ms p10_ms p90_ms useful_bytes predicted_bytes "
           "flops exps gb_s tflop_s copy_gb_s percent error tolerance").split()
PROBLEM = "step device backend dtype rows cols batch heads kv_heads seq_q seq_k dim causal input threads".split()
PLAIN = {"step": r"[A-Za-z0-9][\w.:-]*", "dtype": "fp32|fp16|bf16|fp64", "backend": r"\w+", "ceiling": r"\w+|-", "verdict": "pass|FAIL|in doubt|-"}
NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|inf", re.ASCII)


class Row(SimpleNamespace):
    """A run. Numbers are None where they do not apply ("-"); `line` is the text of the file."""

    def is_peer(self):
        return not self.step[0].isdigit()

    def number(self):
        return 0 if self.is_peer() else int(re.match(r"\d+", self.step)[0])

    def attends(self):
        return bool(self.seq_q)

    def usable(self):
        """Speed and error are worth showing only for right answers, and comparable only on the same kind of input. Peers have no verdict."""
        return self.verdict in ("pass", "-") and self.input == "normal"

    def score_size(self):
        """The standard deviation of an attention's scores on normal input, of rows that were made to show it (--sweep-scale); 0 of others."""
        scaled = re.fullmatch(r"normal, scale ([0-9.e+-]+)", self.input)
        return float(scaled[1]) * math.sqrt(self.dim) if scaled and self.dim else 0

    def shape(self):
        if not self.attends():
            return "%d x %d" % (self.rows or 0, self.cols or 0)
        return "batch %d, %s of %d, %d%s tokens%s%s" % (
            self.batch, heads(self.heads), self.dim, self.seq_q, "" if self.seq_k == self.seq_q else " to %d" % self.seq_k,
            "" if self.kv_heads == self.heads else ", %d of keys" % self.kv_heads, ", causal" if self.causal else "")

    def trips(self):
        """What a softmax says that it moves, in trips over x: "2 + 1". It writes y once."""
        reads = 2 * self.predicted_bytes / self.useful_bytes - 1 if self.predicted_bytes and self.useful_bytes else None
        return "" if reads is None else "%g + 1" % round(reads, 3)

    def exps_each(self):
        """Exponentials for an element, or a score."""
        each = (self.flops / 4 / self.dim) if self.attends() else self.rows * self.cols
        return "" if self.exps is None or self.is_peer() else "%.3g" % (self.exps / each)


def parse_row(names, line):
    """A Row, or the reason why the line is none."""
    cells = line.split("\t")
    if len(cells) != len(names):
        return None, "%d columns, not %d" % (len(cells), len(names))
    row = Row(line=line, **dict.fromkeys(WORDS, "-"), **dict.fromkeys(NUMBERS))
    for name, text in zip(names, cells):
        if name in NUMBERS:
            if text != "-" and not NUMBER.fullmatch(text):
                return None, "%s is no number: %r" % (name, text)
            value = None if text == "-" else float(text)
            if value is not None and not math.isfinite(value) and name not in ("error", "tolerance"):
                return None, "%s is no number: %r" % (name, text)
            setattr(row, name, value)
        elif name in WORDS:
            if not re.fullmatch(PLAIN.get(name, "[^\0]+"), text, re.ASCII):
                return None, "%s is %r" % (name, text)
            setattr(row, name, text)
    needed = "batch heads kv_heads seq_q seq_k dim" if row.seq_q else "rows cols"
    if row.verdict in ("pass", "-"):
        needed += " median_ms useful_bytes " + ("flops tflop_s" if row.seq_q else "gb_s")
    for name in needed.split():
        if not getattr(row, name):
            return None, "%s is missing, or 0" % name
    row.causal = row.causal or 0
    return row, None


class Table:
    def __init__(self, path):
        self.path, self.facts, self.rows, self.names, self.left_out = path, defaultdict(list), [], None, 0
        try:
            with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
                lines = file.read().split("\n")
        except OSError as error:
            raise Problem("%s: %s" % (path, error.strerror))
        place = {}
        torn = lines.pop()
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r")
            fact = re.fullmatch(r"# ([a-z]+): (.*)", line)
            if fact:
                self.facts[fact[1]].append(fact[2])
            elif line.startswith("step\t"):
                if self.names not in (None, line.split("\t")):
                    warn("%s:%d: other columns from here on; the lines above and below are of different programs" % (path, number))
                self.names = line.split("\t")
            elif line and not line.startswith("#"):
                if self.names is None:
                    raise Problem("%s:%d: no line that names the columns stands above" % (path, number))
                row, wrong = parse_row(self.names, line)
                if wrong:
                    self.left_out += 1
                    warn("%s:%d: left out: %s" % (path, number, wrong))
                    continue
                key = tuple(getattr(row, name) for name in PROBLEM)
                if key not in place:
                    place[key] = len(self.rows)
                    self.rows.append(row)
                self.rows[place[key]] = row
        if torn:
            warn("%s: left out: a last line that was not written to its end" % path)
        for row in self.rows:
            row.table = self
        self.usual = choose_usual(self.rows)

    def fact(self, key):
        return self.facts[key][0] if self.facts[key] else ""

    def threads(self):
        """The numbers of threads that it has results for, the most first; None is a GPU."""
        return sorted({row.threads for row in self.rows if row.usable() or row.score_size()}, key=lambda n: -(n or 0))

    def ceilings(self):
        """What step 00 measured: (name, dtype, threads) -> (value, unit)."""
        found = {}
        for line in self.facts["ceiling"]:
            part = line.split(" ")
            if len(part) == 5 and NUMBER.fullmatch(part[3]) and re.fullmatch(r"(\w+ ){2}(\d+|-) [\d.e+]+ [\w/]+", line, re.ASCII):
                found[part[0], part[1], None if part[2] == "-" else float(part[2])] = (float(part[3]), part[4])
        return found

    def ceiling(self, name, dtype, threads):
        return self.ceilings().get((name, dtype, threads), (0, ""))[0]


def choose_usual(rows):
    """The attention rows that are worth comparing, as a set of ids. For each length, dim and mask those of one batch and number of heads,
    with as many keys as queries, and as many key-value heads as heads. Which: those with as many numbers in Q as most rows of the
    file have (a sweep has as many at each length), of these those that most rows have, and then more than one sequence."""
    rows = [r for r in rows if r.usable() and r.attends() and r.seq_k == r.seq_q and r.kv_heads == r.heads]
    size = lambda r: r.batch * r.heads * r.seq_q * r.dim
    place = lambda r: (r.threads, r.seq_q, r.dim, r.causal)
    kind = lambda r: place(r) + (r.batch, r.heads)
    sizes = Counter(map(size, rows))
    votes, best = Counter(), {}
    for row in rows:
        votes[kind(row)] += sizes[size(row)] * 100000 + 1
    for row in rows:
        vote = (votes[kind(row)], row.batch > 1)
        if place(row) not in best or vote > best[place(row)][0]:
            best[place(row)] = (vote, kind(row))
    return {id(r) for r in rows if best[place(r)][1] == kind(r)}


def append_row(path, names, cells):
    """As the steps' programs do: the row whole, in one write and under a lock, in place of half a row that a run left when it was cut off."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
        lines = ([] if whole else [names]) + [cells]
        file.write("".join("\t".join(line) + "\n" for line in lines).encode("utf-8"))


def copy_speed(row):
    """Copy speed beside this row, GB/s: its own, or (peers) that of a step at the same shape. None when there is none."""
    if row.copy_gb_s:
        return row.copy_gb_s
    same = lambda r: [getattr(r, n) for n in ("device", "dtype", "rows", "cols", "threads")]
    return next((r.copy_gb_s for r in row.table.rows if r.copy_gb_s and same(r) == same(row)), None)


# ---- words for numbers

def digits3(x):
    """Three significant digits, without an exponent."""
    if x is None or not math.isfinite(x):
        return "-"
    x = float("%.3g" % x)
    return ("%.0f" if x >= 100 else "%.1f" if x >= 10 else "%.2f" if x >= 1 else "%.3f" if x >= 0.1 else "%.3g") % x


def ratio(a, b, form="%.2f"):
    return form % (a / b) if a and b else "-"


def heads(n):
    return "%d head%s" % (n, "s" if n > 1 else "")


def tflops(x):
    return "-" if x is None else digits3(x) + " TFLOP/s" if x >= 1 else digits3(1000 * x) + " GFLOP/s"


def bytes_name(count):
    if count is None:
        return "-"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 999.5:
            break
        count /= 1000
    return digits3(count) + " " + unit


def length_name(n):
    """131072 is 128 Ki, 1048576 is 1 Mi, 1000 is 1000."""
    n = int(n)
    return "%d Mi" % (n >> 20) if n % 1048576 == 0 else "%d Ki" % (n >> 10) if n % 1024 == 0 else str(n)


def machine_name(device, threads):
    """"AMD EPYC 9R14, 2 threads". threads is None on a GPU."""
    device = "".join(c if c.isprintable() else "?" for c in re.sub(r"\((R|TM)\)", "", device))
    return device + (", %d thread%s" % (threads, "s" if threads > 1 else "") if threads else "")


def of_ceiling(row):
    """"41 % of matmul": what an attention step reached of the ceiling that would take it longest."""
    return "%.0f %% of %s" % (row.percent, row.ceiling) if row.percent else ""


def share(row):
    copy = copy_speed(row)
    return "%.0f %%" % (100 * row.gb_s / copy) if copy and row.gb_s else "-"


# ---- the terminal's table

def terminal_table(table):
    parts = defaultdict(lambda: defaultdict(list))  # a machine and kind -> a shape -> its rows
    for row in filter(Row.usable, table.rows):
        kind = machine_name(row.device, row.threads) + (": attention, " if row.attends() else ": softmax, ")
        parts[kind][row.shape() + ("" if row.attends() else ", " + row.dtype)].append(row)
    if not parts:
        raise Problem("%s: no right results on random input in it" % table.path)
    lines = []
    for part, shapes in parts.items():
        shape = max(shapes, key=lambda s: (len(shapes[s]), bool(re.match(r"16384 x 8192|.* of 64, 4096 tokens$", s))))
        rows = sorted(shapes[shape], key=lambda r: (2 if r.is_peer() else r.dtype != "fp32", r.dtype, r.step))
        attends, before = rows[0].attends(), None
        lines += [part + shape, "  %-30s %8s %13s %13s   %-32s %8s" % (
            "", "ms", "" if attends else "GB/s", "of ceiling" if attends else "of copy", "times the step before", "error")]
        for row in rows:
            ratios = ""
            if before and not row.is_peer() and row.dtype == before.dtype and row.number() == before.number() + 1:
                ratios = "%s (memory %s, exps %s)" % (ratio(before.median_ms, row.median_ms), ratio(before.predicted_bytes, row.predicted_bytes),
                                                      ratio(before.exps, row.exps))
            lines.append("  %-30s %8s %13s %13s   %-32s %8s" % (
                row.step + (", " + row.dtype if attends else ""), digits3(row.median_ms), tflops(row.tflop_s) if attends else digits3(row.gb_s),
                of_ceiling(row) if attends else share(row), ratios, "-" if row.error is None else "%.1e" % row.error))
            before = row
        lines.append("")
    return "\n".join(lines)


# ---- tables of the pages

class Machine:
    """A recorded file; a CPU's is one for every number of threads. The main one is the one with the most."""

    def __init__(self, table, threads, main):
        self.table, self.threads, self.main = table, threads, main
        self.name = markdown(machine_name(table.fact("device"), threads))
        self.kind = "CPU" if threads else "GPU"
        self.rows = [r for r in table.rows if r.threads == threads and r.usable()]
        fma = table.ceiling("fma", "fp32", threads)
        self.scale, self.unit = (1000, "GFLOP/s") if 0 < fma < 1 else (1, "TFLOP/s")


def markdown(text):
    """Free text that stands for itself in a table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", "".join(c if c.isprintable() else "?" for c in text))


def read_steps():
    """name -> (idea, does it attend?), from each step's main.c: the one place that says it."""
    steps = {}
    for path in sorted(glob.glob("steps/*/main.c")):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        idea = re.search(r'\.idea = "([^"]*)"', text)
        steps[path.split("/")[1]] = (idea[1] if idea else "", "struct attention_step" in text)
    return steps


class Pages:
    """The tables of one page, a method a kind."""

    def __init__(self, tables, steps):
        self.steps = steps
        self.machines = [Machine(t, n, i == 0) for t in tables for i, n in enumerate(t.threads())]
        self.main = [m for m in self.machines if m.main]

    def render(self, page, text):
        """The page with its tables made again. Its name is for links."""
        self.up = "../" if page.startswith("steps/") else "../steps/" if "/" in page else "steps/"
        lines, inside = [], 0
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("<!-- results"):
                if inside:
                    raise Problem("%s:%d: a table inside the table of line %d" % (page, number, inside))
                inside = number
                try:
                    lines += [line] + self.table(line.split()[2:-1])
                except (KeyError, ValueError, IndexError) as error:
                    raise Problem("%s:%d: this table cannot be made: %s" % (page, number, error))
            elif line.startswith("<!-- /results -->"):
                inside = 0
            if not inside:
                lines.append(line)
        if inside:
            raise Problem("%s:%d: the table has no end: <!-- /results -->" % (page, inside))
        return "\n".join(lines)

    def table(self, words):
        kind = words[0]
        self.attention = kind.startswith("attention")
        self.dtype = "" if self.attention else "fp32"
        self.shape = {"seq_q": 4096, "dim": 64, "causal": 0} if self.attention else {"rows": 16384, "cols": 8192}
        self.wanted, self.used = [], set()
        for word in words[1:]:
            key, equals, value = word.partition("=")
            if key == "dtype":
                self.dtype = value
            elif equals:
                self.shape["seq_q" if key == "seq" else key] = int(value)
            else:
                self.wanted.append(word)
        if not self.machines:
            return ["(Nothing is recorded yet: `make bench record tables`.)"]
        make = getattr(self, kind.replace("-", "_") + "_table", None)
        if not make:
            raise ValueError("no such kind: " + kind)
        return make()

    def fits(self, row, length=None):
        if self.attention and id(row) not in row.table.usual and not {"batch", "heads", "kv_heads"} & set(self.shape):
            return False
        at = "seq_q" if self.attention else "cols"
        return all(getattr(row, c) == (length if c == at and length else v) for c, v in self.shape.items())

    def find(self, machine, step, dtype, length=None):
        """The row of the shape that is asked for (but of another length, where one is given), or None. Of rows that differ in what was not
        asked for: the largest. Attention: the usual batch and heads, unless others are asked for."""
        found = [r for r in machine.rows if r.step == step and r.dtype == dtype and r.attends() == self.attention and self.fits(r, length)]
        if found:
            self.used.add(machine)
        return max(found, key=lambda r: r.useful_bytes or 0, default=None)

    def link(self, step):
        return "[%s](%s%s/README.md)" % (step, self.up, step)

    @staticmethod
    def heading(columns):
        return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]

    @staticmethod
    def line(*cells):
        return "| " + " | ".join(cells) + " |"

    def speed(self, row, long=False):
        """What a row reached, and how much of what it could."""
        if not row:
            return ""
        text = digits3(row.gb_s) + " GB/s, " + share(row)
        if self.attention:
            text = ", ".join(filter(None, (tflops(row.tflop_s), of_ceiling(row))))
        return digits3(row.median_ms) + " ms, " + text if long else text

    def speeds(self, step, dtype, long=False):
        return [self.speed(self.find(m, step, dtype), long) for m in self.main]

    def claim(self, step, dtype, of):
        """What a step's rows claim: once where all machines agree, else by kind of machine."""
        said = {}
        for m in self.main:
            row = self.find(m, step, dtype)
            if row and of(row):
                said.setdefault(of(row), m.kind)
        return "; ".join(text if len(said) == 1 else "%s: %s" % (kind, text) for text, kind in said.items())

    def worst(self, step, dtype, at):
        rows = [r for m in self.machines for r in m.rows if r.step == step and r.dtype == dtype and r.error is not None and getattr(r, at)]
        row = max(rows, key=lambda r: r.error, default=None)
        return "%.1e at %s %s" % (row.error, length_name(getattr(row, at)), "tokens" if self.attention else "columns") if row else ""

    def spread(self, row):
        return "%s (%s to %s)" % tuple(map(digits3, (row.median_ms, row.p10_ms, row.p90_ms)))

    def here(self):
        return "%d x %d, %s" % (self.shape["rows"], self.shape["cols"], self.dtype)

    def steps_table(self):
        lines = self.heading(["step", "the one idea", "reads + writes"] + [m.name for m in self.main])
        for step, (idea, attends) in self.steps.items():
            if not attends:
                lines.append(self.line(self.link(step), idea, self.claim(step, self.dtype, Row.trips), *self.speeds(step, self.dtype, True)))
        return lines + ["", "x is %s. Median time, useful bandwidth, and its share of a copy's." % self.here()]

    def summary_table(self):
        lines = self.heading(["step", "reads + writes", "bytes an element", "exps an element", "worst error"] + [m.name for m in self.main])
        for step, (_, attends) in self.steps.items():
            if attends or not any(self.find(m, step, self.dtype) for m in self.main):
                continue
            moved = lambda r: "%g" % (r.predicted_bytes / r.rows / r.cols)
            lines.append(self.line(self.link(step), *[self.claim(step, self.dtype, of) for of in (Row.trips, moved, Row.exps_each)],
                                   self.worst(step, self.dtype, "cols"), *self.speeds(step, self.dtype)))
        return lines + ["", "Bandwidth, and share of a copy, at %s; the error is the worst of all recorded runs." % self.here()]

    def compare_table(self):
        pair = len(self.wanted) > 1
        lines = self.heading(["machine", "step", "reads + writes", "exps", "ms (p10 to p90)", "GB/s", "of copy"]
                             + (["predicted: memory, exps", "measured"] if pair else []))
        for m in self.machines:
            before = None
            for step in self.wanted[:2]:
                row = self.find(m, step, self.dtype)
                if not row:
                    continue
                ratios = ["", ""] if pair else []
                if before:
                    ratios = ["%sx, %sx" % (ratio(before.predicted_bytes, row.predicted_bytes), ratio(before.exps, row.exps)),
                              ratio(before.median_ms, row.median_ms) + "x"]
                lines.append(self.line(m.name, step, row.trips(), row.exps_each(), self.spread(row), digits3(row.gb_s), share(row), *ratios))
                before = row
        return lines + ["", "x is %s." % self.here()]

    def lengths_table(self):
        del self.shape["rows"]  # the most that there are
        lines = []
        for m in self.machines:
            for dtype in ("fp32", "fp16", "bf16"):
                lengths = sorted({r.cols for r in m.rows if r.step in self.wanted and r.dtype == dtype and not r.attends()})
                if not lengths:
                    continue
                lines += ["" for _ in lines[:1]] + [m.name + ", " + dtype + ": GB/s, and share of a copy.", ""]
                lines += self.heading(["columns", "copy"] + self.wanted)
                for n in lengths:
                    rows = [self.find(m, step, dtype, n) for step in self.wanted]
                    copy = next((copy_speed(r) for r in rows if r and copy_speed(r)), None)
                    lines.append(self.line(length_name(n), digits3(copy) if copy else "",
                                           *["%s, %s" % (digits3(r.gb_s), share(r)) if r else "" for r in rows]))
        return lines

    def few_table(self):
        """Rows too few to fill the machine: 16 at most, of no more than 16 Mi elements."""
        lines = self.heading(["machine", "rows x columns", "type", "ms (p10 to p90)", "GB/s", "of copy"])
        for m in self.machines:
            for r in m.rows:
                if r.step == self.wanted[0] and r.rows and r.rows <= 16 and r.rows * r.cols <= 16777216:
                    lines.append(self.line(m.name, "%d x %s" % (r.rows, length_name(r.cols)), r.dtype, self.spread(r), digits3(r.gb_s), share(r)))
        return lines

    # Attention: a step is a row for each type that was asked for, or else for each of fp32 and bf16 that is recorded.

    def types(self, step):
        return [d for d in (self.dtype.split() or ["fp32", "bf16"]) if any(self.find(m, step, d) for m in self.main)]

    def bytes_claim(self, step, dtype):
        return self.claim(step, dtype, lambda r: ratio(r.predicted_bytes, r.useful_bytes, "%.3g") + "x")

    def attention_steps_table(self):
        lines = self.heading(["step", "the one idea", "type", "bytes predicted"] + [m.name for m in self.main])
        for step, (idea, attends) in self.steps.items():
            names = [self.link(step), idea]
            for dtype in self.types(step) or [""] if attends else []:
                lines.append(self.line(*names, dtype, self.bytes_claim(step, dtype), *self.speeds(step, dtype, True)))
                names = ["", ""]
        return lines + self.caption("Median time, FLOPs of the two products over it, and the share of the tightest ceiling. "
                                    "Bytes: in units of Q, K, V and O, once each.")

    def attention_summary_table(self):
        lines = self.heading(["step", "type", "bytes predicted", "exps a score", "worst error"] + [m.name for m in self.main])
        for step, (_, attends) in self.steps.items():
            for i, dtype in enumerate(self.types(step) if attends else []):
                lines.append(self.line("" if i else self.link(step), dtype, self.bytes_claim(step, dtype), self.claim(step, dtype, Row.exps_each),
                                       self.worst(step, dtype, "seq_k"), *self.speeds(step, dtype)))
        return lines + self.caption("Bytes in units of Q, K, V and O, once each; the error, over the largest of its row, is the worst of all recorded runs.")

    def attention_compare_table(self):
        """STEP or STEP:TYPE, in the order of the marker; ratios are to the row above."""
        many = len(self.wanted) > 1
        lines = self.heading(["machine", "step", "type", "bytes predicted", "exps a score", "ms (p10 to p90)", "speed"]
                             + (["predicted: memory, exps", "measured"] if many else []))
        for m in self.machines:
            before = None
            for word in self.wanted:
                step, _, dtype = word.partition(":")
                dtype = dtype or self.dtype
                row = self.find(m, step, dtype or "fp32") or (None if dtype else self.find(m, step, "bf16"))
                if not row:
                    continue
                ratios = ["", ""] if many else []
                if before:
                    claims = not before.is_peer() and not row.is_peer()
                    ratios = ["%sx, %sx" % (ratio(before.predicted_bytes, row.predicted_bytes, "%.3g"), ratio(before.exps, row.exps)) if claims else "",
                              ratio(before.median_ms, row.median_ms) + "x"]
                lines.append(self.line(m.name, step, row.dtype, "" if row.is_peer() else bytes_name(row.predicted_bytes), row.exps_each(),
                                       self.spread(row), self.speed(row), *ratios))
                before = row
        return lines + self.caption("")

    def attention_lengths_table(self):
        """The steps that were asked for, and all peers."""
        lines = []
        for m in self.machines:
            for dtype in self.dtype.split() or ["fp32", "bf16"]:
                rows = {(s, n): r for s in {r.step for r in m.rows if r.step in self.wanted or r.is_peer()}
                        for n in {r.seq_q for r in m.rows if r.attends()} for r in [self.find(m, s, dtype, n)] if r}
                lengths = sorted({n for s, n in rows if s in self.wanted})
                if not lengths:
                    continue
                names = self.wanted + sorted({s for s, _ in rows} - set(self.wanted))
                lines += ["" for _ in lines[:1]] + ["%s, %s, heads of %d%s: %s, and share of the tightest ceiling." % (
                    m.name, dtype, self.shape["dim"], ", causal" if self.shape["causal"] else "", m.unit), ""]
                lines += self.heading(["tokens"] + names)
                for n in lengths:
                    cells = [rows.get((s, n)) for s in names]
                    lines.append(self.line(length_name(n), *[
                        digits3(r.tflop_s * m.scale) + (", %.0f %%" % r.percent if r.percent else "") if r else "" for r in cells]))
        return lines

    def caption(self, text):
        """Under a table: its shape, and what its numbers are."""
        batches = []
        for m in self.main:
            row = next((r for r in m.rows if r.attends() and self.fits(r)), None) if m in self.used else None
            if row:
                batches.append("batch %d, %s on %s" % (row.batch, heads(row.heads), markdown(machine_name(row.device, None))))
        return ["", "%d tokens, heads of %d%s (%s).%s" % (self.shape["seq_q"], self.shape["dim"], ", causal" if self.shape["causal"] else "",
                                                         "; ".join(batches), text and " " + text)]

    def ceilings_table(self):
        names = list(dict.fromkeys(key[:2] for m in self.machines for key in m.table.ceilings()))
        lines = self.heading(["machine"] + ["%s, %s" % name for name in names])
        for m in self.machines:
            found = [m.table.ceilings().get(name + (m.threads,)) for name in names]
            lines.append(self.line(m.name, *["%s %s" % (digits3(f[0]), f[1]) if f else "" for f in found]))
        return lines

    def machines_table(self):
        lines = self.heading("file device driver compiler system commit date".split())
        for m in self.main:
            facts = [m.table.fact(key) for key in "driver compiler os commit date".split()]
            lines.append(self.line(m.table.path, markdown(machine_name(m.table.fact("device"), None)), *map(markdown, facts)))
        return lines


def write_whole(path, text):
    """The file has the old text or the new one, whenever this is killed. A symbolic link is followed."""
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    umask = os.umask(0)
    os.umask(umask)
    mode = os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0o666 & ~umask
    handle, new = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def pages():
    return [p for p in ["README.md"] + sorted(glob.glob("steps/*/README.md") + glob.glob("docs/*.md") + glob.glob("plots/*.md")) if os.path.exists(p)]


def write_tables(check):
    maker = Pages([Table(path) for path in sorted(glob.glob("plots/recorded/*.tsv"))], read_steps())
    stale = False
    for page in pages():
        with open(page, encoding="utf-8", newline="") as file:
            text = file.read()
        new = maker.render(page, text)
        if new == text:
            continue
        stale = True
        if check:
            print("tables: %s is stale: make tables" % page, file=sys.stderr)
        else:
            write_whole(page, new)
            print("tables: %s rewritten" % page)
    return 1 if check and stale else 0


# ---- record. From the environment: RESULTS and CEILINGS (other files than build/results.tsv and build/ceilings.tsv), DEVICE (if the results
# are of several: which), FORCE=1 (although the tree has changes), and the header: DRIVER COMPILER COMMIT DATE OS. All of these must
# be given for results that were brought here from another machine.

def said(*command):
    """What a program prints; nothing when it is not here, or fails."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def slug(device):
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([a-z]*\)|@.*", "", device.lower())).strip("-") or "machine"


def system_name():
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            return re.search(r'^PRETTY_NAME="?([^"\n]*)', file.read(), re.M)[1]
    except (OSError, TypeError):
        return said("uname", "-sr")


def is_here(device):
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            if device in file.read():
                return True
    except OSError:
        pass
    return device in said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").split("\n") or \
        device == said("sysctl", "-n", "machdep.cpu.brand_string")


def header(device, backend):
    """The comment lines of a record."""
    get, driver = os.environ.get, "-"
    compiler = said(get("CC") or "gcc", "--version").split("\n")[0]
    if backend == "cuda":
        driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        nvcc = re.search(r"release ([^,]*)", said((get("CUDA_HOME") or "/usr/local/cuda") + "/bin/nvcc", "--version"))
        compiler = "nvcc %s, %s" % (nvcc[1] if nvcc else "?", compiler)
    commit = (said("git", "rev-parse", "--short=12", "HEAD") or "unknown") + (" and changes" if tree_changes() else "")
    lines = ["# device: " + device, "# driver: " + (get("DRIVER") or driver), "# compiler: " + (get("COMPILER") or compiler),
             "# os: " + (get("OS") or system_name()), "# commit: " + (get("COMMIT") or commit),
             "# date: " + (get("DATE") or time.strftime("%Y-%m-%d", time.gmtime()))]
    path = get("CEILINGS") or "build/ceilings.tsv"
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            names, *rows = [line.rstrip("\r\n").split("\t") for line in file] or [[]]
        for row in (dict(zip(names, cells)) for cells in rows if len(cells) == len(names)):
            if row.get("device") != device:
                continue
            if re.fullmatch("L[123]", row["name"]):
                line = "# cache: %s %s %s" % (row["name"], row["value"], row["unit"])
            elif row["name"] == "sms":
                line = "# sms: " + row["value"]
            else:
                threads = "-" if row["threads"] in ("", "0") else row["threads"]
                line = "# ceiling: %s %s %s %s %s" % (row["name"], row["dtype"], threads, row["value"], row["unit"])
            if line not in lines:
                lines.append(line)
    return lines


def tree_changes():
    return said("git", "status", "--porcelain", "--", ".", ":!plots/recorded")


def devices_of(table):
    """device -> its rows."""
    found = defaultdict(list)
    for row in table.rows:
        found[row.device].append(row)
    if not found:
        raise Problem("%s holds no results; make bench writes them" % table.path)
    return found


def record_text(table, device):
    rows = devices_of(table)[device]
    if len({len(r.line.split("\t")) for r in rows}) > 1 or rows[0].line.count("\t") + 1 != len(table.names):
        raise Problem("%s: rows of different programs: they have other columns" % table.path)
    return "\n".join(header(device, rows[0].backend) + ["\t".join(table.names)] + [r.line for r in rows]) + "\n"


def record(name):
    path = results_path()
    table, get = Table(path), os.environ.get
    devices = devices_of(table)
    device = get("DEVICE") or next(iter(devices))
    if len(devices) > 1 and not get("DEVICE"):
        raise Problem("%s is of several devices; say which one: DEVICE='%s'" % (path, device))
    if device not in devices:
        raise Problem("%s has no results of '%s'" % (path, device))
    if table.left_out:
        raise Problem("%s has lines that are no rows (named above), and what they said is not known; when they are gone: make record" % path)
    name = name or slug(device)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise Problem("NAME is %r: letters, digits, '-', '_' and '.' make a file's name" % name)
    for row in devices[device]:
        if row.verdict not in ("pass", "-"):
            raise Problem("a result is not right (%s, %s, %s, %s: %s), and such results are not recorded; when mended: rm %s, make bench" % (
                row.step, row.shape(), row.dtype, row.input, row.verdict, path))
    if not is_here(device):
        for key in "DRIVER COMPILER COMMIT DATE OS".split():
            if not get(key):
                raise Problem("'%s' is not in this machine: %s must be given, with what it was there" % (device, key))
    if not get("COMMIT") and get("FORCE") != "1":
        if not said("git", "rev-parse", "HEAD"):
            raise Problem("no commit to name: this is not a git repository; give COMMIT")
        if tree_changes():
            raise Problem("the tree has changes, so that no commit describes it; commit them, or FORCE=1")
    recorded = "plots/recorded/%s.tsv" % name
    write_whole(recorded, record_text(table, device))
    print("recorded %d results of %s in %s" % (len(devices[device]), machine_name(device, None), recorded))
    return recorded


def draw(path):
    if shutil.which("gnuplot"):
        return subprocess.run([sys.executable, "plots/draw.py", path]).returncode
    print("record: no gnuplot here; where there is one: plots/draw.py " + path)
    return 0


def results_path():
    path = os.environ.get("RESULTS") or "build/results.tsv"
    if not os.path.exists(path):
        raise Problem("%s: no such file; make bench, or a step, writes it" % path)
    return path


def prepare():
    """Signals end this as an exception does, so that temporary files are removed; a name that the reader's language cannot write is no failure."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main(words):
    options = [w for w in words[1:] if w.startswith("--")]
    files = [w for w in words[1:] if not w.startswith("--")]
    command = words[0] if words else ""
    allowed = {"table": [], "tables": ["--check"], "record": []}
    if command not in allowed or len(files) > (command != "tables") or set(options) - set(allowed[command]):
        print(__doc__, file=sys.stderr)
        return 2
    prepare()
    files = [os.path.abspath(f) for f in files] if command != "record" else files
    os.chdir(ROOT)
    files = [os.path.relpath(f) for f in files] if command != "record" else files
    try:
        if command == "table":
            print(terminal_table(Table(files[0] if files else results_path())))
        elif command == "tables":
            return write_tables("--check" in options)
        else:
            return draw(record(files[0] if files else ""))
    except Problem as problem:
        print("%s: %s" % (command, problem), file=sys.stderr)
        return 1
    except OSError as error:
        print("%s: %s: %s" % (command, error.filename or "", error.strerror), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
