#!/usr/bin/env python3
"""`make book`: every page is in it, its links lead somewhere, pictures and formulas lie in it. Run by run.sh."""
import contextlib, io, os, pathlib, re, shutil, subprocess, sys, unittest, unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "common/scripts"))
import book


def make(**env):
    return subprocess.run([sys.executable, "common/scripts/book.py"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={**os.environ, **env})


class Book(unittest.TestCase):
    def test_every_page_is_in_it(self):
        pages = [str(p.relative_to(ROOT)) for p in [*ROOT.glob("steps/*_*/README.md"), *ROOT.glob("docs/*.md")]]
        self.assertEqual(set(pages) - set(book.PAGES), {"docs/README.md"})
        self.assertEqual(len({book.prefix(page) for page in book.PAGES}), len(book.PAGES))

    def test_links(self):
        page = "steps/03_online_softmax/README.md"
        for link, leads in (("../../docs/numerics.md", "#docs-numerics"), ("../../docs/numerics.md#sums", "#docs-numerics--sums"),
                            ("../02_safe_softmax/README.md", "#steps-02-safe-softmax"), ("#x--y", "#x--y"),
                            ("https://example.org/a#b", "https://example.org/a#b")):
            self.assertEqual(book.target(page, link), leads)
        self.assertEqual(book.target(page, "cpu.c"), "../steps/03_online_softmax/cpu.c")

    def test_without_pandoc(self):
        done = make(PATH="/nowhere")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertIn("pandoc", done.stderr)

    @unittest.skipUnless(shutil.which("pandoc"), "pandoc is not here")
    def test_where_nothing_can_be_written(self):
        err = io.StringIO()
        with unittest.mock.patch("book.OUT", "/dev/null/b/book.html"), contextlib.redirect_stderr(err):
            self.assertEqual(book.main(), 1)
        self.assertEqual(err.getvalue(), "book: /dev/null/b: Not a directory\n")

    @unittest.skipUnless(shutil.which("pandoc"), "pandoc is not here")
    def test_the_book(self):
        done = make()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = (ROOT / book.OUT).read_text(encoding="utf-8")
        places = set(re.findall(r'\bid="([^"]*)"', text))
        for link in re.findall(r'href="([^"]*)"', text):
            if link.startswith("#"):
                self.assertIn(link[1:], places)
            elif "://" not in link:
                self.assertTrue((ROOT / "build" / link.split("#")[0]).exists(), link)
        self.assertEqual([src for src in re.findall(r'<img [^>]*src="([^"]{0,30})', text)
                          if not src.startswith("data:image/")], [])
        lessons = "".join((ROOT / page).read_text(encoding="utf-8") for page in book.PAGES)
        self.assertEqual(text.count("<details>"), lessons.count("<details>"))
        self.assertGreater(text.count("<math "), 300)
        self.assertNotRegex(re.sub(r"<(code|pre|script|annotation)\b.*?</\1>", "", text, flags=re.S), r"\$")


if __name__ == "__main__":
    unittest.main()
