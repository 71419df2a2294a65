"""Rollouts describe the distribution really sampled from; nothing depends on layout or padding."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from llm import data, evaluate, metrics, models, train
from llm.advantages import group_advantage
from llm.checkpoint import Guard
from llm.config import Config, CorrectionConfig, LossConfig, ModelConfig, OptimConfig, RolloutConfig
from llm.logprobs import completion_logprobs, log_tail
from llm.losses import TokenWeights, token_weights
from llm.rewards import exact_match
from llm.rollout import inverse_cdf, sample

PROBLEMS = [("12=", "13"), ("90417=", "99044"), ("5=", "5"), ("8812=", "8679"), ("333=", "369")]


@pytest.fixture(scope="module")
def pair():
    policy = models.build(ModelConfig(layers=2, width=32), seed=1)
    actor = models.build(ModelConfig(layers=1, width=16), seed=2)
    with torch.no_grad():  # random models are nearly uniform: sharpen them so that they differ
        policy.lm_head.weight.mul_(30.0)
        actor.lm_head.weight.mul_(30.0)
    return policy, actor


def rollout(model, problems=PROBLEMS, seed=0, temperature=1.0, top_k=5, width=7):
    rng = np.random.default_rng(seed)
    return sample(model, problems, rng, max_new_tokens=width, temperature=temperature, top_k=top_k)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logp_inf_is_the_log_probability_of_the_distribution_sampled_from(pair, temperature):
    """Temperature included: equal to a full forward pass divided by the same temperature."""
    _, actor = pair
    b = rollout(actor, temperature=temperature)
    full = completion_logprobs(actor, b.ids, b.is_real, 7, temperature).detach()
    real = b.is_completion
    taken = full.gather(-1, b.completion_ids[..., None])[..., 0]
    assert torch.allclose(b.logp_inf[real], taken[real], atol=2e-5)
    best = full.topk(5, dim=-1).values
    assert torch.allclose(b.topk_logp_inf[real], best[real], atol=2e-5)
    assert torch.allclose(full.gather(-1, b.topk_ids)[real], best[real], atol=2e-5)


def test_inverse_cdf_draws_each_token_in_proportion_and_never_an_impossible_one():
    """On a grid of 1000 uniforms the counts are 1000 p to within one; p = 0 gets none."""
    p = torch.tensor([0.0, 0.25, 0.0, 0.6, 0.15, 0.0])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = inverse_cdf(p.log().expand(1000, 6), uniform)
    counts = torch.bincount(drawn, minlength=6)
    assert bool(((counts - 1000 * p).abs() <= 1).all()) and counts[[0, 2, 5]].tolist() == [0, 0, 0]
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert inverse_cdf(p.log().expand(2, 6), ends).tolist() == [1, 4]


def test_sampled_frequencies_match_the_recorded_probabilities(pair):
    """First tokens of 4000 rollouts of one prompt: chi-square below its 1 - 1e-6 quantile."""
    from scipy.stats import chi2

    _, actor = pair
    b = rollout(actor, problems=[PROBLEMS[0]] * 4000, width=1, top_k=48)
    p = torch.zeros(48).scatter(0, b.topk_ids[0, 0], b.topk_logp_inf[0, 0].exp()).double()
    seen = torch.bincount(b.completion_ids[:, 0], minlength=48).double()
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
        alone = sample(actor, [problem], Fixed(), max_new_tokens=7, temperature=1.0, top_k=5)
        assert alone.completions()[0] == together.completions()[i]
        real = alone.is_completion[0]
        assert torch.allclose(alone.logp_inf[0][real], together.logp_inf[i][real], atol=1e-5)


def test_completions_stop_at_end_of_sequence_and_padding_is_not_real(pair):
    _, actor = pair
    with torch.no_grad():
        b = rollout(actor, problems=PROBLEMS * 40, width=20)
    ended = [c for c in b.completions() if data.EOS in c]
    assert ended and all(c.index(data.EOS) == len(c) - 1 for c in ended)
    assert bool((b.completion_ids[~b.is_completion] == data.PAD).all())
    assert torch.equal(b.logp_inf[~b.is_completion], torch.zeros(int((~b.is_completion).sum())))


def test_tail_mass_is_what_the_known_tokens_leave():
    p = torch.tensor([[0.5, 0.3], [0.6, 0.4]])
    tail = log_tail(p.log())
    assert float(tail[0]) == pytest.approx(np.log(0.2), rel=1e-5)
    assert float(tail[1]) < -15  # nothing, up to float32 rounding of the sum


def config(**correction) -> Config:
    """Strong mismatch, two updates, variable lengths; enough for every branch of the update."""
    return Config(
        rollout=RolloutConfig(prompts_per_step=5, rollouts_per_prompt=4, top_k=5, max_new_tokens=9),
        correction=CorrectionConfig(**correction),
        loss=LossConfig(updates_per_rollout=2),
    )


def scored_update(pair, cfg, batch, coin, order=None):
    """Losses and gradients of one update on (a permutation of) a batch, without the step."""
    policy, actor = (copy.deepcopy(m) for m in pair)
    optimizers = {
        "policy": torch.optim.SGD(policy.parameters(), lr=0.0),
        "actor": torch.optim.SGD(actor.parameters(), lr=0.0),
    }
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, grad_clip=float("inf")))
    if order is not None:
        batch, coin = batch.rows(order), coin[order]
    found = train.update(
        cfg,
        policy,
        actor,
        optimizers,
        batch,
        None,
        coin[batch.is_completion],
        Guard(Path("nowhere")),
        0,
    )
    grads = [p.grad.clone() for m in (policy, actor) for p in m.parameters() if p.grad is not None]
    return found, grads


@pytest.fixture(scope="module")
def scene(pair):
    """A batch with advantages of both signs, and its coins."""
    batch = rollout(pair[1], problems=PROBLEMS * 4, seed=3)
    advantage = torch.linspace(-1.5, 2.0, 20)
    batch = dataclasses.replace(batch, advantage=advantage)
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return batch, coin


SETTINGS = [
    {"name": "jackpot"},
    {"name": "jackpot", "z": "batch"},
    {"name": "jackpot", "mask": "expected", "target": "new"},
    {"name": "tis"},
]


def assert_same(a, b):
    for name in ("loss_policy", "loss_actor_ppo", "loss_distill"):
        assert a[0][name] == pytest.approx(b[0][name], rel=1e-4, abs=1e-7)
    for x, y in zip(a[1], b[1], strict=True):
        assert torch.allclose(x, y, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("size", [1, 3, 7])
def test_splitting_into_microbatches_changes_neither_loss_nor_gradient(pair, scene, setting, size):
    """Batch statistics, kappa included, are of the whole update, whatever fits into memory."""
    cfg = config(**setting)
    optim = OptimConfig(sequences_per_microbatch=size)
    split = scored_update(pair, dataclasses.replace(cfg, optim=optim), *scene)
    assert_same(scored_update(pair, cfg, *scene), split)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(s.values()))
def test_the_order_of_sequences_changes_neither_loss_nor_gradient(pair, scene, setting):
    """Coins belong to sequences, not to places in the batch."""
    cfg = config(**setting)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert_same(scored_update(pair, cfg, *scene), scored_update(pair, cfg, *scene, order=order))


def widened(batch, coin, left, right):
    """The same sequences with more padding on both sides, with poison in it."""
    b = len(batch.answers)

    def pad(x, value, n_left, n_right):
        shape = list(x.shape)
        shape[1] = n_left
        before = torch.full(shape, value, dtype=x.dtype)
        shape[1] = n_right
        return torch.cat([before, x, torch.full(shape, value, dtype=x.dtype)], dim=1)

    nan, t = float("nan"), batch.is_completion.shape[1]
    poisoned = torch.where(batch.is_completion, batch.logp_inf, torch.tensor(nan))
    topk = torch.where(batch.is_completion[..., None], batch.topk_logp_inf, torch.tensor(nan))
    assert b and t
    wide = dataclasses.replace(
        batch,
        ids=pad(batch.ids, 7, left, right),
        is_real=pad(batch.is_real, False, left, right),
        is_completion=pad(batch.is_completion, False, 0, right),
        logp_inf=pad(poisoned, nan, 0, right),
        topk_ids=pad(batch.topk_ids, 3, 0, right),
        topk_logp_inf=pad(topk, nan, 0, right),
    )
    return wide, pad(coin, nan, 0, right)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("left, right", [(0, 4), (3, 0), (2, 5)])
def test_padding_and_poison_in_it_change_nothing(pair, scene, setting, left, right):
    """NaN at every padded position leaves loss, gradient and metrics finite and unchanged."""
    cfg = config(**setting)
    assert_same(
        scored_update(pair, cfg, *scene), scored_update(pair, cfg, *widened(*scene, left, right))
    )


def test_denominators_match_a_literal_hand_computation(pair, scene):
    """proposed: over all sampled tokens; accepted: over the coins that came up."""
    batch, coin = scene
    cfg = config(name="jackpot", lam=2.0, z="batch")
    found, _ = scored_update(pair, cfg, batch, coin)
    w = found["weights"]
    real = batch.is_completion
    advantage = batch.advantage[:, None].expand(real.shape)[real]
    total = -float((w.weight * advantage).sum())  # p_new = p_ref here: every PPO ratio is 1
    assert found["loss_policy"] == pytest.approx(total / int(real.sum()), rel=1e-5)
    accepted = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, denominator="accepted"))
    over_accepted, _ = scored_update(pair, accepted, batch, coin)
    assert 0 < int(w.accepted.sum()) < int(real.sum())
    assert over_accepted["loss_policy"] == pytest.approx(total / int(w.accepted.sum()), rel=1e-5)


@pytest.mark.parametrize("denominator", ["proposed", "accepted"])
def test_when_every_token_is_rejected_the_update_is_zero_and_finite(pair, scene, denominator):
    batch, coin = scene
    cfg = config(name="jackpot", z="batch", lam=1e30)
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, denominator=denominator))
    found, grads = scored_update(pair, cfg, batch, torch.full_like(coin, 0.5))
    assert found["loss_policy"] == 0.0 and found["grad_norm_policy"] == 0.0
    assert all(bool(torch.isfinite(g).all()) for g in grads) and found["grad_norm_actor"] > 0


def test_rejection_changes_no_reward_baseline_or_length_metric(pair):
    """Behaviour 7: everything measured before the weights is the same with rejection."""
    policy, actor = pair
    rows = []
    for correction in ({"name": "none"}, {"name": "jackpot", "lam": 50.0}):
        cfg = config(**correction)
        batch = train.rollout(cfg, policy, actor, 0, Guard(Path("nowhere")))
        reward = evaluate.rewards(batch)
        rows.append((train.rollout_metrics(batch, cfg), group_advantage(reward, 4), batch.ids))
    assert rows[0][0] == rows[1][0]
    assert torch.equal(rows[0][1], rows[1][1]) and torch.equal(rows[0][2], rows[1][2])


def test_group_advantage_is_centred_scaled_and_zero_for_equal_rewards():
    """GRPO: (r - mean) / (sd + 1e-4) within each group, by hand."""
    a = group_advantage(torch.tensor([1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 0.3]), 4)
    sd = (4 * 0.25 / 3) ** 0.5
    by_hand = [0.5 / (sd + 1e-4) * sign for sign in (1, -1, -1, 1)]
    assert a[:4].tolist() == pytest.approx(by_hand, rel=1e-6)
    assert a[4:].tolist() == [0.0] * 4
    equal = torch.full((7,), 0.1)
    assert bool((equal != equal.mean()).any())  # float32 rounding would make an advantage of it
    assert group_advantage(equal, 7).tolist() == [0.0] * 7


def test_every_step_has_prompts_samples_and_coins_of_its_own(pair):
    """The same step gives the same batch, another step another one."""
    cfg = config(name="jackpot")
    one, again, other = (train.rollout(cfg, *pair, s, Guard(Path("nowhere"))) for s in (3, 3, 4))
    assert torch.equal(one.ids, again.ids) and torch.equal(one.logp_inf, again.logp_inf)
    assert one.answers != other.answers
    a, b = (data.stream(0, "sampling", s).random(1000) for s in (3, 4))
    c = data.stream(0, "rejection", 3).random(1000)
    assert abs(np.corrcoef([a, b, c]) - np.eye(3)).max() < 0.15


@pytest.mark.parametrize(
    "text, ends, score",
    [
        ("344", True, 1.0),
        ("344", False, 0.0),
        ("345", True, 0.0),
        ("", True, 0.0),
        ("3441", True, 0),
    ],
)
def test_the_reward_is_an_exact_finished_answer(text, ends, score):
    ids = data.encode(text) + ([data.EOS] if ends else [])
    assert exact_match(ids, "344") == score


def test_held_out_prompts_are_never_trained_on():
    rng = np.random.default_rng(0)
    task = Config().task
    small = dataclasses.replace(task, digits_min=2, digits_max=3)
    seen = {p for p, _ in data.problems(small, rng, 4000)}
    held = {p for p, _ in data.problems(small, rng, 2000, held_out=True)}
    assert seen and held and not seen & held


def test_demonstrations_without_error_are_the_answer_and_errors_carry_over():
    rng = np.random.default_rng(0)
    for prompt, answer in data.problems(Config().task, rng, 50):
        assert data.demonstration(prompt, rng, 0.0) == answer
        assert sum(map(int, prompt[:2])) % 10 == int(answer[1])
        noisy = data.demonstration(prompt, rng, 0.3)
        assert len(noisy) == len(answer)
    wrong = sum(data.demonstration("99999999=", rng, 0.25) != "98765432" for _ in range(400))
    assert wrong / 400 == pytest.approx(1 - (1 - 0.25 * 0.9) ** 8, abs=0.08)


def test_the_actors_ppo_carries_none_of_the_policys_weights(pair, scene):
    """Eq. 6: the actor sampled the tokens itself, so F = 1 whatever the policy's correction is."""
    plain, _ = scored_update(pair, config(name="none"), *scene)
    for setting in ({"lam": 5.0}, {"mask": "expected", "target": "new"}):
        found, _ = scored_update(pair, config(name="jackpot", **setting), *scene)
        assert found["loss_actor_ppo"] == pytest.approx(plain["loss_actor_ppo"], rel=1e-6)
        assert found["loss_policy"] != pytest.approx(plain["loss_policy"], rel=1e-3)


def test_the_actors_gradient_is_proportional_to_the_distillation_coefficient(pair, scene):
    """Eq. 8: lambda_distill L_distill, with nothing else training the actor."""
    grads = []
    for coef in (0.5, 2.0):
        cfg = config(name="none")
        loss = dataclasses.replace(cfg.loss, actor_ppo=False, distill_coef=coef)
        found, _ = scored_update(pair, dataclasses.replace(cfg, loss=loss), *scene)
        grads.append(found["grad_norm_actor"])
    assert grads[1] == pytest.approx(4 * grads[0], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(pair, scene):
    """SGD with learning rate 1 moves each model by exactly its clipped gradient."""
    cfg = dataclasses.replace(config(name="none"), optim=OptimConfig(grad_clip=0.01))
    moved = [copy.deepcopy(m) for m in pair]
    optimizers = {
        name: torch.optim.SGD(m.parameters(), lr=1.0)
        for name, m in zip(("policy", "actor"), moved, strict=True)
    }
    batch, coin = scene
    coin = coin[batch.is_completion]
    train.update(cfg, *moved, optimizers, batch, None, coin, Guard(Path("nowhere")), 0)
    for old, new in zip(pair, moved, strict=True):
        steps = [(a - b).flatten() for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert float(torch.cat(steps).norm().detach()) == pytest.approx(0.01, rel=1e-3)


def test_both_exact_kls_have_the_direction_of_their_name():
    """By hand: p = (1/2, 1/2), q = (1/4, 3/4)."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    found = metrics.exact_kls(p, q)
    assert found["kl_policy_actor"] == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5
    )
    assert found["kl_actor_policy"] == pytest.approx(
        0.25 * np.log(0.5) + 0.75 * np.log(1.5), rel=1e-5
    )


def test_metrics_of_ratios_and_weights_match_a_hand_computation():
    """Two tokens, r = 2 and 1/4; weights 2 and 0; the estimates of both KLs as documented."""
    log_ratio = torch.tensor([2.0, 0.25]).log()
    zeros, ones = torch.zeros(2), torch.ones(2)
    part = TokenWeights(torch.tensor([2.0, 0.0]), log_ratio, ones, zeros, ones, zeros, 1.0)
    found = metrics.correction_metrics([part], "jackpot")
    k3 = (2 - 1 - np.log(2) + 0.25 - 1 + np.log(4)) / 2
    forward = (2 * np.log(2) - 2 + 1 - 0.25 * np.log(4) - 0.25 + 1) / 2
    expected = {
        "kl_inf_target_k3": k3,
        "kl_target_inf_est": forward,
        "log_ratio_mean": (np.log(2) - np.log(4)) / 2,
        "log_ratio_max": np.log(2),
        "ratio_mean": 1.125,
        "weight_mean": 1.0,
        "weight_max": 2.0,
        "ess_raw": 2.25**2 / (2 * (4 + 1 / 16)),
        "ess_applied": 0.5,
        "accept_rate": 0.0,
        "accept_prob_mean": 1.0,
        "kappa": 1.0,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_a_coin_just_below_one_still_accepts_a_certain_token():
    """float64 coins: the largest, 1 - 2^-53, would be 1 in float32 and reject a(x) = 1."""
    same = torch.full((1,), -0.5)
    top = torch.tensor([[-0.5, -1.5]])
    coin = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
    w = token_weights(
        CorrectionConfig(),
        logp_inf=same,
        logp_ref=same,
        logp_new=same,
        topk_logp_inf=top,
        topk_logp_target=top,
        uniform=coin,
    )
    assert float(w.weight) == 1.0
