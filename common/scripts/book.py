#!/usr/bin/env python3
"""`make book`: the course as one page that can be printed, build/book.html. Formulas are MathML, pictures lie in the page, links
between pages lead to places in it, and what is folded on a screen is open on paper. pandoc turns each page into HTML."""
import base64
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = "build/book.html"
# Every lesson, and every page of docs/; what a page is called on top of it is its title.
STEPS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("steps/[0-9][0-9]_*/README.md"))
PART_2 = next(i for i, page in enumerate(STEPS) if "_standard_attention" in page)
PART_3 = next(i for i, page in enumerate(STEPS) if "_decode_attention" in page)
BACKWARD = next(i for i, page in enumerate(STEPS) if "_softmax_backward" in page)
RING = next(i for i, page in enumerate(STEPS) if "_ring_attention" in page)
PARTS = [
    ("Before the first step", ["README.md", "docs/notation.md", "docs/hardware.md"]),
    ("Part I: softmax", [*STEPS[:PART_2], "docs/part-1-softmax.md"]),
    ("Part II: attention", [*STEPS[PART_2:PART_3], "docs/part-2-attention.md"]),
    ("Part III: decoding", [*STEPS[PART_3:BACKWARD], "docs/part-3-decoding.md"]),
    ("Part III: the backward pass", [*STEPS[BACKWARD:RING], "docs/part-3-backward.md"]),
    ("Part III: a ring of ranks", [*STEPS[RING:], "docs/part-3-ring.md", "docs/scaling.md"]),
    ("What spans steps", ["docs/measuring.md", "docs/numerics.md", "docs/memory-model.md", "docs/lab-notes.md"]),
    ("Around the course", ["docs/library.md", "docs/faq.md", "docs/colab.md", "docs/teaching.md", "docs/adding-a-step.md",
                           "CONTRIBUTING.md"]),
]
PAGES = [page for _, pages in PARTS for page in pages]
STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 Georgia, "DejaVu Serif", serif; max-width: 48em; margin: 2em auto; padding: 0 1em }
body { color: #111; background: #fff }
h1, h2, h3, h4 { font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; line-height: 1.2; break-after: avoid }
nav li { list-style: none }
article { margin-top: 4em; border-top: 1px solid #999 }
code, pre { font: 13px/1.35 "DejaVu Sans Mono", Menlo, monospace }
pre { background: #f4f4f4; padding: .6em .8em; overflow-x: auto }
img { max-width: 100%; display: block; margin: 1em auto }
figure { margin: 1em 0 } figcaption { text-align: center; font-size: 85% }
table { border-collapse: collapse; font-size: 80%; margin: 1em 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ccc; padding: .2em .5em; text-align: left; vertical-align: top }
blockquote { border-left: 3px solid #999; margin-left: 0; padding-left: 1em }
a { color: #1a4f8b } summary { font-style: italic; cursor: pointer }
@media screen and (max-width: 48em) { /* a phone: what is wide is moved with a finger, and stays large enough to be read */
  figure, p:has(> img), p:has(> math[display="block"]) { overflow-x: auto; padding: .4em 0 } img { max-width: none }
}
@page { margin: 18mm 16mm }
@media print {
  body { font-size: 10.5pt; max-width: none; margin: 0; padding: 0 } a { color: inherit; text-decoration: none }
  code, pre { font-size: 8.5pt } pre { white-space: pre-wrap; overflow-wrap: anywhere }
  table { display: table; font-size: 7.5pt; width: 100% } td, th { padding: .15em .3em }
  td code, .math { overflow-wrap: anywhere }
  article { break-before: page; border: 0; margin: 0 } figure, img, tr { break-inside: avoid }
  details::details-content { content-visibility: visible; display: block; height: auto }
}
"""
# Browsers without ::details-content open what is folded when they are told to print.
SCRIPT = """addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true })"""


def prefix(page):
    """What the names of a page's places begin with: places of two pages may have the same name."""
    return re.sub(r"[^a-z0-9]+", "-", page.lower().replace("readme.md", "").replace(".md", "")).strip("-") or "first"


def fragment(page):
    """The page as HTML, its places named with its prefix."""
    # MathML chooses the size of a bracket itself, and pandoc knows no \Bigl
    text = re.sub(r"\\[Bb]igg?[lr]?(?![a-z]) ?", "", (ROOT / page).read_text(encoding="utf-8"))
    return subprocess.run(["pandoc", "--from=gfm+tex_math_dollars", "--to=html5", "--mathml", "--no-highlight", "--columns=9999",
                           "--id-prefix=%s--" % prefix(page)], cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True,
                          encoding="utf-8", check=True).stdout


def target(page, link):
    """Where a link of a page leads in the book: a place in it; a file of the repository, seen from build/; or the web."""
    path, _, place = html.unescape(link).partition("#")
    if re.match(r"[a-z]+:", path):
        return link
    if not path:
        return link  # within the page, and pandoc has put the prefix before it
    path = os.path.normpath(os.path.join(os.path.dirname(page), path))
    if path in PAGES:
        return "#%s" % prefix(path) + ("--" + place if place else "")
    return html.escape(os.path.relpath(path, os.path.dirname(OUT)) + ("#" + place if place else ""))


def picture(page, link):
    path = ROOT / os.path.dirname(page) / html.unescape(link)
    kind = {".svg": "svg+xml", ".png": "png"}[path.suffix]
    return "data:image/%s;base64,%s" % (kind, base64.b64encode(path.read_bytes()).decode())


def article(page):
    text = fragment(page)
    text = re.sub(r'(<a [^>]*?href=")([^"]*)"', lambda m: m[1] + target(page, m[2]) + '"', text)
    text = re.sub(r'(<img [^>]*?src=")([^"]*)"', lambda m: m[1] + picture(page, m[2]) + '"', text)
    # where a long name may break, and GB/s may not
    cell = lambda m: m[0] if "<math" in m[0] else re.sub(r"[_/](?=\w{3}[^<>]*<)", r"\g<0><wbr>", m[0])
    text = re.sub(r"<t[hd][ >].*?</t[hd]>", cell, text, flags=re.S)
    return '<article id="%s">\n%s</article>\n' % (prefix(page), text)


def title(page):
    return re.search(r"^# (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.M)[1]


def contents():
    line = lambda page: '<li><a href="#%s">%s</a></li>\n' % (prefix(page), html.escape(title(page)))
    parts = ("<h3>%s</h3>\n<ul>\n%s</ul>\n" % (name, "".join(map(line, pages))) for name, pages in PARTS)
    return "<nav>\n<h2>Contents</h2>\n%s</nav>\n" % "".join(parts)


def write():
    (ROOT / OUT).parent.mkdir(exist_ok=True)
    name = html.escape(title("README.md"))
    page = ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>%s</title>\n<style>%s</style>\n'
            '<script>%s</script>\n</head>\n<body>\n<h1>%s</h1>\n%s%s</body>\n</html>\n'
            % (name, STYLE, SCRIPT, name, contents(), "".join(map(article, PAGES))))
    (ROOT / OUT).write_text(page, encoding="utf-8")
    print("%s: %d pages, %.1f MB; print it from a browser" % (OUT, len(PAGES), len(page) / 1e6))


def main():
    if not shutil.which("pandoc"):
        print("this needs pandoc, which is a package of that name in Debian and Ubuntu, Fedora and Homebrew", file=sys.stderr)
        return 1
    try:
        write()
    except OSError as error:
        print("book: %s: %s" % (error.filename, error.strerror), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
