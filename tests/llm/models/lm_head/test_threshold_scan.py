"""Entries above a threshold, counted in blocks."""

import pytest
import torch
from lm_head_cases import CHUNKS, Products, V, ids, model, random, reference_logp

import jackpot
from jackpot.torch.z_tail import tail_floor, tail_terms
from llm.models.lm_head import threshold_scan
from llm.models.lm_head.chunked import (
    Chunk,
    Head,
    HeadInput,
    KLPair,
    chunked_logprobs,
    dense_logprobs,
)


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
        inputs = [HeadInput(*model(5, n=12, v=v)), HeadInput(*m, ids=known, floor=floor)]
        for (other, x), _ in (
            chunked_logprobs(inputs, [KLPair(0, 1)], 0.8, chunk),
            dense_logprobs(inputs, (), 0.8),
        ):
            with pytest.raises(ValueError, match="n_above was not asked for"):
                _ = other.n_above
            assert not x.mass_above.requires_grad
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
    bias = random(V, seed=2).detach()
    bias[4] = -15.0
    head = Head(head.weight, bias)
    logp = reference_logp(hidden, head, 3.0)[1]
    floor = torch.full((12,), -6.0).double()
    high = logp > floor[:, None]
    assert bool((high.sum(1) > 3).all()) and not bool(high.all())
    (x,), _ = chunked_logprobs([HeadInput(hidden, head, ids=known, floor=floor)], (), 3.0, chunk)
    assert torch.equal(x.n_above, high.sum(1).double())
    torch.testing.assert_close(x.mass_above, (logp.exp() * high).sum(1))


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


@pytest.mark.parametrize("v", [1, 127, 128, 300, 1024])
def test_both_ways_to_find_the_entries_above_a_floor_find_those_that_are(v):
    """By stretches on a CPU, by entries on a GPU."""
    x, floor = random(9, v, seed=1).detach(), torch.linspace(-2.0, 2.0, 9).double()
    wanted = [(i, float(x[i, j])) for i in range(9) for j in range(v) if x[i, j] > floor[i]]
    for way in (threshold_scan._by_stretches, threshold_scan._by_entries):
        rows, values = way(x, floor)
        found = zip(rows.tolist(), values.tolist(), strict=True)
        assert sorted(found) == sorted(wanted)
