"""The head in blocks against whole logits in float64, written out here with log_softmax alone."""

import copy
import functools
import itertools
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import jackpot
from llm import settings as config
from llm.algorithm.z_tail import tail_floor, tail_terms
from llm.errors import ConfigError
from llm.models.lm_head import blocks, support, threshold_scan
from llm.models.lm_head.chunked import (
    Chunk,
    Head,
    HeadInput,
    KLPair,
    chunked_logprobs,
    dense_logprobs,
    token_logprobs,
)
from llm.models.lm_head.support import head_of, heads_of, hidden_states

N, V = 7, 23
CHUNKS = [Chunk(1, 1), Chunk(3, 5), Chunk(7, 23), Chunk(2, 22), Chunk(100, 100)]


def random(*shape, seed, dtype=torch.float64, scale=1.0):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * made).to(dtype).requires_grad_()


def model(seed, n=N, v=V, h=5, bias=False, softcap=None, dtype=torch.float64, scale=1.0):
    head = Head(
        random(v, h, seed=seed, dtype=dtype, scale=scale),
        random(v, seed=seed + 1, dtype=dtype) if bias else None,
        softcap,
    )
    return random(n, h, seed=seed + 2, dtype=dtype), head


def ids(*shape, seed, v=V):
    return torch.randint(v, shape, generator=torch.Generator().manual_seed(seed))


def reference_logp(hidden, head, temperature):
    """float64, whatever the inputs."""
    logits = hidden.double() @ head.weight.double().T
    logits = logits if head.bias is None else logits + head.bias.double()
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    return logits / temperature, torch.log_softmax(logits / temperature, -1)


def reference_kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def leaves(*models):
    tensors = [x for hidden, head in models for x in (hidden, head.weight, head.bias)]
    return [x for x in tensors if x is not None]


def gradients(outputs, inputs):
    """Of a fixed random combination of all outputs."""
    total = sum(
        (x.double() * random(*x.shape, seed=i).detach()).sum() for i, x in enumerate(outputs)
    )
    return torch.autograd.grad(total, inputs, retain_graph=True)


def relative(a, b):
    return float((a.double() - b).norm() / b.norm())


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize(
    "bias, softcap, temperature", list(itertools.product((False, True), (None, 1.5), (1.0, 0.7)))
)
def test_every_value_and_gradient_is_that_of_whole_logits(chunk, bias, softcap, temperature):
    """Three models, all outputs, both KL directions with and without SG, in one backward pass."""
    a, b, c = model(0, bias=bias, softcap=softcap), model(10, h=4, softcap=softcap), model(20)
    tokens, more = ids(N, seed=1), ids(N, 3, seed=2)
    sides = [
        HeadInput(*a, tokens, more, 0, True),
        HeadInput(*b, tokens),
        HeadInput(*c, None, more, 0, True),
    ]
    pairs = [
        KLPair(0, 1, train_p=False),
        KLPair(1, 0, train_q=False),
        KLPair(0, 2, train_q=False),
        KLPair(2, 1),
    ]
    (x, y, z), kls = chunked_logprobs(sides, pairs, temperature, chunk)
    ours = [x.logp, x.logp_ids, x.lse, x.entropy, y.logp, y.lse, z.logp_ids, z.entropy, *kls]
    (la, pa), (lb, pb), (_, pc) = (reference_logp(*m, temperature) for m in (a, b, c))
    exact = [
        pa.gather(1, tokens[:, None])[:, 0],
        pa.gather(1, more),
        la.logsumexp(-1),
        -(pa.exp() * pa).sum(-1),
        pb.gather(1, tokens[:, None])[:, 0],
        lb.logsumexp(-1),
        pc.gather(1, more),
        -(pc.exp() * pc).sum(-1),
        reference_kl(pa.detach(), pb),
        reference_kl(pb, pa.detach()),
        reference_kl(pa, pc.detach()),
        reference_kl(pc, pb),
    ]
    inputs = leaves(a, b, c)
    for value, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    for value, wanted in zip(gradients(ours, inputs), gradients(exact, inputs), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-12)


def test_gradients_pass_gradcheck():
    (h, a), (g, b) = model(0, n=3, v=6, h=2, bias=True, softcap=1.5), model(9, n=3, v=6, h=2)

    def outputs(h, w, c, g, u):
        sides = [
            HeadInput(h, Head(w, c, 1.5), ids(3, seed=1, v=6), ids(3, 2, seed=2, v=6), 0, True),
            HeadInput(g, Head(u), entropy=True),
        ]
        (x, y), kls = chunked_logprobs(sides, [KLPair(0, 1), KLPair(1, 0)], 0.8, Chunk(2, 4))
        return x.logp, x.logp_ids, x.lse, x.entropy, y.entropy, *kls

    assert torch.autograd.gradcheck(outputs, (h, a.weight, a.bias, g, b.weight))


@pytest.mark.parametrize("chunk", [Chunk(), Chunk(50, 700)], ids=str)
def test_float32_gradients_are_within_1e5_of_float64(chunk):
    a, b = (model(s, 96, 3000, 64, dtype=torch.float32, scale=0.25) for s in (0, 10))
    tokens = ids(96, seed=1, v=3000)
    (x, _), (kl,) = chunked_logprobs(
        [HeadInput(*a, tokens, entropy=True), HeadInput(*b)], [KLPair(0, 1)], chunk=chunk
    )
    (_, pa), (_, pb) = (reference_logp(*m, 1.0) for m in (a, b))
    exact = [pa.gather(1, tokens[:, None])[:, 0], -(pa.exp() * pa).sum(-1), reference_kl(pa, pb)]
    ours = [x.logp, x.entropy, kl]
    for value, wanted in zip(ours, exact, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=2e-6)
    inputs = leaves(a, b)
    for value, wanted in zip(gradients(ours, inputs), gradients(exact, inputs), strict=True):
        assert relative(value, wanted.double()) < 1e-5


@pytest.mark.parametrize("tiles", [False, True])
def test_bf16_products_are_exact_and_gradients_round_once(tiles, monkeypatch):
    """Log-probabilities to float32 accuracy; a gradient off by one rounding to bf16, no more."""
    monkeypatch.setattr(blocks, "has_bf16_tiles", lambda: tiles)
    a, b = (model(s, 96, 3000, 64, dtype=torch.bfloat16, scale=0.25) for s in (0, 10))
    tokens = ids(96, seed=1, v=3000)
    (x, _), (kl,) = chunked_logprobs(
        [HeadInput(*a, tokens), HeadInput(*b)], [KLPair(0, 1)], chunk=Chunk(50, 700)
    )
    (_, pa), (_, pb) = (reference_logp(*m, 1.0) for m in (a, b))
    exact = [pa.gather(1, tokens[:, None])[:, 0], reference_kl(pa, pb)]
    for value, wanted in zip([x.logp, kl], exact, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=2e-6)
    wide = [tuple(_double(m)) for m in (a, b)]
    (_, pa), (_, pb) = (reference_logp(*m, 1.0) for m in wide)
    exact = [pa.gather(1, tokens[:, None])[:, 0], reference_kl(pa, pb)]
    grads = gradients([x.logp, kl], leaves(a, b))
    for one, two in zip(grads, gradients(exact, leaves(*wide)), strict=True):
        assert one.dtype == torch.bfloat16
        assert bool(
            ((one.double() - two).abs() <= 2**-8 * two.abs() + 1e-5 * two.abs().max()).all()
        )


@pytest.mark.parametrize(
    "hidden, weight",
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
def test_tiles_round_no_operand_that_bf16_cannot_hold(hidden, weight, monkeypatch):
    """Next to a head that may use them, whose setting is the process's."""
    monkeypatch.setattr(blocks, "has_bf16_tiles", lambda: True)
    narrow = model(10, 96, 3000, 64, dtype=torch.bfloat16, scale=0.25)
    h, head = model(0, 96, 3000, 64, dtype=weight, scale=0.25)
    h, tokens = random(96, 64, seed=2, dtype=hidden), ids(96, seed=1, v=3000)
    (_, x), (kl,) = chunked_logprobs(
        [HeadInput(*narrow), HeadInput(h, head, tokens)], [KLPair(0, 1)]
    )
    (_, p), (_, q) = (reference_logp(*m, 1.0) for m in (narrow, (h, head)))
    exact = [q.gather(1, tokens[:, None])[:, 0], reference_kl(p, q)]
    for value, wanted in zip([x.logp, kl], exact, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=2e-6)
    for value, wanted in zip(gradients([x.logp], [h]), gradients(exact[:1], [h]), strict=True):
        assert relative(value, wanted.double()) < (1e-5 if hidden == torch.float32 else 3e-3)


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch before 2.9")
def test_rounding_of_operands_ends_with_the_product_whatever_happens_in_it():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with pytest.raises(ZeroDivisionError), blocks.bf16_products(True):
        assert setting.fp32_precision == "bf16"
        raise ZeroDivisionError
    assert setting.fp32_precision == before
    a = model(0, dtype=torch.bfloat16)
    token_logprobs(*a, ids(N, seed=1)).sum().backward()
    assert setting.fp32_precision == before


@pytest.mark.parametrize("isa, may", [("AVX512_CORE_BF16", False), ("AVX2", False), ("ALL", True)])
def test_tiles_go_by_the_processor_and_its_declared_limit(isa, may, monkeypatch):
    """Never by a timing: a resumed run must take the same way to the last bit."""
    able = blocks.has_bf16_tiles()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert blocks.has_bf16_tiles.__wrapped__() == (may and able)


def test_an_output_that_was_not_asked_for_says_how_to_ask():
    (x,), _ = chunked_logprobs([HeadInput(*model(0), ids(N, seed=1))])
    assert x.require("logp") is x.logp
    for name, asked in (("entropy", "entropy"), ("topk_ids", "top_k"), ("n_above", "floor")):
        with pytest.raises(ValueError, match=f"{name} was not asked for: set HeadInput.{asked}"):
            x.require(name)


def _double(m):
    hidden, head = m
    return hidden.detach().double().requires_grad_(), Head(
        head.weight.detach().double().requires_grad_()
    )


def test_equal_models_have_exactly_no_kl_and_give_exactly_no_gradient():
    h, head = model(3, 20, 300, 8, dtype=torch.float32)
    g, twin = (
        h.detach().clone().requires_grad_(),
        Head(head.weight.detach().clone().requires_grad_()),
    )
    _, (kl,) = chunked_logprobs(
        [HeadInput(h, head), HeadInput(g, twin)], [KLPair(0, 1)], 0.7, Chunk(6, 70)
    )
    assert kl.count_nonzero() == 0
    for x in torch.autograd.grad(kl.sum(), (g, twin.weight, h, head.weight)):
        assert x.count_nonzero() == 0


def test_logits_far_from_zero_neither_overflow_nor_lose_the_kl():
    """Logits of +-3,000 for p, and of q shifted by 500 throughout, which changes no probability."""
    h, head = model(3, 20, 300, 8, dtype=torch.float32)
    shifted = Head(head.weight, torch.full((300,), 512.0))
    tokens = ids(20, seed=1, v=300)
    (x, _), (kl,) = chunked_logprobs(
        [HeadInput(1000 * h, head, tokens), HeadInput(1000 * h, shifted)], [KLPair(0, 1)]
    )
    assert bool(x.logp.isfinite().all()) and float(kl.detach().max()) < 1e-3


@pytest.mark.parametrize("n", [0, 1])
def test_no_token_and_one_token_work(n):
    a, b = model(0, n=n, bias=True), model(10, n=n)
    tokens = ids(n, seed=0)
    (x, _), (kl,) = chunked_logprobs(
        [HeadInput(*a, tokens, ids(n, 2, seed=0), 3, True), HeadInput(*b)], [KLPair(0, 1)]
    )
    assert x.logp.shape == x.entropy.shape == kl.shape == (n,)
    assert x.logp_ids.shape == (n, 2) and x.topk_ids.shape == (n, 3)
    grads = torch.autograd.grad(x.logp.sum() + kl.sum(), leaves(a, b))
    for g, like in zip(grads, leaves(a, b), strict=True):
        assert g.shape == like.shape and bool(g.isfinite().all())
    assert n or all(g.count_nonzero() == 0 for g in grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_tokens_without_a_coefficient_are_left_out_exactly(dtype):
    """Rejected tokens: the gradient of a batch that never held them, and exactly 0 at them."""
    a = model(0, n=9, dtype=dtype)
    tokens, coef = ids(9, seed=1), random(9, seed=5).detach()
    coef[[0, 3, 4, 8]] = 0.0
    kept = coef != 0
    logp = token_logprobs(*a, tokens, chunk=Chunk(16, 7))
    dh, dw = torch.autograd.grad((coef * logp).sum(), leaves(a))
    only = token_logprobs(a[0][kept], a[1], tokens[kept], chunk=Chunk(16, 7))
    dh_only, dw_only = torch.autograd.grad((coef[kept] * only).sum(), leaves(a))
    for one, two in ((dh, dh_only), (dw, dw_only)):
        torch.testing.assert_close(one, two, rtol=2**-7 if one.itemsize == 2 else 1e-12, atol=1e-12)
    assert dh[~kept].count_nonzero() == 0 and dw.count_nonzero() > 0


def test_a_token_in_the_kl_alone_gives_the_policy_nothing():
    """Joint step, half the tokens rejected: the gradients are those of the two losses apart."""
    a, b = model(0, n=9), model(10, n=9)
    tokens, coef = ids(9, seed=1), random(9, seed=5).detach()
    coef[[0, 3, 4, 8]] = 0.0
    (x, _), (kl,) = chunked_logprobs(
        [HeadInput(*a, tokens), HeadInput(*b)], [KLPair(0, 1, train_p=False)], 0.7, Chunk(4, 7)
    )
    grads = torch.autograd.grad((coef * x.logp).sum() + kl.sum(), leaves(a, b))
    (_, pa), (_, pb) = (reference_logp(*m, 0.7) for m in (a, b))
    loss = (coef * pa.gather(1, tokens[:, None])[:, 0]).sum() + reference_kl(pa.detach(), pb).sum()
    for one, two in zip(grads, torch.autograd.grad(loss, leaves(a, b)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)
    assert grads[0][[0, 3, 4, 8]].count_nonzero() == 0


class Products(TorchDispatchMode):
    """Counts multiplications of matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        assert name not in ("bmm", "baddbmm", "matmul", "linear")
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            self.count += a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "kept, distilled, products",
    # forward: one product for each model; backward: logits of both, then two for each gradient
    [
        (8, 8, 2 + 2 + 2 + 2),
        (2, 8, 2 + 2 + 0.5 + 2),
        (0, 8, 2 + 2 + 2),
        (2, 0, 2 + 0.25 + 0.5),
        (0, 0, 2),
    ],
)
def test_left_out_tokens_cost_no_products(kept, distilled, products):
    a, b = model(0, n=8), model(10, n=8)
    coef = (torch.arange(8) < kept).double()
    share = (torch.arange(8) < distilled).double()
    with Products() as done:
        (x, _), (kl,) = chunked_logprobs(
            [HeadInput(*a, ids(8, seed=1)), HeadInput(*b)], [KLPair(0, 1, train_p=False)]
        )
        ((coef * x.logp).sum() + (share * kl).sum()).backward()
    assert done.count == products * 8 * V * 5


def test_a_frozen_model_costs_no_gradient_products():
    a, b = model(0, n=8), model(10, n=8)
    frozen = (b[0].detach(), Head(b[1].weight.detach()))
    with Products() as done:
        _, (kl,) = chunked_logprobs([HeadInput(*a), HeadInput(*frozen)], [KLPair(0, 1)])
        kl.sum().backward()
    assert done.count == 6 * 8 * V * 5 and frozen[0].grad is None


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_nothing_as_large_as_the_logits_is_ever_held():
    n, v, h = 64, 1000, 4
    a, b = model(0, n, v, h, bias=True, softcap=2.0), model(10, n, v, h)
    chunk = Chunk(16, 50)
    with Largest() as seen:
        sides = [HeadInput(*a, ids(n, seed=1, v=v), ids(n, 5, seed=1, v=v), 5, True), HeadInput(*b)]
        (x, _), (kl, lk) = chunked_logprobs(sides, [KLPair(0, 1), KLPair(1, 0)], 0.7, chunk)
        (x.logp.sum() + x.entropy.sum() + kl.sum() + lk.sum()).backward(retain_graph=True)
        floor = torch.full((n,), -3.0, dtype=torch.float64)
        (y,), _ = chunked_logprobs([HeadInput(*b, floor=floor)], (), 0.7, chunk)
    assert float(y.n_above.sum()) > 0
    assert seen.size == v * h  # the gradients of the weights


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("k", [1, 4, V])
def test_top_k_is_that_of_whole_logits(chunk, k):
    a = model(0, n=50)
    (x,), _ = chunked_logprobs([HeadInput(*a, top_k=k)], (), 0.7, chunk)
    logp, order = reference_logp(*a, 0.7)[1].topk(k)
    assert torch.equal(x.topk_ids, order)
    torch.testing.assert_close(x.topk_logp, logp.detach())
    assert not x.topk_logp.requires_grad


@pytest.mark.parametrize("chunk", [*CHUNKS, Chunk(5, 300)], ids=str)
@pytest.mark.parametrize("bias, softcap", [(False, None), (True, 1.5)])
@pytest.mark.parametrize("kept", [256, 1])
def test_tokens_above_a_floor_are_counted_and_summed(chunk, bias, softcap, kept, monkeypatch):
    """Also where candidates are too many to be kept, with no known ids, and by whole logits."""
    monkeypatch.setattr(threshold_scan, "_PER_TOKEN", kept)
    v = 311 if chunk.vocab == 300 else V
    m = model(0, n=12, v=v, bias=bias, softcap=softcap, scale=2.0)
    logp = reference_logp(*m, 0.8)[1].detach()
    floor = torch.linspace(-9.0, -1.0, 12).double()
    floor[3], floor[4] = -torch.inf, 0.0
    high = logp > floor[:, None]
    assert high[3].all() and not high[4].any() and ((0 < high.sum(1)) & (high.sum(1) < v)).any()
    for known in (None, ids(12, 3, seed=0, v=v)):
        sides = [HeadInput(*model(5, n=12, v=v)), HeadInput(*m, ids=known, floor=floor)]
        for (other, x), _ in (
            chunked_logprobs(sides, [KLPair(0, 1)], 0.8, chunk),
            dense_logprobs(sides, (), 0.8),
        ):
            assert other.n_above is None and not x.mass_above.requires_grad
            assert torch.equal(x.n_above, high.sum(1).double())
            torch.testing.assert_close(x.mass_above, (logp.exp() * high).sum(1))


def test_a_floor_costs_no_product_unless_too_many_tokens_exceed_it(monkeypatch):
    m, floor = model(0, n=8), torch.full((8,), -3.0).double()
    for kept, products in ((256, 1), (1, 2)):
        monkeypatch.setattr(threshold_scan, "_PER_TOKEN", kept)
        with Products() as done, torch.no_grad():
            chunked_logprobs([HeadInput(*m, floor=floor)], (), 1.0, Chunk(8, 4))
        assert done.count == products * 8 * V * 5


@pytest.mark.parametrize("chunk", [Chunk(1, 1), Chunk(3, 5), Chunk(100, 100)], ids=str)
def test_tokens_above_a_floor_are_counted_with_a_bias_and_at_another_temperature(chunk):
    """Known ids lose half of their large logits to the bias and two thirds to the temperature:
    taken for what they were, they would hide the tokens just above the floor."""
    hidden, head = random(12, 5, seed=0).detach(), Head(random(V, 5, seed=1).detach())
    known = torch.tensor([[4, 9, 2]]).expand(12, 3)
    head.weight[4] = 0.0
    head.weight[4, 0], hidden[:, 0] = 30.0, 1.0
    head = Head(head.weight, random(V, seed=2).detach())
    head.bias[4] = -15.0
    logp = reference_logp(hidden, head, 3.0)[1]
    floor = torch.full((12,), -6.0).double()
    high = logp > floor[:, None]
    assert bool((high.sum(1) > 3).all()) and not bool(high.all())
    (x,), _ = chunked_logprobs([HeadInput(hidden, head, ids=known, floor=floor)], (), 3.0, chunk)
    assert torch.equal(x.n_above, high.sum(1).double())
    torch.testing.assert_close(x.mass_above, (logp.exp() * high).sum(1))


def test_autocast_around_a_pass_changes_nothing():
    """Nor a count, which goes by the logits of known ids: here of 100 and more, which bfloat16
    rounds by tenths, with a token 0.01 nats above the floor."""
    a, b = (model(s, n=64, dtype=torch.float32, bias=True, scale=40.0) for s in (0, 10))
    logp = reference_logp(*a, 0.7)[1].detach().topk(2)
    floor, known = (logp.values[:, 1] - 0.01).float(), logp.indices[:, :1]

    def values():
        sides = [HeadInput(*a, ids(64, seed=1), known, 3, True, floor=floor), HeadInput(*b)]
        (x, _), kls = chunked_logprobs(sides, [KLPair(0, 1)], 0.7, Chunk(30, 5))
        return x, kls[0]

    with torch.autocast("cpu", torch.bfloat16):
        rounded, kl = values()
        assert (a[0] @ a[1].weight.T).dtype == torch.bfloat16
    assert bool((rounded.n_above == 2).all())
    plain, plain_kl = values()
    for one, two in zip((*rounded, kl), (*plain, plain_kl), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("lam", [0.6, 1.0, "per state"])
def test_u_prime_of_one_pass_is_that_of_the_core(chunk, lam):
    """q all but uniform, so that c binds; a batch of no token has none."""
    m = model(0, n=12)
    logp = reference_logp(*m, 0.8)[1].detach()
    q = torch.log_softmax(0.2 * random(12, V, seed=5), -1).detach()
    log_q, known = q.topk(4)
    mask = torch.zeros_like(q, dtype=torch.bool).scatter(1, known, True)
    log_p_tail, log_q_tail = (x.masked_fill(mask, -torch.inf).logsumexp(-1) for x in (logp, q))
    lam = torch.linspace(0.5, 2, 12).double() if lam == "per state" else lam
    core = jackpot.tail_bound(logp, mask, log_p_tail, log_q_tail, log_q[:, -1], lam)
    (x,), _ = chunked_logprobs(
        [HeadInput(*m, ids=known, floor=tail_floor(log_q, lam))], (), 0.8, chunk
    )
    ours = tail_terms(x.logp_ids, log_q, x.n_above, x.mass_above, lam)
    assert bool(
        (core < jackpot.acceptance_rate(log_p_tail[:, None], log_q_tail[:, None], lam) - 1e-3).any()
    ), "c must bind somewhere"
    torch.testing.assert_close(ours, core, rtol=0, atol=1.1e-4)  # less than 1e-4 is ignored
    none = chunked_logprobs([HeadInput(m[0][:0], m[1], ids=known[:0], floor=log_q[:0, -1])])[0][0]
    assert none.n_above.shape == none.mass_above.shape == (0,)


def test_dense_gives_the_same_from_hidden_states_or_logits():
    a, b = model(0, bias=True, softcap=1.5), model(10)
    sides = [HeadInput(*a, ids(N, seed=1), ids(N, 2, seed=2), 3, True), HeadInput(*b)]
    pairs = [KLPair(0, 1, train_p=False), KLPair(1, 0)]
    whole = [
        sides[0]._replace(hidden=None, head=None, logits=reference_logp(*a, 1.0)[0]),
        HeadInput(logits=reference_logp(*b, 1.0)[0]),
    ]
    results = [
        chunked_logprobs(sides, pairs, 0.7),
        dense_logprobs(sides, pairs, 0.7),
        dense_logprobs(whole, pairs, 0.7),
    ]
    flat = [[x for s in per_side for x in s if x is not None] + kls for per_side, kls in results]
    for other in flat[1:]:
        torch.testing.assert_close(other, flat[0])
        diff = [[x for x in y if x.requires_grad] for y in (flat[0], other)]
        for one, two in zip(*(gradients(x, leaves(a, b)) for x in diff), strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile, at a graph break
def test_a_compiled_caller_gets_the_same_values_and_gradients():
    h, head = model(0)
    body = random(5, 5, seed=7)

    def loss(h):
        return token_logprobs(torch.tanh(h @ body), head, ids(N, seed=1)).sum() * 2.0

    plain = torch.autograd.grad(loss(h), (h, body, head.weight))
    compiled = torch.autograd.grad(torch.compile(loss, backend="eager")(h), (h, body, head.weight))
    for one, two in zip(plain, compiled, strict=True):
        assert torch.equal(one, two)


TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def transformer(kind, config, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config(**TINY, **settings, initializer_range=0.3, pad_token_id=0))


def tied(tie):
    return transformer(Qwen3ForCausalLM, Qwen3Config, head_dim=8, tie_word_embeddings=tie)


def gemma():
    return transformer(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=3.0)


def phi():
    made = transformer(PhiForCausalLM, PhiConfig)
    torch.nn.init.normal_(made.lm_head.bias, generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("make", [lambda: tied(True), lambda: tied(False), gemma, phi])
def test_a_model_trained_through_its_head_gets_the_gradient_of_its_own_logits(make):
    """Every parameter, so tied embeddings receive both their gradients; bias and soft-cap, too."""
    net = make()
    inputs = {"input_ids": ids(2, 6, seed=1, v=50)}
    head, why = head_of(net)
    assert head is not None, why
    tokens = ids(12, seed=2, v=50)
    logp = torch.log_softmax(net(**inputs).logits.flatten(0, 1), -1)
    logp.gather(1, tokens[:, None]).sum().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    hidden = hidden_states(net, **inputs).flatten(0, 1)
    token_logprobs(hidden, head, tokens, chunk=Chunk(5, 7)).sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of peft
def test_an_adapted_model_keeps_its_head():
    peft = pytest.importorskip("peft")
    net = peft.get_peft_model(tied(False), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    head, why = head_of(net)
    assert head is not None, why
    assert head.weight is net.get_base_model().lm_head.weight


def test_dropout_does_not_hide_the_head():
    net = transformer(PhiForCausalLM, PhiConfig, embd_pdrop=0.5, resid_pdrop=0.5).train()
    head, why = head_of(net)
    assert head is not None, why


def test_finding_the_head_leaves_the_model_as_it_was():
    net = tied(False).train()
    net.model.layers[0].eval()
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    head_of(net)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def scaled():
    return transformer(GraniteForCausalLM, GraniteConfig, logits_scaling=4.0)


def wrapped():
    net = tied(False)
    net.lm_head = torch.nn.Sequential(net.lm_head)
    return net


def infinite():
    net = phi()
    net.lm_head.bias.data[3] = -torch.inf
    return net


@pytest.mark.parametrize(
    "make, reason",
    [
        (scaled, "not those of its head's weight"),
        (wrapped, "Sequential, not a plain linear layer"),
        (infinite, "bias is not finite"),
        (lambda: torch.nn.Linear(2, 2), "not a transformers causal language model"),
    ],
)
def test_another_kind_of_head_is_named_and_left_to_the_dense_path(make, reason):
    net = make()
    head, why = head_of(net)
    assert head is None and reason in why
    models = {"policy": tied(False), "actor": net}
    with pytest.warns(UserWarning, match=f"the actor: .*{reason}") as seen:
        assert heads_of(models, "auto") is None
    assert len(seen) == 1
    with pytest.raises(ConfigError, match=f"out of reach for the actor: .*{reason}"):
        heads_of(models, "chunked")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert heads_of(models, "dense") is None


def scale_of(scaling, dtype):
    return transformer(GraniteForCausalLM, GraniteConfig, logits_scaling=scaling).to(dtype)


def scaled_input(dtype):
    """Something between the last hidden state and the head, where its logits do not show it."""
    net = tied(False).to(dtype)
    net.lm_head.register_forward_pre_hook(lambda _, x: (x[0] * 1.02,))
    return net


def one_id_off(dtype):
    """By a sixth of the largest logit, too little for the slope over all ids."""
    net = tied(False).to(dtype)

    def shift(_, x, out):
        least = out.abs().amax((0, 1)).argmin()
        out[..., least] += 0.16 * out.abs().max()

    net.lm_head.register_forward_hook(shift)
    return net


def hidden_cap(dtype):
    """Of 100, which a model with logits below 10 hardly shows; its name is not among those read."""
    net = gemma().to(dtype)
    net.config.final_logit_softcapping, net.lm_head = None, copy.deepcopy(net.lm_head)
    forward = net.forward

    def capped(**inputs):
        out = forward(**inputs)
        out.logits = 100.0 * torch.tanh(out.logits / 100.0)
        return out

    net.forward = capped
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        *(functools.partial(scale_of, s) for s in (1.02, 1.2, 0.98, 1.0001)),
        scaled_input,
        one_id_off,
        hidden_cap,
    ],
    ids=["1.02", "1.2", "0.98", "1.0001", "input", "one id", "cap"],
)
def test_a_head_that_is_nearly_the_formula_is_refused_in_every_dtype(make, dtype):
    head, why = head_of(make(dtype))
    assert head is None and "not those of its head's weight" in why


def another_order(make, dtype):
    """The same formula with logits made in float32 and the soft-cap's scale multiplied."""
    net = make().to(dtype)
    cap = getattr(net.config, "final_logit_softcapping", None)
    net.config.final_logit_softcapping = None
    forward = net.forward

    def wider(_, x, out):
        bias = None if net.lm_head.bias is None else net.lm_head.bias.float()
        return torch.nn.functional.linear(x[0].float(), net.lm_head.weight.float(), bias)

    def capped(**inputs):
        net.config.final_logit_softcapping = None
        out = forward(**inputs)
        net.config.final_logit_softcapping = cap
        if cap is not None:
            out.logits = torch.tanh(out.logits * (1.0 / cap)) * cap
        return out

    net.lm_head.register_forward_hook(wider)
    net.config.final_logit_softcapping, net.forward = cap, capped
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [lambda: tied(True), lambda: tied(False), gemma, phi])
def test_a_right_head_is_found_in_every_dtype_however_it_rounds(make, dtype):
    for net in (make().to(dtype), another_order(make, dtype)):
        head, why = head_of(net)
        assert head is not None, why


def own(kind):
    return config.load([], ["--actor.kind", kind, "--loss.actor-ppo", "False",
                            "--loss.distill-coef", "0"])  # fmt: skip


@pytest.mark.parametrize("role", ["policy", "actor"])
def test_auto_falls_back_to_whole_logits_with_one_warning_for_a_policy_or_an_actors_own_head(
    role, monkeypatch
):
    monkeypatch.setattr(support, "BLOCKS_FROM", 50)
    pair = {"policy": tied(False), "actor": tied(False)} | {role: scale_of(1.02, torch.bfloat16)}
    with pytest.warns(UserWarning, match=f"whole logits .* the {role}: its logits") as seen:
        assert not support.chunked(own("frozen"), **pair)
    assert len(seen) == 1


def test_a_derived_actor_whose_head_cannot_be_read_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(support, "BLOCKS_FROM", 50)
    with pytest.warns(
        UserWarning, match="whole logits .* the actor: its head is Sequential"
    ) as seen:
        assert support.chunked(own("quantized"), tied(False), wrapped())
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert support.chunked(own("quantized"), tied(False), tied(True))


def test_plain_heads_are_all_found():
    models = {"policy": tied(True), "actor": gemma()}
    by_role = heads_of(models, "chunked")
    assert by_role["actor"].softcap == 3.0 and by_role["policy"].softcap is None
    assert by_role["policy"].weight is models["policy"].model.embed_tokens.weight
    with pytest.raises(ConfigError, match='"auto", "chunked" or "dense", got "fast"'):
        heads_of(models, "fast")


H = torch.zeros(N, 5)
HEAD = Head(torch.zeros(V, 5))


@pytest.mark.parametrize(
    "sides, pairs, settings, error, match",
    [
        ([], (), {}, ValueError, "at least one side"),
        ([HeadInput(H, HEAD)], (), {"temperature": 0.0}, ValueError, "temperature 0 "),
        ([HeadInput(H, HEAD)], (), {"chunk": Chunk(0, 5)}, ValueError, "chunk sizes"),
        ([HeadInput(H)], (), {}, ValueError, "hidden and head"),
        (
            [HeadInput(logits=torch.zeros(N, V))],
            (),
            {},
            ValueError,
            "`dense_logprobs` takes logits",
        ),
        ([HeadInput(H[:, :4], HEAD)], (), {}, ValueError, r"\(7, 4\) and \(23, 5\)"),
        (
            [HeadInput(H, HEAD), HeadInput(H, Head(torch.zeros(9, 5)))],
            (),
            {},
            ValueError,
            r"\(7, 9\)",
        ),
        (
            [HeadInput(H, HEAD, ids(N - 1, seed=0))],
            (),
            {},
            ValueError,
            r"tokens must have shape \(7,\)",
        ),
        ([HeadInput(H, HEAD, ids(N, seed=0).int())], (), {}, TypeError, "int64"),
        ([HeadInput(H, HEAD, ids(N, seed=0) + V)], (), {}, ValueError, r"\[0, 23\)"),
        ([HeadInput(H, HEAD, ids=ids(N, 2, seed=0) - V)], (), {}, ValueError, r"\[0, 23\)"),
        (
            [HeadInput(H, HEAD, top_k=V + 1)],
            (),
            {},
            ValueError,
            r"top_k must lie in \[0, 23\], got 24",
        ),
        ([HeadInput(H, HEAD)], [KLPair(0, 1)], {}, ValueError, "a pair names two of 1 sides"),
        (
            [HeadInput(H, Head(HEAD.weight, torch.zeros(4)))],
            (),
            {},
            ValueError,
            "bias must have shape",
        ),
        (
            [HeadInput(H, Head(HEAD.weight, torch.full((V,), torch.nan)))],
            (),
            {},
            ValueError,
            "not finite",
        ),
        ([HeadInput(H, Head(HEAD.weight, None, -1.0))], (), {}, ValueError, "softcap"),
        ([HeadInput(H, HEAD, floor=torch.zeros(2))], (), {}, ValueError, "floor must have shape"),
    ],
)
def test_what_cannot_be_computed_is_refused(sides, pairs, settings, error, match):
    with pytest.raises(error, match=match):
        chunked_logprobs(sides, pairs, **settings)
