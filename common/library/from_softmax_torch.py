"""from_softmax as an operator of PyTorch, without compiling anything against it: torch.library over from_softmax.py's ctypes.

    from from_softmax_torch import scaled_dot_product_attention   # takes what torch.nn.functional's takes
    with everywhere():                                            # or in its place, in code that calls that by name
        model(tokens)

What the library does not have (a mask that is a tensor, dropout, other types and devices, heads above 256) goes to PyTorch's own,
and on a GPU heads above 128 in 16 bits, which it computes in fp32. Gradients are of the same library; there are none of
gradients. torch.compile takes the operator as it is.
"""
import contextlib
import math
from typing import Optional, Tuple

import torch
from torch import Tensor

import from_softmax as fs

theirs = torch.nn.functional.scaled_dot_product_attention
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _rows(x):
    """A tensor whose rows the library can read as they lie, and which repeats none; a copy where this one is not."""
    fine = x.shape[-1] == 1 or x.stride(-1) == 1
    return x if fine and all(n == 1 or stride > 0 for n, stride in zip(x.shape, x.stride())) else x.contiguous()


@torch.library.custom_op("from_softmax::attention", mutates_args=(), device_types=("cpu", "cuda"))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tuple[Tensor, Tensor]:
    """O and lse; causal: the last query sees the last key."""
    with torch.no_grad():  # whoever calls this takes care of gradients
        return fs.attention(_rows(q), _rows(k), _rows(v), causal, scale, lse=True)


@attention.register_fake
def _(q, k, v, causal, scale):
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("from_softmax::attention_backward", mutates_args=(), device_types=("cpu", "cuda"))
def attention_backward(q: Tensor, k: Tensor, v: Tensor, O: Tensor, lse: Tensor, dO: Tensor, dlse: Optional[Tensor], causal: bool,
                       scale: float) -> Tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        return fs.attention_backward(_rows(q), _rows(k), _rows(v), _rows(O), lse.contiguous(), _rows(dO),
                                     None if dlse is None else dlse.contiguous(), causal, scale)


@attention_backward.register_fake
def _(q, k, v, O, lse, dO, dlse, causal, scale):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx, inputs, output):
    q, k, v, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx, dO, dlse):
    q, k, v, O, lse = ctx.saved_tensors
    dO = torch.zeros_like(O) if dO is None else dO
    return (*torch.ops.from_softmax.attention_backward(q, k, v, O, lse, dO, dlse, ctx.causal, ctx.scale), None, None)


attention.register_autograd(_backward, setup_context=_setup)


@torch.compiler.assume_constant_result
def _has(device):
    """Whether the library has this device at all."""
    if device.type != "cuda":
        return device.type == "cpu"
    with torch.cuda.device(device):
        return fs.has_gpu()


def takes(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Whether the library can do it. (PyTorch's causal mask lets the first query see the first key: with more queries than keys,
    that is another mask than the library's.)"""
    alike = all(isinstance(x, Tensor) and x.dim() == 4 and x.device == query.device and x.dtype == query.dtype
                for x in (query, key, value))
    return (alike and attn_mask is None and dropout_p == 0.0 and query.dtype in TYPES and query.numel() > 0 and
            key.numel() > 0 and query.shape[3] <= 256 and key.shape == value.shape and key.shape[0] == query.shape[0] and
            key.shape[3] == query.shape[3] and (scale is None or math.isfinite(scale)) and
            (key.shape[1] == query.shape[1] or (enable_gqa and query.shape[1] % key.shape[1] == 0)) and
            not (is_causal and query.shape[2] > key.shape[2]) and _has(query.device) and
            (query.device.type == "cpu" or query.dtype == torch.float32 or query.shape[3] <= 128))


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if not takes(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa):
        return theirs(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_causal:  # the first keys alone are seen
        key, value = key[:, :, :query.shape[2]], value[:, :, :query.shape[2]]
    scale = 1 / math.sqrt(query.shape[3]) if scale is None else float(scale)
    return torch.ops.from_softmax.attention(query, key, value, is_causal, scale)[0]


@contextlib.contextmanager
def everywhere():
    """Meanwhile torch.nn.functional.scaled_dot_product_attention is this one."""
    torch.nn.functional.scaled_dot_product_attention = scaled_dot_product_attention
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = theirs
