#!/usr/bin/env python3
"""Rings whose ranks mpirun starts, on one machine and on two: the same bits as over shared memory, and what goes wrong. Skipped
where there is no Open MPI, or the programs were built without it. Run by run.sh."""
import json, os, pathlib, shutil, signal, socket, subprocess, tempfile, unittest

from ranks import ROOT, Ranks

B = os.environ.get("B") or "build/cpu"
RINGS = [path.parent.name for path in sorted(ROOT.glob("steps/*/main.c")) if ".ring = " in path.read_text(encoding="utf-8")]
RANKS = (1, 2, 3, 4, 7)  # more than there are cores, in many a machine
SHAPE = "--device cpu --causal --heads 6 --kv-heads 2 --seq-q 133 --seq-k 165 --dim 33 --reps 1 --seed 1 --json".split()
LONG = "--device cpu --seq 4096 --budget 60 --reps 1000".split()
ENV = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "RESULTS": os.devnull,
       "OMP_WAIT_POLICY": "passive", "FLUSH_LIMIT": "1"}


def why_not():
    version = shutil.which("mpirun") and subprocess.run(["mpirun", "--version"], stdout=subprocess.PIPE, env=ENV).stdout
    if not version or b"Open MPI" not in version:
        return "no Open MPI is here; `make setup MPI=1` installs it"
    for ring in RINGS:
        if b"MPI_Init" not in (ROOT / B / ring).read_bytes():
            return "%s/%s was built without MPI" % (B, ring)


def mpirun(ranks, ring, words, quiet=True, then=()):
    """What runs it: -q, so that what is said is what the program says."""
    return ["mpirun"] + ["-q"] * quiet + ["--oversubscribe", "--bind-to", "none", "-np", str(ranks), "%s/%s" % (B, ring),
                                          *words, *then]


def on_two_machines(ranks, *program):
    """Half of the ranks on each; the second is made for it."""
    return ["common/scripts/machines.sh", "10gbit", str(ranks // 2), *program]


def run(command, **env):
    return subprocess.run(command, cwd=ROOT, env={**ENV, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60)


@unittest.skipIf(why_not(), why_not())
class Mpi(Ranks):
    def the_same_bits(self, start, numbers):
        for ring in RINGS:
            for ranks in numbers:
                with self.subTest(ring=ring, ranks=ranks), tempfile.TemporaryDirectory() as folder:
                    files = lambda name: ["--out", "%s/%s-O.npy" % (folder, name), "--lse", "%s/%s-lse.npy" % (folder, name)]
                    mpi = run(start(ranks, ring, [*SHAPE, *files("mpi")]))
                    self.assertEqual((mpi.returncode, mpi.stderr), (0, ""))
                    self.assertEqual(json.loads(mpi.stdout.splitlines()[0])["verdict"], "pass")
                    alone = run(["%s/%s" % (B, ring), *SHAPE, "--ranks", str(ranks), *files("shared")], SMALL_PROBLEMS="0")
                    self.assertEqual(alone.returncode, 0, alone.stderr)
                    for what in "O", "lse":
                        one, two = (pathlib.Path(folder, "%s-%s.npy" % (by, what)).read_bytes() for by in ("mpi", "shared"))
                        self.assertEqual(one, two, what)

    def test_the_same_bits(self):
        """And 15 small problems each, right: ragged, grouped, masked, with more queries than keys."""
        self.the_same_bits(mpirun, RANKS)

    def test_the_same_bits_on_two_machines(self):
        self.needs_machines()
        self.the_same_bits(lambda ranks, ring, words: on_two_machines(ranks, "%s/%s" % (B, ring), *words), (2, 4))

    def needs_machines(self):
        made = run(on_two_machines(2, "/bin/true"))
        if made.returncode:
            self.skipTest(made.stderr.strip())

    def test_a_slow_cable(self):
        """Which a block that measures it crosses twice, and not thirty times."""
        self.needs_machines()
        slow = ["common/scripts/machines.sh", "30mbit", "1", "%s/%s" % (B, RINGS[0]), *"--seq 64 --reps 1 --device cpu".split()]
        self.assertEqual(run(slow, SMALL_PROBLEMS="0").returncode, 0)

    def test_what_two_machines_are_asked_for(self):
        for rate in "0mbit", "-1gbit", "nan", "1mbit", "99999gbit", "", "1gbit 2":
            self.fails(["common/scripts/machines.sh", rate, "1", "/bin/true"], 2, "RATE=%s: " % rate)
        for ranks in "0", "-1", "129", "1,3", "", "99999999999999999999":
            self.fails(["common/scripts/machines.sh", "1gbit", ranks, "/bin/true"], 2, "RANKS=%s: " % ranks)
        for step in "3", "13", "69 70":
            wrong = run(["make", "--no-print-directory", "CUDA=0", "B=" + B, "-o", "%s/%s" % (B, RINGS[0]), "machines",
                         "STEP=" + step])
            self.assertEqual(wrong.returncode, 2)
            self.assertIn("STEP=%s: " % step, wrong.stderr)

    def test_two_machines_leave_this_one_alone(self):
        """Neither a folder of mpirun's, in which another user's would collide; nor a name, whatever the environment says. And
        tc is found where users do not look."""
        self.needs_machines()
        path = os.pathsep.join([os.path.dirname(shutil.which("mpirun")), "/usr/bin", "/bin"])
        root = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
        with tempfile.TemporaryDirectory() as folder:
            done = run(["unshare", *root, "--net", "--mount", "--uts", "sh", "-c",
                        "IN_NAMESPACES=1 %s && hostname" % " ".join(on_two_machines(2, "/bin/true"))], TMPDIR=folder, PATH=path)
            self.assertEqual((done.returncode, done.stderr, os.listdir(folder)), (0, "", []))
            self.assertEqual(done.stdout.strip(), socket.gethostname())

    def fails(self, command, status, says, **env):
        done = run(command, **env)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (status, "", 1), done.stderr)
        self.assertIn(says, done.stderr)

    def test_what_is_wrong_is_said_once(self):
        self.fails(mpirun(3, RINGS[0], ["--sequence"]), 2, "unknown option '--sequence'")
        self.fails(mpirun(2, RINGS[0], ["--ranks", "3"]), 2, "--ranks 3: mpirun has started 2")

    def test_another_problem_on_another_rank(self):
        one = mpirun(1, RINGS[0], ["--seq", "100"])
        others = (RINGS[0], "--seq 101"), (RINGS[1], "--seq 100"), (RINGS[0], "--seq 100 --causal")
        for other, words in others:
            two = ["-np", "2", "%s/%s" % (B, other), *words.split()]
            self.fails([*one, ":", *two], 2, "rank 1 was started for %s with Q" % other)

    # ---- a rank is gone, or hangs: the run ends, and nobody is left

    def begin(self, quiet, command=None, ranks=3, **env):
        """Three ranks that compute for a minute: mpirun, and their process ids."""
        return self.begin_ranks(command or mpirun(ranks, RINGS[-1], LONG, quiet), ranks, "OMPI_COMM_WORLD_RANK", 3,
                                {**ENV, "SMALL_PROBLEMS": "0", **env})

    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "no /proc here")
    def test_a_rank_dies(self):
        process, ranks = self.begin(quiet=False)
        os.kill(ranks[1], signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
        self.assertNotEqual(process.returncode, 0)
        self.assertRegex(said, r"process rank 1 .*\(Killed\)")  # by mpirun
        self.assert_nobody_is_left()

    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "no /proc here")
    def test_a_rank_on_the_other_machine_dies(self):
        self.needs_machines()
        process, ranks = self.begin(True, on_two_machines(2, "%s/%s" % (B, RINGS[-1]), *LONG), 2)
        names = [os.readlink("/proc/%d/ns/%s" % (ranks[rank], kind)) for kind in ("net", "uts") for rank in (0, 1)]
        self.assertEqual(len(set(names)), 4)
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.assert_nobody_is_left()

    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "no /proc here")
    def test_a_rank_hangs(self):
        process, ranks = self.begin(quiet=True, RING_TIMEOUT="2")
        os.kill(ranks[1], signal.SIGSTOP)
        said = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 1, said)
        lines = [line for line in said.splitlines() if not line.startswith("[")]  # MPI tells of a copy that was cut off
        self.assertEqual(len(lines), 1, said)
        self.assertRegex(lines[0], r"^\S+: rank \d of 3: rank 1 has (sent|taken) no block for 2 s, and the run ends$")
        self.assert_nobody_is_left()

    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "no /proc here")
    def test_mpirun_dies(self):
        process, _ = self.begin(quiet=True)
        process.kill()
        process.communicate(timeout=60)
        self.assert_nobody_is_left()


if __name__ == "__main__":
    if why_not():
        print("rings over MPI: skipped: " + why_not())
    unittest.main()
