"""Token objectives against loops over tokens in plain Python, and their invariants.

The loops here share no code with `jackpot.torch.objectives`. A gradient is that of the loss with
respect to log p_new.
"""

from __future__ import annotations

import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from optional import not_none

from jackpot.torch import objectives
from jackpot.torch.losses import ppo_clip_sum
from jackpot.torch.objectives import ObjectiveTokens

INF, NAN = math.inf, math.nan
WORLDS = 12  # random batches of each property
LENGTHS = (1, 4, 2, 5, 3)


class RandomTokens:
    """Five completions over a vocabulary of 6, float64, with q, p_ref and p_new of each state."""

    def __init__(self, seed, spread=0.4, k=3, on_policy=False):
        rng = np.random.default_rng(seed)
        n, v = sum(LENGTHS), 6
        logits = rng.normal(size=(n, v)) * 1.5
        q = logits
        ref = logits + (0 if on_policy else spread * rng.normal(size=(n, v)))
        new = logits + (0 if on_policy else spread * rng.normal(size=(n, v)))
        self.q, self.ref, self.new = (np.exp(x) / np.exp(x).sum(1, keepdims=True)
                                      for x in (q, ref, new))  # fmt: skip
        self.x = np.array([rng.choice(v, p=row) for row in self.q])
        self.sequence = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
        self.advantage = np.repeat(rng.choice([-1.5, -0.5, 0.0, 1.0, 2.0], len(LENGTHS)), LENGTHS)
        self.top = np.argsort(-self.q, 1)[:, :k]
        at = np.arange(n)
        self.lq, self.lr, self.ln = (np.log(p[at, self.x]) for p in (self.q, self.ref, self.new))
        self.n = n

    def tokens(self, **changes):
        t = torch.from_numpy
        at = np.arange(self.n)[:, None]
        values = {
            "logp_new": t(self.ln), "logp_ref": t(self.lr), "logp_inf": t(self.lq),
            "advantage": t(self.advantage), "sequence": t(self.sequence),
            "topk_logp_new": t(np.log(self.new[at, self.top])),
            "topk_logp_inf": t(np.log(self.q[at, self.top])),
            "in_topk": t((self.top == self.x[:, None]).any(1)),
        } | changes  # fmt: skip
        return ObjectiveTokens(**values)


def run(tokens, weight=None, scale=None, **keywords):
    """Loss, its gradient, clipped, and masked by the objective or with its sequence."""
    leaf = tokens.logp_new.clone().requires_grad_()
    one = torch.ones_like(leaf.detach())
    weight = one if weight is None else weight
    scale = one if scale is None else scale
    found = objectives.policy_loss_sum(tokens._replace(logp_new=leaf), weight, scale, **keywords)
    (grad,) = torch.autograd.grad(found.loss, leaf)
    masked = torch.maximum(found.masked, found.sequence_masked)
    return float(found.loss.detach()), grad.numpy(), found.clipped.numpy(), masked.numpy()


BINARY = {"type": "dppo", "ratio": "inf", "divergence": "binary_tv"}
PPO = {"type": "ppo", "clip_low": 0.2, "clip_high": 0.2}
CISPO = {"type": "cispo", "clip_low": 0.2, "clip_high": 0.3}
GSPO = {"type": "gspo", "clip_low": 0.05, "clip_high": 0.05}
MINPRO = {"type": "minpro", "ratio": "inf", "clip_low": 0.2, "clip_high": 0.28}
M2PO = {"type": "m2po", "ratio": "inf"}


# The loops. Each gives the loss and what it says of every token.


def positive_part(low, high, r):
    return min(max(r, low), high)


def loop_ppo(w, old, low, high):
    loss, grad = 0.0, []
    for i in range(w.n):
        r, a = math.exp(w.ln[i] - old[i]), w.advantage[i]
        bounded = positive_part(low, high, r)
        loss -= min(r * a, bounded * a)
        grad.append(-r * a if r * a <= bounded * a else 0.0)
    return loss, grad


def loop_cispo(w, old, low, high):
    loss, grad = 0.0, []
    for i in range(w.n):
        c = positive_part(low, high, math.exp(w.ln[i] - old[i]))
        loss -= c * w.advantage[i] * w.ln[i]
        grad.append(-c * w.advantage[i])
    return loss, grad


def loop_gspo(w, old, low, high):
    loss, grad = 0.0, []
    for s in range(len(LENGTHS)):
        places = [i for i in range(w.n) if w.sequence[i] == s]
        ratio = math.exp(sum(w.ln[i] - old[i] for i in places) / len(places))
        for i in places:
            a, bounded = w.advantage[i], positive_part(low, high, ratio)
            loss -= min(ratio * a, bounded * a)
            grad.append(-ratio * a if ratio * a <= bounded * a else 0.0)
    return loss, grad


def loop_divergence(w, i, kind):
    """KL(q || p) or total variation over the blocks of the vocabulary that `kind` keeps apart."""
    apart = {w.x[i]} | (set(w.top[i]) if kind.startswith("top_k") else set())
    blocks = [[y] for y in apart] + [[y for y in range(w.q.shape[1]) if y not in apart]]
    total = 0.0
    for block in blocks:
        p, q = sum(w.new[i][block]), sum(w.q[i][block])
        if kind.endswith("tv"):
            total += abs(p - q) / 2
        elif q > 0:
            total += q * math.log(q / p)
    return total


def loop_dppo(w, old, kind, delta, cap):
    loss, grad, masked = 0.0, [], []
    for i in range(w.n):
        a = w.advantage[i]
        keep = a * (w.new[i][w.x[i]] / w.q[i][w.x[i]] - 1) <= 0
        keep = keep or loop_divergence(w, i, kind) <= delta
        c = min(math.exp(w.ln[i] - old[i]), cap) * keep
        loss -= c * a * w.ln[i]
        grad.append(-c * a)
        masked.append(1.0 - keep)
    return loss, grad, masked


def loop_minpro(w, low, high):
    loss, grad = 0.0, []
    for s in range(len(LENGTHS)):
        smallest: list[float] = []
        for i in (i for i in range(w.n) if w.sequence[i] == s):
            rho = math.exp(w.ln[i] - w.lq[i])
            c = positive_part(low, high, rho * min(smallest, default=1.0))
            smallest.append(rho)
            loss -= c * w.advantage[i] * w.ln[i]
            grad.append(-c * w.advantage[i])
    return loss, grad


def loop_m2po_kept(w, tau):
    """Tokens are dropped one largest value at a time, with all that equal it."""
    value = (w.ln - w.lq) ** 2
    pushed = {i for i in range(w.n) if w.advantage[i] * (w.ln[i] - w.lq[i]) > 0}
    while pushed and sum(value[i] for i in pushed) / len(pushed) > tau:
        largest = max(value[i] for i in pushed)
        pushed = {i for i in pushed if value[i] < largest}
    bad = {i for i in range(w.n) if w.advantage[i] * (w.ln[i] - w.lq[i]) > 0} - pushed
    return [i not in bad for i in range(w.n)], pushed


def loop_bapo(w, old, weight, share, accounting, low, high, step_low, step_high):
    """Algorithm 1 in hundredths, so that no sum of steps drifts."""
    now, top = [round(100 * low[0]), round(100 * high[0])], [100 * low[1], 100 * high[1]]
    steps = 0
    while True:
        cl, ch = now[0] / 100, now[1] / 100
        gain = loss = signed = 0.0
        for i in range(w.n):
            r, a = math.exp(w.ln[i] - old[i]), w.advantage[i]
            v = min(r * a, positive_part(cl, ch, r) * a)
            if accounting == "grad":
                v = r * a * (r <= ch if a > 0 else r >= cl)
            v *= math.exp(w.lq[i]) * weight[i]
            gain, loss, signed = gain + max(v, 0), loss + abs(v), signed + v
        bottom = abs(signed) if accounting == "literal" else loss
        if loss == 0 or (gain / bottom if bottom else INF) >= share:
            break
        if now[1] + 100 * step_high <= top[1] + 1e-6:
            now[1] += round(100 * step_high)
        elif now[0] + 100 * step_low <= top[0] + 1e-6:
            now[0] += round(100 * step_low)
        else:
            break
        steps += 1
    return now[0] / 100, now[1] / 100, steps


# Formulas


@pytest.mark.parametrize("ratio", ["ref", "inf"])
@pytest.mark.parametrize("seed", range(WORLDS))
def test_terms_and_gradients_are_those_of_the_loops(seed, ratio):
    """PPO, CISPO, GSPO, divergence PPO and MinPRO: value and gradient at every token."""
    w = RandomTokens(seed)
    old = w.lr if ratio == "ref" else w.lq
    found = {
        "ppo": (run(w.tokens(), **PPO, ratio=ratio), loop_ppo(w, old, 0.8, 1.2)),
        "cispo": (run(w.tokens(), **CISPO, ratio=ratio), loop_cispo(w, old, 0.8, 1.3)),
        "gspo": (run(w.tokens(), **GSPO, ratio=ratio), loop_gspo(w, old, 0.95, 1.05)),
        "minpro": (run(w.tokens(), **MINPRO), loop_minpro(w, 0.8, 1.28)),
    }
    for kind in ("binary_tv", "binary_kl", "top_k_tv", "top_k_kl"):
        keywords = {"type": "dppo", "ratio": ratio, "divergence": kind, "delta": 0.03, "cap": 1.5}
        loss, grad, masked = loop_dppo(w, old, kind, 0.03, 1.5)
        found[kind] = (run(w.tokens(), **keywords), (loss, grad))
        np.testing.assert_array_equal(found[kind][0][3], masked, err_msg=kind)
    for name, (mine, (loss, grad)) in found.items():
        assert mine[0] == pytest.approx(loss, rel=1e-9), name
        np.testing.assert_allclose(mine[1], grad, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_m2po_masks_the_largest_log_ratios_until_the_second_moment_fits(seed):
    """The kept second moment is at most tau, and no more tokens go than that takes."""
    w, tau = RandomTokens(seed), 0.02
    tokens, one = w.tokens(), torch.ones(w.n)
    bounds = objectives.bounds_of(tokens, one, **M2PO, tau=tau)
    loss, grad, _, masked = run(tokens, **M2PO, **bounds)
    kept, pushed = loop_m2po_kept(w, tau)
    np.testing.assert_array_equal(masked, 1.0 - np.array(kept))
    rho = np.exp(w.ln - w.lq) * kept
    np.testing.assert_allclose(grad, -rho * w.advantage, atol=1e-12)
    assert loss == pytest.approx(-(rho * w.advantage).sum())
    moment = [(w.ln[i] - w.lq[i]) ** 2 for i in pushed]
    assert not moment or np.mean(moment) <= tau
    harmless = w.advantage * (w.ln - w.lq) <= 0
    assert not masked[harmless].any()


def test_m2po_drops_equal_values_together():
    """Of three equal log-ratios above tau none stays."""
    log_rho = torch.tensor([0.5, 0.5, 0.1, 0.5], dtype=torch.float64)
    args = (log_rho, torch.zeros(4, dtype=torch.float64), torch.ones(4))
    threshold = objectives.m2po_threshold(*args, tau=0.04)
    found = objectives.m2po(*args, threshold=threshold)
    assert found.mask.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert objectives.m2po_threshold(*args, tau=INF) == INF


def test_a_second_moment_of_just_tau_is_small_enough():
    """Powers of two, so that the mean is exact."""
    log_rho = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    args = (log_rho, 0 * log_rho, torch.ones(3))
    assert objectives.m2po_threshold(*args, tau=0.125) == INF
    assert objectives.m2po_threshold(*args, tau=0.0625) == 0.25
    assert objectives.m2po_threshold(*args, tau=0.0624) == 0.0625


@pytest.mark.parametrize("ratio", ["ref", "inf"])
def test_rejected_tokens_have_no_say_in_bounds_that_adapt(ratio):
    """Bounds of the accepted ones alone, of either ratio; with all of weight 1 they differ."""
    w = RandomTokens(6, spread=0.8)
    w.advantage = np.repeat([1.0, -1.5, 0.5, -0.5, 2.0], LENGTHS)
    tokens = ObjectiveTokens(*(x.clone() for x in w.tokens()))
    weight = torch.ones(w.n, dtype=torch.float64)
    weight[::3] = 0.0
    # hardly moved, where the advantage pushes: they lower the second moment, and raise the share
    tokens.logp_new[::3] = tokens.logp_inf[::3] + 0.01 * tokens.advantage[::3].sign()
    kept = ObjectiveTokens(*(not_none(x)[weight > 0] for x in tokens))
    for keywords in ({"type": "bapo", "share": 0.5, "ratio": ratio}, {**M2PO, "tau": 0.02}):
        alone = objectives.bounds_of(kept, weight[weight > 0], **keywords)
        found = objectives.bounds_of(tokens, weight, **keywords)
        assert found == alone
        assert found != objectives.bounds_of(tokens, torch.ones_like(weight), **keywords)


@pytest.mark.parametrize("accounting", ["value", "grad", "literal"])
@pytest.mark.parametrize("seed", range(WORLDS))
def test_bapo_takes_the_first_bounds_of_enough_share(seed, accounting):
    """The bounds are Algorithm 1's, and at most as many steps are made as fit: 36 and 15."""
    w = RandomTokens(seed, spread=0.8)
    weight = np.random.default_rng(seed).uniform(0.5, 2, w.n)
    share = random.Random(seed).choice([0.1, 0.4, 0.6, 0.9])
    ratio, old = ("inf", w.lq) if seed % 2 else ("ref", w.lr)
    keywords = {"type": "bapo", "share": share, "accounting": accounting, "ratio": ratio}
    bounds = objectives.bounds_of(w.tokens(), torch.from_numpy(weight), **keywords)
    low, high, steps = loop_bapo(
        w, old, weight, share, accounting, (0.6, 0.9), (1.2, 3.0), 0.02, 0.05
    )
    assert bounds == pytest.approx({"low": low, "high": high}) and steps <= 36 + 15
    loss, grad = run(w.tokens(), type="bapo", ratio=ratio, **bounds)[:2]
    wanted = loop_ppo(w, old, low, high)
    assert loss == pytest.approx(wanted[0])
    np.testing.assert_allclose(grad, wanted[1], atol=1e-12)


def test_bapo_at_its_ends():
    """share 0 or no negative advantage: no step; no positive one: to the last bounds and no more.

    Steps that do not divide the range stop before its end.
    """
    one = torch.ones(4, dtype=torch.float64)
    args = (-one, -one, -one)  # r = 1
    bounds = objectives.bapo_bounds
    assert bounds(*args, -one, one, share=0.0) == (0.6, 1.2)
    assert bounds(*args, one, one, share=0.9) == (0.6, 1.2)
    assert bounds(*args, 0 * one, one, share=0.9) == (0.6, 1.2)
    assert bounds(*args, -one, one, share=0.4) == pytest.approx((0.9, 3.0))
    assert bounds(*args, -one, one, high_step=0.7, low_step=0.2) == pytest.approx((0.8, 2.6))
    # positive and negative in balance: the literal denominator is 0, and the share enough
    mixed = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    assert bounds(*args, mixed, one, share=9.0, accounting="literal") == (0.6, 1.2)


def test_raising_bapos_low_bound_lowers_the_share_by_value_and_raises_it_by_gradient():
    """Clipped negative tokens still contribute low |A| by value; by gradient they are gone."""
    ratio = np.array([1.0, 0.7, 0.7, 1.0])
    new = torch.from_numpy(np.log(0.2 * ratio))
    ref = torch.full((4,), math.log(0.2), dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    bounds = partial(objectives.bapo_bounds, new, ref, ref, advantage, torch.ones(4))
    bounds = partial(bounds, high_min=1.2, high_max=1.2, low_step=0.3, low_max=0.9)
    accountings: tuple[objectives.Accounting, ...] = ("value", "grad")
    ends = {
        (accounting, share): bounds(share=share, accounting=accounting)[0]
        for accounting in accountings
        for share in (0.28, 0.3, 0.45)
    }
    # value: 1 / (1 + .7 + .7 + 1) = .294 at low .6, 1 / (1 + .9 + .9 + 1) = .263 at low .9
    assert ends["value", 0.28] == 0.6 and ends["value", 0.3] == pytest.approx(0.9)
    assert ends["grad", 0.28] == 0.6 and ends["grad", 0.45] == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_opsm_drops_negative_sequences_that_drifted(seed):
    """A whole sequence goes, by the mean of its tokens; none of A >= 0 ever does."""
    w, delta = RandomTokens(seed), 0.02
    masked = run(w.tokens(), **PPO, opsm_delta=delta)[3]
    for s in range(len(LENGTHS)):
        places = w.sequence == s
        drop = w.advantage[places][0] < 0 and (w.lr - w.ln)[places].mean() > delta
        assert (masked[places] == drop).all()
    assert not run(w.tokens(), **PPO)[3].any()


# Invariants


ALL = [
    *(PPO, CISPO, GSPO, MINPRO),
    *({**BINARY, "divergence": d, "delta": 0.0, "cap": 20.0}
      for d in ("binary_tv", "binary_kl", "top_k_tv", "top_k_kl")),
    {"type": "bapo", "low": 0.6, "high": 1.2},
    {**M2PO, "threshold": 1e-6},
]  # fmt: skip


@pytest.mark.parametrize("keywords", ALL, ids=lambda k: k["type"] + k.get("divergence", ""))
def test_on_policy_every_objective_is_reinforce(keywords):
    """p_new = p_ref = q: the gradient is that of -A log p, with nothing masked or clipped."""
    w = RandomTokens(3, on_policy=True)
    for opsm_delta in (0.0, INF):
        _, grad, clipped, masked = run(w.tokens(), **keywords, opsm_delta=opsm_delta)
        np.testing.assert_allclose(grad, -w.advantage, rtol=1e-12)
        assert not clipped.any() and not masked.any()


@pytest.mark.parametrize("seed", range(WORLDS))
def test_without_bounds_objectives_are_importance_sampling(seed):
    """Infinite thresholds: the gradient of -r A, of the sequence's ratio for GSPO."""
    w = RandomTokens(seed)
    free = {"clip_low": INF, "clip_high": INF}
    rho = np.exp(w.ln - w.lq)
    for keywords in (
        {"type": "ppo", "ratio": "inf", **free},
        {"type": "cispo", "ratio": "inf", **free},
        {**BINARY, "delta": INF, "cap": INF},
        {**M2PO, "threshold": INF},
    ):
        np.testing.assert_allclose(run(w.tokens(), **keywords)[1], -rho * w.advantage, rtol=1e-9)
    grad = run(w.tokens(), type="gspo", ratio="inf", **free)[1]
    mean = [(w.ln - w.lq)[w.sequence == s].mean() for s in w.sequence]
    np.testing.assert_allclose(grad, -np.exp(mean) * w.advantage, rtol=1e-9)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_of_sequences_of_one_token_gspo_is_ppo_and_minpro_is_cispo(seed):
    """T = 1: the sequence's ratio is the token's, and no prefix comes before it."""
    w = RandomTokens(seed)
    alone = {"sequence": torch.arange(w.n)}
    bounds = {"clip_low": 0.1, "clip_high": 0.1}
    for one, other in (("gspo", "ppo"), ("minpro", "cispo")):
        mine = run(w.tokens(**alone), type=one, ratio="inf", **bounds)
        its = run(w.tokens(**alone), type=other, ratio="inf", **bounds)
        np.testing.assert_allclose(mine[1], its[1], rtol=1e-12)
        assert mine[0] == pytest.approx(its[0])


@pytest.mark.parametrize("seed", range(WORLDS))
def test_divergences_grow_with_what_they_keep_apart(seed):
    """Binary <= top-k <= all, for TV and KL; all of the vocabulary kept: the exact one."""
    w, whole = RandomTokens(seed, spread=1.0), RandomTokens(seed, spread=1.0, k=6)

    def of(world, kind):
        return objectives.divergence_of(world.tokens(), divergence=kind).numpy()

    tv = 0.5 * np.abs(w.new - w.q).sum(1)
    kl = (w.q * np.log(w.q / w.new)).sum(1)
    np.testing.assert_allclose(of(whole, "top_k_tv"), tv, atol=1e-12)
    np.testing.assert_allclose(of(whole, "top_k_kl"), kl, atol=1e-12)
    for part, exact in (("tv", tv), ("kl", kl)):
        assert (of(w, f"binary_{part}") <= of(w, f"top_k_{part}") + 1e-12).all()
        assert (of(w, f"top_k_{part}") <= exact + 1e-12).all()


def test_a_divergence_of_certain_and_impossible_tokens_is_finite_or_infinite_and_never_nan():
    """q = 1: -log p. p_new = 0: TV is q and KL is infinite."""
    zero, gone = math.log(1.0), -INF
    tokens = RandomTokens(0).tokens(
        logp_inf=torch.tensor([zero, math.log(0.5), zero]),
        logp_new=torch.tensor([math.log(0.25), gone, zero]),
    )
    kl = objectives.divergence_of(tokens, divergence="binary_kl")
    tv = objectives.divergence_of(tokens, divergence="binary_tv")
    assert kl.tolist() == pytest.approx([math.log(4), INF, 0.0])
    assert tv.tolist() == pytest.approx([0.75, 0.5, 0.0])


def test_a_rare_token_may_move_far_by_tv_and_too_far_by_kl():
    """.02 to .12: TV .10 is kept at .15, KL .070 is masked at .05 (the scripts' thresholds)."""
    new, ref, inf = (torch.tensor([math.log(p)], dtype=torch.float64) for p in (0.12, 0.02, 0.02))
    tokens = ObjectiveTokens(new, ref, inf, torch.ones(1), torch.zeros(1))
    for kind, delta, masked in (("binary_tv", 0.15, 0.0), ("binary_kl", 0.05, 1.0)):
        keywords = {**BINARY, "divergence": kind, "delta": delta, "cap": 20.0}
        assert run(tokens, **keywords)[3] == [masked]


def test_a_token_at_just_delta_is_kept_and_one_beyond_it_is_not():
    """D <= delta keeps; numbers that binary fractions hold exactly."""
    one, apart = torch.ones(3), torch.tensor([0.25, 0.25 + 2.0**-20, 0.125])
    found = objectives.dppo(-one, -2 * one, -2 * one, one, apart, delta=0.25)
    assert found.mask.tolist() == [1.0, 0.0, 1.0]


def test_what_rounding_leaves_of_the_other_tokens_is_no_divergence_and_what_is_there_is():
    """The mass outside the known tokens counts as at least 1e-6 on both sides, and no more."""

    def kl(rest_new, rest_inf):
        known = (torch.tensor([1 - rest], dtype=torch.float64) for rest in (rest_new, rest_inf))
        new, inf = (x.log() for x in known)
        tokens = RandomTokens(0).tokens(logp_new=new, logp_inf=inf)
        return float(objectives.divergence_of(tokens, divergence="binary_kl"))

    assert abs(kl(0.0, 1e-7)) < 2e-7  # not inf, as 1e-7 log(1e-7 / 0)
    assert kl(1e-5, 1e-4) == pytest.approx(1e-4 * math.log(10) - 9e-5, rel=1e-3)
    assert kl(2e-6, 4e-6) == pytest.approx(4e-6 * math.log(2) - 2e-6, rel=1e-3)


def test_dppo_at_delta_zero_keeps_tokens_that_move_towards_q_or_stay():
    w = RandomTokens(5)
    masked = run(w.tokens(), **BINARY, delta=0.0, cap=20.0)[3]
    np.testing.assert_array_equal(masked, w.advantage * (w.ln - w.lq) > 0)
    assert 0 < masked.sum() < w.n


def test_minpros_minimum_never_rises_after_the_second_token():
    """1 at the first token, the first's rho at the second, and from there on not increasing."""
    w = RandomTokens(6)
    log_rho, sequence = torch.from_numpy(w.ln - w.lq), torch.from_numpy(w.sequence)
    found = objectives.prefix_minimum(log_rho, sequence).numpy()
    for s in range(len(LENGTHS)):
        own = found[w.sequence == s]
        assert own[0] == 0 and (np.diff(own[1:]) <= 0).all()
        assert (own[1:2] == (w.ln - w.lq)[w.sequence == s][:1]).all()


def test_cispo_takes_no_tokens_gradient_away():
    """Whatever its ratio, a token of A != 0 keeps one; its coefficient is within the bounds."""
    w = RandomTokens(9, spread=3.0)
    for ratio in ("ref", "inf"):
        grad, masked = (run(w.tokens(), **CISPO, ratio=ratio)[i] for i in (1, 3))
        size = np.abs(grad[w.advantage != 0] / w.advantage[w.advantage != 0])
        assert not masked.any() and size.min() >= 0.8 - 1e-12 and size.max() <= 1.3 + 1e-12


def test_minpro_asks_only_what_came_before():
    """Another ratio at a token changes its own coefficient and those after it in its sequence."""
    w = RandomTokens(1)
    free = {"type": "minpro", "ratio": "inf", "clip_low": INF, "clip_high": INF}
    w.advantage = np.ones(w.n)
    base = run(w.tokens(), **free)[1]
    for t in range(w.n):
        w.ln[t] -= 3.0
        changed = np.flatnonzero(np.abs(run(w.tokens(), **free)[1] - base) > 1e-9)
        w.ln[t] += 3.0
        end = np.flatnonzero(w.sequence == w.sequence[t])[-1]
        assert changed.tolist() == list(range(t, end + 1))


@pytest.mark.parametrize("keywords", ALL, ids=lambda k: k["type"] + k.get("divergence", ""))
def test_sequences_do_not_leak_into_each_other_and_rejected_tokens_are_as_if_absent(keywords):
    """Each sequence alone, and all with rejected tokens of any value between: the same gradient."""
    w = RandomTokens(7)
    whole = run(w.tokens(), **keywords)[1]
    for s in range(len(LENGTHS)):
        places = torch.from_numpy(w.sequence == s)
        alone = ObjectiveTokens(*(x[places] for x in w.tokens()))
        np.testing.assert_allclose(run(alone, **keywords)[1], whole[places.numpy()], rtol=1e-12)

    mixed = torch.arange(w.n).repeat_interleave(2)  # each token, and after it a rejected one
    weight = torch.tensor([1.0, 0.0]).repeat(w.n)
    for bad in (-INF, -200.0, 0.0):
        tokens = ObjectiveTokens(*(x[mixed].clone() for x in w.tokens()))
        tokens.logp_new[1::2], tokens.logp_ref[1::2] = bad, -50.0
        grad = run(tokens, weight, **keywords)[1]
        np.testing.assert_allclose(grad[::2], whole, rtol=1e-12)
        assert (grad[1::2] == 0).all()


@pytest.mark.parametrize("keywords", ALL, ids=lambda k: k["type"] + k.get("divergence", ""))
def test_an_accepted_token_that_the_policy_has_given_up_changes_no_other(keywords):
    """p_new = 0: its logarithm has no gradient. The others of its sequence are as without it."""
    w, gone = RandomTokens(9), 2
    rest = torch.arange(w.n) != gone
    without = run(ObjectiveTokens(*(x[rest] for x in w.tokens())), **keywords)
    w.ln[gone] = -INF
    found = run(w.tokens(), **keywords)
    assert found[0] == pytest.approx(without[0]) and found[1][gone] == 0
    np.testing.assert_allclose(found[1][rest.numpy()], without[1], rtol=1e-12)


@pytest.mark.parametrize("keywords", ALL, ids=lambda k: k["type"] + k.get("divergence", ""))
def test_weight_and_scale_multiply_the_term_and_zero_advantages_have_no_gradient(keywords):
    """loss = -sum scale weight mask term; nothing but the term has a gradient."""
    w = RandomTokens(11)
    rng = np.random.default_rng(0)
    weight, scale = (torch.from_numpy(rng.uniform(0.5, 2, w.n)) for _ in range(2))
    plain = run(w.tokens(), **keywords)[1]
    found = run(w.tokens(), weight, scale, **keywords)[1]
    np.testing.assert_allclose(found, plain * (weight * scale).numpy(), rtol=1e-12)
    assert not found[w.advantage == 0].any() and (w.advantage == 0).any()


def test_masked_tokens_have_no_gradient_even_where_their_ratio_is_huge():
    w = RandomTokens(2)
    w.ln[0], w.lq[0], w.advantage[0] = -0.1, -60.0, 1.0
    for keywords in ({**BINARY, "delta": 0.1, "cap": 20.0}, {**M2PO, "threshold": 0.04}):
        _, grad, _, masked = run(w.tokens(), **keywords)
        assert masked[0] == 1 and grad[0] == 0 and np.isfinite(grad).all()


def test_the_default_objective_is_ppo_clip_sum_bit_for_bit():
    w = RandomTokens(4)
    tokens = ObjectiveTokens(*(x.float() if x.is_floating_point() else x for x in w.tokens()))
    weight = torch.rand(w.n, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    weight[::3] = 0.0
    scale = torch.full((w.n,), 1 / 7)
    leaf = tokens.logp_new.clone().requires_grad_()
    args = (leaf, tokens.logp_ref, tokens.advantage, weight, 0.2, 0.2, scale)
    loss = ppo_clip_sum(*args)
    (grad,) = torch.autograd.grad(loss, leaf)
    mine = run(tokens, weight, scale, **PPO)
    assert mine[0] == float(loss.detach()) and mine[1].tolist() == grad.tolist()


@pytest.mark.parametrize("bad", [NAN, -0.1, -INF])
@pytest.mark.parametrize(
    "keywords, names",
    [
        (PPO, "clip_low clip_high"),
        (CISPO, "clip_low clip_high"),
        (GSPO, "clip_low clip_high"),
        (MINPRO, "clip_low clip_high"),
        ({**BINARY, "delta": 0.1, "cap": 2.0}, "delta cap"),
    ],
    ids=["ppo", "cispo", "gspo", "minpro", "dppo"],
)
def test_a_bound_that_is_no_bound_is_refused(keywords, names, bad):
    for name in names.split():
        with pytest.raises(ValueError, match=name):
            run(RandomTokens(0).tokens(), **{**keywords, name: bad})


def test_bad_bounds_of_bapo_m2po_and_opsm_and_unknown_names_are_refused():
    tokens, one = RandomTokens(0).tokens(), torch.ones(sum(LENGTHS))
    for name in ("low_min", "low_max", "low_step", "high_min", "high_max", "high_step"):
        for bad in (NAN, INF, -1.0):
            with pytest.raises(ValueError, match="bapo"):
                objectives.bounds_of(tokens, one, type="bapo", ratio="ref", **{name: bad})
    for bad in (NAN, INF, -1.0):
        with pytest.raises(ValueError, match="share"):
            objectives.bounds_of(tokens, one, type="bapo", share=bad)
    for low, high in ((NAN, 1.2), (-0.1, 1.2), (1.1, 1.2), (0.8, NAN), (0.8, 0.9)):
        with pytest.raises(ValueError, match="bapo needs 0 <= low <= 1 <= high"):
            run(tokens, type="bapo", low=low, high=high)
    for bad in (NAN, -1.0):
        with pytest.raises(ValueError, match="threshold"):
            run(tokens, type="m2po", ratio="inf", threshold=bad)
        with pytest.raises(ValueError, match="tau"):
            objectives.bounds_of(tokens, one, type="m2po", tau=bad)
        with pytest.raises(ValueError, match="delta"):
            run(tokens, **PPO, opsm_delta=bad)
    with pytest.raises(ValueError, match="trpo"):
        run(tokens, type="trpo")
    with pytest.raises(ValueError, match="old"):
        run(tokens, **PPO, ratio="old")


def test_dppo_counts_the_tokens_whose_ratio_its_cap_holds():
    w = RandomTokens(3)
    for ratio, old in (("inf", w.lq), ("ref", w.lr)):
        keywords = BINARY | {"ratio": ratio, "delta": 10.0, "cap": 1.1}
        _, _, clipped, masked = run(w.tokens(), **keywords)
        wanted = [math.exp(new - logp) > 1.1 for new, logp in zip(w.ln, old, strict=True)]
        assert clipped.tolist() == wanted and 0 < sum(wanted) < w.n and not masked.any()
