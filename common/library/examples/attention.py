"""Attention on numpy arrays, held to its definition: PYTHONPATH=PREFIX/share/from_softmax python3 attention.py"""
import numpy as np

import from_softmax as fs

random = np.random.default_rng(1)
q = random.standard_normal((2, 100, 8, 64), np.float32).swapaxes(1, 2)  # (batch, heads, seq, dim) of (batch, seq, heads, dim)
k, v = random.standard_normal((2, 2, 100, 2, 64), np.float32).swapaxes(2, 3)  # two heads, which four of q's share each

O, lse = fs.attention(q, k, v, causal=True, lse=True)

scores = q @ np.repeat(k, 4, axis=1).swapaxes(2, 3) / 8
scores[:, :, ~np.tri(100, dtype=bool)] = -np.inf
sums = np.exp(scores.astype(float)).sum(-1)
want = np.exp(scores) / sums[..., None] @ np.repeat(v, 4, axis=1)
worst = max(abs(O - want).max(), abs(lse - np.log(sums)).max())
print("from_softmax %s: off by %.1g" % (fs.version(), worst))

half = fs.softmax(scores[0, 0].astype(np.float16)).sum(-1, dtype=float)
print("softmax of fp16: rows sum up to %.3f at least, %.3f at most" % (half.min(), half.max()))
try:
    fs.attention(q, k, v, scale=float("nan"))
    raise SystemExit("a scale that is no number was taken")
except fs.Error as error:
    print("refused: %s" % error)
raise SystemExit(not worst < 1e-5)
