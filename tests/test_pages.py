#!/usr/bin/env python3
"""What pages and sources keep to: a step says once what it is, links lead somewhere, lines are not too wide. Run by run.sh."""
import pathlib, re, subprocess, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = re.compile(r"\.(c|h|cu|cuh|py|sh|mk|awk|gp)$|^(Makefile|\.ci/run)$")
STEPS = sorted(path.parent for path in ROOT.glob("steps/[0-9][0-9]_*/main.c"))


def sources():
    """The repository's files; without git, of what it would have."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True)
    names = listed.stdout.split("\0")[:-1] if listed.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")]
    return [n for n in names if (ROOT / n).is_file() and not n.startswith("build/")]


def prose(page):
    """A page without its code."""
    return re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)


class Pages(unittest.TestCase):
    def test_a_step_says_once_what_it_is(self):
        """main.c's name is the folder, and the lesson's heading and first line are main.c's name and idea."""
        plain = lambda words: re.sub(r"[-_]", " ", words).lower().replace("²", "^2")
        names = []
        for folder in STEPS:
            main, lesson = (folder / "main.c").read_text(), (folder / "README.md").read_text(encoding="utf-8").split("\n")
            name, idea = (re.search(r'^ *\.%s = "(.*)",' % field, main, re.M)[1] for field in ("name", "idea"))
            self.assertEqual(name, folder.name)
            self.assertEqual(plain(lesson[0]), "# step %s: %s" % (name[:2], plain(name[3:])), folder.name)
            self.assertEqual(plain(lesson[2]), "*%s.*" % plain(idea), folder.name)
            parent = re.search(r"_main\(&\w+, (?:&(\w+)|NULL|argc)", main)
            self.assertIn(parent[1], [None] + names, "%s is over a step before it" % folder.name)
            names.append(name[3:])

    def test_a_lesson_says_how_long_it_takes_and_on_what(self):
        """The third line that is not empty, where a lesson has one yet; docs/adding-a-step.md has its form."""
        form = r"\*\d*[05] minutes · (any GPU|a GPU from sm_\d+ on|a Hopper GPU|a CPU)(, or a CPU)?\*"
        for folder in STEPS:
            lines = (folder / "README.md").read_text(encoding="utf-8").split("\n")
            found = [line for line in lines if re.match(r"\*\d+ minutes\b", line)]
            self.assertIn(found, ([], lines[4:5]), folder.name)
            for line in found:
                self.assertRegex(line, "^%s$" % form, folder.name)
                self.assertEqual((folder / "cpu.c").exists(), line.endswith("a CPU*"), folder.name)

    def test_what_pages_say_of_all_steps(self):
        """Which number no step has, and which steps have no cpu.c: as "09, 18 to 32, 43 and 46"."""
        numbers, runs = [int(folder.name[:2]) for folder in STEPS], []
        for n in (int(folder.name[:2]) for folder in STEPS if not (folder / "cpu.c").exists()):
            runs = runs[:-1] + [runs[-1] + [n]] if runs and runs[-1][-1] == n - 1 else runs + [[n]]
        *words, last = [w for r in runs for w in (["%02d to %02d" % (r[0], r[-1])] if len(r) > 2 else ["%02d" % n for n in r])]
        for page in ("README.md", "steps/README.md", "docs/faq.md", "docs/teaching.md"):
            text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
            self.assertIn(" but %s and %s" % (", ".join(words), last), text, page)
            if page.endswith("README.md"):
                said = {int(n) for n in re.findall(r"No step has the number (\d+) yet", text)}
                self.assertEqual(said, set(range(max(numbers))) - set(numbers), page)

    def test_figures_are_what_their_program_draws(self):
        subprocess.run(["python3", "docs/figures/figures.py", "--check"], cwd=ROOT, check=True)

    def test_links_lead_somewhere(self):
        for page in (n for n in sources() if n.endswith(".md")):
            for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)):
                if "://" not in link:
                    self.assertTrue((ROOT / page).parent.joinpath(link).exists(), "%s: %s" % (page, link))

    def test_common_says_which_step_first_includes_a_file(self):
        for line in (ROOT / "common/README.md").read_text(encoding="utf-8").split("\n"):
            names, said = re.findall(r"\[`([\w.]+)`\]", line), re.search(r"\| (\d\d) \|$", line)
            first = [folder.name[:2] for folder in STEPS[1:] for path in folder.glob("*.c*") if path.name != "main.c"
                     if any('#include "%s"' % name in path.read_text(encoding="utf-8") for name in names)]
            if said and first:  # types.h comes with steps.h
                self.assertEqual(said[1], min(first), line)

    def test_a_room_names_what_is_in_it(self):
        for room in ("common", "common/harness", "common/library", "common/ring", "common/scripts", "docs"):
            page = (ROOT / room / "README.md").read_text(encoding="utf-8")
            for name in (n for n in sources() if n.startswith(room + "/") and n.count("/") == room.count("/") + 1):
                self.assertTrue(name.endswith("README.md") or name.split("/")[-1] in page, "%s/README.md: %s" % (room, name))

    def test_what_teachers_are_told(self):
        """The mistakes that students make are in the gallery, and what marks them has the fields that the page explains."""
        page = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
        mistakes = page[page.index("| mistake |"):page.index("`make quiz` shows such")]
        names = re.findall(r"`(\w+_\w+)`", mistakes)
        self.assertGreater(len(names), 8)
        for name in names:
            self.assertTrue((ROOT / "tests/mutants" / (name + ".c")).exists(), name)
        said = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page[page.index("| field | |"):], re.M)))
        written = re.findall(r'\\"(\w+)\\": ', (ROOT / "tests/try.c").read_text())
        self.assertEqual(sorted(said), sorted(written))

    def test_code_has_130_columns(self):
        self.wide([n for n in sources() if CODE.search(n)], 130)

    def test_prose_has_120_columns(self):
        """Tables, code, formulas and what is generated may have more, and an address counts for nothing: it cannot be broken."""
        free = re.compile(r"^<!-- results.*?^<!-- /results -->|^ *```.*?^ *```|^\$\$.*?\$\$$|^    [^\n]*|^\|[^\n]*|\]\([^)]*\)",
                          re.S | re.M)
        blank = lambda text: free.sub(lambda found: re.sub(".", "", found[0]), text)
        self.wide([n for n in sources() if n.endswith(".md")], 120, blank)

    def test_a_lesson_has_1200_words(self):
        """At most; what is generated from records does not count."""
        long = []
        for path in sorted(ROOT.glob("steps/*_*/README.md")):
            text = re.sub(r"<!-- results.*?<!-- /results -->", "", path.read_text(encoding="utf-8"), flags=re.S)
            if len(text.split()) > 1200:
                long.append("%s: %d words" % (path.relative_to(ROOT), len(text.split())))
        self.assertEqual(long, [])

    def wide(self, files, columns, blank=lambda text: text):
        wide = []
        for name in files:
            lines = blank((ROOT / name).read_text(encoding="utf-8")).split("\n")
            wide += ["%s:%d: %d columns" % (name, i, len(line)) for i, line in enumerate(lines, 1) if len(line) > columns]
        self.assertEqual(wide, [], "wider than %d" % columns)


if __name__ == "__main__":
    unittest.main()
