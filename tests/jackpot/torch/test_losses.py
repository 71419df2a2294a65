"""Losses and their gradients, against formulas and plain float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from optional import not_none

from jackpot.torch.correction import TRUNCATIONS, CorrectionInputs, CorrectionState, token_weights
from jackpot.torch.losses import actor_ppo_sum, distill_sum, joint_loss, ppo_clip_sum, token_scale
from llm.models.lm_head.chunked import HeadInput, KLPair
from llm.settings import sections
from llm.settings.schema import Distillation, LossConfig, PpoObjective, SeparateActor
from llm.training.forward import distill_kl, logprobs_and_kls

INF, NAN = float("inf"), float("nan")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(seed: int, n: int, v: int, scale: float = 1.0) -> torch.Tensor:
    return torch.log_softmax(scale * normal(seed, n, v), dim=-1)


def distillation(policy, actor, direction="forward", top_k=0, temperature=1.0):
    """The loss of Eq. 7 of two models' logits."""
    distill = Distillation(direction, top_k=top_k, temperature=temperature)
    own = SeparateActor(distill=distill)
    kl = distill_kl(own, HeadInput(policy), HeadInput(actor), 1.0)
    return distill_sum(kl, temperature)


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
    assert not_none(new.grad).item() == pytest.approx(
        -0.7 * r * advantage if active else 0.0, rel=1e-5
    )


def test_infinite_clips_leave_the_ratio_alone():
    new = torch.tensor([2.0, -3.0])
    loss = ppo_clip_sum(new, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(2), INF, INF)
    assert loss.item() == pytest.approx(-(torch.exp(new) * torch.tensor([1.0, -1.0])).sum().item())


RATIOS = {  # F of Sec. 2.2, with cap 1.6 and the band 0.7 to 1.5
    "none": lambda r: 1.0,
    "importance": lambda r: r,
    "tis": lambda r: min(r, 1.6),
    "icepop": lambda r: r if 0.7 <= r <= 1.5 else 0.0,
}


def test_every_truncation_is_among_these():
    assert set(RATIOS) == set(TRUNCATIONS)


def actor_tokens():
    """log p_actor now, log q, log p_actor_ref and advantages; log ratios of up to 1 either way."""
    n = 24
    q, gap, step = -1.0 - normal(20, n).abs(), 0.5 * normal(21, n), 0.3 * normal(22, n)
    return (q + gap + step).requires_grad_(), q, q + gap, normal(23, n)


def plain_actor_ppo(rows, clip, f):
    """-sum F(p_actor_ref / q) min(r A, clip(r) A), r = p_actor / p_actor_ref, and d / d log p.

    rows: log p_actor, log q, log p_actor_ref and the advantages. clip: low and high.
    """
    (low, high), total, gradient = clip, 0.0, []
    for new, proposal, old, a in zip(*rows, strict=True):
        weight, r = f(math.exp(old - proposal)), math.exp(new - old)
        clipped = min(max(r, 1 - low), 1 + high)
        total -= weight * min(r * a, clipped * a)
        gradient.append(-weight * r * a if r * a <= clipped * a else 0.0)
    return total, gradient


@pytest.mark.parametrize("type_", RATIOS)
@pytest.mark.parametrize("clip", [(0.2, 0.3), (INF, INF)], ids=["clipped", "not clipped"])
def test_the_actors_loss_and_its_gradient_are_eq_6_token_by_token(type_, clip):
    """With type none the ratio is to q itself and the weight is 1."""
    now, q, before, advantage = actor_tokens()
    loss = actor_ppo_sum(now, q, before, advantage, *clip, type=type_, cap=1.6, low=0.7, high=1.5)
    loss.backward()
    old = q if type_ == "none" else before
    rows = [x.detach().double().tolist() for x in (now, q, old, advantage)]
    total, gradient = plain_actor_ppo(rows, clip, RATIOS[type_])
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert now.grad.tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-6)
    if clip[0] < INF:
        assert 0.0 in gradient


@pytest.mark.parametrize("type_", RATIOS)
def test_in_a_single_update_the_actor_now_is_the_actor_before(type_):
    """No p_actor_ref: the same as its own log-probabilities, held still, in loss and gradient."""
    found = []
    for given in (False, True):
        now, q, _, advantage = actor_tokens()
        before = now.detach() if given else None
        loss = actor_ppo_sum(now, q, before, advantage, 0.2, 0.3, type=type_, cap=1.6)
        loss.backward()
        found.append((loss.detach(), now.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_the_joint_loss_is_the_sum_with_coefficients_on_both_kls_alone():
    """Eq. 8 by hand, whichever terms there are; the gradient is the coefficient."""
    values = {
        "loss_policy": 2.0,
        "loss_actor_ppo": -3.0,
        "loss_distill": 5.0,
        "loss_initial_kl": 7.0,
    }
    factors = {
        "loss_policy": 1.0,
        "loss_actor_ppo": 1.0,
        "loss_distill": 0.5,
        "loss_initial_kl": 0.25,
    }
    for names in (tuple(values), ("loss_policy",), ("loss_policy", "loss_distill")):
        terms = {name: torch.tensor(values[name], requires_grad=True) for name in names}
        total = joint_loss(terms, distill_coef=0.5, initial_kl_coef=0.25)
        total.backward()
        assert total.shape == () and total.item() == sum(factors[n] * values[n] for n in names)
        found = {n: float(not_none(x.grad)) for n, x in terms.items()}
        assert found == {n: factors[n] for n in names}


@pytest.mark.parametrize("poison", [1e3, -1e3, 1e30, INF, -INF, NAN])
def test_extreme_ratios_at_rejected_tokens_change_neither_loss_nor_gradient(poison):
    """A rejected token adds exactly 0, even where its own ratio would overflow."""
    good = torch.tensor([-1.0, -2.0])
    scale = torch.tensor([0.3, 0.4, poison])
    new = torch.cat([good, torch.tensor([poison])]).requires_grad_()
    ref = torch.tensor([-1.1, -1.9, -1.0])
    advantage, weight = torch.tensor([1.0, -1.0, poison]), torch.tensor([0.5, 2.0, 0.0])
    loss = ppo_clip_sum(new, ref, advantage, weight, 0.2, 0.2, scale)
    loss.backward()
    clean = good.clone().requires_grad_()
    plain = ppo_clip_sum(clean, ref[:2], advantage[:2], weight[:2], 0.2, 0.2, scale[:2])
    plain.backward()
    gradient = not_none(new.grad)
    assert torch.equal(loss, plain) and torch.equal(gradient[:2], not_none(clean.grad))
    assert float(gradient[2]) == 0.0


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_token_of_reference_probability_zero_adds_exactly_nothing(advantage):
    """Whatever its weight: its ratio would be infinite, and the rest of the loss stays."""
    losses, gradients = [], []
    for rows in (slice(0, 1), slice(0, 2)):
        logp_new = torch.tensor([-1.0, -2.0])[rows].requires_grad_()
        logp_ref = torch.tensor([-1.5, -math.inf])[rows]
        ones = torch.ones(2)[rows]
        loss = ppo_clip_sum(logp_new, logp_ref, advantage * ones, ones, 0.2, math.inf)
        loss.backward()
        losses.append(loss.item())
        gradients.append(not_none(logp_new.grad).tolist())
    assert losses[0] == losses[1] and math.isfinite(losses[0])
    assert gradients[1] == [*gradients[0], 0.0]


@pytest.mark.parametrize("denominator", ["proposed", "accepted", "sequence"])
def test_when_everything_is_rejected_the_loss_is_zero_with_a_valid_gradient(denominator):
    new = torch.tensor([-1.0, -2.0], requires_grad=True)
    scale = token_scale(denominator, torch.zeros(2), torch.tensor([0, 1]), 2)
    loss = ppo_clip_sum(new, new.detach(), torch.ones(2), torch.zeros(2), 0.2, 0.2, scale)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(not_none(new.grad), torch.zeros(2))


def test_the_three_denominators_are_those_computed_by_hand():
    """Three sequences of 1, 3 and 2 tokens; accepted 1 + 1.5 + 0 (an expected mask's share)."""
    index = torch.tensor([0, 1, 1, 1, 2, 2])
    accepted = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0])
    scale = {d: token_scale(d, accepted, index, 3) for d in ("proposed", "accepted", "sequence")}
    assert scale["proposed"].tolist() == pytest.approx([1 / 6] * 6)
    assert scale["accepted"].tolist() == pytest.approx([1 / 2.5] * 6)
    assert scale["sequence"].tolist() == pytest.approx([1 / 3] + [1 / 9] * 3 + [1 / 6] * 2)


_TRAINED = SeparateActor()
_PPO = PpoObjective()


class Grid:
    """Sequences with padding: what an update reads, one row a sequence, poison where none is."""

    lengths = (6, 1, 9, 7)
    vocabulary, top_k = 9, 4

    def __init__(self, side: str, width: int, poison: float) -> None:
        n = sum(self.lengths)
        p, q, actor = (log_softmax(seed, n, self.vocabulary) for seed in (1, 2, 3))
        ref = torch.log_softmax(p + 0.5 * normal(4, n, self.vocabulary), -1)
        x = torch.multinomial(q.exp(), 1, generator=torch.Generator().manual_seed(5))[:, 0]
        coin = torch.rand(n, generator=torch.Generator().manual_seed(6))
        self.real = torch.zeros(len(self.lengths), width, dtype=torch.bool)
        for row, length in enumerate(self.lengths):
            self.real[row, width - length if side == "left" else 0 :][:length] = True
        assert self.real.sum() == n
        self.advantage = torch.tensor([1.0, -0.5, 0.7, -1.2])
        self.cells = {
            name: self.spread(value, poison)
            for name, value in {"p": p, "ref": ref, "q": q, "actor": actor, "coin": coin}.items()
        }
        self.x = self.spread(x, 0)

    def spread(self, flat: torch.Tensor, poison: float) -> torch.Tensor:
        cells = flat.new_full((*self.real.shape, *flat.shape[1:]), poison)
        cells[self.real] = flat
        return cells

    def losses(
        self, correction, loss, trained=_TRAINED, objective=_PPO, order=(0, 1, 2, 3), size=4
    ):
        """Policy, actor and distillation loss, and both gradients row by row in sequence order."""
        rows = torch.tensor(order)
        real = self.real[rows]
        leaf = {n: self.cells[n].clone().requires_grad_() for n in ("p", "actor")}
        flat = {n: c[rows][real] for n, c in (self.cells | {"x": self.x}).items()}
        index = torch.arange(len(rows))[:, None].expand(real.shape)[real]
        advantage = self.advantage[rows][index]

        def at(log_probs):
            return log_probs.gather(1, flat["x"][:, None])[:, 0]

        top = flat["q"].topk(self.top_k, dim=-1)
        inputs = CorrectionInputs(
            logp_inf=at(flat["q"]),
            logp_ref=at(flat["ref"]),
            logp_new=at(flat["p"]),
            topk_logp_inf=top.values,
            topk_logp_target=flat["ref"].gather(1, top.indices),
            in_topk=(top.indices == flat["x"][:, None]).any(1),
            uniform=flat["coin"],
            sequence=index,
        )
        w = token_weights(inputs, CorrectionState(), **correction)
        scale = token_scale(loss.denominator, w.accepted, index, len(rows))
        clips = [(x.clip_low, x.clip_high) for x in (objective, trained)]
        totals, start = torch.zeros(3, dtype=torch.float64), 0
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            mask = self.real[part]
            piece = slice(start, start := start + int(mask.sum()))
            new, actor = leaf["p"][part][mask], leaf["actor"][part][mask]
            x, q, ref, adv = (
                v[piece][:, None] for v in (flat["x"], at(flat["q"]), at(flat["ref"]), advantage)
            )
            policy_args = (new.gather(1, x)[:, 0], ref[:, 0], adv[:, 0], w.weight[piece])
            policy = ppo_clip_sum(*policy_args, *clips[0], scale[piece])
            one = torch.ones(len(x))
            own = ppo_clip_sum(
                actor.gather(1, x)[:, 0], q[:, 0], adv[:, 0], one, *clips[1], 1 / len(flat["x"])
            )
            form = (trained.distill.type, trained.distill.top_k, trained.distill.temperature)
            distill = distillation(new, actor, *form) / len(flat["x"])
            terms = (policy, own * trained.ppo, trained.distill.coef * distill)
            torch.stack(terms).sum().backward()
            totals += torch.tensor([float(t.detach()) for t in terms])
        grads = [not_none(leaf[n].grad) for n in ("p", "actor")]
        assert all(bool((grad[~self.real] == 0).all()) for grad in grads)
        return totals, [grad[self.real] for grad in grads]


def assert_same(a, b):
    assert torch.allclose(a[0], b[0], rtol=1e-5, atol=1e-8)
    for x, y in zip(a[1], b[1], strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-7)


DENOMINATORS = ("proposed", "accepted", "sequence")
CORRECTIONS: tuple[dict, ...] = (
    {},
    {"z_tail": "lumped", "kappa": True},
    {"z": "batch", "mask": "expected", "lam_from": "batch", "budget": 0.8},
    {"lam_from": "state", "z": "none"},
    {"type": "tis"},
)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(
    "correction", CORRECTIONS, ids=["obrs", "kappa", "batch", "state lam", "tis"]
)
def test_microbatches_order_and_padding_leave_loss_and_gradients_unchanged(correction, denominator):
    """With infinities and NaN at every padded position, on either side, however long."""
    loss = LossConfig(denominator=denominator)
    plain = Grid("right", 9, 0.0)
    base = plain.losses(correction, loss)
    assert bool((base[0] != 0).all())
    for size in (1, 2, 3):
        assert_same(plain.losses(correction, loss, size=size), base)
    for order in ((3, 1, 0, 2), (2, 3, 1, 0)):
        assert_same(plain.losses(correction, loss, order=order, size=3), base)
    for side, width, poison in (("left", 9, NAN), ("right", 14, INF), ("left", 11, 1e30)):
        assert_same(Grid(side, width, poison).losses(correction, loss, size=2), base)


CHANGES = [
    # both, changed, which of the policy's, the actor's and the distillation loss move with it
    ({"objective": {"clip_low": INF}}, {"objective": {"clip_low": 0.01}}, "policy"),
    ({"objective": {"clip_high": INF}}, {"objective": {"clip_high": 0.01}}, "policy"),
    ({"clip_low": INF}, {"clip_low": 0.01}, "actor"),
    ({"clip_high": INF}, {"clip_high": 0.01}, "actor"),
    ({}, {"denominator": "accepted"}, "policy"),
    ({}, {"denominator": "sequence"}, "policy"),
    ({}, {"ppo": False}, "actor"),
    ({}, {"distill": {"coef": 2.0}}, "distill"),
    ({}, {"distill": {"type": "reverse"}}, "distill"),
    ({}, {"distill": {"top_k": 3}}, "distill"),
    ({}, {"distill": {"temperature": 2.0}}, "distill"),
    ({}, {"distill": {"type": "none"}}, "distill"),
]


def sections_of(values):
    """[loss], a trained [actor] and [objective] with these values, each by its own names."""
    objective = PpoObjective(**values.get("objective", {}))
    values = {k: v for k, v in values.items() if k != "objective"}
    own = {k: v for k, v in values.items() if k in sections.settings_of(SeparateActor)}
    loss = LossConfig(**{k: v for k, v in values.items() if k not in own})
    return loss, sections.updated(SeparateActor(), own), objective


@pytest.mark.parametrize("both, change, moved", CHANGES, ids=lambda x: str(x)[:40])
def test_each_setting_moves_its_own_losses_and_no_other(both, change, moved):
    grid = Grid("right", 9, NAN)
    a, b = (grid.losses({}, *sections_of(s)) for s in (both, both | change))
    names = ("policy", "actor", "distill")
    found = {n for n, x, y in zip(names, a[0].tolist(), b[0].tolist(), strict=True) if x != y}
    assert found == set(moved.split())
    trained = [torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True)]
    assert trained == ["policy" not in moved, not found & {"actor", "distill"}]


def reference_distillation(policy, actor, direction, top_k, temperature):
    """Plain float64: temper, lump all but the policy's likeliest, sum p log(p / q)."""
    p, q = (torch.softmax(x.double() / temperature, -1) for x in (policy, actor))
    if top_k:
        order = p.argsort(dim=-1, descending=True)
        p, q = (
            torch.cat(
                [x.gather(1, order[:, :top_k]), x.gather(1, order[:, top_k:]).sum(1, keepdim=True)],
                1,
            )
            for x in (p, q)
        )
    p, q = (p.detach(), q) if direction == "forward" else (q, p.detach())
    return temperature**2 * (p * (p.log() - q.log())).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("top_k", [0, 1, 4])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_distillation_and_its_gradient_are_those_of_plain_float64(direction, top_k, temperature):
    policy = (2 * normal(1, 12, 9)).requires_grad_()
    found = []
    for loss in (distillation, reference_distillation):
        actor = (2 * normal(2, 12, 9)).requires_grad_()
        p, q = policy, actor
        if loss is distillation:
            p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
        total = loss(p, q, direction, top_k, temperature)
        total.backward()
        found.append((total.detach(), not_none(actor.grad)))
    assert policy.grad is None
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_distillation_is_forward_kl_and_trains_only_the_actor():
    """Eq. 7: sum p log(p / p_actor); gradient q - p on the actor's logits, none on the policy's."""
    policy = normal(1, 5, 6).requires_grad_()
    actor = normal(2, 5, 6).requires_grad_()
    p, q = torch.log_softmax(policy, -1), torch.log_softmax(actor, -1)
    loss = distillation(p, q)
    loss.backward()
    rows = (p.detach().double(), q.detach().double())
    plain = (rows[0].exp() * (rows[0] - rows[1])).sum()
    assert loss.item() == pytest.approx(float(plain), rel=1e-5)
    assert policy.grad is None
    assert torch.allclose(not_none(actor.grad), (q.exp() - p.exp()).detach(), atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_equal_models_have_a_distillation_loss_of_exactly_zero_and_no_gradient(direction):
    for top_k, temperature in ((0, 1.0), (3, 1.0), (3, 2.0), (8, 1.0), (20, 0.7)):
        p = log_softmax(3, 40, 9, 4.0)
        q = p.clone().requires_grad_()
        loss = distillation(p, q, direction, top_k, temperature)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert float(not_none(q.grad).abs().max()) < 2e-6


def test_a_coarser_vocabulary_never_raises_the_distillation_loss():
    """Data processing: k tokens and a bucket have at most the full KL, growing with k up to it."""
    p, q = log_softmax(4, 60, 15, 2.0), log_softmax(5, 60, 15, 2.0)
    for direction in ("forward", "reverse"):
        losses = [float(distillation(p, q, direction, k)) for k in (*range(1, 15), 15, 16, 0)]
        assert all(a <= b * (1 + 1e-6) for a, b in pairwise(losses))
        assert losses[-3] == losses[-2] == losses[-1] and losses[0] < 0.9 * losses[-1]


def test_the_initial_policy_holds_the_policy_and_is_itself_held_still():
    """KL(policy || initial): gradient p (log(p / p_init) - KL) on the policy's logits alone."""
    logits, initial = normal(6, 7, 8).requires_grad_(), normal(7, 7, 8).requires_grad_()
    log_p, log_init = torch.log_softmax(logits, -1), torch.log_softmax(initial, -1)
    sides = [HeadInput(log_p), HeadInput(log_init)]
    loss = logprobs_and_kls(sides, 1.0, [KLPair(0, 1, train_q=False)])[1][0].sum()
    loss.backward()
    p, gap = log_p.detach().double().exp(), (log_p - log_init).detach().double()
    kl = (p * gap).sum(1, keepdim=True)
    assert loss.item() == pytest.approx(float(kl.sum()), rel=1e-5)
    assert torch.allclose(not_none(logits.grad).double(), p * (gap - kl), atol=1e-6)
    assert initial.grad is None
