#!/usr/bin/env python3
"""Rings on GPUs: what goes wrong ends the run, in a line, and leaves nobody behind. Skipped where there is no GPU that runs them.
Run by run.sh."""
import os, signal, subprocess, unittest

from ranks import ROOT, Ranks

B = os.environ.get("B") or "build/cpu"
RING = "%s/70_overlapped_ring" % B
WORDS = "--device gpu --dtype bf16 --dim 128 --heads 8".split()
LONG = WORDS + "--seq 16384 --budget 60 --reps 100000".split()
ENV = {**os.environ, "RESULTS": os.devnull, "SMALL_PROBLEMS": "0", "OMP_WAIT_POLICY": "passive"}


def run(words, **env):
    return subprocess.run([RING, *words], cwd=ROOT, env={**ENV, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60)


def why_not():
    if not B.endswith("cuda") or not (ROOT / RING).exists():
        return "%s has none" % B
    done = run([*WORDS, "--seq", "64", "--reps", "1", "--ranks", "1"])
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()[-1]


WHY_NOT = why_not()


@unittest.skipIf(WHY_NOT, WHY_NOT)
class RingGpu(Ranks):
    def test_more_ranks_than_gpus(self):
        """Said in a line; with --device gpu the status says so, too."""
        done = run([*WORDS, "--seq", "64", "--ranks", "200"])
        self.assertEqual((done.returncode, (done.stdout + done.stderr).count("200 ranks take a GPU each, and this machine has")),
                         (1, 1))
        done = run([*WORDS[2:], "--seq", "64", "--ranks", "200"])
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_shared_gpus(self):
        for ranks in "2", "3":
            done = run([*WORDS, "--causal", "--seq", "300", "--reps", "1", "--ranks", ranks], RING_SHARE="1")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def begin(self, **env):
        """Two ranks at work for a minute: the process, and the ranks' ids."""
        return self.begin_ranks([RING, *LONG, "--ranks", "2"], 2, "RING_RANK", 4, {**ENV, "RING_SHARE": "1", **env})

    def ends(self, process, says):
        said = process.communicate(timeout=60)[1]
        self.assertEqual((process.returncode, said.count("\n")), (1, 1), said)
        self.assertRegex(said, says)
        self.assert_nobody_is_left()

    def test_a_rank_dies(self):
        process, ranks = self.begin()
        os.kill(ranks[1], signal.SIGKILL)
        self.ends(process, r"rank 1 of 2 died: Killed; the others are ended$")

    def test_a_rank_hangs(self):
        process, ranks = self.begin(RING_TIMEOUT="2")
        os.kill(ranks[1], signal.SIGSTOP)
        self.ends(process, r"rank 0 of 2: rank 1 has (sent|taken) no block for 2 s, and the run ends$")

    def test_their_parent_dies(self):
        process, _ = self.begin()
        process.kill()
        process.communicate(timeout=60)
        self.assert_nobody_is_left()


if __name__ == "__main__":
    if WHY_NOT:
        print("rings on GPUs: skipped: " + WHY_NOT)
    unittest.main()
