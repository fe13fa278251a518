#!/usr/bin/env python3
"""Everything between a table of results and what a reader sees. README.md, beside this file, describes tables and format.

    results.py table [FILE]             the terminal's table: each device's steps at the shape that most of them were run at
    results.py tables [--check]         write the tables of the pages from plots/recorded; --check: only name stale pages
    results.py record [NAME]            keep build/results.tsv as plots/recorded/NAME.tsv, and draw it
    results.py plots [--text] [FILE]    draw FILE, as SVG and PNG into build/plots, and in the terminal (--text: only there);
                                        of a file in plots/recorded, the SVGs that a page shows are put there, too
    results.py timeline FILE [SHAPE]    the chart of `make timeline`, likewise
    results.py part3                    the pictures of Part III, from recorded text and from ring_model.py, likewise

FILE is build/results.tsv, or $RESULTS, unless it is given. The order below: reading, words for numbers, tables, record. Pictures:
draw.py. Names from a file never become a command. All but a device's and an input's are plain words, or their row is left out.
"""
import copy, fcntl, glob, math, os, re, shutil, signal, subprocess, sys, time
from collections import Counter, defaultdict
from types import SimpleNamespace

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Problem(Exception):
    """What is wrong, for a person to read; the exit status is 1."""


# ---- reading: a Table has the facts of the header lines and a Row for each run; of runs of the same thing the last counts

# As common/harness/report.c writes them, and a test compares. Those in WORDS hold words of such a form, the others numbers.
COLUMNS = """step device backend dtype rows cols batch heads kv_heads seq_q seq_k dim causal seed input threads reps
    median_ms p10_ms p90_ms useful_bytes predicted_bytes flops exps gb_s tflop_s copy_gb_s percent ceiling
    error tolerance verdict""".split()
WORDS = {"step": r"[A-Za-z0-9][\w.:-]*", "device": "[^\0]+", "backend": r"\w+", "dtype": "fp32|fp16|bf16|fp64", "input": "[^\0]+",
         "ceiling": r"\w+|-", "verdict": "pass|FAIL|in doubt|-"}
PROBLEM = [name for name in COLUMNS[:COLUMNS.index("reps")] if name != "seed"]
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp64": 8}
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class Row(SimpleNamespace):
    """A run: its columns (None, or "-" of words, where one does not apply), its `line` in the file, what follows from them."""

    def __init__(self, names, line):
        """ValueError says why the line is none."""
        cells = line.split("\t")
        if len(cells) != len(names):
            raise ValueError("%d columns, not %d" % (len(cells), len(names)))
        super().__init__(line=line, **{name: "-" if name in WORDS else None for name in COLUMNS})
        for name, text in zip(names, cells):
            form = WORDS.get(name, NUMBER + "|-|inf" if name in ("error", "tolerance") else NUMBER + "|-")
            if name in COLUMNS and not re.fullmatch(form, text, re.ASCII):
                raise ValueError("%s is %r" % (name, text))
            setattr(self, name, text if name in WORDS or name not in COLUMNS else None if text == "-" else float(text))
        self.attends, self.peer, self.causal = bool(self.seq_q), not self.step[0].isdigit(), self.causal or 0
        self.number = 0 if self.peer else int(re.match(r"\d+", self.step)[0])
        ring = re.fullmatch(r"(.*), (\d+ ranks?)", self.input)
        if ring:  # a row of its own for each number of ranks, by that name
            self.step, self.input = "%s, %s" % (self.step, ring[2]), ring[1]
        self.input = self.input.replace(", pages of 16", "")  # as many as step 41 takes where nothing is asked for
        # Speed and error are worth showing only for right answers, and comparable on one kind of input. Peers have no verdict.
        self.usable = self.verdict in ("pass", "-") and self.input == "normal"
        needed = "batch heads kv_heads seq_q seq_k dim" if self.attends else "rows cols"
        if self.verdict in ("pass", "-"):
            needed += " median_ms useful_bytes " + ("flops tflop_s" if self.attends else "gb_s")
        for name in needed.split():
            if not getattr(self, name) or getattr(self, name) == math.inf:
                raise ValueError("%s is missing, or 0" % name)
        # Attention of as many keys as queries, and a key-value head a head; the standard deviation of scores, of --sweep-scale.
        self.plain = self.attends and self.seq_k == self.seq_q and self.kv_heads == self.heads
        scaled = re.fullmatch(r"normal, scale (%s)" % NUMBER, self.input)
        self.score_size = float(scaled[1]) * math.sqrt(self.dim) if scaled and self.dim else 0

    def shape(self):
        if not self.attends:
            return "%d x %d" % (self.rows or 0, self.cols or 0)
        return "batch %d, %s of %d, %d%s tokens%s%s" % (
            self.batch, heads(self.heads), self.dim, self.seq_q, "" if self.seq_k == self.seq_q else " to %d" % self.seq_k,
            "" if self.kv_heads == self.heads else ", %d of keys" % self.kv_heads, ", causal" if self.causal else "")

    def copy(self):
        """Copy speed beside this row, GB/s: its own, or (peers) that of a step at the same shape. None when there is none."""
        same = lambda r: [getattr(r, n) for n in ("device", "dtype", "rows", "cols", "threads")]
        return self.copy_gb_s or next((r.copy_gb_s for r in self.table.rows if r.copy_gb_s and same(r) == same(self)), None)

    def speed(self):
        """Softmax, and decoding: "123 GB/s". Attention: "123 TFLOP/s"."""
        if not self.attends or self.ceiling == "read":
            return digits3(self.gb_s) + " GB/s"
        return digits3(self.tflop_s) + " TFLOP/s" if self.tflop_s >= 1 else digits3(1000 * self.tflop_s) + " GFLOP/s"

    def share(self):
        """Softmax: "41 %", of copy speed. Attention: "41 % of matmul", of the ceiling that would take the step longest."""
        if self.attends:
            return "%.0f %% of %s" % (self.percent, self.ceiling) if self.percent else ""
        copy = self.copy()
        return "%.0f %%" % (100 * self.gb_s / copy) if copy and self.gb_s else "-"

    def reached(self):
        return self.speed() + (self.share() and ", " + self.share())

    def moved(self):
        """What it says that it moves. Softmax: trips over x, "2 + 1", or over both inputs of its gradient. Attention: in units of
        Q, K, V and O, once each."""
        if not self.predicted_bytes:
            return ""
        if self.attends:
            return "%.3gx" % (self.predicted_bytes / self.useful_bytes)
        return "%g + 1" % round(self.predicted_bytes / (self.rows * self.cols * BYTES[self.dtype]) - 1, 3)

    def exps_each(self):
        """Exponentials for an element, or a score."""
        each = (self.flops / 4 / self.dim) if self.attends else self.rows * self.cols
        return "" if self.exps is None or self.peer else "%.3g" % (self.exps / each)

    def spread(self):
        return "%s (%s to %s)" % tuple(map(digits3, (self.median_ms, self.p10_ms, self.p90_ms)))


class Table:
    def __init__(self, path):
        self.path, self.facts, self.names, self.left_out, last = path, defaultdict(list), None, 0, {}
        *lines, torn = read(path).split("\n")
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r")
            fact = re.fullmatch(r"# ([a-z]+): (.*)", line)
            if fact:
                self.facts[fact[1]].append(fact[2])
            elif line.startswith("step\t"):
                if self.names not in (None, line.split("\t")):
                    self.warn("other columns from line %d on; the lines above and below are of different programs" % number)
                self.names = line.split("\t")
            elif line and not line.startswith("#"):
                if self.names is None:
                    raise Problem("%s:%d: no line that names the columns stands above" % (path, number))
                try:
                    row = Row(self.names, line)
                    row.table = self
                    last[tuple(getattr(row, name) for name in PROBLEM)] = row
                except ValueError as wrong:
                    self.left_out += 1
                    self.warn("line %d is left out: %s" % (number, wrong))
        if torn:
            self.warn("left out: a last line that was not written to its end")
        self.rows = list(last.values())
        self.usual = choose_usual(self.rows)

    def warn(self, text):
        print("results: %s: %s" % (self.path, text), file=sys.stderr)

    def fact(self, key):
        return self.facts[key][0] if self.facts[key] else ""

    def ceilings(self):
        """What step 00 measured: (name, dtype, threads) -> (value, unit)."""
        found = [re.fullmatch(r"(\w+) (\w+) (\d+|-) (%s) ([\w/]+)" % NUMBER, line, re.ASCII) for line in self.facts["ceiling"]]
        return {(c[1], c[2], None if c[3] == "-" else float(c[3])): (float(c[4]), c[5]) for c in found if c}

    def devices(self):
        """device -> its rows."""
        if not self.rows:
            raise Problem("%s holds no results; make bench writes them" % self.path)
        return {device: [r for r in self.rows if r.device == device] for device in dict.fromkeys(r.device for r in self.rows)}

    def views(self):
        """For every number of threads that it has results for, the most first."""
        threads = {r.threads for r in self.rows if r.usable or r.score_size}
        return [View(self, n) for n in sorted(threads, key=lambda n: -(n or 0))]


class View:
    """Results of one number of threads, None being a GPU. `rows` are those worth comparing."""

    def __init__(self, table, threads):
        rows = [r for r in table.rows if r.threads == threads]
        self.table, self.threads, self.kind = table, threads, "CPU" if threads else "GPU"
        self.rows, self.scaled = [r for r in rows if r.usable], [r for r in rows if r.score_size]
        self.name = machine_name(rows[0].device, threads)
        self.scale, self.unit = (1000, "GFLOP/s") if 0 < self.ceiling("fma") < 1 else (1, "TFLOP/s")

    def part(self, of):
        """The same of some of its rows."""
        view = copy.copy(self)
        view.rows, view.scaled = list(filter(of, self.rows)), list(filter(of, self.scaled))
        return view

    def ceiling(self, name, dtype="fp32"):
        return self.table.ceilings().get((name, dtype, self.threads), (0, ""))[0]


def choose_usual(rows):
    """The attention rows that are worth comparing, as a set of ids: for each length, dim and mask those of one batch and number
    of heads, with as many numbers in Q as most rows of the file have (a sweep has as many at each length); then those that most
    rows have, and more than one sequence."""
    size, places = lambda r: r.batch * r.heads * r.seq_q * r.dim, defaultdict(lambda: defaultdict(list))
    rows = [r for r in rows if r.usable and r.plain]
    sizes = Counter(map(size, rows))
    for r in rows:
        places[r.threads, r.seq_q, r.dim, r.causal][r.batch, r.heads].append(r)
    vote = lambda rows: (len(rows) * (sizes[size(rows[0])] * 100000 + 1), rows[0].batch > 1)
    return {id(r) for kinds in places.values() for r in max(kinds.values(), key=vote)}


def append_row(path, names, cells):
    """As the steps' programs do: the row whole, in one write and under a lock, in place of half a row that a run left."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write("".join("\t".join(line) + "\n" for line in ([] if whole else [names]) + [cells]).encode("utf-8"))


def read(path, errors="replace"):
    try:
        with open(path, encoding="utf-8", errors=errors, newline="") as file:
            return file.read()
    except OSError as error:
        raise Problem("%s: %s" % (path, error.strerror))


# ---- words for numbers

def digits3(x):
    """Three significant digits, without an exponent."""
    if x is None or not math.isfinite(x):
        return "-"
    x = float("%.3g" % x)
    return ("%.0f" if x >= 100 else "%.1f" if x >= 10 else "%.2f" if x >= 1 else "%.3f" if x >= 0.1 else "%.3g") % x


def ratio(before, row, of, form="%.2f"):
    """How many times less."""
    a, b = getattr(before, of), getattr(row, of)
    return form % (a / b) if a and b else "-"


def heads(n):
    return "%d head%s" % (n, "s" if n > 1 else "")


def bytes_name(count):
    power = sum(count >= 0.9995 * 1000 ** i for i in range(1, 5))
    return "%s %s" % (digits3(count / 1000 ** power), ("B", "KB", "MB", "GB", "TB")[power])


def length_name(n):
    """131072 is 128 Ki, 1048576 is 1 Mi, 1000 is 1000."""
    return "%d Mi" % (n // 1048576) if n % 1048576 == 0 else "%d Ki" % (n // 1024) if n % 1024 == 0 else "%d" % n


def printable(text):
    return "".join(c if c.isprintable() else "?" for c in text)


def machine_name(device, threads=None):
    """"AMD EPYC 9R14, 2 threads". threads is None on a GPU."""
    name = printable(re.sub(r"\((R|TM)\)", "", device))
    return "%s, %d thread%s" % (name, threads, "s" if threads > 1 else "") if threads else name


# ---- the terminal's table

def terminal_table(table):
    parts = defaultdict(lambda: defaultdict(list))  # a machine and kind -> a shape -> its rows
    for row in (r for r in table.rows if r.usable):
        kind = machine_name(row.device, row.threads) + (": attention, " if row.attends else ": softmax, ")
        parts[kind][row.shape() + ("" if row.attends else ", " + row.dtype)].append(row)
    if not parts:
        raise Problem("%s: no right results on random input in it" % table.path)
    lines, ratios, form = [], ("median_ms", "predicted_bytes", "exps"), "  %-33s %8s %13s %14s   %-32s %8s"
    for part, shapes in parts.items():
        shape = max(shapes, key=lambda s: (len(shapes[s]), bool(re.match(r"16384 x 8192|.* of 64, 4096 tokens$", s))))
        rows = sorted(shapes[shape], key=lambda r: (2 if r.peer else r.dtype != "fp32", r.dtype, r.step))
        titles = ("", "of ceiling") if rows[0].attends else ("GB/s", "of copy")
        lines += [part + shape, form % ("", "ms", *titles, "times the row above", "error")]
        for before, row in zip([None] + rows, rows):
            follows = before and not row.peer and row.dtype == before.dtype
            name, speed = (row.step + ", " + row.dtype, row.speed()) if row.attends else (row.step, digits3(row.gb_s))
            error = "-" if row.error is None else "%.1e" % row.error
            said = follows and "%s (memory %s, exps %s)" % tuple(ratio(before, row, of) for of in ratios) or ""
            lines.append(form % (name, digits3(row.median_ms), speed, row.share(), said, error))
        lines.append("")
    return "\n".join(lines)


# ---- tables of the pages

def markdown(text):
    """Free text that stands for itself in a table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(text))


def read_steps():
    """name -> (idea, does it attend? or "decoding", "backward", "ring"; minutes), from each step's main.c and lesson."""
    steps = {}
    for path in sorted(glob.glob("steps/*/main.c")):
        text, lesson = read(path), path.replace("main.c", "README.md")
        idea = re.search(r'\.idea = "([^"]*)"', text)
        minutes = re.search(r"^\*(\d+) minutes · .*\*$", read(lesson) if os.path.exists(lesson) else "", re.M)
        apart = re.search(r"^ *\.(usual|ring) = |(_backward)_main\(", text, re.M)
        kind = {"usual": "decoding", "ring": "ring", None: "backward"}[apart[1]] if apart else "struct attention_step" in text
        steps[path.split("/")[1]] = idea[1] if idea else "", kind, minutes[1] if minutes else ""
    return steps


TOKEN = {"batch": 1, "heads": 32, "kv_heads": 8, "seq_q": 1, "seq_k": 8192, "dim": 128, "causal": 1}  # llama3-8b-token


class Pages:
    """The tables of the pages. KIND or attention-KIND is a method make_KIND: it returns lines of text, and lists of cells."""

    def __init__(self, tables, steps):
        self.steps = steps
        views = [t.views() for t in tables if t.views()]
        self.machines, self.main = sum(views, []), [v[0] for v in views]  # main: of a CPU, with the most threads
        self.names = [markdown(view.name) for view in self.main]

    def render(self, page, text):
        """The page with its tables made again. Its name is for links."""
        self.up = "../" if page.startswith("steps/") else "../steps/" if "/" in page else "steps/"
        end = "<!-- /results -->"

        def make(found):
            try:
                if not found[2]:
                    raise ValueError("it has no end: " + end)
                return "\n".join(["<!-- results %s -->" % found[1], *self.table(found[1].split()), end])
            except (KeyError, ValueError, IndexError, AttributeError) as error:
                raise Problem("%s:%d: this table cannot be made: %s" % (page, text[:found.start()].count("\n") + 1, error))
        return re.sub(r"^<!-- results (.*) -->\n(?:(?!<!-- /?results).*\n)*(%s)?" % end, make, text, flags=re.M)

    def begin(self, attention, kind=""):
        """The shape and the types that are meant where a table names none."""
        self.attention, self.at = attention, "seq_q" if attention else "cols"  # at: what a length is
        self.shape = {"seq_q": 4096, "dim": 64, "causal": 0} if attention else {"rows": 16384, "cols": 8192}
        self.dtypes = ["fp32", "bf16"] if attention else ["fp32", "fp16", "bf16"] if kind == "lengths" else ["fp32"]

    def table(self, words):
        kind = words[0].replace("attention-", "")
        self.begin(words[0].startswith("attention-"), kind)
        self.wanted, self.used = [word for word in words[1:] if "=" not in word], set()
        for key, value in (word.split("=") for word in words[1:] if "=" in word):
            if key == "dtype":
                self.dtypes = [value]
            else:
                self.shape["seq_q" if key == "seq" else key] = int(value)
        if not self.machines:
            return ["(Nothing is recorded yet: `make bench record tables`.)"]
        lines, cells = [], False
        for line in getattr(self, "make_" + kind)():
            heading, cells = not cells, not isinstance(line, str)
            lines += ["| " + " | ".join(line) + " |"] + ["|" + "---|" * len(line)] * heading if cells else [line]
        return lines

    def fits(self, row, length=None):
        if self.attention and id(row) not in row.table.usual and not {"batch", "heads", "kv_heads"} & set(self.shape):
            return False
        return all(getattr(row, c) == (length if c == self.at and length else v) for c, v in self.shape.items())

    def find(self, machine, step, dtype, length=None):
        """The row of the shape that is asked for (of another length, where one is given), or None. Of rows that differ in what
        was not asked for: the largest. Attention: the usual batch and heads, unless others are asked for."""
        wanted = (step, dtype, self.attention)
        found = [r for r in machine.rows if (r.step, r.dtype, r.attends) == wanted and self.fits(r, length)]
        if found:
            self.used.add(machine)
        return max(found, key=lambda r: r.useful_bytes or 0, default=None)

    def link(self, step):
        return "[%s](%s%s/README.md)" % (step, self.up, step)

    def asked(self):
        """The steps of the kind that is asked for: name, the idea, and the types that it has results of."""
        for step, (idea, attends, _) in self.steps.items():
            if attends == self.attention:
                yield step, idea, [d for d in self.dtypes if any(self.find(m, step, d) for m in self.main)]

    def speeds(self, step, dtype, time=""):
        """What a step reached on each machine, and how much of what it could."""
        rows = [self.find(m, step, dtype) for m in self.main]
        return [(time and digits3(r.median_ms) + time) + r.reached() if r else "" for r in rows]

    def claim(self, step, dtype, of):
        """What a step's rows claim: once where all machines agree, else by kind of machine."""
        said = {}
        for m, row in ((m, self.find(m, step, dtype)) for m in self.main):
            if row and of(row):
                said.setdefault(of(row), m.kind)
        return "; ".join(text if len(said) == 1 else "%s: %s" % (kind, text) for text, kind in said.items())

    def mask(self):
        return ", causal" if self.shape["causal"] else ""

    def caption(self, softmax, attention=""):
        """Under a table: its shape, and what its numbers are."""
        if not self.attention:
            return ["", softmax.replace("SHAPE", "%d x %d, %s" % (self.shape["rows"], self.shape["cols"], self.dtypes[0]))]
        rows = [next((r for r in m.rows if r.attends and self.fits(r)), None) for m in self.main if m in self.used]
        batches = ["batch %d, %s on %s" % (r.batch, heads(r.heads), markdown(machine_name(r.device))) for r in rows if r]
        return ["", "%d tokens, heads of %d%s (%s).%s" % (
            self.shape["seq_q"], self.shape["dim"], self.mask(), "; ".join(batches), attention)]

    # What a table has of attention alone: a column for the type, and a line for each type that was asked for and is recorded.

    def make_steps(self):
        own = ["type", "bytes predicted"] if self.attention else ["reads + writes"]
        lines = [["step", "the one idea"] + own + self.names]
        for step, idea, types in self.asked():
            for i, dtype in enumerate(types or [""]):
                claims = [dtype] * self.attention + [self.claim(step, dtype, Row.moved)]
                lines.append(([self.link(step), idea], ["", ""])[i > 0] + claims + self.speeds(step, dtype, " ms, "))
        return lines + self.caption("x is SHAPE. Median time, useful bandwidth, and its share of a copy's.",
                                    " Median time, FLOPs of the two products over it, and the share of the tightest ceiling. "
                                    "Bytes: in units of Q, K, V and O, once each.")

    def make_course(self):
        """All steps in one table, with what the first GPU reached: in attention at heads of 128, in 16 bits where it has them;
        decoding writes a token of a model."""
        m, said = next((m for m in self.main if m.kind == "GPU"), self.main[0]), [int(of[2] or 0) for of in self.steps.values()]
        lines = [["step", "idea", "minutes", markdown(m.name)]]
        for step, (idea, kind, minutes) in self.steps.items():
            self.begin(any(r.attends for r in m.rows if r.step == step))
            if self.attention:
                self.shape.update(TOKEN if kind == "decoding" else {"dim": 128})
            row = next(filter(None, (self.find(m, step, dtype) for dtype in reversed(self.dtypes))), None)
            reached = "" if not row else row.reached() if not self.attention or kind == "decoding" else \
                row.speed() + ", fp32" * (row.dtype == "fp32")
            lines.append([self.link(step), idea, minutes, reached])
        self.begin(True)
        self.shape["dim"] = 128
        hours = " %.0f hours in all." % (sum(said) / 60) if all(said) else ""
        token = " Decoding: a token of `llama3-8b-token`, %d keys, and its share of reading." % TOKEN["seq_k"]
        said = token * ("decoding" in [of[1] for of in self.steps.values()]) + " bf16 where nothing else is said." + hours
        return lines + ["", "Softmax of 16384 x 8192, fp32: useful bandwidth, and its share of a copy's. Attention of "
                        + self.caption("", said)[1]]

    def make_shares(self):
        """All steps that are recorded, and their share of the tightest ceiling on each machine."""
        lines = [["step"] + self.names]
        for step, (_, attends, _) in self.steps.items():
            self.begin(attends)
            for dtype in self.dtypes:
                rows = [self.find(m, step, dtype) for m in self.main]
                if any(rows):
                    said = [r and ("%.0f %% of %s" % (r.percent, r.ceiling) if r.percent else r.speed()) or "" for r in rows]
                    lines.append([self.link(step) + ", bf16" * (dtype == "bf16")] + said)
        self.begin(True)
        return lines + ["", "fp32 where nothing else is said. Softmax of 16384 x 8192. Attention of " + self.caption("")[1]]

    def make_summary(self):
        claims = {"reads + writes": Row.moved, "bytes an element": lambda r: "%g" % (r.predicted_bytes / r.rows / r.cols),
                  "exps an element": Row.exps_each}
        lines = [["step", *claims, "worst error"] + self.names]
        for step, _, types in self.asked():
            for dtype in types:
                rows = [r for m in self.machines for r in m.rows if (r.step, r.dtype) == (step, dtype) and r.error is not None]
                worst = max(rows, key=lambda r: r.error, default=None)
                said = worst and "%.1e at %s columns" % (worst.error, length_name(worst.cols)) or ""
                lines.append([self.link(step), *(self.claim(step, dtype, of) for of in claims.values()), said,
                              *self.speeds(step, dtype)])
        return lines + self.caption("Bandwidth, and share of a copy, at SHAPE; the error is the worst of all recorded runs.")

    def make_compare(self):
        """Ratios are to the row above."""
        own = ["type", "bytes predicted", "exps a score"] if self.attention else ["reads + writes", "exps"]
        lines = [["machine", "step"] + own + ["ms (p10 to p90)"] + (["speed"] if self.attention else ["GB/s", "of copy"])
                 + ["predicted: memory, exps", "measured"] * (len(self.wanted) > 1)]
        for m in self.machines:
            rows = [next(filter(None, (self.find(m, step, d) for d in self.dtypes)), None) for step in self.wanted]
            rows = [row for row in rows if row]
            for before, row in zip([None] + rows, rows):
                measured, predicted = before and ratio(before, row, "median_ms") + "x" or "", ""
                if before and not before.peer and not row.peer:
                    memory = ratio(before, row, "predicted_bytes", "%.3g" if self.attention else "%.2f")
                    predicted = "%sx, %sx" % (memory, ratio(before, row, "exps"))
                cells = [row.moved(), row.exps_each(), row.spread(), digits3(row.gb_s), row.share()]
                if self.attention:
                    moved = "" if row.peer else bytes_name(row.predicted_bytes)
                    cells = [row.dtype, moved, row.exps_each(), row.spread(), row.reached()]
                lines.append([markdown(m.name), row.step] + cells + [predicted, measured] * (len(self.wanted) > 1))
        return lines + self.caption("x is SHAPE.")

    def make_lengths(self):
        """Of machines that ran the last of the steps. Of attention: the steps that were asked for, and all peers."""
        self.shape.pop("rows", None)  # the most that there are
        lines = []
        for m, dtype in ((m, dtype) for m in self.machines for dtype in self.dtypes):
            shown = {r.step for r in m.rows if r.step in self.wanted or self.attention and r.peer}
            every = {getattr(r, self.at) for r in m.rows if r.attends == self.attention}
            rows = {(s, n): r for s in shown for n in every for r in [self.find(m, s, dtype, n)] if r}
            steps = self.wanted + sorted({s for s, _ in rows} - set(self.wanted))
            lengths = sorted({n for s, n in rows if s in self.wanted})
            if self.wanted[-1] not in {s for s, _ in rows}:
                continue
            said, heading = ": GB/s, and share of a copy.", ["columns", "copy"]
            cell = lambda r: "%s, %s" % (digits3(r.gb_s), r.share())
            if self.attention:
                said = ", heads of %d%s: %s, and share of the tightest ceiling." % (self.shape["dim"], self.mask(), m.unit)
                heading, cell = ["tokens"], lambda r: digits3(r.tflop_s * m.scale) + (r.percent and ", %.0f %%" % r.percent or "")
            lines += [""] * bool(lines) + ["%s, %s%s" % (markdown(m.name), dtype, said), "", heading + steps]
            for n in lengths:
                found = [rows.get((s, n)) for s in steps]
                copies = [] if self.attention else ([digits3(r.copy()) for r in found if r and r.copy()] + [""])[:1]
                lines.append([length_name(n)] + copies + [cell(r) if r else "" for r in found])
        return lines

    def make_few(self):
        """Rows too few to fill the machine: 16 at most, of no more than 16 Mi elements."""
        return [["machine", "rows x columns", "type", "ms (p10 to p90)", "GB/s", "of copy"]] + [
            [markdown(m.name), "%d x %s" % (r.rows, length_name(r.cols)), r.dtype, r.spread(), digits3(r.gb_s), r.share()]
            for m in self.machines for r in m.rows if r.step == self.wanted[0] and r.rows <= 16 and r.rows * r.cols <= 16777216]

    def make_ceilings(self):
        names = list(dict.fromkeys(key[:2] for m in self.machines for key in m.table.ceilings()))
        return [["machine"] + ["%s, %s" % name for name in names]] + [
            [markdown(m.name)] + ["%s %s" % (digits3(c[0]), c[1]) if c else "" for n in names
                                  for c in [m.table.ceilings().get(n + (m.threads,))]] for m in self.machines]

    def make_ring(self):
        """recorded, predicted or sent; and of the last two the options of `make scaling`."""
        import ring_model  # which needs this module
        return ring_model.cells(*self.wanted)

    def make_machines(self):
        facts = "driver compiler os commit date".split()
        return ["file device driver compiler system commit date".split()] + [
            [m.table.path, markdown(machine_name(m.table.fact("device")))] + [markdown(m.table.fact(fact)) for fact in facts]
            for m in self.main]


def write_whole(path, text):
    """The file has the old text or the new one, whenever this is killed. A symbolic link is followed."""
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = "%s.%d" % (path, os.getpid())
    try:
        with open(new, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, new)
        os.replace(new, path)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def pages():
    return [p for pattern in ("README.md", "steps/*/README.md", "docs/*.md", "plots/*.md") for p in sorted(glob.glob(pattern))]


def write_tables(check):
    """The exit status."""
    maker, stale = Pages([Table(path) for path in sorted(glob.glob("plots/recorded/*.tsv"))], read_steps()), 0
    for page in pages():
        text = read(page, "strict")
        new = maker.render(page, text)
        if new != text and check:
            print("tables: %s is stale: make tables" % page, file=sys.stderr)
            stale = 1
        elif new != text:
            write_whole(page, new)
            print("tables: %s rewritten" % page)
    return stale


# ---- record. From the environment: RESULTS and CEILINGS (other files than build/results.tsv and build/ceilings.tsv), DEVICE (if
# the results are of several: which), FORCE=1 (although the tree has changes), and the header, all of which must be given for
# results that were brought here from another machine:

GIVEN = "DRIVER COMPILER OS COMMIT DATE".split()


def said(*command):
    """What a program prints; nothing when it is not here, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def of_gpus(what):
    return said("nvidia-smi", "--query-gpu=" + what, "--format=csv,noheader").split("\n")


def slug(device):
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([a-z]*\)|@.*", "", device.lower())).strip("-") or "machine"


def tree_changes():
    return said("git", "status", "--porcelain", "--", ".", ":!plots/recorded")


def measured(device):
    """The lines of a header that step 00 left in build/ceilings.tsv."""
    path = os.environ.get("CEILINGS") or "build/ceilings.tsv"
    names, *lines = [line.rstrip("\r").split("\t") for line in (read(path) if os.path.exists(path) else "").split("\n")]
    for cell in (dict(zip(names, cells)) for cells in lines if len(cells) == len(names)):
        form = "# ceiling: {name} {dtype} {threads} {value} {unit}"
        if cell["name"] in ("sms", "L1", "L2", "L3"):
            form = "# sms: {value}" if cell["name"] == "sms" else "# cache: {name} {value} {unit}"
        if cell["device"] == device:
            yield form.format(**dict(cell, threads="-" if cell["threads"] in ("", "0") else cell["threads"]))


def record_text(table, device):
    """The comment lines, and the rows."""
    rows, get = table.devices()[device], os.environ.get
    if {r.line.count("\t") for r in rows} != {len(table.names) - 1}:
        raise Problem("%s: rows of different programs: they have other columns" % table.path)
    driver, compiler = "-", said(get("CC") or "gcc", "--version").split("\n")[0]
    if rows[0].backend == "cuda":
        nvcc = re.search(r"release ([^,]*)", said((get("CUDA_HOME") or "/usr/local/cuda") + "/bin/nvcc", "--version"))
        driver, compiler = of_gpus("driver_version")[0], "nvcc %s, %s" % (nvcc[1] if nvcc else "?", compiler)
    system = said("sh", "-c", '. /etc/os-release && echo "$PRETTY_NAME"') or said("uname", "-sr")
    commit = (said("git", "rev-parse", "--short=12", "HEAD") or "unknown") + (" and changes" if tree_changes() else "")
    here = zip(GIVEN, (driver, compiler, system, commit, time.strftime("%Y-%m-%d", time.gmtime())))
    lines = ["# device: " + device] + ["# %s: %s" % (key.lower(), get(key) or value) for key, value in here]
    return "\n".join([*dict.fromkeys([*lines, *measured(device)]), "\t".join(table.names), *(r.line for r in rows)]) + "\n"


def record(name=""):
    path = results_path()
    table, get = Table(path), os.environ.get
    devices = table.devices()
    device = get("DEVICE") or next(iter(devices))
    name = name or slug(device)
    is_here = device in said("cat", "/proc/cpuinfo") or device in [*of_gpus("name"),
                                                                   said("sysctl", "-n", "machdep.cpu.brand_string")]
    missing = next((key for key in GIVEN if not get(key)), "") if not is_here else ""
    wrong = next((row for row in devices.get(device, []) if row.verdict not in ("pass", "-")), None)
    unnamed, forced = not get("COMMIT"), get("FORCE") == "1"
    for refused, why in (
            (len(devices) > 1 and not get("DEVICE"), "%s is of several devices; say which one: DEVICE='%s'" % (path, device)),
            (device not in devices, "%s has no results of '%s'" % (path, device)),
            (table.left_out, "%s has lines that are no rows (named above); what they said is not known" % path),
            (not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII), "NAME is %r, which makes no file's name" % name),
            (wrong, wrong and "a wrong result is not recorded (%s, %s, %s, %s: %s); when mended: rm %s, make bench" % (
                wrong.step, wrong.shape(), wrong.dtype, wrong.input, wrong.verdict, path)),
            (missing, "'%s' is not in this machine: %s must be given, with what it was there" % (device, missing)),
            (unnamed and not forced and not said("git", "rev-parse", "HEAD"),
             "no commit to name: this is no git repository; give COMMIT"),
            (unnamed and not forced and tree_changes(),
             "the tree has changes, so that no commit describes it; commit them, or FORCE=1")):
        if refused:
            raise Problem(why)
    recorded = "plots/recorded/%s.tsv" % name
    write_whole(recorded, record_text(table, device))
    print("recorded %d results of %s in %s" % (len(devices[device]), machine_name(device), recorded))
    return recorded


def results_path():
    path = os.environ.get("RESULTS") or "build/results.tsv"
    if not os.path.exists(path):
        raise Problem("%s: no such file; make bench, or a step, writes it" % path)
    return path


# ---- commands

def prepare():
    """Signals end this as exceptions do, so that temporary files go away; a name that a terminal cannot write is no failure."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def do(command, words, option):
    """The exit status."""
    if command == "tables":
        return write_tables(option)
    if command == "record":
        words = [record(*words)]
    elif command != "part3":
        words = words or [results_path()]
    if command == "table":
        print(terminal_table(Table(*words)))
    elif shutil.which("gnuplot"):
        import draw  # which needs this module
        others = {"timeline": draw.draw_timeline, "part3": draw.draw_part3}
        others.get(command, lambda path: draw.draw_all(path, option))(*words)
    elif command == "record":
        print("record: no gnuplot here; where there is one: plots/results.py plots " + words[0])
    else:
        raise Problem("gnuplot is not here; make setup installs it")
    return 0


# The fewest and the most words of a command, and the option that may stand before them.
COMMANDS = {"table": (0, 1, None), "tables": (0, 0, "--check"), "record": (0, 1, None), "plots": (0, 1, "--text"),
            "timeline": (1, 2, None), "part3": (0, 0, None)}


def main(words):
    command, *words = words or [""]
    least, most, option = COMMANDS.get(command, (1, 0, None))
    chosen = words[:1] == [option]
    words = words[chosen:]
    if not least <= len(words) <= most or words and words[0].startswith("--"):
        print(__doc__, file=sys.stderr)
        return 2
    prepare()
    if command != "record":  # whose word is a name; others' first is a file
        words[:1] = [os.path.relpath(word, ROOT) for word in words[:1]]
    os.chdir(ROOT)
    try:
        return do(command, words, chosen)
    except (Problem, OSError) as problem:
        print("%s: %s" % (command, problem), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # no plots/__pycache__: a changed tree would not be recorded
    from results import main  # as the module that draw.py imports, too
    sys.exit(main(sys.argv[1:]))
