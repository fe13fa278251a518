"""The library from Python, by ctypes: numpy arrays, and torch tensors of a CPU or of a GPU, are read and written where they lie.

    import from_softmax as fs
    O = fs.attention(q, k, v, causal=True)               # q, O: (batch, heads, seq_q, dim), k, v: (batch, kv_heads, seq_k, dim)
    O, lse = fs.attention(q, k, v, causal=True, lse=True)
    O = fs.decode(q, cache_k, cache_v, seqlens=lengths)  # or table=pages, where cache_k, cache_v are (pool, kv_heads, page, dim)

A view will do, as long as the numbers of a row lie side by side: of (batch, seq, heads, dim) it is x.swapaxes(1, 2). What the
library refuses is an Error with its words. Of gradients torch learns nothing here, and so tensors that want one are refused:
from_softmax_torch.py is an operator. Any thread may call; each keeps the workspace of its largest call on a CPU. On a GPU a call
is launched on torch's current stream, and takes its workspace from torch. FROM_SOFTMAX names the library where it is neither
installed above this file nor built beside it.
"""
import ctypes
import math
import os
import pathlib
import threading

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
ASK, WORKSPACE, GPU = 1, 14, 1  # of enum fsa_flag, of enum fsa_status, of enum fsa_device


def _find():
    here = pathlib.Path(__file__).resolve().parent
    places = [here.parents[1] / "lib"] + [here.parents[1] / "build" / tree for tree in ("cuda", "cpu")]
    found = [str(place / "libfrom_softmax.so") for place in places if (place / "libfrom_softmax.so").exists()]
    return os.environ.get("FROM_SOFTMAX") or (found + ["libfrom_softmax.so"])[0]


class Run(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("device", "threads", "flags")] + [
        ("stream", ctypes.c_void_p), ("workspace", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("needed", ctypes.c_size_t),
        ("what", ctypes.c_char_p)]


class Tensor(ctypes.Structure):
    """struct fsa_in and struct fsa_out."""

    _fields_ = [("data", ctypes.c_void_p)] + [(name, ctypes.c_int64) for name in ("batch", "head", "seq")]


class Problem(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "seq_q", "seq_k", "dim")] + [
        ("scale", ctypes.c_float), ("causal", ctypes.c_int32), ("dtype", ctypes.c_int32)]


class Cache(ctypes.Structure):
    _fields_ = [("seqlens", ctypes.c_void_p), ("table", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("page", "pool", "most")]


class Error(ValueError):
    """What the library refused: .status is its enum fsa_status, .what the argument that is wrong, as from_softmax.h names it."""

    def __init__(self, status, what):
        super().__init__("%s: %s" % (what, _library.fsa_words(status).decode()))
        self.status, self.what = status, what


_library = ctypes.CDLL(_find())
_library.fsa_words.restype = _library.fsa_version.restype = ctypes.c_char_p
_library.fsa_words.argtypes = [ctypes.c_int32]
_POINTER, _LONG, _INT, _RUN = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.POINTER(Run)
_TENSOR, _PROBLEM = ctypes.POINTER(Tensor), ctypes.POINTER(Problem)
_library.fsa_softmax.argtypes = [_POINTER, _LONG] * 2 + [_LONG, _LONG, _INT, _RUN]
_library.fsa_softmax_backward.argtypes = [_POINTER, _LONG] * 3 + [_LONG, _LONG, _INT, _RUN]
_library.fsa_attention.argtypes = [_PROBLEM, _TENSOR, _POINTER] + [_TENSOR] * 3 + [_RUN]
_library.fsa_decode.argtypes = [_PROBLEM, _TENSOR, _POINTER] + [_TENSOR] * 3 + [ctypes.POINTER(Cache), _RUN]
_library.fsa_attention_backward.argtypes = [_PROBLEM] + [_TENSOR] * 7 + [_POINTER, _TENSOR, _POINTER, _RUN]
_kept = threading.local()


def version():
    return _library.fsa_version().decode()


def has_gpu():
    """Whether the library was built for the GPU that is torch's current one."""
    run = Run(device=GPU, flags=ASK)
    return not _library.fsa_softmax(None, 0, None, 0, 1, 1, 0, run)


def _call(function, *args, threads, like):
    if hasattr(like, "data_ptr") and like.device.type != "cpu":
        return _call_on_gpu(function, args, like.device)
    memory = getattr(_kept, "memory", None)
    run = Run(threads=max(-1, min(threads, 1 << 20)), workspace=memory and ctypes.addressof(memory), bytes=len(memory or ()))
    status = function(*args, run)
    if status == WORKSPACE:
        _kept.memory = memory = (ctypes.c_char * run.needed)()
        run.workspace, run.bytes = ctypes.addressof(memory), run.needed
        status = function(*args, run)
    if status:
        raise Error(status, run.what.decode())


def _call_on_gpu(function, args, device):
    """The workspace is let go before the GPU is through with it: torch gives it to others behind this call, on this stream."""
    torch = _torch()
    with torch.cuda.device(device):
        run = Run(device=GPU, stream=torch.cuda.current_stream().cuda_stream)
        status = function(*args, run)
        if status == WORKSPACE:
            memory = torch.empty(run.needed, dtype=torch.uint8, device=device)
            run.workspace, run.bytes = memory.data_ptr(), run.needed
            status = function(*args, run)
    if status:
        raise Error(status, run.what.decode())


# ---- arrays of either kind


def _name(x):
    """float32 of numpy's and of torch's."""
    return str(x.dtype).rsplit(".", 1)[-1]


def _strides(x):
    if hasattr(x, "data_ptr"):
        return x.stride()
    if any(s % x.itemsize for s in x.strides):
        raise ValueError("strides that are no multiples of an element")
    return tuple(s // x.itemsize for s in x.strides)


def _place(x):
    return x.device if hasattr(x, "data_ptr") else None


def _address(what, x, like, written=False):
    if _place(x) != _place(like):
        raise ValueError("%s: a tensor of %s beside one of %s" % (what, _place(x) or "numpy", _place(like) or "numpy"))
    if hasattr(x, "data_ptr"):
        if x.device.type not in ("cpu", "cuda"):
            raise ValueError("%s: a tensor of %s" % (what, x.device))
        if x.is_neg() or x.is_conj():
            raise ValueError("%s: a view of which torch has yet to change the sign: .resolve_neg()" % what)
        if x.requires_grad and _torch().is_grad_enabled():
            raise ValueError("%s: a tensor that requires a gradient: from_softmax_torch has the operator; or .detach() it" % what)
        return x.data_ptr()
    if written and not x.flags.writeable:
        raise ValueError("%s: an array that may only be read is to be written" % what)
    return x.ctypes.data


def _torch():
    import torch
    return torch


def _empty(like, shape, name=None):
    if hasattr(like, "data_ptr"):
        return like.new_empty(shape, dtype=getattr(_torch(), name) if name else like.dtype)
    import numpy
    return numpy.empty(shape, name or like.dtype)


def _tensor(what, x, dims, like, shape=None, written=False):
    """x as the library takes it: `dims` dimensions, the last of them dense, of the type and the device of `like`, and of this
    shape. what: its name, for messages."""
    name = _name(like)
    if x.ndim != dims or _name(x) != name or name not in DTYPES or (shape is not None and tuple(x.shape) != tuple(shape)):
        raise ValueError("%s: %s %s where %s of %s is wanted" % (
            what, _name(x), tuple(x.shape), name if name in DTYPES else "float32, float16 or bfloat16",
            tuple(shape) if shape is not None else "%d dimensions" % dims))
    if x.shape[-1] > 1 and _strides(x)[-1] != 1:
        raise ValueError("%s: the numbers of a row do not lie side by side" % what)
    if any(n > 1 and stride == 0 for n, stride in zip(x.shape, _strides(x))):
        raise ValueError("%s: a view that repeats numbers" % what)  # to the library, strides of 0 alone mean a dense tensor
    return Tensor(_address(what, x, like, written), *((0,) * (4 - dims) + tuple(_strides(x)[:-1])))


def _dense(what, x, like, name, shape):
    """Numbers of 4 bytes, one behind the other; None is none."""
    if x is None:
        return None
    want = 1
    for n, stride in zip(reversed(shape), reversed(_strides(x))):
        if n > 1 and stride != want:
            raise ValueError("%s: %s of %s must be dense" % (what, name, tuple(shape)))
        want *= n
    if tuple(x.shape) != tuple(shape) or _name(x) != name:
        raise ValueError("%s: %s %s where %s %s is wanted" % (what, _name(x), tuple(x.shape), name, tuple(shape)))
    return _address(what, x, like)


def _problem(q, k, scale, causal, batch, seq_k):
    return Problem(batch, q.shape[1], k.shape[1], q.shape[2], seq_k, q.shape[3],
                   1 / math.sqrt(q.shape[3]) if scale is None else scale, bool(causal), DTYPES.get(_name(q), -1))


# ---- the functions


def softmax(x, out=None, threads=0):
    """Of the last axis; x: (rows, cols). out may be x."""
    out = _empty(x, x.shape) if out is None else out
    t, to = _tensor("x", x, 2, x), _tensor("out", out, 2, x, x.shape, True)
    _call(_library.fsa_softmax, to.data, to.seq, t.data, t.seq, *x.shape, DTYPES[_name(x)], threads=threads, like=x)
    return out


def softmax_backward(y, dy, out=None, threads=0):
    """dx, from y = softmax(x) and how a loss changes with y: all (rows, cols)."""
    out = _empty(y, y.shape) if out is None else out
    t, to, d = _tensor("y", y, 2, y), _tensor("out", out, 2, y, y.shape, True), _tensor("dy", dy, 2, y, y.shape)
    _call(_library.fsa_softmax_backward, to.data, to.seq, t.data, t.seq, d.data, d.seq, *y.shape, DTYPES[_name(y)],
          threads=threads, like=y)
    return out


def attention(q, k, v, causal=False, scale=None, out=None, lse=False, threads=0):
    """O, or with lse=True (O, lse). causal: the last query sees the last key."""
    tensors = _tensor("q", q, 4, q), _tensor("k", k, 4, q), _tensor("v", v, 4, q, k.shape)
    _tensor("k", k, 4, q, (q.shape[0], k.shape[1], k.shape[2], q.shape[3]))
    out = _empty(q, q.shape) if out is None else out
    sums = _empty(q, q.shape[:3], "float32") if lse else None
    _call(_library.fsa_attention, _problem(q, k, scale, causal, q.shape[0], k.shape[2]), _tensor("out", out, 4, q, q.shape, True),
          _dense("lse", sums, q, "float32", q.shape[:3]), *tensors, threads=threads, like=q)
    return (out, sums) if lse else out


def attention_backward(q, k, v, O, lse, dO, dlse=None, causal=False, scale=None, threads=0):
    """dQ, dK and dV, from what attention() made, and how a loss changes with it."""
    out = [_empty(x, x.shape) for x in (q, k, v)]
    to = [_tensor(name, x, 4, q, y.shape, True) for name, x, y in zip("qkv", out, (q, k, k))]
    tensors = _tensor("q", q, 4, q), _tensor("k", k, 4, q), _tensor("v", v, 4, q, k.shape), _tensor("O", O, 4, q, q.shape)
    _tensor("k", k, 4, q, (q.shape[0], k.shape[1], k.shape[2], q.shape[3]))
    _call(_library.fsa_attention_backward, _problem(q, k, scale, causal, q.shape[0], k.shape[2]), *to, *tensors,
          _dense("lse", lse, q, "float32", q.shape[:3]), _tensor("dO", dO, 4, q, q.shape),
          _dense("dlse", dlse, q, "float32", q.shape[:3]), threads=threads, like=q)
    return tuple(out)


def decode(q, k, v, seqlens=None, table=None, seq_k=None, causal=False, scale=None, out=None, lse=False, threads=0):
    """A few queries against a cache of up to seq_k keys a sequence: by default as many as k, or a row of the table, has room for.
    seqlens: (batch), table: (batch, pages of a sequence), both int32."""
    batch = q.shape[0]
    tensors = _tensor("q", q, 4, q), _tensor("k", k, 4, q), _tensor("v", v, 4, q, k.shape)
    pool, heads, page, dim = k.shape
    if dim != q.shape[3] or (table is None and pool != batch):
        raise ValueError("a cache of %s for queries of %s" % (tuple(k.shape), tuple(q.shape)))
    most = table.shape[1] if table is not None else 0
    room = most * page if table is not None else page
    if seq_k is not None and seq_k > room:
        raise ValueError("%d keys where there is room for %d" % (seq_k, room))
    cache = Cache(_dense("seqlens", seqlens, q, "int32", (batch,)), _dense("table", table, q, "int32", (batch, most)), page, pool,
                  most)
    out = _empty(q, q.shape) if out is None else out
    sums = _empty(q, q.shape[:3], "float32") if lse else None
    problem = _problem(q, k, scale, causal, batch, room if seq_k is None else seq_k)
    _call(_library.fsa_decode, problem, _tensor("out", out, 4, q, q.shape, True),
          _dense("lse", sums, q, "float32", q.shape[:3]), *tensors, cache, threads=threads, like=q)
    return (out, sums) if lse else out
