"""Rollouts describe the distribution really sampled from; nothing depends on layout or padding."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import pytest
import torch
from tiny_context import PROBLEMS, TOKENIZER, full_logprobs, random_pair, rollout, samples

from jackpot.torch.logprobs import log_tail
from llm.rollout.sampling import _BLOCK, inverse_cdf, sample

EOS = next(iter(TOKENIZER.eos))


@pytest.fixture(scope="module")
def pair():
    return random_pair()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logp_inf_is_the_log_probability_of_the_distribution_sampled_from(pair, temperature):
    """Temperature included: equal to a full forward pass divided by the same temperature."""
    _, actor = pair
    b = rollout(actor, temperature=temperature)
    full = full_logprobs(actor, b.ids, b.is_real, 7, temperature).detach()
    full = full[b.is_completion]  # (n, v)
    taken = full.gather(-1, b.token_ids[:, None])[:, 0]
    assert torch.allclose(b.logp_inf, taken, atol=2e-5)
    best = full.topk(5, dim=-1).values
    assert torch.allclose(b.topk_logp_inf, best, atol=2e-5)
    assert torch.allclose(full.gather(-1, b.topk_ids), best, atol=2e-5)


def test_inverse_cdf_draws_each_token_in_proportion_and_never_an_impossible_one():
    """On a grid of 1000 uniforms the counts are 1000 p to within one; p = 0 gets none."""
    p = torch.tensor([0.0, 0.25, 0.0, 0.6, 0.15, 0.0])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = inverse_cdf(p.log().expand(1000, 6), uniform)
    counts = torch.bincount(drawn, minlength=6)
    assert bool(((counts - 1000 * p).abs() <= 1).all()) and counts[[0, 2, 5]].tolist() == [0, 0, 0]
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert inverse_cdf(p.log().expand(2, 6), ends).tolist() == [1, 4]


def test_a_large_vocabulary_is_searched_in_blocks_with_the_same_result():
    """Against a plain cumulative sum, 20,000 draws from 3,000 ids; and at both ends of [0, 1)."""
    rng = np.random.default_rng(0)
    p = rng.gamma(0.05, size=(4, 3000))
    p[:, _BLOCK : 2 * _BLOCK] = 0.0  # a block without mass
    p[:, 0] = 0.0
    logq = torch.from_numpy(p / p.sum(axis=1, keepdims=True)).log().float()
    uniform = rng.random((4, 5000))
    q = logq.double().exp().numpy()
    for row in range(4):
        cumulative = np.cumsum(q[row])
        expected = np.searchsorted(cumulative, uniform[row] * cumulative[-1], side="right")
        drawn = inverse_cdf(logq[row].expand(5000, -1), torch.from_numpy(uniform[row])).numpy()
        assert (drawn != expected).mean() < 1e-3 and (q[row][drawn] > 0).all()
        assert (np.abs(cumulative[drawn] - cumulative[expected]) < 1e-6).all()
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    first, last = inverse_cdf(logq[0].expand(2, -1), ends).tolist()
    assert first == np.flatnonzero(q[0])[0] and q[0][last] > 0 and q[0][last + 1 :].sum() < 1e-12


def test_a_group_is_what_its_prompt_repeated_gives(pair):
    """Sharing the prompt's forward pass changes no completion and no probability."""
    _, actor = pair
    shared = rollout(actor, group=3)
    repeated = rollout(actor, problems=[p for p in PROBLEMS for _ in range(3)])
    assert shared.completions() == repeated.completions()
    assert shared.answers == repeated.answers and shared.prompts == repeated.prompts
    assert torch.allclose(shared.logp_inf, repeated.logp_inf, atol=1e-5)


def test_a_part_of_a_step_is_what_the_whole_step_gives_there(pair):
    """Sequences 4 to 9 of 10, sampled alone at their place: the same tokens and indices."""
    _, actor = pair
    whole = rollout(actor, group=2)
    rng = np.random.default_rng(0)
    part = sample(
        *(actor, TOKENIZER, PROBLEMS[2:], rng),
        max_new_tokens=7,
        temperature=1.0,
        top_k=5,
        group=2,
        place=(4, 10),
    )
    assert part.flat().completions() == whole.completions()[4:]
    assert part.index.tolist() == whole.index.tolist()[4:]


def test_finished_sequences_leave_the_forward_pass(pair):
    """Rows per forward pass fall while some are still sampled; the completions do not change."""
    _, actor = pair
    sizes = []
    hook = actor.register_forward_pre_hook(
        lambda m, args, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True
    )
    b = rollout(actor, problems=PROBLEMS * 20, width=40)
    hook.remove()
    assert sizes[0] == 100 and sizes[-1] < 50 and sizes[1:] == sorted(sizes[1:], reverse=True)
    full = full_logprobs(actor, b.ids, b.is_real, 40, 1.0).detach()
    taken = full[b.is_completion].gather(-1, b.token_ids[:, None])[:, 0]
    assert torch.allclose(b.logp_inf, taken, atol=2e-5)
    assert b.finished.tolist() == [c[-1] == EOS for c in b.completions()]


def test_sampled_frequencies_match_the_recorded_probabilities(pair):
    """First tokens of 4000 rollouts of one prompt: chi-square below its 1 - 1e-6 quantile."""
    from scipy.stats import chi2

    _, actor = pair
    b = rollout(actor, problems=[PROBLEMS[0]] * 4000, width=1, top_k=48)
    p = torch.zeros(48).scatter(0, b.topk_ids[0], b.topk_logp_inf[0].exp()).double()
    seen = torch.bincount(b.token_ids, minlength=48).double()
    assert int(seen.sum()) == 4000
    often = p > 0.002
    statistic = float(((seen - 4000 * p) ** 2 / (4000 * p))[often].sum())
    assert statistic < chi2.ppf(1 - 1e-6, int(often.sum()))


def test_a_sequence_does_not_depend_on_the_others_in_its_batch(pair):
    """Same random numbers, same tokens, whatever is sampled beside it and however it is padded."""
    _, actor = pair
    together = rollout(actor)
    uniform = np.random.default_rng(0).random((len(PROBLEMS), 7))

    class Fixed:
        def random(self, shape):
            return uniform[i : i + 1]

    for i, problem in enumerate(PROBLEMS):
        alone = sample(
            *(actor, TOKENIZER, [problem], cast(np.random.Generator, Fixed())),
            max_new_tokens=7,
            temperature=1.0,
            top_k=5,
        ).flat()
        assert alone.completions()[0] == together.completions()[i]
        beside = together.logp_inf[together.sequence == i]
        assert torch.allclose(alone.logp_inf, beside, atol=1e-5)


def test_completions_stop_at_end_of_sequence_and_padding_is_not_real(pair):
    _, actor = pair
    with torch.no_grad():
        b = samples(actor, problems=PROBLEMS * 40, width=20)
    ended = [c for c in b.flat().completions() if EOS in c]
    assert ended and all(c.index(EOS) == len(c) - 1 for c in ended)
    assert bool((b.ids[:, -20:][~b.is_completion] == TOKENIZER.pad).all())
    assert torch.equal(b.logp_inf[~b.is_completion], torch.zeros(int((~b.is_completion).sum())))


def test_tail_mass_is_what_the_known_tokens_leave():
    p = torch.tensor([[0.5, 0.3], [0.6, 0.4]])
    tail = log_tail(p.log())
    assert float(tail[0]) == pytest.approx(np.log(0.2), rel=1e-5)
    assert float(tail[1]) < -15  # nothing, up to float32 rounding of the sum


def test_log_probabilities_of_a_bfloat16_model_are_normalised_in_float32(pair):
    """The softmax is over float32 logits: probabilities sum to 1 far closer than bfloat16 could."""
    model = copy.deepcopy(pair[1]).to(torch.bfloat16)
    b = rollout(model)
    logp = full_logprobs(model, b.ids, b.is_real, 7, 1.0).detach()
    total = logp[b.is_completion].double().exp().sum(dim=-1)
    assert logp.dtype == torch.float32 and float((total - 1.0).abs().max()) < 1e-6
    assert b.topk_logp_inf.dtype == torch.float32
