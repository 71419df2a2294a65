"""The head in blocks against whole logits in float64, written out here with log_softmax alone."""

import itertools

import pytest
import torch
from lm_head_cases import CHUNKS, N, Products, V, ids, model, random, reference_logp
from optional import not_none
from torch.utils._python_dispatch import TorchDispatchMode

from llm.models.lm_head import blocks, chunked
from llm.models.lm_head.chunked import (
    Chunk,
    Head,
    HeadInput,
    KLPair,
    chunked_logprobs,
    dense_logprobs,
    token_logprobs,
)


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
    inputs = [
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
    (x, y, z), kls = chunked_logprobs(inputs, pairs, temperature, chunk)
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
        inputs = [
            HeadInput(h, Head(w, c, 1.5), ids(3, seed=1, v=6), ids(3, 2, seed=2, v=6), 0, True),
            HeadInput(g, Head(u), entropy=True),
        ]
        (x, y), kls = chunked_logprobs(inputs, [KLPair(0, 1), KLPair(1, 0)], 0.8, Chunk(2, 4))
        return x.logp, x.logp_ids, x.lse, x.entropy, y.entropy, *kls

    assert torch.autograd.gradcheck(outputs, (h, a.weight, not_none(a.bias), g, b.weight))


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
    wide = [_double(m) for m in (a, b)]
    (_, pa), (_, pb) = (reference_logp(*m, 1.0) for m in wide)
    exact = [pa.gather(1, tokens[:, None])[:, 0], reference_kl(pa, pb)]
    grads = gradients([x.logp, kl], leaves(a, b))
    for one, two in zip(grads, gradients(exact, leaves(*wide)), strict=True):
        assert one.dtype == torch.bfloat16
        assert bool(
            ((one.double() - two).abs() <= 2**-8 * two.abs() + 1e-5 * two.abs().max()).all()
        )


def _step(logps, tokens, coef):
    """A joint step's loss of whole log-probabilities of policy and actor, (n, v) each."""
    logp, logq = logps
    kl = torch.nn.functional.kl_div(logq, logp.detach(), reduction="sum", log_target=True)
    return (coef * logp.gather(1, tokens[:, None])[:, 0]).sum() + kl


@pytest.mark.parametrize("chunk", [Chunk(96, 300), Chunk(50, 300)], ids=str)
@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_tiles_round_wide_gradients_no_more_than_whole_logits(chunk, shared, monkeypatch):
    """Every gradient, in relative norm, against float64; half the tokens rejected.

    Nor more than the exact gradient of the logits does, if it is rounded once, and its product too.

    shared: size of a direction that all ids have in common. Its share of the hidden states'
    gradient cancels over all ids, but not within a block: a block's product must not be rounded.
    """
    monkeypatch.setattr(blocks, "has_bf16_tiles", lambda: True)
    n, v, h = 96, 3000, blocks.ROUNDED_FROM
    common = shared * 2 / h**0.5 * random(h, seed=3).detach()
    p, q = (model(s, n, v, h, dtype=torch.float64, scale=2 / h**0.5) for s in (0, 10))
    close = 0.95 * p[1].weight.detach() + 0.3 * q[1].weight.detach()
    tensors = [p[0], p[1].weight + common, 0.1 * q[0] + p[0], close + common]
    narrow = [x.detach().bfloat16().requires_grad_() for x in tensors]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    tokens, coef = ids(n, seed=1, v=v), random(n, seed=5, dtype=torch.float32).detach()
    coef[::2] = 0.0

    inputs = [HeadInput(narrow[0], Head(narrow[1]), tokens), HeadInput(narrow[2], Head(narrow[3]))]
    (policy, _), (kl,) = chunked_logprobs(inputs, [KLPair(0, 1, train_p=False)], chunk=chunk)
    ours = torch.autograd.grad((coef * policy.logp).sum() + kl.sum(), narrow)
    logps = [(narrow[i] @ narrow[i + 1].T).log_softmax(-1, torch.float32) for i in (0, 2)]
    whole = torch.autograd.grad(_step(logps, tokens, coef), narrow)
    logits = [wide[i] @ wide[i + 1].T for i in (0, 2)]
    loss = _step([each.log_softmax(-1) for each in logits], tokens, coef.double())
    *exact, dp, dq = torch.autograd.grad(loss, [*wide, *logits])
    dp, dq = (x.bfloat16().double() for x in (dp, dq))
    x, w, y, u = (leaf.detach() for leaf in wide)
    twice = [dp @ w, dp.T @ x, dq @ u, dq.T @ y]
    for own, other, rounded, true in zip(ours, whole, twice, exact, strict=True):
        assert relative(own, true) <= 1.02 * relative(rounded.bfloat16(), true)
        assert relative(own, true) <= 1.02 * relative(other, true)


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
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    with pytest.raises(ZeroDivisionError), blocks.rounded_operands("bf16"):
        assert setting.fp32_precision == "bf16"
        raise ZeroDivisionError
    assert setting.fp32_precision == before
    a = model(0, dtype=torch.bfloat16)
    token_logprobs(*a, ids(N, seed=1)).sum().backward()
    assert setting.fp32_precision == before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9")
@pytest.mark.parametrize("own", ["none", "ieee", "tf32"])
def test_tf32_on_a_gpu_ends_with_the_product_and_a_users_own_setting_stands(own):
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    setting.fp32_precision = own
    try:
        with pytest.raises(ZeroDivisionError), blocks.rounded_operands("tf32"):
            assert setting.fp32_precision == "tf32"
            raise ZeroDivisionError
        assert setting.fp32_precision == own
    finally:
        setting.fp32_precision = before


def test_blocks_have_the_size_of_their_device_unless_one_is_given(monkeypatch):
    seen = []

    def size(device_type):
        seen.append(device_type)
        return Chunk(3, 5)

    monkeypatch.setattr(chunked, "default_chunk", size)
    a, tokens = model(0), ids(N, seed=1)
    small = token_logprobs(*a, tokens)
    assert seen == ["cpu"]
    assert torch.equal(small, token_logprobs(*a, tokens, chunk=Chunk(3, 5)))
    assert seen == ["cpu"]


@pytest.mark.parametrize("isa, may", [("AVX512_CORE_BF16", False), ("AVX2", False), ("ALL", True)])
def test_tiles_go_by_the_processor_and_its_declared_limit(isa, may, monkeypatch):
    """Never by a timing: a resumed run must take the same way to the last bit."""
    able = blocks.has_bf16_tiles()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert blocks.has_bf16_tiles.__wrapped__() == (may and able)


def test_an_output_that_was_not_asked_for_says_how_to_ask():
    (x,), _ = chunked_logprobs([HeadInput(*model(0), ids(N, seed=1))])
    assert x.logp.shape == (N,)
    for name, asked in (("entropy", "entropy"), ("topk_ids", "top_k"), ("n_above", "floor")):
        with pytest.raises(ValueError, match=f"{name} was not asked for: set HeadInput.{asked}"):
            getattr(x, name)


def _double(m: tuple[torch.Tensor, Head]) -> tuple[torch.Tensor, Head]:
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
        inputs = [
            HeadInput(*a, ids(n, seed=1, v=v), ids(n, 5, seed=1, v=v), 5, True),
            HeadInput(*b),
        ]
        (x, _), (kl, lk) = chunked_logprobs(inputs, [KLPair(0, 1), KLPair(1, 0)], 0.7, chunk)
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


def test_autocast_around_a_pass_changes_nothing():
    """Nor a count, which goes by the logits of known ids: here of 100 and more, which bfloat16
    rounds by tenths, with a token 0.01 nats above the floor."""
    a, b = (model(s, n=64, dtype=torch.float32, bias=True, scale=40.0) for s in (0, 10))
    logp = reference_logp(*a, 0.7)[1].detach().topk(2)
    floor, known = (logp.values[:, 1] - 0.01).float(), logp.indices[:, :1]

    def values():
        inputs = [HeadInput(*a, ids(64, seed=1), known, 3, True, floor=floor), HeadInput(*b)]
        (x, _), kls = chunked_logprobs(inputs, [KLPair(0, 1)], 0.7, Chunk(30, 5))
        return x, kls[0]

    with torch.autocast("cpu", torch.bfloat16):
        rounded, kl = values()
        assert (a[0] @ a[1].weight.T).dtype == torch.bfloat16
    assert bool((rounded.n_above == 2).all())
    plain, plain_kl = values()
    for one, two in zip(
        (*vars(rounded).values(), kl), (*vars(plain).values(), plain_kl), strict=True
    ):
        assert torch.equal(one, two)


def test_dense_gives_the_same_from_hidden_states_or_logits():
    a, b = model(0, bias=True, softcap=1.5), model(10)
    inputs = [HeadInput(*a, ids(N, seed=1), ids(N, 2, seed=2), 3, True), HeadInput(*b)]
    pairs = [KLPair(0, 1, train_p=False), KLPair(1, 0)]
    whole = [
        inputs[0]._replace(states=reference_logp(*a, 1.0)[0], head=None),
        HeadInput(reference_logp(*b, 1.0)[0]),
    ]
    results = [
        chunked_logprobs(inputs, pairs, 0.7),
        dense_logprobs(inputs, pairs, 0.7),
        dense_logprobs(whole, pairs, 0.7),
    ]
    flat = [[x for s in per_side for x in vars(s).values()] + kls for per_side, kls in results]
    for other in flat[1:]:
        torch.testing.assert_close(other, flat[0])
        diff = [[x for x in y if x.requires_grad] for y in (flat[0], other)]
        for one, two in zip(*(gradients(x, leaves(a, b)) for x in diff), strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile, at a graph break
def test_a_compiled_caller_gets_the_same_values_and_gradients():
    h, head = model(0)
    body, tokens = random(5, 5, seed=7), ids(N, seed=1)

    def loss(h):
        return token_logprobs(torch.tanh(h @ body), head, tokens).sum() * 2.0

    plain = torch.autograd.grad(loss(h), (h, body, head.weight))
    compiled = torch.autograd.grad(torch.compile(loss, backend="eager")(h), (h, body, head.weight))
    for one, two in zip(plain, compiled, strict=True):
        assert torch.equal(one, two)


H = torch.zeros(N, 5)
HEAD = Head(torch.zeros(V, 5))


@pytest.mark.parametrize(
    "inputs, pairs, settings, error, match",
    [
        ([], (), {}, ValueError, "at least one input"),
        ([HeadInput(H, HEAD)], (), {"temperature": 0.0}, ValueError, "temperature 0 "),
        ([HeadInput(H, HEAD)], (), {"chunk": Chunk(0, 5)}, ValueError, "chunk sizes"),
        ([HeadInput(H[0])], (), {}, ValueError, "logits .n, v., got .5,."),
        (
            [HeadInput(torch.zeros(N, V))],
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
        ([HeadInput(H, HEAD)], [KLPair(0, 1)], {}, ValueError, "a pair names two of 1 inputs"),
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
def test_what_cannot_be_computed_is_refused(inputs, pairs, settings, error, match):
    with pytest.raises(error, match=match):
        chunked_logprobs(inputs, pairs, **settings)


MASKED = (0, 1, 2, 3, 4, 22)  # a whole block of some chunk sizes


def masked_logp(hidden, head, temperature, ids_out):
    """float64 log-probabilities over the other ids alone; -inf at these."""
    rest = [i for i in range(V) if i not in ids_out]
    logits = hidden.double() @ head.weight.double()[rest].T + head.bias.double()[rest]
    out = torch.full((len(hidden), V), -torch.inf, dtype=torch.float64)
    return out.index_copy(1, torch.tensor(rest), torch.log_softmax(logits / temperature, -1))


def xlogy(p_log, q_log):
    """sum p q_log where p > 0."""
    inside = p_log > -torch.inf
    return (p_log.exp() * q_log.masked_fill(~inside, 0.0)).sum(-1)


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float64).min])
@pytest.mark.parametrize("path", [*CHUNKS, "dense"], ids=str)
def test_ids_of_probability_0_are_legal_forward_and_backward(path, value):
    """Masked in both, or in p alone: values and gradients are those over the other ids."""
    a, b = model(0, bias=True), model(10, bias=True)
    with torch.no_grad():
        not_none(a[1].bias)[list(MASKED)] = value
        not_none(b[1].bias)[list(MASKED[:3])] = value
    tokens = torch.full((N,), 7)
    more = torch.tensor([[0, 9, 22]]).repeat(N, 1)
    inputs = [
        HeadInput(*a, tokens, more, V, True, floor=torch.full((N,), -torch.inf)),
        HeadInput(*b, tokens, entropy=True),
    ]
    pairs = [KLPair(0, 1), KLPair(1, 0)]
    if path == "dense":
        (x, y), kls = dense_logprobs(inputs, pairs, 0.7)
    else:
        (x, y), kls = chunked_logprobs(inputs, pairs, 0.7, path)
    pa, pb = masked_logp(*a, 0.7, MASKED), masked_logp(*b, 0.7, MASKED[:3])
    assert bool(torch.isposinf(kls[1]).all())  # the first has no probability for ids 3, 4 and 22
    kl = xlogy(pa, pa) - xlogy(pa, pb)
    for value, wanted in zip(
        (x.logp, x.logp_ids, x.entropy, y.entropy, kls[0], x.topk_logp),
        (pa[:, 7], pa[:, [0, 9, 22]], -xlogy(pa, pa), -xlogy(pb, pb), kl,
         pa.sort(descending=True).values),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    assert set(x.n_above.tolist()) == {V - len(MASKED)}
    torch.testing.assert_close(x.mass_above, torch.ones(N, dtype=torch.float64))
    inputs = leaves(a, b)
    ours = gradients([x.logp, x.logp_ids[:, 1], x.entropy, y.entropy, kls[0]], inputs)
    exact = [pa[:, 7], pa[:, 9], -xlogy(pa, pa), -xlogy(pb, pb), kl]
    for got, wanted in zip(ours, gradients(exact, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
