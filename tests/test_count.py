#!/usr/bin/env python3
"""COUNT=1: what every CPU step asks for is what its main.c claims, and a little more where its lesson says so. Run by run.sh."""
import os, pathlib, re, subprocess, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = "build/count"
ROWS, COLS, KEYS = 192, 4096, 1024  # whole chunks, blocks and tiles in every step, with AVX-512, too

# Exponentials besides the claim: for each element, or score.
BESIDES = {
    "03_online_softmax": -2 / COLS,                # the first merge of a row has nothing on its other side
    "04_vector_softmax": 64 / COLS,                # the lanes' states, at the end of a row
    "05_block_softmax": 2 / 512,                   # a merge for each block
    "06_resident_softmax": 1 / 512,                # a scale for each block
    "07_narrow_softmax": 1 / 512,
    "10_split_softmax": 1 / 512,
    "13_fused_attention": -3 / KEYS,               # the first key's merge, and its share of nothing
    "14_flash_attention": 1 / 128,                 # a rescale for each tile of keys
    "15_register_tiled_attention": 1 / 128,
    "33_decode_attention": 1 / 128,
    "34_split_attention": 1 / 128,
    "35_grouped_attention": 1 / 128,
    "41_paged_attention": 1 / 128,
    "68_ring_attention": 1 / 128 + 1 / KEYS,       # and one for each block that is merged: one, with two ranks
    "69_zigzag_ring": 1 / 128 + 3 / KEYS,          # and three for its four pieces
    "70_overlapped_ring": 1 / 128 + 3 / KEYS,
}
STEPS = [path.parent.name for path in sorted(ROOT.glob("steps/[0-9][0-9]_*/cpu.c"))][1:]  # without the ceilings
STEPS = [step for step in STEPS if step[:2] in os.environ.get("COUNTED", step)]  # for one test, of a mutant: COUNTED=03


def run(step, words, **more):
    return subprocess.run(["%s/%s" % (BUILD, step), *words.split()], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={**os.environ, "SMALL_PROBLEMS": "0", **more})


class Count(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "B", "CUDA")}
        subprocess.run(["make", "-s", "-j2", "COUNT=1"] + ["%s/%s" % (BUILD, step) for step in ["00_ceilings", *STEPS]],
                       cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, check=True)

    def counted(self, step, words):
        """(counted, claimed, merges of a row that raised its maximum, merges of a row) of what is asked for."""
        done = run(step, "--device cpu " + words)
        if "built without a CBLAS" in done.stdout:
            self.skipTest(step + ": no CBLAS")
        found = re.search(r"^    counted +(\S+) exps an? (?:element|score), claimed (\S+?)(?:; (\S+) of a row's (\S+) merges "
                          r"raised the maximum)?$", done.stdout, re.M)
        self.assertTrue(done.returncode == 0 and found, "%s %s: %s%s" % (step, words, done.stdout, done.stderr))
        self.assertNotRegex(done.stdout, r"\n    (time|bandwidth|step before) ")
        return [float(word or 0) for word in found.groups()]

    def test_what_is_claimed_is_done(self):
        for step in STEPS:
            with self.subTest(step):
                attention = "softmax" not in step
                words = "--heads 2 --seq-q %d --seq-k %d" % (ROWS, KEYS) if attention else "--rows %d --cols %d" % (ROWS, COLS)
                # in step 10 threads share a row that no cache holds, and only then is the claim what is done
                counted, claimed, *_ = self.counted(step, "--rows 1 --cols 16Mi" if step[:2] == "10" else words)
                self.assertAlmostEqual(counted, claimed + BESIDES.get(step, 0), delta=1e-4 * claimed)

    def test_a_thread_a_row_is_step_07(self):
        self.assertAlmostEqual(self.counted("10_split_softmax", "--rows 96 --cols 4096")[0], 1 + 1 / 512, delta=1e-4)

    def test_merges(self):
        """A rising row raises its maximum with nearly every element, a falling one with the first alone."""
        for words, low, high in ("--input falling", 1, 60), ("--input rising", 1000, 4096), ("", 6, 12):
            for threads in 1, 2:
                asked = "%s --rows 96 --cols 4096 --threads %d" % (words, threads)
                if subprocess.run(["nproc"], stdout=subprocess.PIPE).stdout.strip() == b"1" and threads > 1:
                    continue
                raised, merges = self.counted("03_online_softmax", asked)[2:]
                self.assertEqual(merges, 4096)
                self.assertTrue(low <= raised <= high, "%s: %g" % (asked, raised))

    def test_narrow(self):
        for dtype in "fp16", "bf16":
            words = "--rows 96 --cols 4096 --dtype " + dtype
            self.assertAlmostEqual(self.counted("07_narrow_softmax", words)[0], 1 + 1 / 512, delta=1e-4)

    def test_nothing_is_timed_or_recorded(self):
        table = ROOT / BUILD / "no-results.tsv"
        run("02_safe_softmax", "--rows 8 --cols 8 --device cpu", RESULTS=str(table))
        self.assertFalse(table.exists())
        for option in "json", "noise", "sweep":
            done = run("02_safe_softmax", "--" + option)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))
            self.assertIn("--%s: COUNT=1" % option, done.stderr)
        done = run("00_ceilings", "")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))


if __name__ == "__main__":
    unittest.main()
