#!/usr/bin/env python3
"""Rings on GPUs: what goes wrong ends the run, in a line, and leaves nobody behind. Skipped where there is no GPU that runs them.
Run by run.sh."""
import os, pathlib, signal, subprocess, time, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
B = os.environ.get("B") or "build/cpu"
RING = "%s/37_overlapped_ring" % B
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


def environment(pid):
    try:
        return (pathlib.Path("/proc") / pid / "environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or another's
        return []


WHY_NOT = why_not()


@unittest.skipIf(WHY_NOT, WHY_NOT)
class RingGpu(unittest.TestCase):
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
        mark = "%d-%f" % (os.getpid(), time.time())
        process = subprocess.Popen([RING, *LONG, "--ranks", "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env={**ENV, "THIS_TEST": mark, "RING_SHARE": "1", **env})
        self.mark, ranks = ("THIS_TEST=" + mark).encode(), {}
        self.addCleanup(self.end_what_is_left)
        for _ in range(300):
            time.sleep(0.1)
            ranks = {int(word.split(b"=")[1].split()[0]): int(pid) for pid in self.left() for word in environment(pid)
                     if word.startswith(b"RING_RANK=")}
            if len(ranks) == 2:
                break
        self.assertEqual(len(ranks), 2)
        time.sleep(4)  # now they are at work
        return process, ranks

    def left(self):
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and self.mark in environment(pid)]

    def end_what_is_left(self):
        for pid in self.left():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def assert_nobody_is_left(self):
        for _ in range(100):
            if not self.left():
                return
            time.sleep(0.1)
        self.fail("%d processes are left" % len(self.left()))

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
