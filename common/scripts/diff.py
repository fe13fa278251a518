#!/usr/bin/env python3
"""`make diff-N`: the lines that carry step N's idea, over the step before it (its parent, which its main.c names).

    diff.py [--all] [--html] STEP [PARENT]      --all: comments, blank lines and main.c, too; --html: a page, in build/diff

Compared are the files of the step, and those of other steps that they include. The two steps' names count as one name;
indentation and comments do not count; lines that left one place and stand in another, or in a header of common/ that
the step begins to use, are moved, not new. Without a PARENT, or where hardly a line of it is left, all is new.
"""
import difflib
import html
import os
import re
import signal
import sys

CONTEXT = 3  # lines shown around a change
MOVED = 20   # letters and digits that moved lines have at least: a brace and an #endif are the same everywhere,
RUN = 2      # and how many stand in a row: one line alone may be the end of any statement
TOKENS = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.S)


class Line:
    """A line of a file. What is compared of it: `code`, `comment` (of a line without code), or `all`."""

    def __init__(self, path, number, text, code):
        self.path, self.number, self.text = path, number, text
        self.code, self.all = " ".join(code.split()), " ".join(text.split())
        self.comment = "" if self.code else self.all
        self.moved = None  # the Line of the other step that it is


class Step:
    """files and main: name -> lines, such as those of gpu.cu; common: the same for what they include of common/."""

    def __init__(self, name, shown_as):
        self.rename = lambda text: re.sub(r"(?<!\d_)" + name[3:], shown_as[3:], text)  # but 15_idea/tiles.cuh stays what it is
        self.files, self.common, self.main = {}, {}, {}
        for file in sorted(os.listdir(os.path.join("steps", name))):
            if file.endswith((".c", ".cu")):  # and what they include
                self.read(os.path.join("steps", name, file), self.main if file == "main.c" else self.files)

    def read(self, path, into):
        name = os.path.basename(path)
        if name in into:
            return
        with open(path, encoding="utf-8") as file:
            text = file.read()
        code = TOKENS.sub(lambda t: "\n" * t[0].count("\n") if t[0][0] == "/" else t[0], text)
        into[name] = [Line(path, i, *pair) for i, pair in enumerate(zip(*(self.rename(t).split("\n") for t in (text, code))), 1)]
        for included in [] if into is self.main else re.findall(r'^\s*#include "([^"]+)"', text, re.M):
            for folder, where in ("steps", self.files), ("common", self.common):
                if included != "steps.h" and os.path.exists(os.path.join(folder, included)):
                    self.read(os.path.join(folder, included), where)


def inherit(step, name, shown_as):
    """A parent without a cpu.c, or a gpu.cu, leaves it as the step before it has it (which its main.c names), with what that
    includes."""
    for file in "cpu.c", "gpu.cu":
        older = name
        while older and file not in step.files:
            with open(os.path.join("steps", older, "main.c"), encoding="utf-8") as main_c:
                named = re.search(r"_main\(&\w+, &(\w+),", main_c.read())
            older = next((s for s in os.listdir("steps") if named and s[3:] == named[1]), None)
            if older and os.path.exists(os.path.join("steps", older, file)):
                its = Step(older, shown_as)
                step.files[file], step.common = its.files[file], {**its.common, **step.common}


# ---- comparing: a file is pairs (line before, line now) in reading order; one of the two is None where a line is new, or gone

def compare(before, now, what):
    """name -> pairs, for the files now, and for headers that are gone. Lines without `what` are left out."""
    files = {}
    for name in list(now) + [n for n in before if n not in now and n not in ("cpu.c", "gpu.cu")]:
        a, b = ([line for line in step.get(name, []) if what == "all" or getattr(line, what)] for step in (before, now))
        keys, pairs = [[getattr(line, what) for line in side] for side in (a, b)], []
        for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
            if tag == "equal":
                pairs += zip(a[i:i_end], b[j:j_end])
            else:
                pairs += [(line, None) for line in a[i:i_end]] + [(None, line) for line in b[j:j_end]]
        files[name] = pairs
    return files


def changed(files):
    """(lines gone, lines new), but for those that moved."""
    pairs = [pair for pairs in files.values() for pair in pairs if None in pair]
    return [[pair[side] for pair in pairs if pair[side] and not pair[side].moved] for side in (0, 1)]


def find_moved(files, common):
    """Marks lines that are gone here and new there, or in `common`. At each such line the longest block that was the same is
    taken."""
    gone, new = changed(files)
    new += [line for lines in common for line in lines if line.code]

    def block(i, j):
        """How many lines from gone[i] on are those from new[j] on, within a file."""
        n = 0
        for a, b in zip(gone[i:], new[j:]):
            if a.code != b.code or a.moved or a.path != gone[i].path or b.path != new[j].path:
                break
            n += 1
        return n

    j = 0
    while j < len(new):
        size, i = max(((block(i, j), i) for i in range(len(gone))), default=(0, 0), key=lambda found: found[0])
        if size >= RUN and len(re.findall(r"\w", "".join(line.code for line in new[j:j + size]))) >= MOVED:
            for a, b in zip(gone[i:i + size], new[j:j + size]):
                a.moved, b.moved = b, a
        else:
            size = 1
        j += size


def rows(pairs):
    """What is shown of a file: (mark, line before, line now, note). Marks are " ", "+", "-"; and "@", a note, for lines left out
    and for each block that moved."""
    near = {i + k for i, pair in enumerate(pairs) if None in pair for k in range(-CONTEXT, CONTEXT + 1)}
    last, block = -2, None
    for i, (a, b) in enumerate(pairs):
        if i in near:
            line, other = b or a, None if a and b else (b or a).moved
            if i != last + 1:
                yield "@", a, b, "line %d" % line.number
            if not other:
                yield " " if a and b else "+" if b else "-", a, b, ""
            elif (b is None, other.path) != block or i != last + 1:
                yield "@", a, b, "moved %s %s, line %d" % ("from" if b else "to", other.path, other.number)
            last, block = i, other and (b is None, other.path)


def begins_to_use(before, now):
    return [lines for name, lines in now.common.items() if name not in before.common]


def summary(name, parent, before, now, code):
    """What is said first: how many lines carry the idea."""
    gone, new = changed(code)
    size = lambda *what: sum(map(len, changed(compare(*what))))
    moved = sum(1 for pairs in code.values() for a, b in pairs if not b and a.moved)
    first = [
        "%s %s: %d lines carry the idea (%d new, %d gone)" % (
            name, "over " + parent if parent else "begins anew", len(new + gone), len(new), len(gone)),
        "apart: %d moved, %d of main.c, %d of comments" % (
            moved, size(before.main, now.main, "code"), size(before.files, now.files, "comment"))]
    for lines in begins_to_use(before, now) if parent else []:
        first.append("begins to use %s: %d lines" % (lines[0].path, sum(1 for line in lines if line.code)))
    return first


# ---- showing: lines for a terminal or a pipe, or a page

def as_text(first, files, colour):
    paint = (lambda code, words: "\033[%sm%s\033[0m" % (code, words)) if colour else (lambda code, words: words)
    yield from [paint("1", first[0]), first[1] + " (ARGS=--all shows them, ARGS=--html makes a page)", *first[2:]]
    for pairs in files.values():
        before, now = (next((pair[side].path for pair in pairs if pair[side]), "") for side in (0, 1))
        older = ", over " + before if now and before.startswith("steps/") and before.split("/")[1] not in first[0] else ""
        for k, (mark, a, b, note) in enumerate(rows(pairs)):
            if k == 0:
                yield "\n" + paint("1", (now or before) + older)
            yield paint({"+": "32", "-": "31", "@": "36", " ": "0"}[mark], (mark + " " + (note or (b or a).text)).rstrip())


PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s</title>
<style>
:root { color-scheme: light dark; --new: #d9f2dd; --gone: #fbdfdc; --faint: #666; --rule: #ccc; --back: #fff; --text: #1c1c1c }
@media (prefers-color-scheme: dark) {
  :root { --new: #143d20; --gone: #4d1f1c; --faint: #9a9a9a; --rule: #444; --back: #17181a; --text: #e2e2e2 } }
body { margin: 1.5em; background: var(--back); color: var(--text); font: 15px/1.4 sans-serif }
h1 { font-size: 1.3em } summary { margin: 1.5em 0; cursor: pointer }
table { border-collapse: collapse; table-layout: fixed; width: 100%%; min-width: 64em; font: 12.5px/1.45 monospace }
table { margin-top: 2em } th { text-align: left; font: bold 14px sans-serif; padding: 0 0 .4em 4em } col.n { width: 3.5em }
td { padding: 0 .5em 0 2.5em; text-indent: -2em; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere }
td.n { padding: 0 .5em; text-indent: 0; text-align: right } .n, .note { color: var(--faint) }
.note { border-top: 1px solid var(--rule) }
.new { background: var(--new) } .gone { background: var(--gone) }
</style>
<h1>%s</h1>
%s
<details><summary>With comments, and main.c</summary>
%s
</details>
</html>
"""


def as_table(files):
    """Side by side: each line that is gone stands beside one that is new, while there are any. A file that is new, or gone,
    has all of the width."""
    cell = lambda line, kind: '<td class="n">%s</td><td class="%s">%s</td>' % (
        (line.number, kind, html.escape(line.text)) if line else ("", "", ""))
    for pairs in files.values():
        body, gone = list(rows(pairs)), []
        if not body:
            continue
        sides = [next((pair[side].path for pair in pairs if pair[side]), "") for side in (0, 1)]
        yield "<table><colgroup>%s</colgroup><tr>%s</tr>" % (
            "".join('<col class="n"><col>' for path in sides if path),
            "".join('<th colspan="2">%s</th>' % html.escape(path) for path in sides if path))
        if "" in sides:
            for mark, a, b, note in body:
                moved = '<td class="note" colspan="2">%s</td>' % html.escape(note) if note.startswith("moved") else ""
                yield "<tr>%s</tr>" % (moved if note else cell(a or b, "gone" if a else "new"))
            yield "</table>"
            continue
        for mark, a, b, note in body + [("end", None, None, "")]:
            if mark == "-":
                gone.append(a)
            elif mark == "+":
                yield "<tr>%s%s</tr>" % (cell(gone.pop(0) if gone else None, "gone"), cell(b, "new"))
            else:
                yield from ("<tr>%s%s</tr>" % (cell(line, "gone"), cell(None, "")) for line in gone)
                gone = []
                yield ('<tr><td class="note" colspan="4">%s</td></tr>' % html.escape(note) if note.startswith("moved") else
                       '<tr><td class="note" colspan="4">⋯</td></tr>' if note else
                       "<tr>%s%s</tr>" % (cell(a, ""), cell(b, "")) if mark == " " else "</table>")


def main(words):
    flags, names = ([w for w in words if w.startswith("--") == flag] for flag in (True, False))
    if set(flags) - {"--all", "--html"} or not 1 <= len(names) <= 2:
        sys.exit("diff: ARGS is --all (comments and main.c, too), --html (a page), or both; not %s" % " ".join(words))
    for name in names:
        if not os.path.isfile(os.path.join("steps", name, "main.c")):
            sys.exit("diff: there is no step %s" % name)
    name, parent = names if len(names) == 2 else (names[0], None)
    now, before = Step(name, name), Step(parent or name, name)
    if not parent:
        before.files, before.main = {}, {}
    else:
        inherit(before, parent, name)
    code = compare(before.files, now.files, "code")
    gone, new = changed(code)
    if new and len(gone) > 0.9 * sum(1 for lines in before.files.values() for line in lines if line.code):
        parent, before.files = None, {}  # hardly a line of it is left: what is gone would show no idea
        code = compare({}, now.files, "code")
    everything = compare({**before.files, **before.main}, {**now.files, **now.main}, "all")
    find_moved(code, begins_to_use(before, now))
    first = summary(name, parent, before, now, code)
    if "--html" in flags:
        os.makedirs("build/diff", exist_ok=True)
        with open("build/diff/%s.html" % name, "w", encoding="utf-8") as file:
            notes = "<p>%s</p>\n" % "<br>".join(map(html.escape, first[1:]))
            file.write(PAGE % (name, html.escape(first[0]), notes + "\n".join(as_table(code)), "\n".join(as_table(everything))))
        print("%s\nbuild/diff/%s.html" % (first[0], name))
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # make diff-10 | head
    colour = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ
    print("\n".join(as_text(first, everything if "--all" in flags else code, colour)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write("diff: %s%s\n" % (error.filename + ": " if error.filename else "", error.strerror))
        os._exit(1)  # without another try to write
