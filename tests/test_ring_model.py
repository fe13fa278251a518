#!/usr/bin/env python3
"""`make scaling`: the model of a ring against what was recorded, and against what can be counted by hand. Run by run.sh."""
import contextlib, dataclasses, io, os, pathlib, sys, tempfile, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "plots"))
import ring_model
from ring_model import Ring, all_to_all, efficiency, simulate

# 8 ranks in 2 nodes. A block without a mask takes 1 s, and a hop nothing: FLOPs are 4 * 2^20, bytes 2^14.
EASY = Ring(ranks=8, seq=8192, heads=1, kv_heads=1, dim=1, bytes=8, mask="none", rate=2.0 ** 22, memory=1, link=(0, 1e99),
            between=(0, 1e99), node=4, merge=0)


def easy(**changes):
    return dataclasses.replace(EASY, **changes)


def run(*words):
    """(status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = ring_model.main(list(words))
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


class RingModel(unittest.TestCase):
    def setUp(self):
        os.chdir(ROOT)

    def test_it_is_held_to_what_was_recorded(self):
        """Step 68's times of two ranks with a core each, masked and not, within 10 %, and all of two GPUs; step 69's on cores are
        missed, as the table says. Balance: of all."""
        points = list(ring_model.recorded())
        self.assertTrue(ring_model.held(points))
        self.assertEqual([(p.ranks, p.what[:2]) for p in points if not p.why],
                         [(2, step) for step in ("68", "68", "68", "70", "70", "70", "69", "68")])
        missed = [p for p in points if p.why == ring_model.MISSED]
        self.assertEqual([(p.ranks, p.what[:2]) for p in missed], [(2, "69")] * 3)
        for p in missed:
            self.assertLess(p.ms_said / p.ms, 1 - ring_model.WITHIN, p)
        self.assertEqual([p.ranks for p in points if p.balance], [2, 2, 4, 7, 4, 4, 2, 4, 2] + [2] * 5)

    def test_it_predicts_nothing_when_it_misses(self):
        kept = ring_model.RECORDS
        text = (ROOT / kept[0][0]).read_text()
        for old, new in (("2: 156.9 ms", "2: 169.9 ms"), ("2: 124.6 ms", "2: 114.6 ms"), ("average 69 %", "average 98 %"),
                         ("average 61 %", "average 98 %")):
            self.assertEqual(text.count(old), 1)
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
                file.write(text.replace(old, new))
                file.flush()
                ring_model.RECORDS = ((file.name, *kept[0][1:]), *kept[1:])
                try:
                    status, out, err = run("--ranks", "8")
                finally:
                    ring_model.RECORDS = kept
            self.assertEqual((status, err.count("\n"), "ring of rings" in out), (1, 1, False), old)
            self.assertIn("predicts nothing", err)

    def test_a_ring_without_a_mask(self):
        """n blocks computed, and n - 1 hops: beside them where they overlap, between them where not, the longer of the two where
        hops are longer. The last block has no hop."""
        hop = {"link": (0.25, 2.0 ** 14 / 0.5), "between": (0.25, 2.0 ** 14 / 0.5)}  # 0.75 s
        self.assertEqual(easy().block(), 2 ** 14)
        self.assertAlmostEqual(simulate(easy())[0], 8)
        self.assertAlmostEqual(simulate(easy(**hop))[0], 8)
        self.assertAlmostEqual(simulate(easy(**hop, overlap=False))[0], 8 + 7 * 0.75)
        self.assertAlmostEqual(simulate(easy(**hop, rate=2.0 ** 23))[0], 7 * 0.75 + 0.5)
        self.assertAlmostEqual(efficiency(easy(**hop, rate=2.0 ** 23)), 4 / 5.75)

    def test_cores_are_shared(self):
        """8 ranks on 2 cores: four blocks a core and pass, and as many hops."""
        hop = {"link": (0, 2.0 ** 14 / 0.5), "between": (0, 2.0 ** 14 / 0.5), "overlap": False}
        self.assertAlmostEqual(simulate(easy(cores=2, **hop))[0], 4 * (8 + 7 * 0.5))
        # Consecutive pieces: in pass p, 8 - p ranks have work; in the first, half as much.
        passes = [4 * 0.5] + [max(1, (8 - p) / 2) for p in range(1, 8)]
        self.assertAlmostEqual(simulate(easy(cores=2, mask="causal"))[0], sum(passes), delta=0.01)

    def test_a_merge_is_memory(self):
        """A block's merge takes 12 bytes a number of O, but not the first block's."""
        self.assertAlmostEqual(simulate(easy(merge=12, memory=12 * 1024 / 0.125))[0], 8 + 7 * 0.125)

    def test_balance(self):
        """Consecutive pieces: n / (2n - 1). Zigzag: even, and the sum of the work is the same. In one ring and in a ring of
        rings: so every rank has had every block once."""
        for rings in (False, True):
            seconds, balance = simulate(easy(mask="causal", rings=rings))
            self.assertAlmostEqual(balance, 8 / 15, delta=1e-3)
            self.assertAlmostEqual(seconds, 7.5, delta=0.01)
            seconds, balance = simulate(easy(mask="zigzag", rings=rings))
            self.assertAlmostEqual(balance, 1, delta=1e-9)
            self.assertAlmostEqual(efficiency(easy(mask="zigzag"), seconds), 1, delta=1e-9)
        self.assertLess(simulate(easy(mask="zigzag", merge=12, memory=1e4))[1], 0.9)  # of earlier blocks more rows are merged

    def test_a_ring_of_rings_has_a_node_s_time_for_a_hop_between_nodes(self):
        slow = {"between": (3.5, 1e99)}
        self.assertAlmostEqual(simulate(easy(**slow))[0], 7 * 3.5 + 1)
        self.assertAlmostEqual(simulate(easy(**slow, rings=True))[0], 8)
        self.assertAlmostEqual(simulate(easy(between=(5, 1e99), rings=True))[0], 5 + 4)

    def test_all_to_all(self):
        """4 of 8 ranks have a head of K and V each: two groups, in a ring of two. What leaves a rank is 3/4 of Q, K, V and O."""
        s = easy(heads=8, kv_heads=4, link=(0, 2.0 ** 17))
        self.assertAlmostEqual(all_to_all(s), 64 + 2 * 12 * 1024 * 8 * 3 / 4 / 2 ** 17)
        self.assertAlmostEqual(all_to_all(easy(heads=8, link=(9, 1))), 64)  # one head of K and V: a ring, and no more

    def test_what_is_sent(self):
        """By hand: t d b is 2^13 bytes of 8 ranks. 8 heads of Q on 8, 4 and 1 of K and V; and one that no 8 ranks can share."""
        byte = 2 ** 13
        for heads, kv_heads, said in ((8, 8, (7 * 16, 2 * 16 * 7 / 8, None)), (16, 4, (7 * 8, None, 2 * 24 * 7 / 8)),
                                      (8, 1, (7 * 2, None, 2 * 16 * 7 / 8)), (4, 4, (7 * 8, None, None)),
                                      (12, 12, (7 * 24, None, None))):
            with self.subTest(heads=heads, kv_heads=kv_heads):
                sent = ring_model.sent(easy(heads=heads, kv_heads=kv_heads))
                self.assertEqual(sent, tuple(x and x * byte for x in said))
        self.assertEqual(ring_model.sent(easy(ranks=1))[:2], (0, 0))

    def test_noise_costs_a_ring_little_more_than_its_mean(self):
        seconds = simulate(easy(ranks=64, seq=65536, jitter=0.1))[0]
        self.assertTrue(64 * 1.1 < seconds < 64 * 1.2, seconds)

    def test_wrong_usage_is_one_line(self):
        for words, said in (("--ranks 0", "--ranks: '0': a whole number from 1 to 4096 is allowed"), ("--ranks 8,x", "'x'"),
                            ("--ranks 12", "'12': at most --node, which is 8, or a multiple"), ("--seq 1e6", "'1e6'"),
                            ("--heads 9", "'9': a multiple of --kv-heads"), ("--rate -1", "'-1'"), ("--mask zagzig", "'zagzig'"),
                            ("--bogus", "--bogus"), ("--dim", "--dim"), ("3", "3")):
            status, out, err = run(*words.split())
            self.assertEqual((status, out, err.count("\n")), (2, "", 1), words)
            self.assertIn("scaling: ", err)
            self.assertIn(said, err)

    def test_what_is_printed(self):
        status, out, err = run("--ranks", "8,64", "--tokens", "8Ki", "--mask", "none", "--merge", "0")
        self.assertEqual((status, err), (0, ""))
        rows = [line.split() for line in out.split("\n") if line.startswith(("8 ", "64 "))]
        self.assertEqual([row[:3] for row in rows[:2]], [["8", "8", "Ki"], ["64", "8", "Ki"]])
        self.assertEqual([row[7:9] for row in rows[:2]], [["100.0", "%"]] * 2)
        self.assertEqual(rows[2:], [["8", "0.235", "0.147", "-", "0.625"], ["64", "2.11", "-", "-", "-"]])


if __name__ == "__main__":
    unittest.main()
