#!/usr/bin/env python3
"""mutate.py on a tree that is made up: what it must call caught, and what it must not. Run by tests/run.sh; takes seconds."""
import os, pathlib, shutil, subprocess, sys, tempfile, unittest

TOOL = pathlib.Path(__file__).resolve().parent / "mutate.py"
MAKEFILE = """B = build/cpu
$B/main_cpu: $B/step.o
\tcat $^ >$@ && chmod +x $@
$B/step.o: common/step.sh
\tmkdir -p $B && grep -q '^# it compiles' $< && cat $< >$@
$B/10_step: $B/step.o
\tcat $^ >$@ && chmod +x $@
"""
STEP = """#!/bin/sh
# it compiles
speed=1
answer=4
twice=2; twice=2
[ -z "${1:-}" ] || { echo '{"tflop_s": '$speed', "median_ms": 2, "dim": 64, "seq_q": 8, "causal": 0}'; exit; }
[ "$CK_RUN_SUITE" = sums ] || { echo no test ran; exit 1; }
[ $answer = 4 ] || { echo "not ok 1 - step.c:sums:test_sum: got $answer"; exit 1; }
"""


def entry(name, old, new, caught="cpu sums", more=""):
    return f"mutant {name}\nwhy    because\nfile   common/step.sh\ncaught {caught}\n{more}- {old}\n+ {new}\n\n"


class Mutate(unittest.TestCase):
    def setUp(self):
        self.tree = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.tree)
        for folder in ("tests/mutants", "common"):
            (self.tree / folder).mkdir(parents=True)
        shutil.copy(TOOL, self.tree / "tests")
        (self.tree / "Makefile").write_text(MAKEFILE)
        (self.tree / "common/step.sh").write_text(STEP)

    def run_on(self, text, *words, **env):
        (self.tree / "tests/mutants/list.txt").write_text(text)
        clean = {k: v for k, v in os.environ.items() if k not in ("B", "MAKEFLAGS", "MUTANTS", "VARIANTS", "STEP", "CUDA")}
        done = subprocess.run([sys.executable, self.tree / "tests/mutate.py", *words], text=True,
                              env={**clean, "LIMIT": "2", "JOBS": "2", **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def holds(self, text, status, said, *words, **env):
        got, out = self.run_on(text, *(words or ["mutants"]), **env)
        self.assertEqual(got, status, out)
        self.assertIn(said, out)
        self.assertEqual((self.tree / "common/step.sh").read_text(), STEP)  # what is changed is a copy

    def test_caught(self):
        self.holds(entry("wrong", "answer=4", "answer=5"), 0, "wrong: caught: got 5")

    def test_each_begins_with_the_tree_as_it_is(self):
        many = "".join(entry(f"wrong{i}", "answer=4", f"answer=1{i}") for i in range(5))
        self.holds(many + entry("none", "speed=1", "speed=2"), 1, "none: SURVIVED cpu sums")
        self.holds(many, 0, "5 of 5 mutants caught")

    def test_what_is_no_catch(self):
        self.holds(entry("broken", "# it compiles", "# it does not"), 1, "broken: it does not build")
        self.holds(entry("dies", "answer=4", "echo oh; exit 3"), 1, "dies: it did not run: oh")
        self.holds(entry("endless", "answer=4", "sleep 30"), 1, "endless: it takes too long")
        late = "echo 'not ok 1 - a.c:x:y: (after this point) Test timeout expired'; "
        self.holds(entry("late", "answer=4", late + "exit 1"), 1, "late: it takes too long")
        self.holds(entry("endless", "answer=4", "sleep 30", more="hangs\n"), 0, "endless: caught: it hangs")
        self.holds(entry("misspelt", "answer=4", "answer=5", "cpu sum"),
                   1, "misspelt: the tree as it is: there is no check cpu sum")

    def test_one_failure_is_enough(self):
        fails = entry("wrong", "answer=4", "echo 'not ok 1 - a.c:x:y: got 5'; sleep 60")
        self.holds(fails, 0, "wrong: caught: got 5", LIMIT="60")
        late = entry("late", "answer=4", "echo 'not ok 1 - a.c:x:y: Test timeout expired'; sleep 60", more="hangs\n")
        self.holds(late, 0, "late: caught: it hangs", LIMIT="60")

    def test_a_check_has_no_programs_but_those_that_it_names(self):
        runs = entry("wrong", "answer=4", "answer=5", "command CK_RUN_SUITE=sums build/cpu/10_step", "says   got 5\n{}")
        self.holds(runs.format("builds 10_step\n"), 0, "wrong: caught")
        self.holds(runs.format(""), 1, "wrong: the tree as it is")  # in which the program is, now

    def test_objects(self):
        """Of all that a header changes, what is compiled again."""
        self.holds(entry("wrong", "answer=4", "answer=5", more="objects step.o\n"), 0, "wrong: caught: got 5")

    def test_commands(self):
        script = "command grep answer=4 common/step.sh || { echo 4 is missing; exit 1; }"
        self.holds(entry("wrong", "answer=4", "answer=5", script, "says   is missing\n"), 0, "wrong: caught: 4 is missing")
        self.holds(entry("wrong", "answer=4", "answer=5", script, "says   other words\n"), 1, "not by saying 'other words'")
        self.holds(entry("wrong", "answer=4", "answer=5", "command false", "says   x\n"), 1, "the tree as it is")
        self.holds(entry("wrong", "answer=4", "answer=5", script), 1, "what it says is missing")

    def test_texts_that_do_not_fit(self):
        for words in ("check",), ("mutants",):
            self.holds(entry("gone", "answer=3", "answer=5"),
                       1, "gone no longer applies: common/step.sh has 0 times, not 1: answer=3", *words)
            self.holds(entry("many", "twice=2", "twice=3"),
                       1, "many no longer applies: common/step.sh has 2 times, not 1", *words)
        self.holds(entry("both", "twice=2", "twice=3", more="times 2\n"), 0, "", "check")
        self.holds(entry("second", "twice=2", "twice=3", more="@ twice=2; \n"), 0, "", "check")
        self.holds(entry("wrong", "answer=4", "answer=5") * 2, 1, "wrong is there twice", "check")
        self.holds("mutant x\ncought cpu sums\n", 1, "list.txt:2: 'cought'", "check")

    def test_a_tenth(self):
        many = "".join(entry(f"wrong{i}", "answer=4", f"answer=1{i}") for i in range(25))
        drawn = [self.run_on(many, "mutants", "--tenth", "7") for _ in range(2)]
        names = [sorted(line.split(":")[0] for line in out.splitlines() if ": caught" in line) for _, out in drawn]
        self.assertEqual((len(names[0]), names[0]), (3, names[1]))
        self.holds(many, 0, "3 of 3 mutants caught", "mutants", "--tenth", "random")
        self.assertEqual(self.run_on(many, "mutants", "nobody")[0], 2)

    def test_ablation(self):
        text = ("ablation 10\nwhy    as it is\nstep   10_step\nmeasure --device cpu\n\n"
                "ablation 10-speed-*\nwhy    faster\nstep   10_step\nfile   common/step.sh\nnumbers 3\n- speed=1\n+ speed={N}\n\n"
                "ablation 10-wrong\nwhy    wrong\nstep   10_step\nfile   common/step.sh\nasked\n- speed=1\n+ exit 1\n\n")
        status, out = self.run_on(text, "ablation", ROUNDS="2")
        self.assertEqual(status, 0, out)
        self.assertRegex(out, r"\n10 +64 +8 +0 +2.0000 +1 +1.00x +1 to 1\n10-speed-3 +64 +8 +0 +2.0000 +3 +3.00x +3 to 3\n$")
        self.assertRegex(self.run_on(text, "ablation", VARIANTS="10 10-speed-8", ROUNDS="1")[1], r"10-speed-8 .* 8.00x ")
        self.assertIn("10-wrong: does not run here", self.run_on(text, "ablation", VARIANTS="10-wrong", ROUNDS="1")[1])


if __name__ == "__main__":
    unittest.main()
