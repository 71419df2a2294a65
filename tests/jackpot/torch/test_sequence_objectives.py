"""Objectives of whole completions against their formulas, written out with autograd and loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackpot.torch.objectives import ObjectiveTokens, policy_loss_sum
from jackpot.torch.sequence_objectives import (
    GapStatistics,
    SequenceCoefficients,
    a_star_po,
    alpha_dpo,
    dmpo,
    optimal_value,
    per_sequence,
)

SEEDS = st.integers(0, 10_000)


def world(seed: int, n: int = 8, prompts: int = 3) -> dict[str, torch.Tensor]:
    """n completions of some prompts in mixed order; log-probabilities in float64."""
    rng = np.random.default_rng(seed)
    draw = {name: -rng.gamma(4.0, 2.0, n) for name in ("logp_new", "logp_pre", "logp_inf")}
    tensors = {name: torch.from_numpy(values) for name, values in draw.items()}
    tensors["reward"] = torch.from_numpy(rng.random(n))
    tensors["group"] = torch.from_numpy(rng.permutation(np.arange(n) % prompts))
    tensors["length"] = torch.from_numpy(rng.integers(1, 9, n))
    tensors["right"] = torch.from_numpy(rng.random(n) < 0.5)
    return tensors


def assert_is_gradient(made: SequenceCoefficients, logp_new: torch.Tensor, loss) -> None:
    """loss(logp_new) is the value, and its derivatives are minus the coefficients."""
    variable = logp_new.clone().requires_grad_()
    value = loss(variable)
    torch.testing.assert_close(made.loss, value.detach())
    (gradient,) = torch.autograd.grad(value, variable)
    torch.testing.assert_close(made.coefficient, -gradient)


@given(SEEDS)
def test_a_star_po_is_the_mean_squared_residual(seed):
    w = world(seed)
    value = torch.linspace(-1, 1, 8, dtype=torch.float64)
    made = a_star_po(w["logp_new"], w["logp_pre"], w["reward"], value, beta=0.3)

    def loss(logp):
        return ((0.3 * (logp - w["logp_pre"]) + value - w["reward"]) ** 2).mean()

    assert_is_gradient(made, w["logp_new"], loss)
    residual = 0.3 * (w["logp_new"] - w["logp_pre"]) + value - w["reward"]
    assert made.metrics["a_star_residual"] == pytest.approx(float(residual.mean()))


def every_completion(seed: int, vocab: int = 3, horizon: int = 2):
    """All completions of a prompt: log p_pre (float64), which sums to 1, and rewards."""
    rng = np.random.default_rng(seed)
    n = len(list(itertools.product(range(vocab), repeat=horizon)))
    logits = torch.from_numpy(rng.normal(size=n))
    return logits.log_softmax(0), torch.from_numpy((rng.random(n) < 0.5).astype(float))


@given(SEEDS, st.floats(0.05, 5))
def test_the_residual_of_a_star_po_is_0_at_its_optimum_and_at_no_other_beta(seed, beta):
    """V* by enumeration: sum of p_pre e^(r / beta), where `optimal_value` samples p_pre."""
    logp_pre, reward = every_completion(seed)
    value = beta * (logp_pre + reward / beta).logsumexp(0)
    best = logp_pre + (reward - value) / beta
    assert float(best.logsumexp(0)) == pytest.approx(0.0, abs=1e-9)
    made = a_star_po(best, logp_pre, reward, value.expand(len(reward)), beta=beta)
    assert float(made.coefficient.abs().max()) < 1e-12
    if len(reward.unique()) == 2:
        other = a_star_po(best, logp_pre, reward, value.expand(len(reward)), beta=2 * beta)
        assert float(other.loss) > 1e-6


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9), st.floats(0.01, 50))
def test_the_optimal_value_lies_between_mean_and_maximum(rewards, beta):
    reward = torch.tensor(rewards, dtype=torch.float64)
    value = optimal_value(reward, beta=beta)
    assert float(reward.mean()) - 1e-9 <= value <= float(reward.max()) + 1e-9
    by_hand = beta * math.log(sum(math.exp((r - max(rewards)) / beta) for r in rewards))
    wanted = max(rewards) + by_hand - beta * math.log(len(rewards))
    assert value == pytest.approx(wanted, abs=1e-9)


def test_the_optimal_value_of_right_and_wrong_and_at_the_ends_of_beta():
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert optimal_value(reward, beta=0.5) == pytest.approx(
        0.5 * math.log(1 + 0.25 * (math.exp(2) - 1))
    )
    assert optimal_value(reward, beta=0) == optimal_value(reward, beta=math.inf) == 0.25
    assert optimal_value(reward, beta=1e-3) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("baseline", ["none", "mean", "neg", "self"])
@given(SEEDS)
def test_dmpo_is_the_weighted_likelihood_of_its_groups(baseline, seed):
    w = world(seed)
    names = ("logp_new", "logp_pre", "logp_inf", "reward", "group")
    made = dmpo(*(w[n] for n in names), alpha=0.7, baseline=baseline, baseline_coef=0.6)

    def loss(logp):
        total, prompts = 0, sorted(set(w["group"].tolist()))
        for prompt in prompts:
            own = [i for i in range(8) if w["group"][i] == prompt]
            ratio = [float(w["logp_pre"][i] - w["logp_inf"][i]) for i in own]
            r = [float(w["reward"][i]) / 0.7 for i in own]
            up = [math.exp(a + b) for a, b in zip(ratio, r, strict=True)]
            down = [math.exp(a - b) for a, b in zip(ratio, r, strict=True)]
            now = [math.exp(float(w["logp_new"][i] - w["logp_inf"][i])) for i in own]
            base = {"none": [0.0] * len(own), "mean": [1.0] * len(own), "neg": down, "self": now}
            b = base[baseline]
            share = [x / (sum(b) or 1.0) for x in b]
            for i, x, y in zip(own, up, share, strict=True):
                total = total - (x / sum(up) - 0.6 * y) * logp[i] / len(prompts)
        return total

    assert_is_gradient(made, w["logp_new"], loss)


@given(SEEDS)
def test_dmpo_over_all_completions_has_the_gradient_of_kl_from_its_target(seed):
    """Sampled once each with p_inf uniform, the weights are p* itself."""
    logp_pre, reward = every_completion(seed)
    n = len(reward)
    uniform, group = torch.full((n,), -math.log(n), dtype=torch.float64), torch.zeros(n)
    logits = torch.linspace(-1, 1, n, dtype=torch.float64).requires_grad_()
    logp = logits.log_softmax(0)
    made = dmpo(logp, logp_pre, uniform, reward, group, alpha=0.5, baseline="none")
    (ours,) = torch.autograd.grad(-(made.coefficient * logp).sum(), logits, retain_graph=True)
    target = (logp_pre + reward / 0.5).softmax(0)
    kl = (target * (target.log() - logp)).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(kl, logits)[0])


def test_dmpos_weights_at_the_ends_of_alpha_and_their_effective_share():
    w = world(1, prompts=1)
    args = (w["logp_new"], w["logp_inf"], w["logp_inf"], w["reward"], w["group"])
    flat = dmpo(*args, alpha=1e9, baseline="none")
    torch.testing.assert_close(flat.coefficient, torch.full((8,), 0.125, dtype=torch.float64))
    assert flat.metrics["dmpo_ess_share"] == pytest.approx(1)
    sharp = dmpo(*args, alpha=1e-6, baseline="none")
    assert sharp.coefficient.argmax() == w["reward"].argmax()
    assert sharp.metrics["dmpo_ess_share"] == pytest.approx(1 / 8)
    held = dmpo(*args, alpha=1e-3, baseline="none", ess_min=0.8)
    assert held.metrics["dmpo_ess_share"] == pytest.approx(0.8, abs=1e-6)
    assert 0 < held.metrics["dmpo_temper"] < 1
    assert dmpo(*args, alpha=1e9, baseline="none", ess_min=0.8).metrics["dmpo_temper"] == 1
    # one temper for both terms: with p_pre = p_inf the baseline's is of -r / alpha alone
    both, temper = dmpo(*args, alpha=1e-3, ess_min=0.8), held.metrics["dmpo_temper"]
    base = (-temper * w["reward"] / 1e-3).softmax(0)
    torch.testing.assert_close(both.coefficient, held.coefficient - base)


NO_HISTORY = GapStatistics()


def dpo(w: dict[str, torch.Tensor], history: GapStatistics, **keywords):
    tensors = (w["logp_new"], w["logp_pre"], w["length"], w["right"], w["group"])
    return alpha_dpo(*tensors, history, **keywords)


def pairs(w: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    n = len(w["right"])
    return [
        (i, j)
        for i in range(n)
        for j in range(n)
        if w["group"][i] == w["group"][j] and w["right"][i] and not w["right"][j]
    ]


@given(SEEDS, st.booleans())
def test_alpha_dpo_is_the_mean_over_all_pairs_of_a_prompt(seed, corrected):
    w = world(seed, n=10)
    found = pairs(w)
    history = GapStatistics(0.1, 0.2, 3)
    made, moved = dpo(w, history, alpha=0.3, decay=0.8, bias_correction=corrected)
    assert made.metrics["dpo_pairs"] == len(found)
    if len(found) < 2:
        assert moved == history and not made.coefficient.any() and made.loss == 0
        return
    new, pre = (w[n] / w["length"] for n in ("logp_new", "logp_pre"))
    apart = np.array([float(new[i] - new[j] - pre[i] + pre[j]) for i, j in found])
    mean, std = 0.08 + 0.2 * apart.mean(), 0.16 + 0.2 * apart.std(ddof=1)
    assert moved == (pytest.approx(mean), pytest.approx(std), 4)
    known = 1 - 0.8**4 if corrected else 1.0
    z = (apart - mean / known) / (std / known)

    def loss(logp):
        total = torch.zeros((), dtype=torch.float64)
        for (i, j), own in zip(found, z, strict=True):
            gap = logp[i] / w["length"][i] - logp[j] / w["length"][j]
            margin = 2.5 * (gap - 0.3 * own - 0.6)
            total = total - torch.nn.functional.logsigmoid(margin) / len(found)
        return total

    assert_is_gradient(made, w["logp_new"], loss)


def test_alpha_dpo_without_alpha_is_simpo_and_its_first_z_is_too_large():
    w = world(3, n=10)
    simpo, _ = dpo(w, NO_HISTORY, alpha=0.0)
    none = torch.zeros_like(w["logp_pre"])
    again, _ = dpo(w | {"logp_pre": none}, NO_HISTORY, alpha=0.0)
    torch.testing.assert_close(simpo.coefficient, again.coefficient)  # p_pre has no say
    # a gap 2 standard deviations above a mean of 0.45 of them: (2 + .45 - .045) / .1
    _, moved = dpo(w, NO_HISTORY)
    _, right = dpo(w, NO_HISTORY, decay=0.0)
    assert moved.std == pytest.approx(right.std / 10) and moved.mean == pytest.approx(
        right.mean / 10
    )


def test_dmpos_coefficients_are_exactly_0_where_the_rewards_of_each_prompt_are_equal():
    """So no rounding is left for the optimiser, and a run can count the update as skipped."""
    w = world(0, n=12, prompts=3)
    equal = 0.1 + 0.3 * w["group"].double()
    made = dmpo(w["logp_new"], w["logp_pre"], w["logp_inf"], equal, w["group"], alpha=0.07)
    assert made.coefficient.tolist() == [0.0] * 12


@given(SEEDS)
def test_alpha_dpos_z_forgets_shift_and_scale_and_swapping_the_sides_flips_the_margin(seed):
    """Of one batch (decay 0). Without alpha and gamma -log s(-m) + log s(m) = m, the margin."""
    w = world(seed, n=10)
    new, pre, length, right, group = (
        w[n] for n in ("logp_new", "logp_pre", "length", "right", "group")
    )
    if len(pairs(w)) < 2:
        return
    once: dict[str, Any] = {"alpha": 0.4, "decay": 0.0}
    plain, _ = alpha_dpo(new, pre, length, right, group, NO_HISTORY, **once)
    shifted = pre + 3.0 * length * right  # every pair's gap under p_pre is 3 more
    for other in (shifted, new - 5.0 * (new - pre)):
        again, _ = alpha_dpo(new, other, length, right, group, NO_HISTORY, **once)
        torch.testing.assert_close(again.coefficient, plain.coefficient)
    bare: dict[str, Any] = {"alpha": 0.0, "gamma_beta_ratio": 0.0}
    one, _ = alpha_dpo(new, pre, length, right, group, NO_HISTORY, **bare)
    two, _ = alpha_dpo(new, pre, length, ~right, group, NO_HISTORY, **bare)
    gaps = [float(new[i] / length[i] - new[j] / length[j]) for i, j in pairs(w)]
    assert float(two.loss - one.loss) == pytest.approx(2.5 * np.mean(gaps))


def test_pairs_are_of_one_prompt_and_one_alone_is_skipped():
    w = world(0, n=4, prompts=2)
    w["group"], w["right"] = torch.tensor([7, 2, 7, 2]), torch.tensor([True, True, False, True])
    made, moved = dpo(w, NO_HISTORY)
    assert made.metrics["dpo_pairs"] == 1 and moved == NO_HISTORY
    w["right"] = torch.tensor([True, True, False, False])
    made, _ = dpo(w, NO_HISTORY)
    assert made.metrics["dpo_pairs"] == 2
    assert (made.coefficient > 0).tolist() == w["right"].tolist()


def test_a_completions_coefficient_multiplies_each_of_its_tokens():
    """As the weight of the token objective whole_completion, whose term is log p_new; a token of
    p_new = 0 in a completion that does not count adds nothing."""
    logp = torch.tensor([-1.0, -2.0, -math.inf, -0.5], requires_grad=True)
    sequence, coefficient = torch.tensor([0, 2, 1, 2]), torch.tensor([0.5, 0.0, -2.0])
    blank = torch.zeros(4)
    tokens = ObjectiveTokens(logp, blank, blank, blank, sequence)
    made = policy_loss_sum(tokens, coefficient[sequence], blank + 1, type="whole_completion")
    made.loss.backward()
    assert made.loss.item() == pytest.approx(0.5 - 5.0) and not made.clipped.any()
    assert logp.grad is not None and logp.grad.tolist() == [-0.5, 2.0, 0.0, 2.0]
    total = per_sequence(torch.tensor([1.0, 2.0, 4.0, 8.0]), sequence, 4)
    assert total.tolist() == [1.0, 4.0, 10.0, 0.0] and total.dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w: optimal_value(torch.zeros(0), beta=1.0), "at least one reward"),
        (lambda w: optimal_value(torch.tensor([math.nan]), beta=1.0), "reward must be finite"),
        (lambda w: optimal_value(torch.zeros(2), beta=-1.0), "beta must be at least 0, got -1"),
        (lambda w: a_star_po(w["logp_new"], w["logp_pre"], w["reward"], w["reward"], beta=0.0),
         "beta must be finite and above 0"),
        (lambda w: a_star_po(w["logp_new"], w["logp_pre"] / 0, w["reward"], w["reward"]),
         "logp_pre must be finite"),
        (lambda w: dmpo(*(w[n] for n in ("logp_new", "logp_pre", "logp_inf", "reward", "group")),
                        alpha=0.0), "alpha must be finite and above 0"),
        (lambda w: dmpo(*(w[n] for n in ("logp_new", "logp_pre", "logp_inf", "reward", "group")),
                        ess_min=1.5), "ess_min is a share"),
        *((lambda w, bad=bad: dmpo(*(w[n] for n in ("logp_new", "logp_pre", "logp_inf", "reward",
                                                    "group")), baseline_coef=bad),
           "baseline_coef must be finite and at least 0") for bad in (math.nan, math.inf, -1.0)),
        *((lambda w, name=name, bad=bad: dpo(w, NO_HISTORY, **{name: bad}),
           f"{name} must be finite and at least 0")
          for name in ("alpha", "gamma_beta_ratio") for bad in (math.nan, math.inf, -1.0)),
        (lambda w: dpo(w, NO_HISTORY, decay=1.0), "decay must be in"),
        (lambda w: dpo(w, NO_HISTORY, beta=math.inf), "beta must be"),
        (lambda w: dpo(w | {"length": 0 * w["length"]}, NO_HISTORY), "without a tok"),
    ],
)  # fmt: skip
def test_what_is_no_number_or_no_bound_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(world(0))
