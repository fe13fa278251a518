#!/usr/bin/env python3
"""Tests of results.py and draw.py, on rows whose tables are known: python3 plots/test_results.py. A part of `make test`."""
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import draw
import results
from results import COLUMNS

HERE = os.path.dirname(os.path.abspath(__file__))
CPU, GPU = "Some(R) CPU", "Some GPU"


def softmax(step, ms, reads=2, exps=2, rows=16384, cols=8192, **changes):
    elements = rows * cols
    row = dict(step=step, device=CPU, backend="cpu", dtype="fp32", rows=rows, cols=cols, seed=1, input="normal", threads=2,
               reps=5, median_ms=ms,
               p10_ms=ms * 0.9, p90_ms=ms * 1.2, useful_bytes=8 * elements, predicted_bytes=4 * (reads + 1) * elements, flops=0,
               exps=exps * elements, gb_s=8 * elements / ms * 1e-6, copy_gb_s=40, percent=50, ceiling="copy", error=1e-7,
               tolerance=1e-6, verdict="pass")
    row.update(changes)
    return row


def attention(step, ms, seq=4096, dim=64, moved=1, exps=1, **changes):
    scores = 16 * seq * seq
    useful = 16 * seq * dim * 4 * 4
    row = dict(step=step, device=CPU, backend="cpu", dtype="fp32", batch=1, heads=16, kv_heads=16, seq_q=seq, seq_k=seq, dim=dim,
               causal=0, seed=1,
               input="normal", threads=2, reps=5, median_ms=ms, p10_ms=ms * 0.9, p90_ms=ms * 1.2, useful_bytes=useful,
               predicted_bytes=moved * useful, flops=4 * dim * scores, exps=exps * scores, gb_s=useful / ms * 1e-6,
               tflop_s=4 * dim * scores / ms * 1e-9, percent=41, ceiling="fma", error=3e-6, tolerance=1e-5, verdict="pass")
    row.update(changes)
    return row


def on_gpu(row, **changes):
    return dict(row, device=GPU, backend="cuda", threads="-", **changes)


def text_of(rows, device=None, facts=()):
    lines = ["# device: " + device, *facts] if device else []
    lines.append("\t".join(COLUMNS))
    for row in rows:
        lines.append("\t".join("-" if row.get(c) is None else row[c] if isinstance(row[c], str) else "%.9g" % row[c]
                               for c in COLUMNS))
    return "\n".join(lines) + "\n"


class Case(unittest.TestCase):
    """A course of its own, in a folder that goes away."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.chdir, os.getcwd())
        self.addCleanup(setattr, results, "ROOT", results.ROOT)
        results.ROOT = self.folder
        os.chdir(self.folder)
        saved = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(saved)))
        for key in "RESULTS CEILINGS DEVICE FORCE DRIVER COMPILER COMMIT DATE OS".split():
            os.environ.pop(key, None)
        for step, kind in (("01_one", "step"), ("02_two", "step"), ("07_seven", "attention_step")):
            self.write("steps/%s/main.c" % step, 'static const struct %s step = {\n    .idea = "idea of %s",\n};\n' % (kind,
                                                                                                                       step))

    def write(self, path, text):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)

    def read(self, path):
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()

    def run_tool(self, *words):
        """Exit status, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = results.main(list(words))
        return status, out.getvalue(), err.getvalue()

    def page(self, marker, rows, device=CPU, facts=()):
        """The lines of a table."""
        self.write("plots/recorded/machine.tsv", text_of(rows, device, facts))
        self.write("README.md", "before\n<!-- results %s -->\n<!-- /results -->\nafter\n" % marker)
        status, _, err = self.run_tool("tables")
        self.assertEqual((status, err), (0, ""))
        lines = self.read("README.md").split("\n")
        self.assertEqual((lines[0], lines[-3:]), ("before", ["<!-- /results -->", "after", ""]))
        return lines[2:-3]


class Reading(Case):
    def rows_of(self, text):
        self.write("t.tsv", text)
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            table = results.Table("t.tsv")
        return table.rows, err.getvalue()

    def test_a_torn_last_line_is_left_out_with_a_warning(self):
        whole = text_of([softmax("01_one", 10), softmax("02_two", 20)])
        for cut in (1, 20, 150):
            rows, err = self.rows_of(whole[:-cut])
            self.assertEqual([r.step for r in rows], ["01_one"])
            self.assertIn("not written to its end", err)

    def test_rows_glued_together_or_short_are_left_out_with_a_warning(self):
        lines = text_of([softmax("01_one", 10), softmax("02_two", 20)]).split("\n")
        for bad in (lines[1][:70] + lines[2], lines[1][:70], lines[1].replace("\t10\t", "\t1o\t")):
            rows, err = self.rows_of("\n".join([lines[0], bad, lines[2], ""]))
            self.assertEqual([r.step for r in rows], ["02_two"])
            self.assertIn("t.tsv: line 2 is left out", err)

    def test_rows_are_appended_whole(self):
        one, two = (text_of([softmax(step, 10)]).split("\n")[1] for step in ("01_one", "02_two"))
        results.append_row("new/t.tsv", COLUMNS, one.split("\t"))
        with open("new/t.tsv", "a", encoding="utf-8") as file:
            file.write(one[:50])  # a disk that was full
        results.append_row("new/t.tsv", COLUMNS, two.split("\t"))
        self.assertEqual(self.read("new/t.tsv"), text_of([softmax("01_one", 10), softmax("02_two", 10)]))

    def test_two_headers(self):
        text = text_of([softmax("01_one", 10)])
        rows, err = self.rows_of(text + text_of([softmax("02_two", 20)]))
        self.assertEqual(([r.median_ms for r in rows], err), ([10, 20], ""))
        other = "step median_ms cols rows dtype input gb_s useful_bytes\n02_two 20 8 4 fp32 normal 1 2\n"
        rows, err = self.rows_of(text + other.replace(" ", "\t"))
        self.assertEqual([(r.median_ms, r.rows, r.cols) for r in rows], [(10, 16384, 8192), (20, 4, 8)])
        self.assertIn("other columns", err)

    def test_the_last_run_counts_in_the_place_of_the_first(self):
        rows, _ = self.rows_of(text_of([softmax("01_one", 10), softmax("02_two", 20), softmax("01_one", 30)]))
        self.assertEqual([(r.step, r.median_ms) for r in rows], [("01_one", 30), ("02_two", 20)])

    def test_a_ring_has_a_row_for_each_number_of_ranks(self):
        text = text_of([attention("35_ring", 10 * n, input="normal, %d rank%s" % (n, "s" * (n > 1))) for n in (1, 2, 4)])
        rows, err = self.rows_of(text + text_of([attention("35_ring", 7, input="normal, 2 ranks")]))
        self.assertEqual([(r.step, r.median_ms, r.number, r.usable) for r in rows],
                         [("35_ring, 1 rank", 10, 35, True), ("35_ring, 2 ranks", 7, 35, True),
                          ("35_ring, 4 ranks", 40, 35, True)])
        status, out, err = self.run_tool("table", "t.tsv")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"35_ring, 4 ranks, fp32 +40\.0 ")

    def test_windows_line_ends(self):
        rows, err = self.rows_of(text_of([softmax("01_one", 10)]).replace("\n", "\r\n"))
        self.assertEqual((rows[0].verdict, err), ("pass", ""))

    def test_names_that_are_no_plain_words_are_left_out(self):
        for change in ({"step": "1`touch x`"}, {"dtype": "fp32'"}, {"threads": "2; touch x"}, {"ceiling": "a b"},
                       {"backend": '"'},
                       {"cols": "8192_0"}, {"median_ms": "nan"}, {"cols": None}, {"rows": 0}, {"rows": -4}, {"gb_s": None},
                       {"median_ms": 0}, {"median_ms": "inf"}):
            rows, err = self.rows_of(text_of([dict(softmax("01_one", 10), **change)]))
            self.assertEqual(rows, [], change)
            self.assertIn("left out", err)

    def test_shapes_in_words(self):
        self.write("t.tsv", text_of([attention("07_seven", 1, seq=128, dim=32, batch=3, heads=8, kv_heads=2, causal=1),
                                     softmax("01_one", 1)]))
        first, second = results.Table("t.tsv").rows
        self.assertEqual(first.shape(), "batch 3, 8 heads of 32, 128 tokens, 2 of keys, causal")
        self.assertEqual(second.shape(), "%d x %d" % (second.rows, second.cols))

    def test_files_that_are_no_tables(self):
        self.write("t.tsv", "01_one\t3\n")
        for words in (["table", "t.tsv"], ["table", "absent.tsv"], ["table", "."]):
            status, _, err = self.run_tool(*words)
            self.assertEqual((status, err.count("\n")), (1, 1), err)

    def test_wrong_words(self):
        for words in ([], ["frobnicate"], ["table", "--check"], ["table", "a", "b"], ["tables", "--chekc"], ["--no-such"],
                      ["timeline"], ["part3", "x"]):
            self.assertEqual(self.run_tool(*words)[0], 2)


class Numbers(unittest.TestCase):
    def test_digits3(self):
        for value, text in ((0, "0"), (0.012345, "0.0123"), (0.12345, "0.123"), (1.2345, "1.23"), (12.345, "12.3"),
                            (123.45, "123"), (1000, "1000"),
                            (1234.5, "1230"), (98765, "98800"), (None, "-"), (float("inf"), "-")):
            self.assertEqual(results.digits3(value), text)

    def test_names(self):
        self.assertEqual([results.length_name(n) for n in (1000, 1024, 131072, 1048576)], ["1000", "1 Ki", "128 Ki", "1 Mi"])
        self.assertEqual([results.bytes_name(n) for n in (999, 999.5, 134e6, 1.2e12)], ["999 B", "1.00 KB", "134 MB", "1.20 TB"])
        self.assertEqual(results.machine_name("A(R) B(TM)\n\x1b", 1), "A B??, 1 thread")
        self.assertEqual(results.slug("Intel(R) Xeon(R) CPU @ 2.20GHz"), "intel-xeon-cpu")


class Terminal(Case):
    def show(self, rows):
        self.write("t.tsv", text_of(rows))
        status, out, err = self.run_tool("table", "t.tsv")
        self.assertEqual((status, err), (0, ""))
        return [re.sub("  +", " | ", line.strip()) for line in out.strip().split("\n")]

    def test_golden_softmax(self):
        self.assertEqual(self.show([softmax("01_one", 107.3741824), softmax("02_two", 53.6870912, reads=1, exps=1),
                                    softmax("torch.softmax", 100, error=None,
                                    verdict="-", copy_gb_s=None)]), [
            "Some CPU, 2 threads: softmax, 16384 x 8192, fp32",
            "ms | GB/s | of copy | times the row above | error",
            "01_one | 107 | 10.0 | 25 % | 1.0e-07",
            "02_two | 53.7 | 20.0 | 50 % | 2.00 (memory 1.50, exps 2.00) | 1.0e-07",
            "torch.softmax | 100 | 10.7 | 27 % | -"])

    def test_golden_attention(self):
        self.assertEqual(self.show([attention("07_seven", 68.719476736, moved=10, exps=3),
                                    attention("08_eight", 34.359738368, moved=5, exps=2)]), [
            "Some CPU, 2 threads: attention, batch 1, 16 heads of 64, 4096 tokens",
            "ms | of ceiling | times the row above | error",
            "07_seven, fp32 | 68.7 | 1.00 TFLOP/s | 41 % of fma | 3.0e-06",
            "08_eight, fp32 | 34.4 | 2.00 TFLOP/s | 41 % of fma | 2.00 (memory 2.00, exps 1.50) | 3.0e-06"])

    def test_an_empty_column_is_no_zero(self):
        row = self.show([softmax("01_one", 107.3741824, error=None, copy_gb_s=None)])[2]
        self.assertEqual(row, "01_one | 107 | 10.0 | - | -")

    def test_wrong_and_doubtful_results_are_not_shown(self):
        for verdict in ("FAIL", "in doubt"):
            self.assertEqual(len(self.show([softmax("01_one", 10), softmax("02_two", 10, verdict=verdict)])), 3)
        self.write("t.tsv", text_of([softmax("01_one", 10, verdict="FAIL")]))
        self.assertEqual(self.run_tool("table", "t.tsv")[0], 1)


class Tables(Case):
    def test_golden_compare(self):
        rows = [softmax("01_one", 107.3741824), softmax("02_two", 53.6870912, reads=1, exps=1)]
        self.assertEqual(self.page("compare 01_one 02_two", rows)[2:], [
            "| Some CPU, 2 threads | 01_one | 2 + 1 | 2 | 107 (96.6 to 129) | 10.0 | 25 % |  |  |",
            "| Some CPU, 2 threads | 02_two | 1 + 1 | 1 | 53.7 (48.3 to 64.4) | 20.0 | 50 % | 1.50x, 2.00x | 2.00x |",
            "", "x is 16384 x 8192, fp32."])

    def test_each_machine_shows_its_own_claims(self):
        self.write("plots/recorded/gpu.tsv", text_of([on_gpu(softmax("02_two", 1, reads=1, exps=2.25))], GPU))
        lines = self.page("summary", [softmax("02_two", 107.3741824, reads=2, exps=1)])
        self.assertIn("| GPU: 1 + 1; CPU: 2 + 1 | GPU: 8; CPU: 12 | GPU: 2.25; CPU: 1 | 1.0e-07 at 8 Ki columns |", lines[2])
        lines = self.page("compare 02_two", [softmax("02_two", 107.3741824, reads=2, exps=1)])
        self.assertEqual([line.split(" | ")[2:4] for line in lines[2:4]], [["1 + 1", "2.25"], ["2 + 1", "1"]])

    def test_golden_attention(self):
        rows = [attention("07_seven", 68.719476736, moved=10, exps=3), attention("08_eight", 34.359738368, moved=5, exps=2)]
        self.assertEqual(self.page("attention-compare 07_seven 08_eight", rows)[2:], [
            "| Some CPU, 2 threads | 07_seven | fp32 | 671 MB | 3 | 68.7 (61.8 to 82.5) | 1.00 TFLOP/s, 41 % of fma |  |  |",
            "| Some CPU, 2 threads | 08_eight | fp32 | 336 MB | 2 | 34.4 (30.9 to 41.2) | 2.00 TFLOP/s, 41 % of fma "
            "| 2x, 1.50x | 2.00x |",
            "", "4096 tokens, heads of 64 (batch 1, 16 heads on Some CPU)."])
        self.assertEqual(self.page("attention-steps", rows)[2],
                         "| [07_seven](steps/07_seven/README.md) | idea of 07_seven | fp32 | 10x "
                         "| 68.7 ms, 1.00 TFLOP/s, 41 % of fma |")

    def test_golden_course(self):
        """A lesson without a time line, and a step that is not recorded, leave a cell empty; 16 bits come before 32. Of decoding
        it is a token of a model, through pages of the usual size, too."""
        self.write("steps/01_one/README.md", "# Step 01\n\n*Idea.*\n\n*20 minutes \u00b7 any GPU, or a CPU*\n")
        rows = [softmax("01_one", 107.3741824, copy_gb_s=40), attention("07_seven", 68.719476736, dim=128),
                attention("07_seven", 34.359738368, dim=128, dtype="bf16"), attention("07_seven", 1)]
        self.write("steps/08_token/main.c",
                   'static const struct attention_step step = {\n    .idea = "a token",\n    .usual = { 1 },\n};\n')
        token = dict(dim=128, heads=32, kv_heads=8, seq_q=1, seq_k=8192, causal=1, gb_s=1900, percent=82, ceiling="read")
        rows += [attention("08_token", 0.1, **token), attention("08_token", 0.1, **dict(token, dtype="bf16", causal=0)),
                 attention("08_token", 0.1, input="normal, pages of 16", **dict(token, dtype="bf16", gb_s=1760, percent=74))]
        self.assertEqual(self.page("course", rows), [
            "| step | idea | minutes | Some CPU, 2 threads |", "|---|---|---|---|",
            "| [01_one](steps/01_one/README.md) | idea of 01_one | 20 | 10.0 GB/s, 25 % |",
            "| [02_two](steps/02_two/README.md) | idea of 02_two |  |  |",
            "| [07_seven](steps/07_seven/README.md) | idea of 07_seven |  | 4.00 TFLOP/s |",
            "| [08_token](steps/08_token/README.md) | a token |  | 1760 GB/s, 74 % of read |", "",
            "Softmax of 16384 x 8192, fp32: useful bandwidth, and its share of a copy's. Attention of 4096 tokens, heads of 128 "
            "(batch 1, 16 heads on Some CPU). Decoding: a token of `llama3-8b-token`, 8192 keys, and its share of reading. bf16 "
            "where nothing else is said."])

    def test_golden_shares(self):
        """A step is there once it is recorded; without a ceiling it has its speed."""
        rows = [softmax("01_one", 107.3741824), attention("07_seven", 68.719476736),
                attention("07_seven", 34.359738368, dtype="bf16", percent=None)]
        self.assertEqual(self.page("shares", rows), [
            "| step | Some CPU, 2 threads |", "|---|---|", "| [01_one](steps/01_one/README.md) | 50 % of copy |",
            "| [07_seven](steps/07_seven/README.md) | 41 % of fma |",
            "| [07_seven](steps/07_seven/README.md), bf16 | 2.00 TFLOP/s |", "",
            "fp32 where nothing else is said. Softmax of 16384 x 8192. Attention of 4096 tokens, heads of 64 (batch 1, 16 heads "
            "on Some CPU)."])

    def test_golden_lengths(self):
        rows = [softmax("01_one", 10, rows=2, cols=2048), softmax("01_one", 20, rows=1, cols=3000),
                softmax("02_two", 10, rows=2, cols=2048)]
        self.assertEqual(self.page("lengths 01_one 02_two", rows), [
            "Some CPU, 2 threads, fp32: GB/s, and share of a copy.", "", "| columns | copy | 01_one | 02_two |",
            "|---|---|---|---|",
            "| 2 Ki | 40.0 | 0.00328, 0 % | 0.00328, 0 % |", "| 3000 | 40.0 | 0.0012, 0 % |  |"])

    def test_ceilings_and_machines(self):
        facts = ["# ceiling: copy fp32 2 51.1674 GB/s", "# ceiling: copy fp32 1 27 GB/s", "# driver: 1|2", "# commit: `x`"]
        self.assertEqual(self.page("ceilings", [softmax("01_one", 1)], facts=facts)[2:], ["| Some CPU, 2 threads | 51.2 GB/s |"])
        self.assertEqual(self.page("machines", [softmax("01_one", 1)], facts=facts)[2:],
                         ["| plots/recorded/machine.tsv | Some CPU | 1\\|2 |  |  | \\`x\\` |  |"])

    def test_a_locale_with_decimal_commas_changes_nothing(self):
        want = self.page("compare 01_one", [softmax("01_one", 1.5)])
        tool = "import sys; sys.path.insert(0, %r); import results; results.ROOT = '.'; " \
               "sys.exit(results.main(['tables', '--check']))" % HERE
        for name in ("de_DE.UTF-8", "C"):
            said = subprocess.run([sys.executable, "-B", "-c", tool], env=dict(os.environ, LC_ALL=name))
            self.assertEqual(said.returncode, 0)
        self.assertIn("1.50 (1.35 to 1.80)", want[2])

    def test_check_names_stale_pages_and_changes_nothing(self):
        self.page("compare 01_one", [softmax("01_one", 10)])
        fresh = self.read("README.md")
        self.assertEqual(self.run_tool("tables", "--check"), (0, "", ""))
        stale = fresh.replace("10.0", "10.1")
        self.write("README.md", stale)
        status, _, err = self.run_tool("tables", "--check")
        self.assertEqual((status, err, self.read("README.md")), (1, "tables: README.md is stale: make tables\n", stale))
        self.assertEqual(self.run_tool("tables")[0], 0)
        self.assertEqual(self.read("README.md"), fresh)

    def test_markers_that_are_wrong(self):
        self.write("plots/recorded/machine.tsv", text_of([softmax("01_one", 1)], CPU))
        for text in ("<!-- results steps -->\n", "<!-- results steps -->\n<!-- results steps -->\n<!-- /results -->\n",
                     "<!-- results frobnicate -->\n<!-- /results -->\n", "<!-- results compare rows=x -->\n<!-- /results -->\n"):
            self.write("README.md", text)
            status, _, err = self.run_tool("tables")
            self.assertEqual((status, self.read("README.md"), err.count("\n")), (1, text, 1), err)
            self.assertIn("README.md:", err)

    def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(self):
        self.write("old", "old")
        os.chmod("old", 0o640)
        os.symlink("old", "link")

        def broken(_):
            raise OSError(28, "No space left on device")
        fsync, os.fsync = os.fsync, broken
        try:
            with self.assertRaises(OSError):
                results.write_whole("link", "new")
        finally:
            os.fsync = fsync
        self.assertEqual((self.read("old"), sorted(os.listdir("."))), ("old", ["link", "old", "steps"]))
        results.write_whole("link", "new")
        self.assertTrue(os.path.islink("link"))
        self.assertEqual((self.read("old"), os.stat("old").st_mode & 0o777), ("new", 0o640))

    def test_a_signal_leaves_the_old_file_and_nothing_else(self):
        self.write("old", "old")
        tool = "import os, signal, sys; sys.path.insert(0, %r); import results; " \
               "os.fsync = lambda _: os.kill(os.getpid(), signal.%s); results.prepare(); results.write_whole('old', 'new')"
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            said = subprocess.run([sys.executable, "-B", "-c", tool % (HERE, name)], stderr=subprocess.DEVNULL)
            self.assertNotEqual(said.returncode, 0)
            self.assertEqual((self.read("old"), sorted(os.listdir("."))), ("old", ["old", "steps"]))


class Record(Case):
    ELSEWHERE = dict(DRIVER="1.2", COMPILER="cc 3", COMMIT="abc", DATE="2026-01-31", OS="An OS")

    def setUp(self):
        super().setUp()
        os.environ.update(self.ELSEWHERE)
        os.environ["PATH"] = ""  # nothing is drawn

    def record(self, rows, *words):
        self.write("build/results.tsv", text_of(rows))
        return self.run_tool("record", *words)

    def test_a_record_is_a_header_and_the_last_rows(self):
        self.write("build/ceilings.tsv",
                   "device\tbackend\tname\tdtype\tthreads\tvalue\tunit\n"
                   "%s\tcpu\tcopy\tfp32\t2\t51\tGB/s\n%s\tcpu\tL2\t-\t0\t2048\tKiB\n"
                                         "other\tcpu\tcopy\tfp32\t2\t9\tGB/s\n" % (CPU, CPU))
        status, out, err = self.record([softmax("01_one", 10), softmax("01_one", 20)], "mine")
        self.assertEqual((status, err, out.split("\n")[0]), (0, "", "recorded 1 results of Some CPU in plots/recorded/mine.tsv"))
        self.assertEqual(self.read("plots/recorded/mine.tsv"),
                         "# device: Some(R) CPU\n# driver: 1.2\n# compiler: cc 3\n# os: An OS\n# commit: abc\n"
                         "# date: 2026-01-31\n# ceiling: copy fp32 2 51 GB/s\n# cache: L2 2048 KiB\n" + text_of([softmax("01_one",
                                                                                                                         20)]))

    def test_wrong_results_are_not_recorded(self):
        self.record([softmax("01_one", 10)], "mine")
        before = self.read("plots/recorded/mine.tsv")
        for verdict in ("FAIL", "in doubt"):
            for row in (softmax("02_two", 10, verdict=verdict, error=None),
                        attention("07_seven", 10, verdict=verdict, input="spike")):
                status, _, err = self.record([softmax("01_one", 20), row, softmax("01_one", 30)], "mine")
                self.assertEqual((status, self.read("plots/recorded/mine.tsv")), (1, before))
                self.assertIn(row["step"], err)

    def test_tables_with_lines_that_are_no_rows_are_not_recorded(self):
        rows = text_of([softmax("01_one", 10), softmax("02_two", 20)])
        self.write("build/results.tsv", rows.replace("\t20\t", "\tNaN\t"))
        self.assertEqual((self.run_tool("record", "mine")[0], os.path.exists("plots")), (1, False))
        self.write("build/results.tsv", rows + text_of([softmax("01_one",
                                                                1)]).split("\n")[1][:80])  # a torn last line was never a result
        self.assertEqual(self.run_tool("record", "mine")[0], 0)

    def test_a_wrong_result_without_a_time_is_one(self):
        self.assertEqual(self.record([softmax("01_one", 10), softmax("02_two", 1, verdict="FAIL", median_ms=None, gb_s=None)],
                                     "mine")[0], 1)
        self.assertFalse(os.path.exists("plots"))

    def test_what_this_machine_cannot_know_must_be_given(self):
        for key in self.ELSEWHERE:
            value = os.environ.pop(key)
            status, _, err = self.record([softmax("01_one", 10)])
            self.assertEqual(status, 1)
            self.assertIn(key + " must be given", err)
            os.environ[key] = value

    def test_of_several_devices_one_is_chosen(self):
        rows = [softmax("01_one", 10), on_gpu(softmax("01_one", 1))]
        self.assertEqual(self.record(rows)[0], 1)
        os.environ["DEVICE"] = GPU
        self.assertEqual(self.record(rows)[0], 0)
        self.assertEqual([r.median_ms for r in results.Table("plots/recorded/some-gpu.tsv").rows], [1])

    def test_names_stay_in_the_folder(self):
        for name in ("../x", "a/b", "", ".x", "a b"):
            status = self.record([softmax("01_one", 10)], *([name] if name else []))[0]
            self.assertEqual(status, 1 if name else 0, name)


STEPS = ["0%d_step" % n for n in range(1, 7)]
FACTS = ["# sms: 132", "# cache: L2 50 MiB", "# ceiling: copy fp32 2 40 GB/s", "# ceiling: fma fp32 2 0.5 TFLOP/s",
         "# ceiling: exp fp32 2 20 Gexp/s"]


class Choosing(Case):
    """What goes into a picture, before gnuplot sees it."""

    def view(self, rows, facts=FACTS):
        self.write("t.tsv", text_of(rows, CPU, facts))
        table = results.Table("t.tsv")
        return table.views()[0]

    def test_steps(self):
        rows = [softmax("01_step", 107.3741824), softmax("02_step", 53.6870912, reads=1),
                softmax("torch.softmax", 53.6870912, predicted_bytes=None, copy_gb_s=None),
                softmax("03_step", 1, verdict="FAIL"), softmax("04_step", 1, input="spike"), softmax("05_step", 1, dtype="fp16")]
        picture = draw.steps(self.view(rows))
        bars = [(line[1], round(line[2], 6), line[3], round(line[4], 3), line[5]) for line in picture.files["bars"][0]
                if line[4] == line[4]]
        self.assertEqual(bars, [("01_step", 10, 1, 26.667, "25 %  10.0 GB/s"), ("02_step", 20, 2, 40, "50 %  20.0 GB/s")])
        self.assertEqual([line[1] for line in picture.files["bars"][0]], ["01_step", "02_step", "torch.softmax"])
        self.assertEqual((picture.settings["copy"], picture.settings["bars"]), (40, 3))
        self.assertEqual(picture.below, "Some CPU, 2 threads: 16384 rows x 8192 columns, fp32")

    def test_ladder(self):
        rows = [attention("torch.sdpa-a", 5, dim=128), attention("torch.sdpa-b", 10, dim=128), attention("07_step", 1, dim=64)]
        rows += [attention("%02d_step" % n, 20, dim=128, dtype=t) for n in (7, 8) for t in ("bf16", "fp32")[n - 7:]]
        bars = draw.ladder(self.view(rows)).files["bars"][0]
        self.assertEqual([(line[1], line[3], line[5].split(", ")[1:]) for line in bars], [
            ("07_step", 7, []), ("08_step", 8, ["fp32"]), ("torch.sdpa-b", 92, ["fp32"]), ("torch.sdpa-a", 92, ["fp32"])])
        with self.assertRaises(draw.NothingToDraw):
            draw.ladder(self.view(rows[:1]))

    def test_names_in_the_roofline_stay_in_it(self):
        """Of all the steps that there will be: no label below the axis, or above what is fastest."""
        rows = [softmax("%02d_softmax" % n, 10) for n in range(1, 11)]
        rows += [attention("%02d_attention" % n, 10 + n, moved=1 + (n < 13)) for n in range(11, 33)]
        picture = draw.roofline(self.view(rows)).settings
        for side in ("left", "right"):
            ys = [picture["%sy%d" % (side, i)] for i in range(1, picture[side + "labels"] + 1)]
            self.assertTrue(picture["fromy"] < min(ys) and max(ys) < picture["toy"], side)

    def test_a_small_sweep_does_not_outvote_the_standard_run(self):
        rows = [softmax(step, 10) for step in STEPS]
        rows += [softmax(step, 1, rows=1024 * 1024 >> i, cols=8 << i) for i in range(12) for step in STEPS[:2]]
        bars = draw.steps(self.view(rows)).files["bars"][0]
        self.assertEqual([line[1] for line in bars], STEPS)
        rows = [attention("%02d_step" % n, 10, seq=2048) for n in (7, 8, 9, 10)]
        rows += [attention("10_step", 10, seq=512 << i, batch=32 >> i, heads=4, kv_heads=4) for i in range(6)]
        bars = draw.attention_steps(self.view(rows)).files["bars"][0]
        self.assertEqual([line[1] for line in bars], ["07_step", "08_step", "09_step", "10_step"])

    def test_lengths_and_error(self):
        rows = [softmax("01_step", 10, rows=16, cols=1024, gb_s=3, error=2e-7),
                softmax("01_step", 10, rows=8, cols=2048, gb_s=4, error=3e-7),
                softmax("01_step", 10, rows=16, cols=1000, gb_s=2, error=1e-7),
                softmax("01_step", 10, rows=16, cols=1, gb_s=99, error=None)]
        one = softmax("02_step", 10, rows=16, cols=1024, gb_s=5)  # one length is no curve
        self.assertEqual(draw.lengths(self.view(rows + [one])).files["curves"], draw.lengths(self.view(rows)).files["curves"])
        picture = draw.lengths(self.view(rows))
        self.assertEqual(picture.files["curves"], [[(1024, 40, "c"), (2048, 40, "c")], [(1024, 3, "1"), (2048, 4, "1")]])
        self.assertEqual(picture.files["rings"], [[(1000, 2, 1)]])
        self.assertEqual(picture.settings["log"], True)  # the copy is ten times as fast
        self.assertEqual(draw.error(self.view(rows)).files["curves"], [[(1024, 2e-7, "1"), (2048, 3e-7, "1")]])
        with self.assertRaises(draw.NothingToDraw):
            draw.lengths(self.view(rows), "fp16")

    def test_cliffs(self):
        rows = [softmax("01_step", 10, rows=16384 >> i, cols=128 << i) for i in range(12)]
        settings = draw.lengths(self.view(rows)).settings
        self.assertEqual([round(settings["cliff%d" % i]) for i in (1, 2, 3)], [776, 6206, 24824])

    def test_a_token(self):
        """In bf16, if it is there; percent is of reading."""
        token = dict(results.TOKEN, ceiling="read", useful_bytes=100.0)
        ran = (("25_step", "fp32", 9, 100), ("25_step", "bf16", 200, 400), ("25_step", "fp16", 7, 1),
               ("28_step", "fp16", 1000, 100))
        rows = [attention(step, 1, **dict(token, dtype=dtype, gb_s=speed, percent=speed / 20, predicted_bytes=moved))
                for step, dtype, speed, moved in ran]
        rows += [attention("07_step", 1), attention("26_step", 1, **dict(token, seq_k=4096, gb_s=1, percent=1))]
        picture = draw.token(self.view(rows))
        self.assertEqual([bar[1:6] for bar in picture.files["bars"][0]],
                         [("25_step", 200, 25, 500, "10 %  200 GB/s"), ("28_step", 1000, 28, 2000, "50 %  1000 GB/s")])
        with self.assertRaises(draw.NothingToDraw):
            draw.token(self.view(rows[:3]))

    def test_attention(self):
        rows = [attention("07_step", 68.719476736, moved=10, exps=3), attention("08_step", 34.359738368, moved=5, exps=2),
                attention("08_step", 34.359738368 / 4, seq=2048)]
        bars = draw.attention_steps(self.view(rows)).files["bars"][0]
        self.assertEqual([(b[1], round(b[3], 3), round(b[4], 3), round(b[5]), b[7]) for b in bars], [
            ("07_step", 68.719, 137.439, 671088640, "68.7 ms, 1.00 TFLOP/s, 41 % of fma"),
            ("08_step", 34.36, 137.439, 335544320, "34.4 ms, 2.00 TFLOP/s, 41 % of fma")])
        picture = draw.attention_tflops(self.view(rows), 64)
        self.assertEqual([[(x, round(y, 3)) for x, y, _ in block] for block in picture.files["p1curves"]],
                         [[(4096, 1000)], [(2048, 2000), (4096, 2000)]])
        self.assertEqual((picture.settings["unit"], picture.settings["limit"]), ("GFLOP/s", 500))
        points = draw.roofline(self.view(rows)).files["points"][0]
        self.assertEqual([(round(x, 3), round(y), lt) for x, y, lt in points], [(102.4, 1000, 7), (204.8, 2000, 8)])
        rows = [attention("08_step", 1, input="normal, scale %d" % s, error=e, tolerance=2 * e) for s,
                e in ((1, 1e-3), (2, 3e-3))]
        self.assertEqual(draw.attention_scale(self.view(rows)).files["curves"], [[(8, 1e-3, 2e-3), (16, 3e-3, 6e-3)]])
        rows += [dict(row, step="07_step") for row in rows]
        self.assertEqual(draw.attention_scale(self.view(rows), "fp32", (7,)).settings["text1"], "07_step")
        with self.assertRaises(draw.NothingToDraw):
            draw.attention_scale(self.view(rows), "fp32", (7, 9))

    def test_labels_keep_apart(self):
        picture = draw.Picture("lengths", "", "", "")
        picture.labels({"01_a": (1, 99.0), "02_b": (1, 99.5), "03_c": (1, 1)}, 0, 110, 2, False)
        ys = [picture.settings["y%d" % i] for i in (1, 2, 3)]
        self.assertEqual(ys, [1, 99, 104])


@unittest.skipUnless(shutil.which("gnuplot"), "no gnuplot here: nothing is drawn")
class Drawing(Case):
    def table(self, rows, device=CPU):
        self.write("t.tsv", text_of([dict(row, device=device) for row in rows], device, FACTS))
        return results.Table("t.tsv")

    def svg(self, picture):
        picture.draw(self.folder + "/p.svg")
        return self.read("p.svg")

    def dumb(self, picture):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            picture.draw("dumb")
        return out.getvalue()

    def test_names_are_shown_as_they_are_and_do_nothing(self):
        names = ["`touch x`", 'a"b', "a'b", "a\\b", "a\\nb", "x@y_z {u} ^2 %g $(touch x)", "<b>&amp;", "\u00fc",
                 "'; system('touch x') #", "| touch x"]
        for name in names:
            table = self.table([softmax("01_step", 10), attention("07_step", 10)], name)
            for make in (draw.steps, draw.attention_steps):
                picture = make(results.View(table, 2))
                self.assertIn(name.replace("&", "&amp;").replace("<", "&lt;"), self.svg(picture))
                self.assertIn(name, self.dumb(picture))
        self.assertEqual(sorted(os.listdir(".")), ["p.svg", "steps", "t.tsv"])
        self.assertFalse(os.path.exists(os.path.join(os.path.dirname(HERE), "x")))

    def test_any_number_of_bars_in_the_terminal(self):
        for count in (1, 2, 6):
            table = self.table([softmax(step, 10) for step in STEPS[:count]] + [attention("%02d_step" % n, 10)
                                                                                for n in range(7, 7 + count)])
            for make, first in ((draw.steps, "01_step"), (draw.attention_steps, "07_step")):
                text = self.dumb(make(results.View(table, 2)))
                self.assertEqual(len(re.findall(r"\d\d_step", text)), count)
                self.assertIn(first, text)

    def test_every_script_draws(self):
        rows = [softmax(step, 10 + i, rows=16384 >> i, cols=8192 << i, dtype=dtype) for step in STEPS for i in range(-6, 4)
                for dtype in ("fp32", "fp16") for i in [max(i, 0)]]
        rows += [attention("%02d_step" % n, 10, seq=512 << i, batch=32 >> i, causal=c) for n in (7, 8) for i in range(6)
                 for c in (0, 1)]
        rows += [attention("08_step", 1, input="normal, scale %d" % s) for s in (1, 2, 4)]
        pictures = list(draw.pictures(self.table(rows)).values())
        self.assertEqual({p.script for p in pictures} | {"timeline", "panels"},
                         {f[:-3] for f in os.listdir(HERE) if f.endswith(".gp")} - {"style", "labels"})
        for picture in pictures:
            self.assertIn("</svg>", self.svg(picture))

    def test_gradients_have_pictures_of_their_own(self):
        rows = [attention(step, 50, seq=1024 << k) for step in ("07_step", "08_step", "09_backward") for k in range(3)]
        rows += [attention("09_backward", 1, input="normal, scale %d" % s, error=1e-3) for s in (1, 2)]
        rows += [softmax("01_step", 1), softmax("06_backward", 1)]
        drawn = {name: str(vars(picture)) for name, picture in draw.pictures(self.table(rows)).items()}
        self.assertEqual([name for name, text in drawn.items() if "_backward" in text], ["gradient-tflops-dim64"])
        self.assertNotIn("08_step", drawn["gradient-tflops-dim64"])

    def test_the_window_of_a_timeline(self):
        marks = ["%d\t%d\t%d\t%d\t%d\t%s\t%d\t%d\t-" % (w, b, t, t + 10, t + 20, "-" if b == 0 else t + 30, t + 50, t)
                 for w in (0, 1) for b in range(30) for t in [100 * b + 50 * w]]
        self.write("marks.txt", "# device: GPU\n" + "\n".join(marks) + "\n")
        picture = draw.timeline("marks.txt", "--dim 64")
        self.assertEqual(picture.below, "GPU, step 29, --dim 64: a block of keys takes 100 clocks")
        self.assertEqual([(b[0], b[1]) for b in picture.files["bars"][0][:2] + picture.files["bars"][0][7:9]],
                         [(0, 20), (100, 120), (700, 720), (50, 70)])
        self.assertEqual([c[2] for c in picture.files["copies"][0]], [str(n) for n in [*range(10, 19), *range(10, 18)]])
        self.assertIn("</svg>", self.svg(picture))
        self.write("marks.txt", marks[0] + "\n")
        with self.assertRaises(results.Problem):
            draw.timeline("marks.txt")

    def test_where_nothing_can_be_drawn_that_is_said(self):
        self.write("t.tsv", text_of([softmax("01_step", 10, input="masked")], CPU, FACTS))
        status, out, err = self.run_tool("plots", "t.tsv")
        self.assertEqual((status, out, err), (0, "nothing to draw of t: too few right results on random input\n", ""))

    def test_a_picture_that_cannot_be_drawn_is_an_error(self):
        with self.assertRaises(results.Problem):
            draw.Picture("absent", "", "", "").draw(self.folder + "/p.svg")
        self.assertFalse(os.path.exists("p.svg"))


class Recorded(unittest.TestCase):
    def test_no_program_leaves_a_folder_of_its_own(self):  # `make record` would refuse a tree with changes
        there = os.path.exists(os.path.join(HERE, "__pycache__"))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        said = subprocess.run([sys.executable, os.path.join(HERE, "results.py"), "plots", "absent"], env=environment,
                              stderr=subprocess.DEVNULL)
        self.assertEqual(said.returncode, 1)
        self.assertEqual(os.path.exists(os.path.join(HERE, "__pycache__")), there)

    def test_columns_are_those_of_the_program_that_writes_them(self):
        source = results.read(os.path.join(results.ROOT, "common/harness/report.c"))
        fields = re.search(r"struct field all\[\] = \{(.*?)\n    \};", source, re.S)[1]
        self.assertEqual(re.findall(r'\{ "(\w+)",', fields), COLUMNS)

    def test_part_3(self):
        """Points are what is recorded, and lines what the model says; where there is one node, there is no ring of rings."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(results.ROOT)
        ranks, lengths, decoding = draw.ring_ranks(16), draw.ring_lengths(2048), draw.decoding()
        time = draw.decoding_time()
        dots = [[(x, round(y)) for x, y in block] for block in ranks.files["p1dots"]]
        self.assertEqual(dots, [[(2, 94)], [(2, 67), (2, 69)], [(2, 88), (2, 82)]])
        self.assertEqual([(x, round(y)) for x, y, _ in ranks.files["p1apart"][0]], [(4, 87), (4, 70), (4, 73), (4, 70), (4, 73)])
        self.assertEqual([x for x, _ in ranks.files["p2curves"][0]], [1, 2, 4, 8, 16])
        self.assertEqual([sum(y != y for _, y in block) for block in lengths.files["p1curves"]], [0, 0, 0, 0, 3, 3, 0, 0])
        self.assertEqual([len(block) for block in decoding.files["p1curves"] + decoding.files["p2dots"]], 5 * [4] + [0] + 4 * [9])
        self.assertEqual(decoding.files["p1curves"][1][0], (1024, 487))
        self.assertEqual([len(block) for block in time.files["p1curves"] + time.files["p2curves"]], 4 * [3] + 4 * [4])
        self.assertEqual([(x, round(y, 2)) for x, y in time.files["p2curves"][1]][:2], [(1024, 3.14), (8192, 3.43)])
        if shutil.which("gnuplot"):
            with tempfile.TemporaryDirectory() as folder:
                for picture in (ranks, lengths, decoding, time):
                    picture.draw(folder + "/p.svg")
                    self.assertIn("</svg>", results.read(folder + "/p.svg"))

    def test_each_recorded_file_is_used_and_each_that_is_named_is_there(self):
        """Pictures are shown by a page, tables are read by the tables of pages, and other text is named in README.md, beside."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(results.ROOT)
        here = set(os.listdir("plots/recorded"))
        named = {n for page in results.pages() for n in re.findall(r"(?:recorded/|`)([\w.-]+\.txt)", results.read(page))
                 if "*" not in n}
        self.assertEqual({f for f in here if not f.endswith((".tsv", ".txt"))}, draw.shown_pictures())
        self.assertEqual({f for f in here if f.endswith(".txt")} - named, set())
        linked = {n for page in results.pages() for n in re.findall(r"plots/recorded/([\w.-]+\.(?:txt|tsv))\)",
                                                                    results.read(page))}
        self.assertEqual(linked - here, set())
        self.assertEqual({f for f in here if f.endswith(".tsv")}, {os.path.basename(t) for t in re.findall(
            r"plots/recorded/[\w.-]+\.tsv", results.read("plots/README.md")) if "/M." not in t})


if __name__ == "__main__":
    unittest.main()
