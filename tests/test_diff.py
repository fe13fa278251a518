#!/usr/bin/env python3
"""diff.py on steps that are made up, and on the course's own: what counts as new, what does not, the page. By tests/run.sh."""
import html.parser, os, pathlib, re, shutil, subprocess, sys, tempfile, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "common/scripts/diff.py"
ONE = """/* A step. */
#include "steps.h"

/* Adds. */
static int add_numbers_and_more(int first, int second)
{
    int sum_of_both = first + second;
    return sum_of_both;
}

int one_cpu(int x) /* "quoted" */
{
    return add_numbers_and_more(x, 1);
}
"""


class Diff(unittest.TestCase):
    def setUp(self):
        self.tree = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.tree)
        self.write("steps/steps.h", "int one_cpu(int x);\n")
        self.step("01_one", ONE)

    def write(self, path, text):
        (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
        (self.tree / path).write_text(text)

    def step(self, name, cpu, main="int main(void)\n{\n}\n", **more):
        self.write("steps/%s/cpu.c" % name, cpu)
        self.write("steps/%s/main.c" % name, main)
        for file, text in more.items():
            self.write("steps/%s/%s" % (name, file.replace("_", ".")), text)

    def run_tool(self, *words, status=0):
        done = subprocess.run([sys.executable, TOOL, *words], cwd=self.tree, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def counts(self, *words):
        """(new, gone, moved, of main.c, of comments)"""
        said = self.run_tool(*words).split("\n")
        total, new, gone = re.search(r": (\d+) lines carry the idea \((\d+) new, (\d+) gone\)$", said[0]).groups()
        self.assertEqual(int(total), int(new) + int(gone))
        apart = re.match(r"apart: (\d+) moved, (\d+) of main.c, (\d+) of comments", said[1]).groups()
        return (int(new), int(gone), *map(int, apart))

    def two(self, cpu, **more):
        self.step("02_two", cpu.replace("one_cpu", "two_cpu"), **more)
        return self.counts("02_two", "01_one")

    def test_a_step_that_keeps_nothing_begins_anew(self):
        """What is gone would show no idea; a step that only leaves things out does not begin anew."""
        self.step("02_two", "".join("int other_%d = %d;\n" % (i, i) for i in range(5)))
        self.assertIn("02_two begins anew: 5 lines", self.run_tool("02_two", "01_one"))
        self.assertEqual(self.two("")[0], 0)
        self.assertNotIn("anew", self.run_tool("02_two", "01_one"))

    def test_names_indentation_and_blank_lines_do_not_count(self):
        self.assertEqual(self.two(ONE), (0, 0, 0, 0, 0))
        self.assertEqual(self.two(ONE.replace("    int sum", "\n\n\tint  sum")), (0, 0, 0, 0, 0))

    def test_comments_and_main_are_apart(self):
        text = ONE.replace("/* Adds. */", "// Adds two\n// numbers.").replace(' /* "quoted" */', "")
        self.assertEqual(self.two(text, main="int main(void)\n{\n    return 0;\n}\n"), (0, 0, 0, 1, 3))
        self.assertNotIn("numbers.", self.run_tool("02_two", "01_one"))
        everything = self.run_tool("02_two", "01_one", "--all")
        self.assertIn("+ // numbers.", everything)
        self.assertIn("+     return 0;", everything)

    def test_a_parent_without_a_cpu_c_has_that_of_its_parent(self):
        """With what it includes, which is nothing new."""
        self.write("common/merge.h", "int merge;\n")
        self.step("01_one", '#include "merge.h"\n' + ONE)
        main = "int main(void)\n{\n    return softmax_main(&%s, &%s, 0, 0);\n}\n"
        self.step("02_two", "", main=main % ("two", "one"), gpu_cu="int two_gpu;\n")
        (self.tree / "steps/02_two/cpu.c").unlink()
        three = '#include "merge.h"\n' + ONE.replace("one_cpu", "three_cpu").replace("x, 1", "x, 2")
        self.step("03_three", three, gpu_cu="int three_gpu;\n")
        self.assertEqual(self.counts("03_three", "02_two")[:2], (1, 1))
        self.assertNotIn("begins to use", self.run_tool("03_three", "02_two"))

    def test_a_comment_sign_in_a_string_is_code(self):
        self.assertEqual(self.two(ONE.replace("x, 1", 'x, "/* 1"[3] // one')), (1, 1, 0, 0, 0))

    def test_moved_code_is_not_new(self):
        head, add, rest = re.match(r"(.*?\n\n)(/\* Adds.*?\n}\n\n)(.*)", ONE, re.S).groups()
        self.assertEqual(self.two(head + rest + add), (0, 0, 4, 0, 0))
        new, gone, moved, *_ = self.two(head + '#include "02_two/add.h"\n' + rest, add_h=add)
        self.assertEqual((new, gone, moved), (1, 0, 5))
        self.assertIn("@ moved from steps/01_one/cpu.c, line 5", self.run_tool("02_two", "01_one"))
        self.run_tool("02_two", "01_one", "--html")
        self.assertIn(">moved from steps/01_one/cpu.c, line 5<", (self.tree / "build/diff/02_two.html").read_text())

    def test_braces_do_not_move(self):
        self.assertEqual(self.two("{\n}\n" + ONE.replace("{\n", "").replace("}\n", ""))[2], 0)

    def test_a_line_alone_does_not_move(self):
        line = "int a_line_that_may_be_the_end_of_any_statement;\n"
        self.step("01_one", line + ONE)
        self.assertEqual(self.two(ONE + line)[:3], (1, 1, 0))

    def test_headers_of_other_steps_are_files_of_the_step(self):
        shared = "int shared(int a_number);\n"
        self.step("02_two", '#include "02_two/own.h"\n', own_h=shared)
        self.step("03_three", '#include "02_two/own.h"\n')
        self.assertEqual(self.counts("03_three", "02_two")[:2], (0, 0))
        self.step("03_three", "")
        self.assertEqual(self.counts("03_three", "02_two")[:2], (0, 2))

    def test_a_program_that_is_no_more_is_not_gone(self):
        self.step("02_two", "", gpu_cu="int x;\n")
        os.remove(self.tree / "steps/02_two/cpu.c")
        self.assertEqual(self.counts("02_two", "01_one")[:2], (1, 0))

    def test_what_common_has_for_it(self):
        self.write("common/merge.h", '#include "deep.h"\n/* The\n   rule. */\nint merge(int a, int b);\n')
        self.write("common/deep.h", "int deep;\nint deeper;\n")
        self.two('#include "merge.h"\n' + ONE)
        said = self.run_tool("02_two", "01_one")
        self.assertIn("begins to use common/merge.h: 2 lines\n", said)
        self.assertIn("begins to use common/deep.h: 2 lines\n", said)

    def test_lines_that_went_to_common_have_moved(self):
        self.write("common/one.h", ONE)
        kept = "int kept;\nint kept_too;\n"
        self.step("02_two", kept + ONE)
        self.step("03_three", '#include "one.h"\n' + kept)
        self.assertEqual(self.counts("03_three", "02_two")[:3], (1, 0, 10))
        self.assertIn("@ moved to common/one.h, line ", self.run_tool("03_three", "02_two"))

    def test_without_a_parent_all_is_new(self):
        self.assertEqual(self.counts("01_one"), (10, 0, 0, 3, 2))

    def test_a_pipe_gets_no_colour_and_a_page_is_whole(self):
        self.two(ONE.replace("x, 1", 'x < 2, "&"'))
        self.assertNotIn("\033", self.run_tool("02_two", "01_one"))
        self.assertIn("build/diff/02_two.html", self.run_tool("02_two", "01_one", "--html"))
        page = (self.tree / "build/diff/02_two.html").read_text()
        self.assertIn("x &lt; 2, &quot;&amp;&quot;", page)
        self.assertIn("prefers-color-scheme: dark", page)
        self.assertNotRegex(page, r"https?://|<script|<link")
        open_tags, closes = [], html.parser.HTMLParser()
        closes.handle_starttag = lambda tag, attrs: tag not in ("meta", "col") and open_tags.append(tag)
        closes.handle_endtag = lambda tag: self.assertEqual(open_tags.pop(), tag)
        closes.feed(page)
        self.assertEqual(open_tags, [])

    def test_what_is_wrong_is_said_in_a_line(self):
        for words in (["99_none"], ["01_one", "00_none"], ["01_one", "--wide"], []):
            self.assertRegex(self.run_tool(*words, status=1), r"\Adiff: [^\n]+\n\Z")

    def test_the_steps_of_the_course(self):
        """make finds each step's parent, and says so when there is no such step."""
        clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "FOUND_SAID")}
        make = lambda *words: subprocess.run(["make", "-s", "CUDA=0", *words], cwd=ROOT, env=clean, text=True,
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
        self.assertIn("\n03_online_softmax over 02_safe_softmax: ", make("diff-3"))
        self.assertIn("\n11_standard_attention begins anew: ", make("diff-11"))
        self.assertIn("\nsteps/31_persistent_attention/gpu.cu\n", make("diff-31"))
        self.assertIn("no such step: diff-99. N is 0 to ", make("diff-99"))

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_a_full_disk_is_a_line(self):
        with open("/dev/full", "w") as full:
            run = subprocess.run([sys.executable, str(TOOL), "10_split_softmax", "09_cluster_softmax"], cwd=ROOT, stdout=full,
                                 stderr=subprocess.PIPE, text=True)
        self.assertEqual((run.returncode, run.stderr), (1, "diff: No space left on device\n"))


if __name__ == "__main__":
    unittest.main()
