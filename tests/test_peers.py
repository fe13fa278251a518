#!/usr/bin/env python3
"""What make peers calls by a step's name is that step: nothing else can be seen of it without a GPU and PyTorch."""
import os
import sys
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "common", "scripts"))
import backward_peers


class Peers(unittest.TestCase):
    def test_each_name_runs_its_own_step(self):
        steps = [("32_one", "launch of 32"), ("33_two", "launch of 33")]
        with mock.patch.object(backward_peers, "our_steps", return_value=steps), \
                mock.patch.object(backward_peers, "our_step", side_effect=lambda _, __, idea, launch, *rest: (idea, launch)):
            problem = mock.MagicMock(dtype="bf16", tokens=8)
            ours = list(backward_peers.our_gradients(mock.MagicMock(), None, None, problem))
            self.assertEqual([(name, start()) for name, start in ours],
                             [("32_one", ("one", "launch of 32")), ("33_two", ("two", "launch of 33"))])


if __name__ == "__main__":
    unittest.main()
