"""For tests of rings: ranks are processes, found by a mark in their environment, and a test may leave none of them behind."""
import os, pathlib, signal, subprocess, time, unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def environment(pid):
    try:
        return (pathlib.Path("/proc") / pid / "environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or another's
        return []


class Ranks(unittest.TestCase):
    def begin_ranks(self, command, count, number, seconds, env):
        """What starts `count` ranks, and their process ids, when they have been at work for some seconds. number: the variable
        of a rank's environment that begins with its number."""
        mark, name = "%d-%f" % (os.getpid(), time.time()), number.encode() + b"="
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**env, "THIS_TEST": mark})
        self.mark, ranks = ("THIS_TEST=" + mark).encode(), {}
        self.addCleanup(self.end_what_is_left)
        for _ in range(300):
            time.sleep(0.1)
            ranks = {int(word[len(name):].split()[0]): int(pid) for pid in self.left() for word in environment(pid)
                     if word.startswith(name)}
            if len(ranks) == count:
                break
        self.assertEqual(len(ranks), count)
        time.sleep(seconds)
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
