"""Weights of sampled tokens, against hand computation, enumeration and plain numpy."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
import torch
from correction_cases import draw, log_softmax, uniform, weights_of
from optional import not_none

from jackpot.torch.correction import (
    CorrectionInputs,
    CorrectionState,
    kept_before,
    next_state,
    token_weights,
    truncated_ratio,
)
from jackpot.torch.losses import ppo_clip_sum

INF = float("inf")
FIELDS = ("weight", "log_ratio", "accept_prob", "accepted", "z", "capped", "lam", "infeasible")


def one_token(q, ref, new, u, topk_q, topk_p, **settings):
    """token_weights of a single token from plain probabilities."""

    def log(*values: float) -> torch.Tensor:
        return torch.log(torch.tensor(values))

    inputs = CorrectionInputs(
        logp_inf=log(q),
        logp_ref=log(ref),
        logp_new=log(new),
        topk_logp_inf=log(*topk_q)[None],
        topk_logp_target=log(*topk_p)[None],
        in_topk=torch.tensor([True]),
        uniform=torch.tensor([u]),
        sequence=torch.tensor([0]),
    )
    return token_weights(inputs, CorrectionState(), **settings)


SETTINGS = [
    {"mask": mask, "z": z, "z_tail": tail, "target": target, "kappa": kappa}
    for mask in ("bernoulli", "expected")
    for z, tail, kappa in (
        ("state", "ratio", False),
        ("state", "lumped", False),
        ("state", "lumped", True),
        ("state", "dropped", False),
        ("batch", "ratio", False),
        ("none", "ratio", False),
    )
    for target in ("ref", "new")
]
WITH_TAIL = [s for s in SETTINGS if s["z_tail"] != "dropped"]


@pytest.mark.parametrize("setting", WITH_TAIL, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("lam", [1.0, 0.999, 0.3])
@pytest.mark.parametrize("k", [3, 10, 11])
def test_equal_policies_give_bit_equal_loss_and_gradient_to_plain_ppo(setting, lam, k):
    """p == q and lam <= 1: accept is 1, every weight is exactly 1, nothing differs from PPO; in
    later steps too. (With its tail dropped, Z is less than 1 by construction.)"""
    logits = torch.randn(64, 11, generator=torch.Generator().manual_seed(1)) * 3
    x = torch.arange(64) % 11
    advantage = torch.randn(64, generator=torch.Generator().manual_seed(2))
    corrections, state = ({"type": "none"}, {"lam": lam, **setting}), CorrectionState()
    for _step in range(3):
        found = []
        for correction in corrections:
            leaf = logits.clone().requires_grad_()
            full = torch.log_softmax(leaf, dim=-1)
            p = full.detach()
            u = torch.full((64,), 0.999999)
            w = weights_of(p, p, x, u, k=k, state=state, **correction)
            assert torch.equal(w.weight, torch.ones(64))
            new = full.gather(1, x[:, None])[:, 0]
            loss = ppo_clip_sum(new, p.gather(1, x[:, None])[:, 0], advantage, w.weight, 0.2, 0.2)
            loss.backward()
            found.append((loss.detach(), not_none(leaf.grad)))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        state, _ = next_state(state, [w])


def rational_pair():
    """Two states over four tokens, q in 24ths so that a batch can hold each token in proportion."""
    p = [[F(1, 2), F(1, 4), F(1, 8), F(1, 8)], [F(1, 12), F(1, 4), F(1, 6), F(1, 2)]]
    q = [[F(1, 6), F(1, 3), F(5, 12), F(1, 12)], [F(1, 2), F(1, 8), F(1, 8), F(1, 4)]]
    f = [[F(3), F(-1), F(2), F(5)], [F(-2), F(1), F(4), F(1, 2)]]
    return p, q, f


def enumerated_batch(p, q):
    """Each token of each state 24 q(x) times: the batch is q itself, with no sampling error."""
    states, x = [], []
    for s, row in enumerate(q):
        for token, mass in enumerate(row):
            states += [s] * int(24 * mass)
            x += [token] * int(24 * mass)
    logs = [torch.tensor([[float(v) for v in row] for row in m]).log() for m in (p, q)]
    return [m[states] for m in logs], torch.tensor(states), torch.tensor(x)


@pytest.mark.parametrize("lam", [F(1, 2), F(1), F(2)])
@pytest.mark.parametrize("denominator", ["proposed", "accepted"])
@pytest.mark.parametrize("z", ["state", "batch", "none"])
def test_weighted_mean_over_an_enumerated_vocabulary_has_its_closed_form(lam, z, denominator):
    """C1-C3. The mean of w f per proposed token is E[Z_s mu_s] (state), Zbar E[mu_s] (batch) and
    exactly the target mean E[mu_s] (none); per accepted one each of these over Zbar."""
    p, q, f = rational_pair()
    (log_p, log_q), states, x = enumerated_batch(p, q)
    u = torch.zeros(len(x))
    w = weights_of(log_p, log_q, x, u, mask="expected", z=z, lam=float(lam), c1=INF)
    values = torch.tensor([float(f[s][t]) for s, t in zip(states, x, strict=True)])
    n = len(x) if denominator == "proposed" else float(w.accepted.sum())
    found = float((w.weight * values).double().sum()) / n

    rate = [
        sum(min(b, a / lam) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)
    ]
    mean = [sum(a * g for a, g in zip(*rows, strict=True)) for rows in zip(p, f, strict=True)]
    zbar = sum(rate) / 2
    exact = {
        "state": sum(a * m for a, m in zip(rate, mean, strict=True)) / 2,
        "batch": zbar * sum(mean) / 2,
        "none": sum(mean) / 2,
    }[z]
    exact = exact if denominator == "proposed" else exact / zbar
    assert found == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("z", ["state", "none"])
def test_coin_and_weight_average_to_the_expected_mask(z):
    """C2: over a fine grid of coins, mask * min(w, c1) averages to expected_weight."""
    p, q = log_softmax(3, 6, 5), log_softmax(4, 6, 5)
    x, grid = torch.tensor([0, 1, 2, 3, 4, 0]), 4000
    settings = {"c1": 0.9, "z": z}
    coins = ((torch.arange(grid) + 0.5) / grid).repeat_interleave(6)
    many = (p.repeat(grid, 1), q.repeat(grid, 1), x.repeat(grid), coins)
    total = weights_of(*many, **settings).weight.double().reshape(grid, 6).sum(0)
    expected = weights_of(p, q, x, torch.zeros(6), mask="expected", **settings).weight
    assert torch.allclose(total / grid, expected.double(), atol=1e-3)


ROWS = [4, 4, 4, 1, 1, 9, 7, 7, 7, 7]  # completions of three, two, one and four tokens


@pytest.mark.parametrize("mask", ["bernoulli", "expected"])
@pytest.mark.parametrize("z", ["state", "none"])
def test_with_scope_prefix_a_token_counts_as_far_as_all_before_it_were_kept(mask, z):
    """The weight of scope token times the product of what came before in the completion, by hand;
    the token's own chance is in its weight already and stands there once."""
    p, q = log_softmax(40, 10, 6), log_softmax(41, 10, 6)
    x, u = draw(q), uniform(10, seed=3)
    settings = {"mask": mask, "z": z, "lam": 0.8}
    alone = weights_of(p, q, x, u, **settings)
    found = weights_of(p, q, x, u, sequence=torch.tensor(ROWS), scope="prefix", **settings)
    before, kept = [], 1.0
    for i, row in enumerate(ROWS):
        kept = 1.0 if i == 0 or ROWS[i - 1] != row else kept * float(alone.accepted[i - 1])
        before.append(kept)
    assert 0.0 in before or mask == "expected"
    assert len(set(before)) > 2 or mask == "bernoulli"
    assert found.weight.tolist() == pytest.approx((alone.weight * torch.tensor(before)).tolist())
    assert found.accepted.tolist() == pytest.approx(
        (alone.accepted * torch.tensor(before)).tolist()
    )
    assert torch.equal(found.accept_prob, alone.accept_prob) and torch.equal(found.z, alone.z)


@pytest.mark.parametrize("rows", [ROWS, [0], [5] * 6, [3, 1, 2], []])
def test_kept_before_is_the_product_over_the_earlier_tokens_of_the_completion(rows):
    """In plain Python; 1 at the first token, and a completion's own last token never counts."""
    kept = uniform(len(rows), seed=8)
    if len(rows) > 6:
        kept[1] = 0.0
    wanted = []
    for i, row in enumerate(rows):
        product = 1.0
        for j in range(i):
            if rows[j] == row:
                product *= float(kept[j])
        wanted.append(product)
    found = kept_before(kept, torch.tensor(rows, dtype=torch.int64))
    assert found.tolist() == pytest.approx(wanted) and found.dtype == kept.dtype
    assert kept_before(kept.float(), torch.tensor(rows)).dtype == torch.float32


def test_coins_of_a_whole_prefix_average_to_the_expected_prefix():
    """C6: over a fine grid of both coins of a completion, the second token's weight averages to
    a(x_1) times what it would have alone."""
    p, q, x = log_softmax(3, 2, 5), log_softmax(4, 2, 5), torch.tensor([1, 2])
    settings, side = {"c1": 0.9, "scope": "prefix"}, 120
    coin = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    coins = torch.cartesian_prod(coin, coin).reshape(-1)
    n = side * side
    many = (p.repeat(n, 1), q.repeat(n, 1), x.repeat(n), coins)
    rows = torch.arange(n).repeat_interleave(2)
    mean = weights_of(*many, sequence=rows, **settings).weight.double().reshape(n, 2).mean(0)
    exact = settings | {"mask": "expected"}
    wanted = weights_of(p, q, x, torch.zeros(2), sequence=torch.zeros(2), **exact).weight
    assert 0.05 < float(wanted[1]) < 0.9
    assert torch.allclose(mean, wanted.double(), atol=0.02)


def test_with_scope_prefix_lam_1_z_none_it_is_v_traces_weight():
    """Espeholt et al. (arXiv 1802.01561): rho_t = min(c1, r_t), times c_i = min(1, r_i) before."""
    p, q = log_softmax(42, 10, 6), log_softmax(43, 10, 6)
    x = draw(q)
    settings = {"mask": "expected", "scope": "prefix", "z": "none", "c1": 1.7}
    found = weights_of(p, q, x, uniform(10), sequence=torch.tensor(ROWS), **settings).weight
    r = (p.double() - q.double()).exp().gather(1, x[:, None])[:, 0].numpy()
    start = [ROWS.index(row) for row in ROWS]
    wanted = [min(1.7, r[i]) * np.minimum(1, r[start[i] : i]).prod() for i in range(10)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_scope_prefix_leaves_equal_policies_alone_and_needs_the_sequences():
    p = log_softmax(44, 10, 6)
    u, rows = torch.full((10,), 0.999999), torch.tensor(ROWS)
    found = weights_of(p, p, draw(p), u, sequence=rows, scope="prefix")
    assert torch.equal(found.weight, torch.ones(10))
    with pytest.raises(TypeError, match="required positional argument: 'sequence'"):
        CorrectionInputs(*[u] * 7)


def test_kappa_calibrates_by_each_tokens_own_coin_whatever_the_scope():
    p, q = log_softmax(45, 10, 6), log_softmax(46, 10, 6)
    args, rows = (p, q, draw(q), uniform(10, seed=3)), torch.tensor(ROWS)
    settings = {"k": 3, "sequence": rows, "kappa": True, "z_tail": "lumped"}
    both = [weights_of(*args, scope=s, **settings).kappa for s in ("token", "prefix")]
    assert both[0] == both[1] != 1.0


@pytest.mark.parametrize("z_tail", ["ratio", "lumped", "dropped"])
@pytest.mark.parametrize("lam_from", ["fixed", "state", "batch", "tracked"])
def test_everything_is_the_exact_obrs_when_top_k_is_the_vocabulary(z_tail, lam_from):
    """lam spends the budget, Z = sum min(q, p / lam), w = Z max(lam, r): in plain numpy."""
    n, budget = 40, 0.8
    p, q = log_softmax(5, n, 9, 1.0), log_softmax(6, n, 9, 1.0)
    x, u = draw(q), uniform(n)
    settings = {"lam": 1.3, "lam_from": lam_from, "budget": budget, "z_tail": z_tail}
    w = weights_of(p, q, x, u, c1=INF, mask="bernoulli", **settings)
    probs_p, probs_q, lam = p.double().exp().numpy(), q.double().exp().numpy(), w.lam.numpy()
    z = np.minimum(probs_q, probs_p / lam[:, None]).sum(1)
    r = probs_p[range(n), x] / probs_q[range(n), x]
    accepted = u.numpy() < np.minimum(1.0, r / lam)
    assert w.z.numpy() == pytest.approx(z, rel=1e-5)
    assert w.weight.numpy() == pytest.approx(accepted * z * np.maximum(lam, r), rel=1e-4)
    if lam_from == "fixed":
        assert lam == pytest.approx(1.3)
    elif lam_from == "state":
        assert z == pytest.approx(budget, abs=1e-6) and len(set(w.lam.tolist())) == n
    else:
        assert np.minimum(1.0, r / lam).mean() == pytest.approx(budget, abs=1e-6)


def test_kappa_makes_the_mean_rate_the_accepted_share():
    """Alg. 1: kappa = accepted share / mean Z_approx: the mean of kappa Z is the accepted share."""
    p, q = log_softmax(9, 200, 12), log_softmax(10, 200, 12)
    x = torch.arange(200) % 12
    w = weights_of(p, q, x, uniform(200), k=4, z_tail="dropped", kappa=True)
    assert float(w.z.mean()) == pytest.approx(float(w.accepted.mean()), rel=1e-6)
    assert w.kappa != 1.0


HAND = {
    "none": [1, 1, 1, 1],
    "importance": [0.25, 0.5, 2, 8],
    "tis": [0.25, 0.5, 2, 3],
    "icepop": [0, 0.5, 2, 0],
}


@pytest.mark.parametrize("type_, expected", HAND.items())
def test_controls_match_hand_computed_weights(type_, expected):
    """Sec. 2.2: 1, r, min(r, C), r inside the band; the same F for the actor (Eq. 6)."""
    q = torch.log(torch.tensor([0.8, 0.4, 0.2, 0.1]))
    p = torch.log(torch.tensor([0.2, 0.2, 0.4, 0.8]))
    k = torch.zeros(4, 1)
    inputs = CorrectionInputs(
        logp_inf=q,
        logp_ref=p,
        logp_new=p,
        topk_logp_inf=k,
        topk_logp_target=k,
        in_topk=k[:, 0] == 0,
        uniform=k[:, 0],
        sequence=k[:, 0],
    )
    w = token_weights(inputs, CorrectionState(), type=type_, cap=3.0, low=0.4, high=2.5)
    assert w.weight.tolist() == pytest.approx(expected, rel=1e-6)
    assert w.capped.tolist() == [
        float(e != r and type_ != "none") for e, r in zip(expected, [0.25, 0.5, 2, 8], strict=True)
    ]
    actor = truncated_ratio(p - q, type=type_, cap=3.0, low=0.4, high=2.5)
    assert actor.tolist() == pytest.approx(expected, rel=1e-6)


def test_target_new_takes_p_new_for_the_ratio_and_caps_p_ref_over_p_new():
    """Alg. 1 l. 24: rho = min(w, c1) min(p_ref / p_new, c2), by hand on one token."""
    token = {"q": 0.25, "ref": 0.6, "new": 0.1, "topk_q": (0.25, 0.75), "topk_p": (0.1, 0.9)}
    token["target"] = "new"
    rate = 0.1 + 0.75
    w = one_token(u=0.39, c2=3.0, **token)  # a = 0.1 / 0.25 = 0.4; w = Z max(1, 0.4); 6 -> c2
    assert float(w.weight) == pytest.approx(rate * 1.0 * 3.0, rel=1e-6)
    w = one_token(u=0.39, c2=INF, **token)
    assert float(w.weight) == pytest.approx(rate * 1.0 * 6.0, rel=1e-6)
    assert float(one_token(u=0.41, c2=3.0, **token).weight) == 0.0


@pytest.mark.parametrize("mask", ["bernoulli", "expected"])
@pytest.mark.parametrize("z", ["state", "batch", "none"])
def test_the_applied_weight_never_exceeds_c1(mask, z):
    """|log ratio| up to 1e3: weights stay finite and capped."""
    q = torch.tensor([-1e3, -1.0, -1e-3, -700.0])
    p = torch.tensor([-1e-3, -1e3, -1.0, -5.0])
    top = torch.log(torch.tensor([[0.5, 0.4]])).expand(4, 2)
    inputs = CorrectionInputs(
        logp_inf=q,
        logp_ref=p,
        logp_new=p,
        topk_logp_inf=top,
        topk_logp_target=top,
        in_topk=torch.tensor([True, True, False, False]),
        uniform=torch.full((4,), 0.2),
        sequence=torch.arange(4),
    )
    w = token_weights(inputs, CorrectionState(), mask=mask, c1=2.5, z=z)
    assert bool(torch.isfinite(w.weight).all()) and float(w.weight.max()) <= 2.5
    assert float(w.weight[0]) == 2.5 and float(w.weight[1]) == 0.0


def test_where_p_is_zero_on_every_token_all_are_rejected_and_nothing_fails():
    p = torch.log(torch.tensor([[0.0, 0.0, 1.0]])).expand(4, 3)
    q = torch.log(torch.tensor([[0.5, 0.5, 0.0]])).expand(4, 3)
    for lam_from in ("fixed", "state", "batch", "tracked"):
        for z_tail, kappa in (("ratio", False), ("lumped", True), ("dropped", True)):
            settings = {"lam_from": lam_from, "z_tail": z_tail, "kappa": kappa}
            w = weights_of(p, q, torch.tensor([0, 1, 0, 1]), uniform(4), k=2, **settings)
            assert w.weight.tolist() == [0.0] * 4
            state, _ = next_state(CorrectionState(), [w], tracked=lam_from == "tracked")
            assert state.log_lam is None


BASE: dict = {}
NEW = {"target": "new"}
LUMPED = {"z_tail": "lumped"}
FREE = {"c1": INF}
CHANGES = [
    # settings of both, what is changed, what changes with it (kappa and tail apart)
    (FREE, {"lam": 1.5}, "weight accept_prob accepted z lam"),
    (BASE, {"mask": "expected"}, "weight accepted"),
    (BASE, {"scope": "prefix"}, "weight accepted"),
    ({"mask": "expected"}, {"scope": "prefix"}, "weight accepted"),
    (FREE, {"z": "batch"}, "weight z"),
    (FREE, {"z": "none"}, "weight z"),
    (FREE, {"z_tail": "lumped"}, "weight z"),
    (FREE, {"z_tail": "dropped"}, "weight z"),
    (LUMPED | FREE, {"kappa": True}, "weight z"),
    (BASE, {"c1": 0.7}, "weight capped"),
    (FREE, {"target": "new"}, "weight log_ratio accept_prob accepted z"),
    (NEW, {"c2": 0.5}, "weight"),
    ({"lam_from": "batch"} | FREE, {"budget": 0.6}, "weight accept_prob accepted z lam"),
    ({"lam_from": "state"} | FREE, {"budget": 0.6}, "weight accept_prob accepted z lam"),
    (FREE, {"lam_from": "state"}, "weight accept_prob accepted z lam"),
    ({"type": "tis"}, {"cap": 0.9}, "weight capped"),
    ({"type": "icepop"}, {"low": 0.9}, "weight capped"),
    ({"type": "icepop"}, {"high": 1.1}, "weight capped"),
]


@pytest.mark.parametrize("both, change, changed", CHANGES, ids=lambda x: str(x)[:40])
def test_each_setting_changes_what_it_says_and_nothing_else(both, change, changed):
    ref, new, q = (log_softmax(seed, 300, 20, 1.0) for seed in (20, 21, 22))
    new = torch.log_softmax(ref + 0.3 * new, dim=-1)
    rows = torch.arange(300) // 7
    found = [
        weights_of(new, q, draw(q), uniform(300), k=5, ref=ref, sequence=rows, **s)
        for s in (both, both | change)
    ]
    same = [name for name in FIELDS if torch.equal(*(getattr(w, name) for w in found))]
    assert set(FIELDS) - set(same) == set(changed.split())
    assert (found[0].kappa == found[1].kappa) == ("kappa" not in change)


def test_settings_of_other_methods_change_nothing():
    """tis does not read c1, and so on: not one bit."""
    p, q = log_softmax(23, 50, 9), log_softmax(24, 50, 9)
    obrs = {"lam": 3.0, "mask": "expected", "z": "batch", "c1": 0.1}
    caps = {"cap": 0.1, "low": 0.9, "high": 0.95}
    for type_, others in (("tis", obrs), ("none", obrs | caps), ("importance", obrs | caps)):
        a, b = (weights_of(p, q, draw(q), uniform(50), k=3, type=type_, **s) for s in ({}, others))
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
    a, b = (weights_of(p, q, draw(q), uniform(50), k=3, **s) for s in ({}, caps))
    assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


@pytest.mark.parametrize("setting", SETTINGS[::2], ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("lam_from", ["fixed", "state", "batch", "tracked"])
def test_the_order_of_the_tokens_does_not_matter(setting, lam_from):
    """Statistics are sums over the update: permuted tokens have permuted weights."""
    p, q = log_softmax(25, 120, 15), log_softmax(26, 120, 15)
    x, u = draw(q), uniform(120)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    settings = {"lam_from": lam_from, **setting}
    a = weights_of(p, q, x, u, k=4, **settings)
    b = weights_of(p[order], q[order], x[order], u[order], k=4, **settings)
    for name in FIELDS:
        assert torch.allclose(getattr(a, name)[order], getattr(b, name), rtol=1e-5, atol=0), name


APART = [  # with an expected mask, the batch's mean of a contains a rejected token's own a
    s for s in SETTINGS if s["mask"] == "bernoulli" or not (s["z"] == "batch" or s["kappa"])
]


@pytest.mark.parametrize("poison", [-INF, -1e30, -1e4])
@pytest.mark.parametrize("setting", APART, ids=lambda s: "-".join(map(str, s.values())))
def test_an_extreme_ratio_at_a_rejected_token_reaches_no_other_token(setting, poison):
    """p = 0 (or nearly) at one token: weight 0 there, as for any rejected one, and the others'
    weights are what they are beside a mildly unlikely rejected token."""
    p, q = log_softmax(27, 20, 6), log_softmax(28, 20, 6)
    x, u, top = draw(q), uniform(20), q.topk(3, dim=-1)
    found = []
    for value in (-9.0, poison):
        at = p.gather(1, x[:, None])[:, 0].clone()
        at[4], u[4] = value, 0.99
        ref = at if setting["target"] == "ref" else at.masked_fill(at == value, -1.0)
        inputs = CorrectionInputs(
            logp_inf=q.gather(1, x[:, None])[:, 0],
            logp_ref=ref,
            logp_new=at,
            topk_logp_inf=top.values,
            topk_logp_target=p.gather(1, top.indices),
            in_topk=(top.indices == x[:, None]).any(dim=1),
            uniform=u,
            sequence=torch.arange(20),
        )
        w = token_weights(inputs, CorrectionState(), **setting)
        assert bool(torch.isfinite(w.weight).all())
        found.append(w.weight)
    others = torch.arange(20) != 4
    assert torch.equal(found[0][others], found[1][others])
    assert float(found[1][4]) == 0.0


def test_nan_and_an_impossible_proposal_are_refused():
    """q = 0 at a sampled token, or NaN: no weight is right, and none is made up."""
    p, q = log_softmax(29, 4, 5), log_softmax(30, 4, 5)
    for poison in (float("nan"), -INF):
        bad = q.clone()
        bad[2, 1] = poison
        for type_ in ("importance", "tis", "icepop", "jackpot"):
            with pytest.raises(ValueError, match=r"NaN|inf"):
                tokens = torch.ones(4, dtype=torch.int64)
                weights_of(p, bad, tokens, uniform(4), k=1, type=type_, z="none")


def test_a_coin_just_below_one_still_accepts_a_certain_token():
    """float64 coins: the largest, 1 - 2^-53, would be 1 in float32 and reject a(x) = 1."""
    same = torch.full((1,), -0.5)
    top = torch.tensor([[-0.5, -1.5]])
    coin = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
    inputs = CorrectionInputs(
        logp_inf=same,
        logp_ref=same,
        logp_new=same,
        topk_logp_inf=top,
        topk_logp_target=top,
        in_topk=torch.tensor([True]),
        uniform=coin,
        sequence=torch.tensor([0]),
    )
    w = token_weights(inputs, CorrectionState())
    assert float(w.weight) == 1.0
