#!/usr/bin/env python3
"""Exercises: what is cut, what is said, and that a judge judges.

    test_exercise.py                  quick: three steps are judged, by a third of their mutants; Exercises.NAME runs one test
    EXERCISES=all test_exercise.py    every step that has a CPU version: its hole fails, its own code passes, and each of its
                                      mutants that the verifier can see is refused, and named (a quarter of an hour of two cores)
    EXERCISES=tenth test_exercise.py  a quarter of the steps, with a tenth of their mutants, drawn anew each time
    test_exercise.py gpu              every step that has a GPU version: its hole compiles and fails, and its own code passes,
                                      where there is a GPU that can run it
"""
import concurrent.futures
import json
import os
import random
import re
import shutil
import subprocess
import sys
import unittest

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = ["tests", "common/scripts"]
GPU = sys.argv[1:] == ["gpu"]
os.environ.update(CUDA=str(int(GPU)), B="build/cuda" if GPU else "build/cpu", MINE="build/exercise-test/mine",
                  FLUSH_LIMIT="1")
import exercise
import mutate

FOLDER = "build/exercise-test"
STEPS = [s for s in sorted(os.listdir("steps")) if os.path.exists(f"steps/{s}/main.c") and exercise.holes(s)]
FILE = "gpu.cu" if GPU else "cpu.c"
HERE = [s for s in STEPS if os.path.exists(f"steps/{s}/{FILE}")]
QUICK = ["03_online_softmax", "13_fused_attention", "42_softmax_backward"]
UNSEEN = {  # mutants that a run of an ordinary size cannot see, and why; the Check suites do
    "block_sum_in_float": "takes rows of 16 Mi numbers",
    "zigzag_merge_of_equals": "takes blocks with the same sum, to the bit",
    "joined_backward_blind_too_long": "takes more heads than threads, and a mask",
    "joined_backward_share_for_every_thread": "is right: it has other bits with other threads",
    "flash_later_values_count": "takes a NaN behind the mask", "register_tiled_later_values_count": "the same",
}
# Refused, but their results are what memory held before: like nothing, not even themselves.
NAMELESS = ("split_scale_of_the_row_before", "joined_backward_stale_sums", "grouped_piece_of_another_row",
            "overlapped_attends_to_what_comes")
OUTSIDE = ("past_the_end", "prefetch_loads")  # these crash on a guard page, and are told where
SEEN = ("checks", "invariants", "pieces", "softmax", "attention", "ranks")  # see a wrong result; others, memory beyond 2^31, say


def call(*words, **environment):
    done = subprocess.run([sys.executable, "common/scripts/exercise.py", *words], capture_output=True, text=True,
                          env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


def judge(step, text, *options, known=""):
    """What `make try-N` says of this cpu.c or gpu.cu, of all known mistakes or of some: (exit status, its lines of JSON, all that
    is said)."""
    path = f"{FOLDER}/{step}{FILE[3:]}"
    exercise.write(path, text)
    small = "--heads 2 --seq 128" if exercise.is_attention(step) else "--rows 64 --cols 1Ki"
    code, said = call("try", step, "--file", path, "--json", "--budget", "0.02", *small.split(), *options, TRY_KNOWN=known)
    return code, [json.loads(line) for line in said.splitlines() if line.startswith("{")], said


def is_drawn(name, of):
    return random.Random(SEED + name).randrange(of) == 0


def drawn_mutants(step):
    of_step = [e for e in mutate.read_lists() if e.kind == "mutant" and {c[0] for c in e.changes} == {f"steps/{step}/cpu.c"}]
    return [e for e in of_step if e.caught[2] in SEEN and e.name not in UNSEEN
            and is_drawn(e.name, {"all": 1, "tenth": 10}.get(EXERCISES, 3))]


def wrong_verdicts(step):
    """What is wrong with how this step's exercise is judged, in lines."""
    own, bad = exercise.read(f"steps/{step}/{FILE}"), []
    drawn = [] if GPU else drawn_mutants(step)
    known = " ".join(e.name for e in drawn) or "none"
    hole, size = exercise.cut(own, exercise.holes(step), step, GPU)
    if size:
        code, lines, said = judge(step, hole, known=known)
        if code != 1 or "not written yet" not in said or any(line["verdict"] == "right" for line in lines):
            bad.append(f"{step}: the hole is not refused: {said}")
    code, lines, said = judge(step, own, known=known)
    if GPU and "it compiles, and is not judged" in said:
        print(said.strip())
    elif not lines or any(line["verdict"] != "right" for line in lines):
        bad.append(f"{step}: the course's own code is refused: {said}")
    for e in drawn:
        text = mutate.changed_files(e)[f"steps/{step}/cpu.c"]
        code, lines, said = judge(step, text, "--dtype", "fp32", known=known)
        if lines and all(line["verdict"] == "right" for line in lines):
            code, lines, said = judge(step, text, known=known)  # one that only 16 bits show
        named = any(e.name in line["like"].split() for line in lines)
        ended = e.name.endswith(OUTSIDE) and "reads or writes outside its tensors" in said
        if code == 0 or not (named or ended or e.name in NAMELESS):
            bad.append(f"{step}: {e.name} is " + ("taken for solved" if code == 0 else f"not named: {said}"))
    return bad


def mutated(name):
    """The step of a mutant of a cpu.c, and the text of that."""
    e = next(e for e in mutate.read_lists() if e.name == name)
    (path, text), = mutate.changed_files(e).items()
    return path.split("/")[1], text


def judged(steps):
    wrong = wrong_verdicts(steps[0])  # builds what all of them share
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return wrong + [line for lines in pool.map(wrong_verdicts, steps[1:]) for line in lines]


class Exercises(unittest.TestCase):
    def setUp(self):
        shutil.rmtree(os.environ["MINE"], ignore_errors=True)

    def test_holes_are_3_to_40_lines_of_functions_that_exist(self):
        for step in STEPS:
            found = set()
            for file in ("cpu.c", "gpu.cu"):
                path = f"steps/{step}/{file}"
                text = exercise.read(path) if os.path.exists(path) else ""
                found |= {name for name in exercise.holes(step) if exercise.body(text, name)}
                size = exercise.cut(text, exercise.holes(step), step, file == "gpu.cu")[1]
                self.assertTrue(size == 0 or 3 <= size <= 40, f"{path}: {size} lines")
            self.assertEqual(found, set(exercise.holes(step)), step)

    def test_every_lesson_with_a_hole_has_hints_and_its_command(self):
        for step in STEPS:
            lesson = exercise.read(f"steps/{step}/README.md")
            self.assertIn(f"`make start-{int(step[:2])}`", lesson, step)
            self.assertGreaterEqual(len(re.findall(r"<summary>Hint \d", lesson)), 2, step)

    def test_cut_keeps_all_but_the_body(self):
        text = "/* a */\nstatic int f(int x)\n{\n    return x;\n}\n\nvoid g(void)\n{\n    f(1);\n}\n"
        cut, size = exercise.cut(text, ["f"], "03_online_softmax", False)
        self.assertEqual(size, 1)
        self.assertIn("static int f(int x)\n{\n    /* Your turn: about 1 line.", cut)
        self.assertIn("    return (int){ 0 };\n}\n\nvoid g(void)\n{\n    f(1);\n}\n", cut)
        self.assertEqual(exercise.cut(text, ["h"], "03_online_softmax", False), (text, 0))

    def test_start_overwrites_nothing(self):
        self.assertEqual(call("start", "03_online_softmax")[0], 0)
        exercise.write("build/exercise-test/mine/03_online_softmax/cpu.c", "mine")
        code, said = call("start", "03_online_softmax")
        self.assertEqual((code, "nothing of yours is overwritten" in said), (1, True), said)
        self.assertEqual(exercise.read("build/exercise-test/mine/03_online_softmax/cpu.c"), "mine")

    def test_without_a_start(self):
        for what in "try", "hint", "solution":
            code, said = call(what, "03_online_softmax")
            self.assertEqual((code, said.count("\n"), "make start-3" in said), (2, 1, True), said)

    def test_a_step_without_a_hole_says_so(self):
        for words in ("start",), ("try",), ("hint",), ("solution",), ("try", "--file", "steps/00_ceilings/cpu.c"):
            code, said = call(words[0], "00_ceilings", *words[1:])
            self.assertEqual((code, said.count("\n"), "leaves nothing to write" in said), (1, 1, True), said)

    def test_hints_come_one_by_one(self):
        call("start", "03_online_softmax")
        counts = [call("hint", "03_online_softmax")[1].count("Hint ") for _ in range(2)]
        self.assertEqual(counts, [1, 2])

    def test_files_from_elsewhere(self):
        for name, said in ("nowhere.c", "there is no such file"), ("README.md", "a .c or a .cu is allowed"):
            code, out = call("try", "03_online_softmax", "--file", name)
            self.assertEqual((code, said in out, out.count("\n")), (2, True, 1), out)

    def test_what_does_not_compile_shows_the_compiler(self):
        exercise.write(f"{FOLDER}/no.c", "int x = ;\n")
        code, said = call("try", "03_online_softmax", "--file", f"{FOLDER}/no.c")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"no\.c:1:\d+: error")
        self.assertNotIn("make", said.replace("make-", ""))

    def test_a_warning_is_shown_and_is_no_error(self):
        exercise.write(f"{FOLDER}/warned.c", exercise.read("steps/03_online_softmax/cpu.c") + "\nvoid nobody_knows(void)\n{\n}\n")
        code, said = call("try", "03_online_softmax", "--file", f"{FOLDER}/warned.c", "--rows", "4", "--cols", "64", "--budget",
                          "0.02", MAKEFLAGS=" -- WERROR=-Werror")
        self.assertRegex(said, "warning: no previous prototype")
        self.assertNotIn("does not compile", said)

    def test_what_is_not_written_is_named_and_not_built(self):
        step = "04_vector_softmax"
        own = exercise.read(f"steps/{step}/cpu.c")
        hole = exercise.cut(own, exercise.holes(step), step, False)[0]
        half = exercise.cut(own, ["row_state"], step, False)[0]
        for text, names in (hole, "lanes_merge and row_state"), (half, "row_state"), (own.replace("#include", "#incl"), ""):
            exercise.write(f"{FOLDER}/open.c", text)
            code, said = call("try", step, "--file", f"{FOLDER}/open.c")
            self.assertEqual(code, 1, said)
            self.assertIn(f"not written yet: {names}, as make start-4 left it" if names else "does not compile", said)

    def test_an_answer_is_judged_where_its_functions_run(self):
        self.assertEqual(exercise.own_size("10_split_softmax", ["--json"]), "--rows 1 --cols 4Mi".split())
        self.assertEqual(exercise.own_size("10_split_softmax", ["--rows", "64"]), [])
        self.assertEqual(exercise.own_size("13_fused_attention", []), [])

    def test_what_runs_the_course_s_own_is_refused(self):
        exercise.write(f"{FOLDER}/own.c", exercise.read("steps/03_online_softmax/cpu.c"))
        for words, more in (("--trace", "1,3,2"), {}), ((), {"COUNT": "1"}):
            code, said = call("try", "03_online_softmax", "--file", f"{FOLDER}/own.c", *words, **more)
            self.assertEqual((code, said.count("\n"), "make step-3" in said), (2, 1, True), said)

    def answer(self, data, *words, **environment):
        """What is said of these bytes."""
        exercise.write(f"{FOLDER}/answer.c", "")
        with open(f"{FOLDER}/answer.c", "wb") as file:
            file.write(data)
        return call("try", "03_online_softmax", "--file", f"{FOLDER}/answer.c", "--rows", "64", "--cols", "64", "--budget",
                    "0.02", *words, **environment)

    def test_a_file_may_be_of_another_encoding(self):
        own = exercise.read("steps/03_online_softmax/cpu.c").encode()
        code, said = self.answer(b"\xef\xbb\xbf/* gr\xfc\xdfe */\n" + own)
        self.assertIn("the speed of the course's", said)
        code, said = self.answer(("\ufeff" + own.decode()).encode("utf-16"))
        self.assertEqual((code, "does not compile" in said, "Traceback" in said), (1, True, False), said)

    def test_an_answer_that_ends_the_program_is_not_solved(self):
        own = exercise.read("steps/03_online_softmax/cpu.c")
        ends = own.replace("#include", "#include <stdlib.h>\n#include", 1).replace("{\n#pragma", "{\n    exit(0);\n#pragma", 1)
        code, said = self.answer(ends.encode())
        self.assertEqual((code, "ended before it was judged" in said), (1, True), said)
        self.assertEqual(self.answer(own.encode(), "--help")[0], 0)

    def test_names_are_those_that_the_reader_wrote(self):
        code, said = self.answer(b"void softmax(void);\n")
        self.assertEqual((code, "online_softmax_cpu" in said, "answer_cpu" in said), (1, True, False), said)

    def test_seconds_are_a_number(self):
        code, said = self.answer(b"\n", TRY_SECONDS="abc")
        self.assertEqual((code, said), (2, "try-3: TRY_SECONDS=abc: a whole number from 1 to 999999 is allowed\n"))

    def test_what_was_kept_may_be_damaged(self):
        good = {"step": "03_online_softmax", "device": "cpu", "solved": True, "better": False, "verdict": "right",
                "day": "2026-01-31"}
        exercise.write(exercise.PROGRESS, '{"step": "03_onl\n[]\n{}\n%s\n{"st' % json.dumps(good))
        code, said = call("progress")
        self.assertEqual((code, said.count("left out: it is no attempt"), "cpu solved, 2026-01-31" in said), (0, 4, True), said)
        self.assertIn("1 of ", said)
        exercise.keep([json.dumps({**good, "step": "05_block_softmax"})])
        self.assertIn("2 of ", call("progress")[1])
        call("start", "03_online_softmax")
        exercise.write(exercise.mine("03_online_softmax") + "/.hints", "x")
        self.assertEqual(call("hint", "03_online_softmax")[1].count("Hint "), 1)
        os.remove(exercise.PROGRESS)
        os.mkdir(exercise.PROGRESS)
        self.assertEqual(call("progress"), (1, f"exercise: {exercise.PROGRESS}: Is a directory\n"))

    def test_a_mistake_that_no_small_input_shows(self):
        own = exercise.read("steps/03_online_softmax/cpu.c")
        exercise.write(f"{FOLDER}/large.c", own.replace("    }\n}", "    }\n    if (rows > 60)\n        y[0] = 2;\n}"))
        code, said = call("try", "03_online_softmax", "--file", f"{FOLDER}/large.c", "--rows", "64", "--cols", "64")
        self.assertEqual((code, "none of the inputs that were tried" in said), (1, True), said)

    def test_what_hangs_is_ended(self):
        loop = "    while (cols > 20)\n        __asm__ volatile(\"\");\n"
        text = exercise.read("steps/03_online_softmax/cpu.c").replace("{\n#pragma", "{\n" + loop + "#pragma", 1)
        exercise.write(f"{FOLDER}/hangs.c", text)
        code, said = call("try", "03_online_softmax", "--file", f"{FOLDER}/hangs.c", "--rows", "4", "--cols", "64",
                          TRY_SECONDS="8")
        self.assertEqual(code, 1)
        self.assertIn("it was ended after 8 s", said)
        self.assertRegex(said, r"smallest +--rows 1 --cols 31 .*\n +it does not end")

    def test_a_rank_that_does_not_end_is_ended(self):
        loop = "    for (;;)\n        __asm__ volatile(\"\");\n"
        own = exercise.read("steps/68_ring_attention/cpu.c")
        for body, said in (("    if (r->rank == 1)\n    " + loop, "rank 1 has (sent|taken) no block for 2 s"),
                           (loop, "it was ended after 9 s"),
                           ("    if (r->rank == 1)\n        r->O = NULL;\n", "rank 1 of 2 died")):
            exercise.write(f"{FOLDER}/rank.c", own.replace("    struct ring_piece mine", body + "    struct ring_piece mine"))
            code, out = call("try", "68_ring_attention", "--file", f"{FOLDER}/rank.c", "--seq", "64", TRY_SECONDS="9",
                             RING_TIMEOUT="2", TRY_KNOWN="none")
            self.assertEqual(code, 1, out)
            self.assertRegex(out, said)
            self.assertRegex(out, r"smallest .*\n +(it does not end|a rank does not come to its end)")

    def test_a_block_that_does_not_travel_is_no_overlap(self):
        """Right, to the bit, and not what is asked for."""
        code, lines, said = judge(*mutated("overlapped_in_turn"), known="none")
        self.assertEqual((code, lines[0]["verdict"], lines[0]["solved"]), (1, "right", False), said)
        code, said = call("try", "70_overlapped_ring", "--file", f"{FOLDER}/70_overlapped_ring.c", "--heads", "2", "--seq", "128",
                          "--budget", "0.02", TRY_KNOWN="none")
        self.assertIn("right, but while a rank computes no block travels", said)

    def test_one_thread_has_parts_to_merge(self):
        for name in "split_merged_without_weights", "split_key_between_pieces", "split_parts_overlap":
            code, lines, said = judge(*mutated(name), "--threads", "1", "--dtype", "fp32", known=name)
            self.assertEqual((name, code, name in lines[0]["like"]), (name, 1, True), said)

    def test_heads_of_other_dimensions_are_judged(self):
        text = exercise.read("steps/47_joined_backward/cpu.c")
        code, lines, said = judge("47_joined_backward", text.replace("sum_dV + tile * width;", "sum_dV + tile * dim;"),
                                  known="none")
        self.assertEqual((code, lines[0]["verdict"]), (1, "wrong"), said)

    def test_a_mistake_is_named_however_it_is_rounded(self):
        step, text = mutated("split_merged_without_weights")
        code, lines, said = judge(step, text.replace("#define KEYS 128 ", "#define KEYS 24 "), "--dtype", "fp32",
                                  known="split_merged_without_weights split_key_between_pieces")
        self.assertIn("split_merged_without_weights", lines[0]["like"], said)

    def test_progress_counts_what_was_solved(self):
        folder = "build/exercise-test/mine/03_online_softmax"
        self.assertIn("0 of ", call("progress")[1])
        exercise.write(f"{folder}/cpu.c", exercise.read("steps/03_online_softmax/cpu.c"))
        code, said = call("try", "03_online_softmax", "--rows", "256", "--cols", "1Ki", "--budget", "0.3")
        self.assertIn("solved", said)
        if code == 0:
            self.assertRegex(call("progress")[1], r"03_online_softmax +cpu (solved|better).*\n")

    def test_progress_takes_the_worst_type_and_the_best_day(self):
        line = lambda dtype, solved: json.dumps({"step": "07_narrow_softmax", "device": "cpu", "dtype": dtype, "share": 1.0,
                                                 "verdict": "right" if solved else "wrong", "solved": solved, "better": False})
        exercise.keep([line("fp32", True), line("bf16", False)])
        self.assertRegex(call("progress")[1], r"07_narrow_softmax +cpu wrong")
        exercise.keep([line("fp32", True), line("bf16", True)])
        exercise.keep([line("fp32", False)])
        self.assertRegex(call("progress")[1], r"07_narrow_softmax +cpu solved")


class Judge(unittest.TestCase):  # behind Exercises, each on one core: it has all cores to the end
    def test_every_step(self):
        steps = [s for s in HERE if is_drawn(s, 4)] if EXERCISES == "tenth" else HERE if EXERCISES or GPU else QUICK
        if EXERCISES != "all":
            print(f"exercises: a {EXERCISES or 'third'} of the mutants, seed {SEED}: EXERCISES_SEED={SEED} draws the same",
                  flush=True)
        self.assertEqual(judged(steps), [])


EXERCISES = os.environ.get("EXERCISES", "")  # as `make test` hands it on: all, tenth, or what takes no minutes
SEED = os.environ.get("EXERCISES_SEED") or str(random.randrange(1000000))
if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + (["Judge"] if GPU else sys.argv[1:]))
