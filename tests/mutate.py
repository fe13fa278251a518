#!/usr/bin/env python3
"""Mutants and ablations: the tree with one thing changed, from the lists in tests/mutants/*.txt (its README.md describes them).

    tests/mutate.py check                     every change fits its file; builds nothing
    tests/mutate.py mutants [NAME...]         each must be caught by the check that its entry names; or MUTANTS="NAME..."
    tests/mutate.py mutants --tenth SEED      a tenth of them, drawn with that seed, or with a new one for "random"
    tests/mutate.py compile [NAME...]         compiles the changed CUDA files and runs nothing: where there is nvcc and no GPU;
                                              or --tenth SEED
    tests/mutate.py ablation [OPTIONS]        times steps with one thing changed at a time, in turn, ROUNDS times (5); OPTIONS
                                              are a step's, STEP="13" or VARIANTS="NAME..." chooses

A change is made in a copy of the tree with its objects, so that only what the change touches is built again. B names the build
folder that is copied (build/cpu or build/cuda), JOBS how many copies are at work at a time. Exit status: 1 if a mutant survives,
does not build, no longer fits its file, or if the tree as it is fails a check; 2 for wrong usage."""
import concurrent.futures, copy, fcntl, glob, json, os, queue, random, re, shutil, signal, statistics, subprocess, sys, threading
import time

B = os.environ.get("B") or "build/cpu"
if os.path.basename(B) == "cpu":  # where `make` would find nvcc, too
    os.environ.setdefault("CUDA", "0")
JOBS = int(os.environ.get("JOBS") or os.cpu_count() or 1)
LIMIT = float(os.environ.get("LIMIT") or 120)  # seconds for one check that should hang
PATIENCE = 5                                   # times as long for one that should end: others run beside it
WORK = "build/mutants/" + os.path.basename(B)
ABLATION = "build/ablation"
MPI = "common/ring/mpi.c"  # who changes it needs an MPI
CATCHERS = ("cpu", "gpu", "sanitizer", "command")


class Bad(Exception):
    pass


# ---- the lists


class Entry:
    def __init__(self, kind, name, where):
        self.kind, self.name, self.where = kind, name, where
        self.why = self.file = self.step = self.says = self.n = ""
        self.caught, self.builds, self.objects, self.like, self.numbers, self.measure, self.changes = [], [], [], [], [], [], []
        self.flags = set()

    def numbered(self, n):
        """The variant that a name with a * stands for, for the number n."""
        e = copy.copy(self)
        e.name, e.n = self.name.replace("*", n), n
        return e


def read_list(path):
    """The entries of a list. A change is [file, anchor, times, old lines, new lines]."""
    entries, anchor, times, last = [], None, 1, ""
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, 1):
        line, where = line.rstrip("\n"), f"{path}:{number}"
        if not line.strip() or line.startswith("#"):
            last = ""
            continue
        mark, text = line[0], line[2:]
        if mark in "-+@" and line[1:2] in ("", " "):
            e = entries[-1]
            if mark == "@":
                anchor = text
            elif mark == "-":
                if last != "-":
                    e.changes.append([e.file or f"steps/{e.step}/gpu.cu", anchor, times, [], []])
                    anchor, times = None, 1
                e.changes[-1][3].append(text)
            else:
                e.changes[-1][4].append(text)
            last = mark
            continue
        last = ""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("mutant", "ablation"):
            entries.append(Entry(word, rest, where))
        elif not entries:
            raise Bad(f"{where}: {word}: no mutant or ablation before it")
        elif word == "times":
            times = int(rest)
        elif word in ("why", "file", "step", "says"):
            setattr(entries[-1], word, rest)
        elif word == "caught":
            kind, _, rest = rest.partition(" ")
            words = [rest] if kind in ("command", "gpu") else rest.split(None, 1 if kind == "sanitizer" else 2)
            entries[-1].caught = [kind] + words
            if kind not in CATCHERS or len(entries[-1].caught) < 2:
                raise Bad(f"{where}: caught by {kind} {rest}: {', '.join(CATCHERS)} and what is run are allowed")
        elif word == "measure":
            entries[-1].measure.append(rest.split())
        elif word in ("builds", "objects", "like", "numbers"):
            setattr(entries[-1], word, rest.split())
        elif word in ("hangs", "untried", "gpu", "asked"):
            entries[-1].flags.add(word)
        else:
            raise Bad(f"{where}: '{word}': not a word of these lists")
    return entries


def read_lists():
    entries = [e for path in sorted(glob.glob("tests/mutants/*.txt")) for e in read_list(path)]
    names = {}
    for e in entries:
        if e.name in names:
            raise Bad(f"{e.where}: {e.name} is there twice")
        if e.kind == "mutant" and not (e.why and e.caught and e.changes):
            raise Bad(f"{e.where}: {e.name}: a mutant has a why, a change, and what catches it")
        if e.caught[:1] == ["command"] and not e.says:
            raise Bad(f"{e.where}: {e.name}: a command that fails for any reason is no check: what it says is missing")
        names[e.name] = e
    for e in entries:
        for other in reversed(e.like):
            e.changes = names[other].changes + e.changes
    return entries


def places(text, old):
    at = text.find(old)
    while at >= 0:
        yield at
        at = text.find(old, at + 1)


def changed_files(e):
    """{file: its new text}. Raises Bad where a change does not fit."""
    files = {}
    for file, anchor, times, old, new in e.changes:
        if file not in files:
            try:
                with open(file, encoding="utf-8", newline="") as source:
                    files[file] = source.read()
            except OSError as error:
                raise Bad(f"{e.name} no longer applies: {file}: {error.strerror}")
        text, begin = files[file], 0
        old, new = "\n".join(old), "\n".join(new).replace("{N}", e.n)
        if anchor:
            found = list(places(text, anchor))
            if len(found) != 1:
                raise Bad(f"{e.name} no longer applies: {file} has {len(found)} times, not once: {anchor}")
            begin = found[0]
        found = [at for at in places(text, old) if at >= begin]
        if anchor:
            found = found[:1]
        if len(found) != times:
            raise Bad(f"{e.name} no longer applies: {file} has {len(found)} times, not {times}: {old}")
        files[file] = text[:begin] + text[begin:].replace(old, new, times)
    return files


# ---- copies of the tree


SOURCES = ("Makefile", "LICENSE", "README.md", "common", "docs", "plots", "steps", "tests")


def same(a, b):
    try:
        x, y = os.stat(a), os.stat(b)
    except OSError:
        return False
    return x.st_size == y.st_size and x.st_mtime_ns == y.st_mtime_ns


def mirror(source, target, without=()):
    """Make target what source is, times of files included, without some files; what is the same already stays."""
    wanted = set()
    for folder, folders, names in os.walk(source):
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        folders[:] = [f for f in folders if f != "__pycache__"]
        for name in names:
            a, b = os.path.join(folder, name), os.path.normpath(os.path.join(into, name))
            if a in without:
                continue
            wanted.add(b)
            if not os.path.islink(a) and not same(a, b):
                if os.path.exists(b):
                    os.remove(b)  # a program that still runs, and is about to be gone, cannot be written
                shutil.copy2(a, b)
    for folder, _, names in os.walk(target):
        for name in names:
            if os.path.normpath(os.path.join(folder, name)) not in wanted:
                os.remove(os.path.join(folder, name))


def prepare(tree, programs):
    """Its sources and objects are ours; what a check has built elsewhere is of a mutant, and goes. And of our programs it has
    only those that are built anew where a mutant changes them: a check cannot run others, and be deceived."""
    for built in glob.glob(os.path.join(tree, "build/*")):
        if os.path.isdir(built) and os.path.normpath(built) != os.path.normpath(os.path.join(tree, B)):
            shutil.rmtree(built, ignore_errors=True)
    ours = {path for path in glob.glob(f"{B}/*") if os.path.isfile(path) and os.access(path, os.X_OK)}
    for name in SOURCES + (B,):
        if os.path.isdir(name):
            mirror(name, os.path.join(tree, name), ours - set(programs))
        elif os.path.exists(name) and not same(name, os.path.join(tree, name)):
            shutil.copy2(name, os.path.join(tree, name))


def new_trees():
    """A queue of JOBS copies: who takes one out has it alone."""
    global lock
    lock = open(f"{WORK}/lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Bad(f"{WORK}: another run is at work there")
    trees = queue.Queue()
    for i in range(JOBS):
        os.makedirs(f"{WORK}/{i}", exist_ok=True)
        trees.put(f"{WORK}/{i}")
    return trees


def environment(**more):
    env = dict(os.environ, B=B, OMP_WAIT_POLICY="passive", **more)
    # Of the make that called us, only the variables that were set on its command line: not its options, nor its jobs.
    env["MAKEFLAGS"] = env.get("MAKEFLAGS", "").partition(" -- ")[2]
    for name in ("MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "SUITE", "CASE"):
        env.pop(name, None)
    return env


def end_session(session):
    """Ends what belongs to it: the group of its leader, and the groups that Check makes of its tests."""
    groups = {session}
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat) as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            groups.add(int(fields[2]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def run(command, tree, limit=LIMIT, enough=None, **more):
    """(status, output); the status of what was still running after the limit, or when it had said enough, is None. Nothing that
    it started stays."""
    path = os.path.join(WORK, f"log-{threading.get_ident()}")
    with open(path, "w") as log:
        child = subprocess.Popen(command, cwd=tree, shell=isinstance(command, str), stdout=log, stderr=subprocess.STDOUT,
                                 stdin=subprocess.DEVNULL, env=environment(**more), start_new_session=True)
    status, end = None, time.monotonic() + limit
    while status is None and time.monotonic() < end and not (enough and re.search(enough, read_log(path))):
        try:
            status = child.wait(0.1 if enough else limit)
        except subprocess.TimeoutExpired:
            pass
    end_session(child.pid)
    child.wait()
    return status, read_log(path)


def read_log(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        return log.read()


def make(tree, *words):
    return run(["make", "-s", f"B={B}", *words], tree, 3600)


# ---- mutants


def test_program(e):
    return f"{B}/main_{'cpu' if e.caught[0] == 'cpu' else 'gpu'}"


def targets(e):
    """The programs that a mutant's check runs."""
    return [f"{B}/{name}" for name in e.builds] + ([] if e.caught[0] == "command" else [test_program(e)])


def untouched(e):
    """Options of make: what is left as it is although a mutant changes it, because its check does not look there."""
    if e.objects:
        return [word for change in e.changes for word in ("-o", change[0])]
    return [] if e.caught[0] == "command" or e.caught[1] == "library" else ["-o", f"{B}/libfrom_softmax.a"]


def check(e, tree, may_hang):
    """Runs the check that is to catch e. (caught, what it said)."""
    kind, limit = e.caught[0], LIMIT * (1 if may_hang else PATIENCE)
    if kind == "command":
        status, out = run(e.caught[1], tree, limit)
        if status is not None and status != 0:
            if e.says not in out:
                raise Bad(f"it fails, and not by saying '{e.says}': {last_line(out)}")
            return True, next(line for line in out.splitlines() if e.says in line)
        if status == 0 and "skipped: there is no GPU" in out:
            raise Bad("its check was skipped")
    else:
        more = {} if may_hang else {"CK_TIMEOUT_MULTIPLIER": str(PATIENCE)}
        wrong, enough = r":[FE]:|on the GPU.*: |^=+ (?!ERROR SUMMARY: 0).*(Error|ERROR|hazard)", None
        if kind == "cpu":
            wrong = r"not ok \d+ - "  # a test that has failed is enough: Check says so at once in this form
            enough = wrong + ("" if may_hang else rf"(?!.*{LATE})")
            more["CK_TAP_LOG_FILE_NAME"] = "-"
            more["CK_RUN_SUITE"] = e.caught[1]
            if len(e.caught) > 2:
                more["CK_RUN_CASE"] = e.caught[2]
            if len(e.caught) > 3:
                more["TESTS_CHECK"] = e.caught[3]
            if e.step:
                more["TESTS_STEPS"] = e.step[:2]
        else:
            suite = "backward_gpu" if e.step.endswith("_backward") else "attention_gpu"
            more.update(CK_RUN_SUITE=suite, TESTS_STEPS=e.step[:2], TESTS_CHECK=e.caught[-1])
        command = [test_program(e)]
        if kind == "sanitizer":
            command = ["compute-sanitizer", "--tool", e.caught[1], "--error-exitcode", "1", *command]
            more["TESTS_SMALL"] = "1"
            limit = PATIENCE * LIMIT
        with gpu_turn if needs_gpu(e) else free:
            status, out = run(command, tree, limit, enough, **more)
        if "no test ran" in out or "no GPU test is so named" in out:
            raise Bad(f"there is no check {' '.join(e.caught)}")
        failed = [line for line in out.splitlines() if re.search(wrong, line)]
        if status not in (0, None) or enough and failed:
            if not failed:
                raise Bad(f"it did not run: {last_line(out)}")
            if not all(LATE in line for line in failed):
                return True, next(line for line in failed if LATE not in line)
            status = None
    if status is None:
        if not may_hang:
            raise Bad("it takes too long, and the list does not say that it hangs")
        return True, "it hangs"
    return False, ""


def last_line(out):
    return (out.strip().splitlines() or ["nothing was said"])[-1]


LATE = "Test timeout expired"


class Free:
    def __enter__(self): pass
    def __exit__(self, *_): pass


gpu_turn, free = threading.Lock(), Free()  # one kernel at a time on the GPU: times and races depend on it


def key(e):
    return (tuple(e.caught), tuple(e.builds), e.step)


def judge(e, trees):
    """(good, what is printed, seconds)."""
    tree, begin = trees.get(), time.time()
    try:
        return (*judge_in(e, tree), time.time() - begin)
    except Bad as error:
        return False, f"{error}", time.time() - begin
    finally:
        trees.put(tree)


def change(e, tree, programs=()):
    prepare(tree, programs)
    for file, text in changed_files(e).items():
        at = os.path.join(tree, file)
        mode = os.stat(at).st_mode
        os.remove(at)
        with open(at, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        os.chmod(at, mode)


def first_error(out):
    return next((line for line in out.splitlines() if "error" in line or "***" in line), last_line(out))


def judge_in(e, tree):
    change(e, tree, targets(e))
    for name in e.objects:
        os.remove(f"{tree}/{B}/{name}")
    status, out = make(tree, *untouched(e), *targets(e)) if targets(e) else (0, "")
    if status != 0:
        return False, f"it does not build: {first_error(out)}"
    caught, said = check(e, tree, "hangs" in e.flags)
    said = re.sub(r"^.*?:[FE]:[^:]*:[^:]*:\d+: |^.*?not ok \d+ - ([^:]*:){3} ", "", said.strip())
    return (True, f"caught: {said}"[:200]) if caught else (False, f"SURVIVED {' '.join(e.caught)}")


def passes_itself(e, trees):
    """The tree as it is must pass a check before the check can be said to catch anything."""
    tree = trees.get()
    try:
        prepare(tree, targets(e))
        failed, said = check(e, tree, False)
        return f"the tree as it is fails it: {said}" if failed else ""
    except Bad as error:
        return f"the tree as it is: {error}"
    finally:
        trees.put(tree)


def needs_gpu(e):
    return "gpu" in e.flags or e.caught[0] in ("gpu", "sanitizer")


def run_here(e, has_gpu):
    return e.kind == "mutant" and (has_gpu or not needs_gpu(e))


def draw(chosen, tenth):
    """A tenth of them, drawn with the seed `tenth`, or with a new one for "random"; all if it is ""."""
    if not tenth:
        return chosen
    seed = str(random.randrange(1000000)) if tenth == "random" else tenth
    print(f"a tenth, seed {seed} (TENTH={seed} draws the same)", flush=True)
    return random.Random(seed).sample(chosen, max(1, (len(chosen) + 9) // 10))


def mutants(names, tenth):
    entries = read_lists()
    has_gpu = B.endswith("cuda") and subprocess.run("nvidia-smi >/dev/null 2>&1", shell=True).returncode == 0
    known = {e.name for e in entries if e.kind == "mutant"}
    for name in names:
        if name not in known:
            usage(f"{name}: there is no such mutant")
    chosen = [e for e in entries if (e.name in names if names else run_here(e, has_gpu))]
    left_out = sum(1 for e in entries if e.kind == "mutant" and not names and not run_here(e, has_gpu))
    chosen = draw(chosen, tenth)
    if any(e.caught[0] == "sanitizer" for e in chosen) and not shutil.which("compute-sanitizer"):
        print("compute-sanitizer is not here: skipped:", *(e.name for e in chosen if e.caught[0] == "sanitizer"))
        chosen = [e for e in chosen if e.caught[0] != "sanitizer"]
    if any(e.file == MPI for e in chosen) and not shutil.which("mpirun"):
        print("mpirun is not here: skipped:", *(e.name for e in chosen if e.file == MPI))
        chosen = [e for e in chosen if e.file != MPI]
    os.makedirs(WORK, exist_ok=True)
    status, out = make(".", f"-j{JOBS}", *sorted({t for e in chosen for t in targets(e)}))
    if status != 0:
        print(out, end="")
        return 1
    trees, bad = new_trees(), 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        checks = {}
        for e in chosen:
            if key(e) not in checks:
                checks[key(e)] = pool.submit(passes_itself, e, trees)

        def verdict(e):
            wrong = checks[key(e)].result()  # begun before
            return (False, wrong, 0) if wrong else judge(e, trees)

        verdicts = {pool.submit(verdict, e): e for e in chosen}
        for done in concurrent.futures.as_completed(verdicts):
            e, (good, said, seconds) = verdicts[done], done.result()
            untried = " (untried: it does not count)" if not good and "untried" in e.flags else ""
            print(f"{e.name}: {said}{untried} [{seconds:.0f} s]", flush=True)
            bad += not good and not untried
    skipped = f"; {left_out} need a GPU, which is not here: skipped" if left_out else ""
    print(f"{len(chosen) - bad} of {len(chosen)} mutants caught" + skipped)
    return 1 if bad else 0


def compile_cuda(names, tenth):
    """Every mutant and ablation of a CUDA file must compile: one that does not is caught by nothing, and times nothing."""
    chosen = [e.numbered((e.numbers or ["4"])[0]) for e in read_lists()
              if e.step and any(re.search(r"\.cuh?$", change[0]) for change in e.changes)
              and (e.name in names if names else "asked" not in e.flags)]
    chosen = draw(chosen, tenth)
    os.makedirs(WORK, exist_ok=True)
    trees = new_trees()

    def compiles(e):
        tree = trees.get()
        try:
            change(e, tree)
            status, out = make(tree, f"{B}/steps/{e.step}/gpu.o")
            return "" if status == 0 else f"{e.name}: it does not build: {first_error(out)}"
        except Bad as error:
            return str(error)
        finally:
            trees.put(tree)

    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        bad = [said for said in pool.map(compiles, chosen) if said]
    print("\n".join(bad + [f"{len(chosen) - len(bad)} of {len(chosen)} changed CUDA files compile"]))
    return 1 if bad else 0


# ---- ablations


def variants():
    """What to time: what VARIANTS names, or all of STEP, or all."""
    entries = [e for e in read_lists() if e.kind == "ablation"]
    wanted, step = os.environ.get("VARIANTS", "").split(), os.environ.get("STEP", "")
    if not wanted:
        found = [e for e in entries if "asked" not in e.flags and step.zfill(2) in ("00", e.step[:2])]
        found = [v for e in found for v in ([e] if "*" not in e.name else map(e.numbered, e.numbers))]
        return entries, found or usage(f"STEP={step}: there are no ablations of it")
    found = []
    for name in wanted:
        for e in entries:
            match = re.fullmatch(re.escape(e.name).replace(r"\*", "([0-9]+)"), name)
            if match:
                found.append(e.numbered(match[1]) if "*" in e.name else e)
                break
        else:
            usage(f"{name}: there is no such variant")
    return entries, found


def build_variant(e, trees):
    tree = trees.get()
    try:
        change(e, tree)
        status, out = make(tree, f"{B}/{e.step}")
        if status != 0:
            return f"it does not build: {first_error(out)}"
        shutil.copy2(f"{tree}/{B}/{e.step}", f"{ABLATION}/{e.name}")
    except Bad as error:
        return str(error)
    finally:
        trees.put(tree)


def ablation(options):
    entries, chosen = variants()
    measure = {e.step: e.measure for e in entries if e.measure}
    has_gpu = subprocess.run("nvidia-smi >/dev/null 2>&1", shell=True).returncode == 0
    on_gpu = lambda e: "gpu" in measure[e.step][0]
    if not has_gpu and any(map(on_gpu, chosen)):
        print("skipped, there is no GPU here:", *(e.name for e in chosen if on_gpu(e)))
        chosen = [e for e in chosen if not on_gpu(e)]
    os.makedirs(ABLATION, exist_ok=True)
    os.makedirs(WORK, exist_ok=True)
    status, out = make(".", f"-j{JOBS}", *sorted({f"{B}/{e.step}" for e in chosen}))
    if status != 0:
        print(out, end="")
        return 1
    trees, bad = new_trees(), 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for e, wrong in zip(chosen, pool.map(lambda e: build_variant(e, trees), chosen)):
            if wrong:
                print(f"{e.name}: {wrong}", flush=True)
                bad = 1
                chosen = [c for c in chosen if c is not e]
    for e in chosen:
        print(f"{e.name:<14} {e.why}")
    print(f"\n{'variant':<14} {'dim':>4} {'tokens':>6} {'causal':>6} {'ms':>9} {'TFLOP/s':>8} {'step':>7}"
          "   least and most", flush=True)
    for at in range(max((len(measure[e.step]) for e in chosen), default=0)):
        runs = {e.name: [] for e in chosen}
        for turn in range(int(os.environ.get("ROUNDS") or 5)):
            for e in chosen if turn % 2 == 0 else reversed(chosen):  # in turn, and back: all see the same clock and temperature
                if runs[e.name] is None or at >= len(measure[e.step]):
                    continue
                command = [f"{ABLATION}/{e.name}", *measure[e.step][at], "--budget", "0.05", "--json", *options]
                status, out = run(command, ".", 600, RESULTS=f"{ABLATION}/results.tsv")
                try:
                    runs[e.name].append(json.loads(next(line for line in out.splitlines() if line.startswith("{"))))
                except (StopIteration, ValueError):
                    status = 1
                if status != 0:
                    print(f"{e.name}: does not run here, or is wrong: {last_line(out)[:100]}", flush=True)
                    runs[e.name] = None
        middle = {}
        for e in chosen:
            if not runs[e.name]:
                continue
            r, rates = runs[e.name][0], sorted(x["tflop_s"] for x in runs[e.name])
            middle[e.name] = statistics.median_low(rates)
            ms = statistics.median_low(x["median_ms"] for x in runs[e.name])
            whole = next((middle[w.name] for w in chosen if w.step == e.step and not w.changes and w.name in middle), None)
            ratio = f"{middle[e.name] / whole:.2f}x" if whole else ""
            form = lambda x: f"{x:.0f}" if x >= 100 else f"{x:.3g}"
            print(f"{e.name:<14} {r['dim']:>4} {r['seq_q']:>6} {r['causal']:>6} {ms:>9.4f} {form(middle[e.name]):>8} "
                  f"{ratio:>7}   {form(rates[0])} to {form(rates[-1])}", flush=True)
    return bad


# ---- the command line


def check_lists():
    bad = 0
    for e in read_lists():
        try:
            changed_files(e)
        except Bad as error:
            print(error, file=sys.stderr)
            bad += 1
    return 1 if bad else 0


def usage(text):
    print(f"{sys.argv[0]}: {text}", file=sys.stderr)
    sys.exit(2)


def main(words):
    try:
        if words == ["check"]:
            return check_lists()
        tenth = words[2] if words[1:2] == ["--tenth"] and len(words) == 3 else ""
        if words[:1] == ["compile"]:
            return compile_cuda([] if tenth else words[1:], tenth)
        if words[:1] == ["ablation"]:
            return ablation(words[1:])
        if words[:1] == ["mutants"]:
            return mutants([] if tenth else words[1:] + os.environ.get("MUTANTS", "").split(), tenth)
    except Bad as error:
        print(error, file=sys.stderr)
        return 1
    usage("check, mutants, compile and ablation are allowed; see the top of the file")


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)) + "/..")
    sys.exit(main(sys.argv[1:]))
