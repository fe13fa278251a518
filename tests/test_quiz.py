#!/usr/bin/env python3
"""`make quiz`: each kernel is shown by some input and gives nothing away, answers are judged. Run by run.sh."""
import os, pathlib, pty, re, subprocess, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = "build/cpu/quiz"


def clean():
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "B", "QUIZ", "INPUT", "GIVE")}
    return {**kept, "OMP_NUM_THREADS": "1"}  # the problems are small: threads would wait for each other


def quiz(words=(), **chosen):
    done = subprocess.run([PROGRAM, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={**clean(), **chosen})
    return done.returncode, done.stdout, done.stderr


class Quiz(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        subprocess.run(["make", "-s", "CUDA=0", "B=build/cpu", PROGRAM], cwd=ROOT, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env=clean(), check=True)
        code, said, _ = quiz(["--list"])
        cls.code, cls.said = code, said
        cls.kernels = re.findall(r"^(\d+): bug-(\d+), (\w+): shown by (\w+)$", said, re.M)

    def test_every_kernel_is_shown_by_some_input(self):
        self.assertEqual(self.code, 0, self.said)
        sources = [p.stem for p in ROOT.glob("tests/mutants/*.c") if "Mutant: " in p.read_text()]
        self.assertEqual(sorted(sources), sorted(name for _, _, name, _ in self.kernels))

    def test_it_gives_nothing_away(self):
        for number, _, name, _ in self.kernels:
            code, said, errors = quiz(QUIZ=number)
            self.assertEqual((code, errors), (0, ""), number)
            code = said[said.index("  "):said.index("\nWhat is wrong")]
            self.assertNotRegex(code, r"\b%s\b|/\*|should|Mutant" % name)
            self.assertEqual(code.count("{"), code.count("}"), name)

    def test_numbers_are_those_of_the_gallery(self):
        """What it says of make bug-N is so, in a build with CUDA, too: both have all kernels in one order."""
        table = (ROOT / "tests/mutants/mutants.c").read_text() + (ROOT / "tests/mutants/attention_mutants.c").read_text()
        order = re.findall(r"^    (?:CPU|CPU_FP16|ON_GPU)\((\w+)", table, re.M)
        self.assertNotIn("#if", table)
        for number, bug, name, _ in self.kernels:
            self.assertEqual(order[int(bug) - 1], name)
            self.assertNotEqual(number, bug)

    def test_answers(self):
        number = {name: number for number, _, name, _ in self.kernels}
        code, said, _ = quiz(QUIZ=number["tile_maximum"], INPUT="rising")
        self.assertEqual((code, said), (1, "not caught: with rising numbers it passes, at every shape that was tried\n"))
        code, said, _ = quiz(QUIZ=number["tile_maximum"], INPUT="falling")
        self.assertEqual(code, 0)
        for part in (r"^caught by falling, \d+ x \d+: row \d+, column \d+: got nan, want", r"^It is tile_maximum: ",
                     r"^Looks like: ", r"^make bug-6 shows", r"^It is shown by falling .*masked$"):
            self.assertRegex(said, re.compile(part, re.M))
        code, said, _ = quiz(QUIZ=number["attention_no_maximum"], GIVE="1")
        self.assertTrue(code == 0 and said.startswith("It is attention_no_maximum: "), said)

    def test_bad_answers_are_one_line(self):
        softmax = next(number for number, _, name, _ in self.kernels if name == "uniform")
        for chosen, part in (({"QUIZ": "0"}, "QUIZ=0: a number from 1 to"), ({"QUIZ": "999"}, "QUIZ=999"),
                             ({"QUIZ": "3x"}, "QUIZ=3x"), ({"INPUT": "rising"}, "INPUT: of which kernel"),
                             ({"GIVE": "1"}, "GIVE: of which kernel"), ({"QUIZ": softmax, "INPUT": "up"}, "INPUT=up: allowed is"),
                             ({"QUIZ": softmax, "INPUT": "slopes"}, "INPUT=slopes: allowed is")):
            code, said, errors = quiz(**chosen)
            self.assertEqual((code, said, errors.count("\n")), (2, "", 1), chosen)
            self.assertIn(part, errors)

    def test_a_terminal_is_asked(self):
        number = next(number for number, _, name, _ in self.kernels if name == "tile_maximum")
        ours, theirs = pty.openpty()
        process = subprocess.Popen([PROGRAM], cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, text=True,
                                   env={**clean(), "QUIZ": number})
        os.write(ours, b"up\nnormal\nfalling\n")
        said = process.communicate(timeout=60)[0]
        os.close(ours), os.close(theirs)
        self.assertEqual(process.returncode, 0)
        self.assertRegex(said, re.compile(r"> it is none of .*> not caught: with normal .*> caught by falling.*^It is tile_max",
                                          re.M | re.S))


if __name__ == "__main__":
    unittest.main()
