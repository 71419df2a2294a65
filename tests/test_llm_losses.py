"""The objective: weights, PPO terms and denominators, against hand computation and enumeration."""

from __future__ import annotations

import dataclasses
from fractions import Fraction as F

import pytest
import torch

from llm.config import CorrectionConfig
from llm.losses import distill_sum, ppo_clip_sum, token_weights

JACKPOT = [
    {"mask": mask, "z": z, "target": target}
    for mask in ("bernoulli", "expected")
    for z in ("state", "batch")
    for target in ("ref", "new")
]


def log_softmax(seed: int, n: int, v: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(n, v, generator=generator), dim=-1)


def weights_of(cfg: CorrectionConfig, p: torch.Tensor, q: torch.Tensor, x: torch.Tensor, u, k=None):
    """token_weights for tokens x (n,) of states with laws p and q, (n, v) log-probabilities."""
    top = q.topk(k or q.shape[1], dim=-1)
    at = p.gather(1, x[:, None])[:, 0]
    return token_weights(
        cfg,
        logp_inf=q.gather(1, x[:, None])[:, 0],
        logp_ref=at,
        logp_new=at,
        topk_logp_inf=top.values,
        topk_logp_target=p.gather(1, top.indices),
        uniform=u,
    )


@pytest.mark.parametrize("setting", JACKPOT, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("lam", [1.0, 0.3])
@pytest.mark.parametrize("k", [3, 11])
def test_equal_policies_give_bit_equal_loss_and_gradient_to_plain_ppo(setting, lam, k):
    """p == q and lam <= 1: accept is 1, every weight is exactly 1, nothing differs from PPO."""
    logits = torch.randn(64, 11, generator=torch.Generator().manual_seed(1)) * 3
    x = torch.arange(64) % 11
    advantage = torch.randn(64, generator=torch.Generator().manual_seed(2))
    found = []
    for cfg in (CorrectionConfig(name="none"), CorrectionConfig(lam=lam, **setting)):
        leaf = logits.clone().requires_grad_()
        full = torch.log_softmax(leaf, dim=-1)
        p = full.detach()
        w = weights_of(cfg, p, p, x, torch.full((64,), 0.999999), k=k)
        assert torch.equal(w.weight, torch.ones(64))
        new = full.gather(1, x[:, None])[:, 0]
        loss = ppo_clip_sum(new, p.gather(1, x[:, None])[:, 0], advantage, w.weight, 0.2, 0.2)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


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
@pytest.mark.parametrize(
    "z, denominator",
    [("state", "proposed"), ("state", "accepted"), ("batch", "proposed"), ("batch", "accepted")],
)
def test_weighted_mean_over_an_enumerated_vocabulary_has_its_closed_form(lam, z, denominator):
    """C1-C3. z = state: the mean of w f is E[Z_s mu_s] per proposed token, that over Zbar per
    accepted one. z = batch: Zbar E[mu_s], and exactly the target mean E[mu_s]."""
    p, q, f = rational_pair()
    (log_p, log_q), states, x = enumerated_batch(p, q)
    cfg = CorrectionConfig(
        mask="expected", z=z, lam=float(lam), c1=float("inf"), kappa=z == "batch"
    )
    w = weights_of(cfg, log_p, log_q, x, torch.zeros(len(x)))
    values = torch.tensor([float(f[s][t]) for s, t in zip(states, x, strict=True)])
    n = len(x) if denominator == "proposed" else float(w.accepted.sum())
    found = float((w.weight * values).double().sum()) / n

    rate = [
        sum(min(b, a / lam) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)
    ]
    mean = [sum(a * g for a, g in zip(*rows, strict=True)) for rows in zip(p, f, strict=True)]
    zbar = sum(rate) / 2
    if z == "state":
        exact = sum(a * m for a, m in zip(rate, mean, strict=True)) / 2
    else:
        exact = zbar * sum(mean) / 2
    exact = exact if denominator == "proposed" else exact / zbar
    assert found == pytest.approx(float(exact), rel=1e-5)


def test_coin_and_weight_average_to_the_expected_mask():
    """C2: over a fine grid of coins, mask * min(w, c1) averages to expected_weight."""
    p, q = log_softmax(3, 6, 5), log_softmax(4, 6, 5)
    x, grid = torch.tensor([0, 1, 2, 3, 4, 0]), 4000
    cfg = CorrectionConfig(kappa=False, c1=0.9, z="state")
    total = torch.zeros(6, dtype=torch.float64)
    for j in range(grid):
        total += weights_of(cfg, p, q, x, torch.full((6,), (j + 0.5) / grid)).weight
    expected = weights_of(dataclasses.replace(cfg, mask="expected"), p, q, x, torch.zeros(6)).weight
    assert torch.allclose(total / grid, expected.double(), atol=1e-3)


def test_state_z_is_the_acceptance_rate_when_top_k_is_the_vocabulary():
    """Z = sum min(q, p / lam), computed here in plain Python."""
    p, q = log_softmax(5, 7, 9), log_softmax(6, 7, 9)
    w = weights_of(
        CorrectionConfig(kappa=False, lam=1.3), p, q, torch.zeros(7, dtype=int), torch.rand(7)
    )
    for i in range(7):
        rows = zip(p[i].double().exp().tolist(), q[i].double().exp().tolist(), strict=True)
        assert float(w.z[i]) == pytest.approx(sum(min(b, a / 1.3) for a, b in rows), rel=1e-5)


def test_dropped_tail_never_exceeds_z_and_lumped_never_falls_below_it():
    """D1: the known tokens alone are a lower bound, with the tail as one token an upper bound."""
    p, q, x = log_softmax(7, 50, 30), log_softmax(8, 50, 30), torch.zeros(50, dtype=int)
    exact = torch.minimum(p.exp(), q.exp()).sum(-1)
    u = torch.rand(50)
    for k in (1, 5, 20):
        cfg = CorrectionConfig(kappa=False)
        upper = weights_of(cfg, p, q, x, u, k=k).z
        lower = weights_of(dataclasses.replace(cfg, z_tail="dropped"), p, q, x, u, k=k).z
        assert bool((lower <= exact + 1e-6).all()) and bool((upper >= exact - 1e-6).all())
        assert float((upper - lower).max()) > 0.01


def test_kappa_makes_the_mean_rate_the_accepted_share():
    """Alg. 1: kappa = accepted share / mean Z_approx: the mean of kappa Z is the accepted share."""
    p, q = log_softmax(9, 200, 12), log_softmax(10, 200, 12)
    u = torch.rand(200, generator=torch.Generator().manual_seed(0))
    w = weights_of(CorrectionConfig(z_tail="dropped"), p, q, torch.arange(200) % 12, u, k=4)
    assert float(w.z.mean()) == pytest.approx(float(w.accepted.mean()), rel=1e-6)
    assert w.kappa != 1.0


@pytest.mark.parametrize(
    "name, expected",
    [
        ("none", [1, 1, 1, 1]),
        ("importance", [0.25, 0.5, 2, 8]),
        ("tis", [0.25, 0.5, 2, 3]),
        ("icepop", [0, 0.5, 2, 0]),
    ],
)
def test_controls_match_hand_computed_weights(name, expected):
    """Sec. 2.2: 1, r, min(r, C), r inside the band."""
    settings = {"tis": {"tis_cap": 3.0}, "icepop": {"icepop_low": 0.4, "icepop_high": 2.5}}
    q = torch.log(torch.tensor([0.8, 0.4, 0.2, 0.1]))
    p = torch.log(torch.tensor([0.2, 0.2, 0.4, 0.8]))
    cfg = CorrectionConfig(name=name, **settings.get(name, {}))
    k = torch.zeros(4, 1)
    w = token_weights(
        cfg,
        logp_inf=q,
        logp_ref=p,
        logp_new=p,
        topk_logp_inf=k,
        topk_logp_target=k,
        uniform=k[:, 0],
    )
    assert w.weight.tolist() == pytest.approx(expected, rel=1e-6)


def test_target_new_takes_p_new_for_the_ratio_and_caps_p_ref_over_p_new():
    """Alg. 1 l. 24: rho = min(w, c1) min(p_ref / p_new, c2), by hand on one token."""
    q, ref, new = (torch.log(torch.tensor([v])) for v in (0.25, 0.6, 0.1))
    top = torch.log(torch.tensor([[0.25, 0.75]]))
    target = torch.log(torch.tensor([[0.1, 0.9]]))
    cfg = CorrectionConfig(target="new", c2=3.0, kappa=False)
    w = token_weights(
        cfg,
        logp_inf=q,
        logp_ref=ref,
        logp_new=new,
        topk_logp_inf=top,
        topk_logp_target=target,
        uniform=torch.tensor([0.39]),  # a = 0.1 / 0.25 = 0.4
    )
    rate = 0.1 + 0.75
    assert float(w.weight) == pytest.approx(
        rate * 1.0 * 3.0, rel=1e-6
    )  # w = Z max(1, 0.4), 6 -> c2
    rejected = token_weights(
        cfg,
        logp_inf=q,
        logp_ref=ref,
        logp_new=new,
        topk_logp_inf=top,
        topk_logp_target=target,
        uniform=torch.tensor([0.41]),
    )
    assert float(rejected.weight) == 0.0


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("log_ratio", [-0.5, -0.1, 0.1, 0.5])
def test_ppo_term_and_its_gradient_match_the_formula(advantage, log_ratio):
    """Eq. 2: -w min(r A, clip(r) A); the gradient is -w r A where unclipped, else 0."""
    new = torch.tensor([log_ratio - 1.0], requires_grad=True)
    args = (torch.tensor([-1.0]), torch.tensor([advantage]), torch.tensor([0.7]), 0.2, 0.3)
    loss = ppo_clip_sum(new, *args)
    loss.backward()
    r = torch.exp(torch.tensor(log_ratio)).item()
    clipped = min(max(r, 0.8), 1.3)
    assert loss.item() == pytest.approx(-0.7 * min(r * advantage, clipped * advantage), rel=1e-5)
    active = r * advantage <= clipped * advantage
    assert new.grad.item() == pytest.approx(-0.7 * r * advantage if active else 0.0, rel=1e-5)


def test_infinite_clips_leave_the_ratio_alone():
    new = torch.tensor([2.0, -3.0])
    loss = ppo_clip_sum(
        new, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(2), float("inf"), float("inf")
    )
    assert loss.item() == pytest.approx(-(torch.exp(new) * torch.tensor([1.0, -1.0])).sum().item())


def test_extreme_ratios_at_rejected_tokens_change_neither_loss_nor_gradient():
    """A rejected token adds exactly 0, even where its own ratio would overflow."""
    good = torch.tensor([-1.0, -2.0])
    for poison in (1e3, -1e3, float("inf"), float("-inf"), float("nan")):
        new = torch.cat([good, torch.tensor([poison])]).requires_grad_()
        ref = torch.tensor([-1.1, -1.9, -1.0])
        advantage, weight = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([0.5, 2.0, 0.0])
        loss = ppo_clip_sum(new, ref, advantage, weight, 0.2, 0.2)
        loss.backward()
        clean = good.clone().requires_grad_()
        plain = ppo_clip_sum(clean, ref[:2], advantage[:2], weight[:2], 0.2, 0.2)
        plain.backward()
        assert torch.equal(loss, plain) and torch.equal(new.grad[:2], clean.grad)
        assert float(new.grad[2]) == 0.0


def test_when_everything_is_rejected_the_loss_is_zero_with_a_valid_gradient():
    new = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = ppo_clip_sum(new, new.detach(), torch.ones(2), torch.zeros(2), 0.2, 0.2)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(new.grad, torch.zeros(2))


@pytest.mark.parametrize("mask", ["bernoulli", "expected"])
def test_the_applied_weight_never_exceeds_c1(mask):
    """|log ratio| up to 1e3: weights stay finite and capped."""
    q = torch.tensor([-1e3, -1.0, -1e-3, -700.0])
    p = torch.tensor([-1e-3, -1e3, -1.0, -5.0])
    top = torch.log(torch.tensor([[0.5, 0.4]])).expand(4, 2)
    w = token_weights(
        CorrectionConfig(mask=mask, c1=2.5, kappa=False),
        logp_inf=q,
        logp_ref=p,
        logp_new=p,
        topk_logp_inf=top,
        topk_logp_target=top,
        uniform=torch.full((4,), 0.2),
    )
    assert bool(torch.isfinite(w.weight).all()) and float(w.weight.max()) <= 2.5
    assert float(w.weight[0]) == 2.5 and float(w.weight[1]) == 0.0


def test_distillation_is_forward_kl_and_trains_only_the_actor():
    """Eq. 7: sum p log(p / p_actor); gradient q - p on the actor's logits, none on the policy's."""
    policy = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    actor = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
    p, q = torch.log_softmax(policy, -1), torch.log_softmax(actor, -1)
    loss = distill_sum(p, q)
    loss.backward()
    rows = (p.detach().double(), q.detach().double())
    plain = (rows[0].exp() * (rows[0] - rows[1])).sum()
    assert loss.item() == pytest.approx(float(plain), rel=1e-5)
    assert policy.grad is None
    assert torch.allclose(actor.grad, (q.exp() - p.exp()).detach(), atol=1e-6)
