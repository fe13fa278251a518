#!/usr/bin/env python3
"""Makes dq.npy, dk.npy and dv.npy, here: what torch.autograd says of causal attention with q.npy, k.npy and v.npy, where dO = Q.

The attention is written out, in fp64, and its gradients are held to finite differences of it before anything is written. Needs
numpy and torch."""
import pathlib

import numpy as np, torch

HERE = pathlib.Path(__file__).parent
q, k, v = (torch.from_numpy(np.load(HERE / (name + ".npy"))).double() for name in "qkv")
change = q.clone()
for tensor in q, k, v:
    tensor.requires_grad_(True)


def loss(q, k, v):
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) / q.shape[3] ** 0.5
    later = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -torch.inf).softmax(-1) @ v.repeat_interleave(group, 1) * change).sum()


loss(q, k, v).backward()
generator, step = torch.Generator().manual_seed(1), 1e-4
for number, tensor in enumerate((q, k, v)):
    for _ in range(20):  # along a random direction
        along = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in 1, -1:
            moved = [t.detach() + (sign * step * along if i == number else 0) for i, t in enumerate((q, k, v))]
            ends.append(loss(*moved).item())
        found, want = (ends[0] - ends[1]) / (2 * step), (tensor.grad * along).sum().item()
        if abs(found - want) > 1e-5 * (tensor.grad * along).norm().item():
            raise SystemExit("%s: finite differences %.9g, autograd %.9g" % ("qkv"[number], found, want))
for name, tensor in zip("qkv", (q, k, v)):
    np.save(HERE / ("d%s.npy" % name), tensor.grad.numpy().astype(np.float16))
    print("d%s: %.4g to %.4g" % (name, tensor.grad.min(), tensor.grad.max()))
