#!/usr/bin/env python3
"""The exercises: `make start-N`, `try-N`, `hint-N`, `solution-N`, `progress`.

    exercise.py start STEP            mine/STEP: the step's files, without the bodies of the functions that its main.c names
    exercise.py try STEP [--file FILE] [OPTIONS]
                                      builds it, and holds it to the verifier and to the step's own speed; or FILE, a .c or .cu
                                      with the step's function, in place of mine/STEP
    exercise.py hint STEP             one more of the hints of its lesson
    exercise.py solution STEP         what the course's files have in place of the reader's
    exercise.py progress              what is solved

Functions are cut from the course's own files, so that no second copy can differ. B is the build folder. Exit status: 0 if solved,
1 if not, 2 for wrong usage.
"""
import datetime
import difflib
import json
import os
import re
import signal
import subprocess
import sys
import threading

sys.path.insert(0, "tests")
import mutate  # the lists of mutants

B = os.environ.get("B") or "build/cpu"
KNOWN = os.environ.get("TRY_KNOWN", "").split()      # the mistakes that answers are compared with; without it, all of the step's
SECONDS = os.environ.get("TRY_SECONDS") or "180"     # more than any step takes here, its verdict included
RANK_SECONDS = os.environ.get("RING_TIMEOUT") or "20"  # more than a rank of a ring waits for another
CUDA = os.environ.get("CUDA") == "1"
PARTS = {"cpu.c": "cpu", **({"gpu.cu": "gpu"} if CUDA else {})}  # what can be built here, and on which device it runs
OPEN = "/* Your turn: "                              # what a hole begins with
MINE = os.environ.get("MINE") or "mine"
PROGRESS = f"{MINE}/progress.jsonl"


def fail(text, status=1):
    print(text, file=sys.stderr)
    sys.exit(status)


def read(path):
    """Whatever an editor makes of it: a mark of the encoding goes, and bytes that are no UTF-8 stay what they are."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        return file.read()


def write(path, text):
    """Only if it changes something: make goes by the time of a file."""
    if not os.path.exists(path) or read(path) != text:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def number(step):
    return str(int(step[:2]))


def mine(step):
    return os.path.join(MINE, step)


def is_attention(step):
    return f"struct attention_step {step[3:]};" in read("steps/steps.h")


def exercise_of(step):
    """What main.c says: functions, and options."""
    found = re.search(r'\.exercise = "([^"]*?) *(--[^"]*)?"', read(f"steps/{step}/main.c"))
    return (found[1].split(), (found[2] or "").split()) if found else ([], [])


def holes(step):
    return exercise_of(step)[0]


def own_size(step, options):
    """The size that main.c wants an answer judged at, where the reader names none."""
    given = any(re.match(r"--(rows|cols|shape|x)\b", word) for word in options)
    return [] if given else exercise_of(step)[1]


# ---- cutting

def body(text, name):
    """(type, first line of the body, line of its brace) of a function, counted from 0; None if it is not defined here. Of f.loop:
    what the longest loop of f repeats."""
    lines = text.split("\n")
    name, _, part = name.partition(".")
    for i, line in enumerate(lines):
        if re.match(r"( {4})?[A-Za-z_]", line) and re.search(r"\b%s\(" % name, line):
            at = next((k for k in range(i, len(lines)) if lines[k] in ("{", "}") or lines[k].endswith(";")), None)
            if at is not None and lines[at] == "{":
                kind = re.sub(r"\b(static|inline|INLINE|__device__|__global__|__forceinline__|__noinline__|template\s*<[^>]*>)"
                              r"\s*|\b__launch_bounds__\([^)]*\)\s*|\b__attribute__\(\(.*?\)\)\s*", "",
                              " ".join((lines[i - 1] if line[0] == " " else "", line[:line.index(name + "(")]))).strip()
                return longest_loop(lines, at) if part else (kind, at + 1, lines.index("}", at))
    return None


def longest_loop(lines, at):
    loops = [(k + 1, lines.index(found[1] + "}", k)) for k in range(at, lines.index("}", at))
             for found in [re.match(r"( {4}| {8})for .*{$", lines[k])]
             if found and (len(found[1]) == 4 or re.match(r" {4}for .*\)$", lines[k - 1]))]  # of two without braces between
    return ("void", *max(loops, key=lambda loop: loop[1] - loop[0]))


def cut(text, names, step, cuda):
    """The text with the bodies of these functions left open, and how many lines that were."""
    count = 0
    for name in names:
        found = body(text, name)
        if not found:
            continue
        kind, first, last = found
        lines = text.split("\n")
        size = sum(1 for line in lines[first:last] if line.strip())
        where = ("The lesson says what a turn of this loop does" if "." in name else
                 "The comment above says what must hold at the end")
        indent = re.match(" *", lines[last])[0] + "    "
        hole = [f"{indent}{OPEN}about {size} line{'s' * (size > 1)}. {where}; make hint-{number(step)} helps. */"]
        if kind != "void":
            hole.append("    return {};" if cuda else f"    return ({kind}){{ 0 }};")
        text = "\n".join(lines[:first] + hole + lines[last:])
        count += size
    return text, count


def in_words(name):
    return re.sub(r"(\w+)\.loop", r"the loop of \1", name)


def parts(step):
    """The files that a reader gets: those in which something is cut, and that can be built here."""
    for file in PARTS:
        path = f"steps/{step}/{file}"
        if file == "gpu.cu" and ".ring = true" in read(f"steps/{step}/main.c"):
            continue  # a ring is written on a CPU: ranks that share a GPU are no exercise
        if os.path.exists(path):
            text, size = cut(read(path), holes(step), step, file == "gpu.cu")
            if size:
                yield file, text, size


def start(step):
    if os.path.exists(mine(step)):
        fail(f"start-{number(step)}: {mine(step)} is there already, and nothing of yours is overwritten. "
             f"make try-{number(step)} judges it; to begin anew, rename it or remove it")
    found = list(parts(step))
    if not found:
        fail(f"start-{number(step)}: this exercise is a GPU's, and this build is without CUDA; install the CUDA Toolkit, or set "
             f"CUDA_HOME")
    os.makedirs(mine(step))
    for file, text, size in found:
        with open(os.path.join(mine(step), file), "w", encoding="utf-8") as out:
            out.write(text)
        names = [in_words(name) for name in holes(step) if body(text, name)]
        print(f"{mine(step)}/{file}: {' and '.join(names)} to write, {size} lines in the course's own")
    print(f"The lesson is steps/{step}/README.md. make try-{number(step)} judges what you wrote, make hint-{number(step)} helps, "
          f"make solution-{number(step)} shows the course's.")


# ---- trying

def attempt_files(what, step, file=None):
    """What is judged, shown or helped with: part -> path."""
    if file:
        part = {".c": "cpu.c", ".cu": "gpu.cu"}.get(os.path.splitext(file)[1])
        if not part or not os.path.isfile(file):
            fail(f"try-{number(step)}: FILE={file}: " + ("there is no such file" if part else "a .c or a .cu is allowed"), 2)
        if part not in PARTS:
            fail(f"try-{number(step)}: FILE={file}: this build is without CUDA")
        own = {part: file}
    else:
        own = {part: f"{mine(step)}/{part}" for part in PARTS if os.path.isfile(f"{mine(step)}/{part}")}
        if not own:
            fail(f"{what}-{number(step)}: there is nothing in {mine(step)} yet: make start-{number(step)}", 2)
    return own


def renamed(step, idea, as_what):
    """#defines that give all that steps.h declares of a step another name."""
    names = sorted(set(re.findall(r"\b%s(?:_\w+)?\b(?<!_fn)" % idea, read("steps/steps.h"))))
    return "".join(f"#define {name} {as_what}{name[len(idea):]}\n" for name in names)


def own_mutants(step, idea):
    """The mutants of this step's cpu.c alone: name, why, text."""
    for e in mutate.read_lists():
        path = f"steps/{step}/cpu.c"
        if e.kind == "mutant" and {change[0] for change in e.changes} == {path} and "hangs" not in e.flags and \
                e.name in (KNOWN or (e.name,)):
            yield e.name, e.why, mutate.changed_files(e)[path]


def member_of(kind):
    """Where a step's claims have its CPU functions of this type."""
    return ".backward_cpu" if kind.startswith("softmax_backward") else \
        ".backward.cpu" if kind.startswith("attention_backward") else \
        ".paged.cpu" if kind.startswith("attention_paged") else ".cpu"


def own_pieces(step, own):
    """The function of the reader's cpu.c that cuts keys into pieces, if there is one."""
    path = own.get("cpu.c") or f"steps/{step}/cpu.c"
    has = os.path.exists(path) and re.search(r"^void %s_pieces\(" % step[3:], read(path), re.M)
    return "answer_pieces" if has else "NULL"


def sources(step, own):
    """Writes build/mine/STEP: what is judged, by other names than the course's; returns the programs' parts."""
    idea, folder = step[3:], f"build/mine/{step}"
    for part in PARTS:
        path = own.get(part) or f"steps/{step}/{part}"
        if os.path.exists(path):
            write(f"{folder}/{part}", f'{renamed(step, idea, "answer")}#line 1 "{path}"\n{read(path)}')
    include = f'#include "../../../steps/{step}/main.c"\n'
    write(f"{folder}/claims.c", renamed(step, idea, "answer") + "#define CLAIMS_ALONE\n" + include)
    table, names = "", []
    pieces = f"attention_pieces_fn {idea}_pieces;" in read("steps/steps.h")
    rest = "attention_pieces_fn answer_pieces;\n" * pieces
    for name, why, text in own_mutants(step, idea):
        names.append(name + ".c")
        write(f"{folder}/mutants/{name}.c", f'{renamed(step, idea, name)}#line 1 "{name}.c"\n{text}')
        kinds = re.findall(r"\b(\w+_fn) %s((?:_\w+)?_cpu)\b" % idea, read("steps/steps.h"))
        rest += "".join(f"{kind} {name}{suffix};\n" for kind, suffix in kinds)
        members = ", ".join(f"{member_of(kind)}{suffix[:-4]} = {name}{suffix}" for kind, suffix in kinds)
        rest += f"attention_pieces_fn {name}_pieces;\n" * pieces
        cut_by = f"{name}_pieces" if pieces else "NULL"
        table += f'{{ "{name}", {json.dumps(why)}, {cut_by}, {{ .name = "{name}", {members} }} }}, '
    for left in set(os.listdir(f"{folder}/mutants")) - set(names) if os.path.isdir(f"{folder}/mutants") else []:
        os.remove(f"{folder}/mutants/{left}")
    backward = int("_backward_main(" in read(f"steps/{step}/main.c"))
    write(f"{folder}/try.c", f"#define COURSE {idea}\n#define ANSWER answer\n"
          f"#define ATTENTION {int(is_attention(step))}\n#define BACKWARD {backward}\n"
          f'#define PIECES {own_pieces(step, own) if pieces else "NULL"}\n#include "types.h"\n{rest}#define OWN {table}\n'
          '#include "../../../tests/try.c"\n')


def build(step):
    """Builds the program. What the compiler says is shown; what make says about it is not. A warning is no error here, whatever
    WERROR says."""
    if not os.path.exists(f"{B}/build/mine/{step}/try"):
        print(f"try-{number(step)}: building it, and the known mistakes beside it; the first time takes a while", file=sys.stderr)
    done = subprocess.run(["make", "-s", "WERROR=", f"B={B}", f"TRY={step}", f"{B}/build/mine/{step}/try"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    words = re.sub(r"\banswer_", step[3:] + "_", done.stdout)  # by the names that the reader wrote
    said = [line for line in words.splitlines() if not re.match(r"make(\[\d+\])?: |found: |  (compile|link) ", line)]
    if said and (done.returncode or "warning" in done.stdout):
        print("\n".join(said))
    if done.returncode:
        fail(f"try-{number(step)}: it does not compile; the compiler's words are above")


def still_open(step, path):
    """The functions that are as `make start-N` left them."""
    for name in holes(step):
        found, lines = body(read(path), name), read(path).split("\n")
        words = [line.strip() for line in lines[found[1]:found[2]] if line.strip()] if found else []
        if words and words[0].startswith(OPEN) and (len(words) == 1 or len(words) == 2 and words[1].startswith("return ")):
            yield in_words(name)


def run(step, options, seconds, environment, begin=""):
    """Runs the program, and shows what it prints from the line on that begins so. Returns its exit status; and how it was ended,
    if it did not end by itself."""
    process = subprocess.Popen([f"{B}/build/mine/{step}/try", *options], stdout=subprocess.PIPE, text=True, errors="replace",
                               env={**os.environ, "GUARD_PAGES": "1", **environment})
    late = threading.Timer(seconds, process.terminate)
    late.start()
    shown = not begin
    for line in process.stdout:
        shown |= line.startswith(begin)
        if shown:
            print(line, end="", flush=True)
    code, hung = process.wait(), not late.is_alive()
    late.cancel()
    if hung:
        return 1, f"after {seconds} s: it hangs, or is far slower than the course's (TRY_SECONDS=... waits longer)"
    why = {-signal.SIGSEGV: ": it reads or writes where nothing is", -signal.SIGBUS: ": it reads or writes where nothing is",
           -signal.SIGFPE: ": it divides by an integer 0"}.get(code, "")
    return code, f"by signal {-code}{why}" if code < 0 else ""


def try_it(step, file, options):
    own = attempt_files("try", step, file)
    of_course = "--trace" if "--trace" in options else "COUNT=1" if os.environ.get("COUNT") == "1" else ""
    if of_course:
        fail(f"try-{number(step)}: {of_course} is for make step-{number(step)}, which runs the course's own; an answer is judged "
             f"and timed", 2)
    if not re.fullmatch(r"[1-9]\d{0,5}", SECONDS):
        fail(f"try-{number(step)}: TRY_SECONDS={SECONDS}: a whole number from 1 to 999999 is allowed", 2)
    holes_left = {path: list(still_open(step, path)) for path in own.values()}
    for path, names in holes_left.items():
        if names:
            print(f"{path}: not written yet: {' and '.join(names)}, as make start-{number(step)} left it")
    if all(holes_left.values()):
        sys.exit(1)  # it would be wrong, or wait for ever
    sources(step, own)
    build(step)
    options = own_size(step, options) + options
    devices = [PARTS[part] for part in own]
    if not any(option.startswith("--device") for option in options) and len(devices) == 1:
        options = [*options, "--device", devices[0]]
    told = f"build/mine/{step}/attempt.jsonl"
    if os.path.exists(told):
        os.remove(told)
    code, ended = run(step, options, int(SECONDS), {"ATTEMPT": told, "RING_TIMEOUT": RANK_SECONDS})
    if code == 1 and not os.path.exists(told) and ".ring = true" in read(f"steps/{step}/main.c"):
        ended = ended or "with its ranks, as said above"  # one died, or another one waited for it in vain
    helped = any(len(word) > 2 and "--help".startswith(word) for word in options)
    if code == 0 and not helped and not os.path.exists(told):
        fail("  not solved: the program ended before it was judged: nothing in it may end it, as exit() does")
    if ended:
        print(f"  not solved: it was ended {ended}", flush=True)
        small = ["--heads", "1", "--seq", "1"] if is_attention(step) else ["--rows", "1", "--cols", "1"]
        if is_attention(step) and ".dims = " not in read(f"steps/{step}/main.c"):
            small += ["--dim", "1"]  # a crash there is one of a single element
        device = [word for i, word in enumerate(options) if word == "--device" or i and options[i - 1] == "--device"]
        run(step, small + ["--reps", "1"] + device, 20, {"SMALLEST": "1", "SMALL_PROBLEMS": "0", "RING_TIMEOUT": "3"},
            "    smallest")
        sys.exit(1)
    lines = read(told).splitlines() if os.path.exists(told) else []
    if "--json" in options:
        print("\n".join(lines))
    if not file and lines:
        keep(lines)
    if not lines and devices == ["gpu"] and code != 2:
        fail(f"try-{number(step)}: it compiles, and is not judged: that takes a GPU that can run this step")
    sys.exit(code)


# ---- how far one has come

def keep(lines):
    """A line for each device: that of the type which came out worst."""
    os.makedirs(MINE, exist_ok=True)
    attempts = [{"day": datetime.date.today().isoformat(), **json.loads(line)} for line in lines]
    torn = os.path.exists(PROGRESS) and not read(PROGRESS).endswith("\n")
    with open(PROGRESS, "a", encoding="utf-8") as out:
        out.write("\n" * torn)
        for device in sorted({a["device"] for a in attempts}):
            out.write(json.dumps(min((a for a in attempts if a["device"] == device), key=rank)) + "\n")


def rank(attempt):
    return attempt["solved"], attempt["verdict"] == "right", attempt.get("share", 0)


def attempts():
    """What was kept. What is no attempt, such as half a line, is left out, and that is said."""
    for i, line in enumerate(read(PROGRESS).splitlines() if os.path.exists(PROGRESS) else [], 1):
        try:
            now = json.loads(line)
        except ValueError:
            now = None
        if isinstance(now, dict) and {"step", "device", "solved", "better", "verdict", "day"} <= now.keys():
            yield now
        elif line:
            print(f"{PROGRESS}:{i} is left out: it is no attempt", file=sys.stderr)


def progress():
    best = {}
    for now in attempts():
        key = now["step"], now["device"]
        best[key] = max(best.get(key, now), now, key=rank)
    steps = [step for step in sorted(os.listdir("steps")) if os.path.exists(f"steps/{step}/main.c") and holes(step)]
    for step in steps:
        said = []
        for device in PARTS.values():
            a = best.get((step, device))
            if a:
                how = "better than the book" if a["better"] else "solved" if a["solved"] else \
                    "right, and slow" if a["verdict"] == "right" else "wrong"
                said.append(f"{device} {how}" + (f", {a['share']:.2f}x, {a['day']}" if "share" in a else f", {a['day']}"))
        print(f"  {step:<28} " + ("; ".join(said) or ("begun" if os.path.isdir(mine(step)) else "-")))
    solved = {step for (step, _), a in best.items() if a["solved"]}
    print(f"{len(solved)} of {len(steps)} solved; make start-N begins one")


# ---- hints and the solution

def hint(step):
    attempt_files("hint", step)
    hints = re.findall(r"<details><summary>Hint \d+</summary>\n\n(.*?)\n\n\s*</details>", read(f"steps/{step}/README.md"), re.S)
    at, seen = f"{mine(step)}/.hints", 0
    if os.path.exists(at):
        seen = int(re.match(r"\d{0,3}", read(at))[0] or 0)
    for i, text in enumerate(hints[:seen + 1], 1):
        print(f"Hint {i} of {len(hints)}:\n" + re.sub(r"^   ", "", text, flags=re.M) + "\n")
    if seen >= len(hints):
        print(f"There are no more; make solution-{number(step)} shows the course's.")
    else:
        write(at, f"{seen + 1}\n")


def solution(step):
    for part, path in attempt_files("solution", step).items():
        theirs = f"steps/{step}/{part}"
        lines = list(difflib.unified_diff(read(path).splitlines(), read(theirs).splitlines(), path, theirs, lineterm=""))
        print("\n".join(lines) if lines else f"{path} is {theirs}, to the letter")


def main(words):
    if words == ["progress"]:
        return progress()
    if len(words) < 2 or words[0] not in ("start", "try", "hint", "solution"):
        fail(__doc__, 2)
    what, step, rest = words[0], words[1], words[2:]
    if not holes(step) and not (rest[:1] == ["--file"] and f"_step {step[3:]};" in read("steps/steps.h")):
        fail(f"{what}-{number(step)}: step {step} leaves nothing to write: its exercises, in steps/{step}/README.md, are to be "
             f"predicted and measured")
    if what == "try":
        file = rest[1] if rest[:1] == ["--file"] else ""
        return try_it(step, file, rest[2:] if rest[:1] == ["--file"] else rest)
    if rest:
        fail(f"{what}-{number(step)}: it takes no options: {' '.join(rest)}", 2)
    {"start": start, "hint": hint, "solution": solution}[what](step)


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
    sys.stdout.reconfigure(errors="replace")  # of a file that is no UTF-8
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"exercise: {error.filename + ': ' if error.filename else ''}{error.strerror}\n")
        os._exit(1)  # without another try to write
