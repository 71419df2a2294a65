"""Controllers hold the KL at its target."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from tiny_context import NOWHERE, learner, random_pair, world

from jackpot.torch.control import Controls, next_controls
from llm.settings.loading import Config
from llm.settings.schema import Distillation, OptimConfig, SeparateActor
from llm.training.optimizer import open_learner, set_learning_rates

driven = partial(next_controls, kl_target=0.05, actor_lr=True, distill_coef=1.0)
off = partial(next_controls, kl_target=0.0, distill_coef=1.0)


@pytest.mark.parametrize(
    "kl, factor",
    [
        (0.05, 1.0),
        (0.06, 1.2**0.1),
        (0.04, 0.8**0.1),
        (5.0, math.exp(0.1)),
        (1e-9, math.exp(-0.1)),
        (0.0, math.exp(-0.1)),
    ],
)
def test_driven_values_rise_above_the_target_and_fall_below_it(kl, factor):
    """log factor moves by gain * clip(log(KL / target), -1, 1), by hand."""
    controls, decisions = driven(Controls(3.0, 0.5), kl, distill_coef=2.0)
    assert controls.distill_coef == pytest.approx(3.0 * factor)
    assert controls.actor_lr_factor == pytest.approx(0.5 * factor)
    assert [d["setting"] for d in decisions] == ["actor.distill.coef", "actor.lr factor"]
    assert [d["before"] for d in decisions] == [3.0, 0.5]
    assert [d["after"] for d in decisions] == [controls.distill_coef, controls.actor_lr_factor]
    for decision in decisions:
        assert decision["reason"] == f"KL(policy || actor) {kl:.4g}, target 0.05"
        assert not decision["limited"]
        assert json.loads(json.dumps(decision)) == decision


@pytest.mark.parametrize("distill, actor_lr", [(True, False), (False, True)])
def test_only_what_is_driven_moves(distill, actor_lr):
    start = Controls(1.0, 1.0)
    controls, decisions = driven(start, 0.2, distill=distill, actor_lr=actor_lr)
    assert (controls.distill_coef != 1.0, controls.actor_lr_factor != 1.0) == (distill, actor_lr)
    assert len(decisions) == distill + actor_lr


def test_the_policy_waits_while_the_kl_is_too_high_and_never_exceeds_its_own_rate():
    """Its factor is divided where the others are multiplied, and stops at 1."""
    alone = partial(driven, policy_lr=True, distill=False, actor_lr=False)
    waits = partial(alone, gain=0.5, factor_max=4.0)
    slower, (move,) = waits(Controls(1.0), 0.06)
    assert dataclasses.astuple(slower) == (1.0, 1.0, pytest.approx(1.2**-0.5))
    assert (move["setting"], move["limited"]) == ("optim.policy_lr factor", False)
    again, _ = waits(slower, 0.045)
    assert again.policy_lr_factor == pytest.approx(1.2**-0.5 * 0.9**-0.5)
    full, (move,) = waits(again, 1e-9)
    assert (full.policy_lr_factor, move["limited"]) == (1.0, True)
    for _ in range(9):
        full, (move,) = waits(full, 9.0)
    assert (full.policy_lr_factor, move["limited"]) == (0.25, True)


def test_the_policys_rate_in_force_is_the_controlled_one():
    cfg = dataclasses.replace(Config(), optim=OptimConfig(policy_lr=1e-3))
    cfg = dataclasses.replace(cfg, actor=SeparateActor(lr=1e-2))
    optimizers = {
        name: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        for name in ("policy", "actor")
    }
    learns = learner(cfg, optimizers)
    learns.controls = Controls(1.0, 3.0, 0.25)
    rates = set_learning_rates(cfg, learns, 0.5, 0)
    assert rates == {"lr_policy": 1.25e-4, "lr_actor": 1.5e-2}
    assert [optimizers[n].param_groups[0]["lr"] for n in ("policy", "actor")] == [1.25e-4, 1.5e-2]


def test_values_stay_within_their_factor_of_the_configured_one_and_say_so():
    bounded = partial(driven, distill_coef=2.0, factor_max=1.5, gain=1.0)
    ctx = world(Config(actor=SeparateActor(distill=Distillation(coef=2.0))), random_pair())
    controls = open_learner(ctx, NOWHERE).controls
    assert controls == Controls(2.0, 1.0)
    for kl, coef, factor in ((9.0, 3.0, 1.5), (1e-6, 2 / 1.5, 1 / 1.5)):
        for _ in range(3):
            controls, decisions = bounded(controls, kl)
        assert controls.distill_coef == pytest.approx(coef)
        assert controls.actor_lr_factor == pytest.approx(factor)
        assert [d["limited"] for d in decisions] == [True, True]


def test_without_a_target_nothing_moves_and_nothing_is_logged():
    controls = Controls(0.3, 0.7)
    assert off(controls, 5.0) == (controls, [])


@pytest.mark.parametrize("kl", [float("nan"), float("inf"), -1e-9])
@pytest.mark.parametrize("moved", [driven, off], ids=["on", "off"])
def test_a_kl_that_is_none_is_refused(moved, kl):
    with pytest.raises(ValueError, match="finite number >= 0"):
        moved(Controls(1.0), kl)


def test_the_loop_settles_at_the_target():
    """A plant whose KL is inverse to the coefficient: from 3 times too much to the target."""
    controls = Controls(1.0)
    for _ in range(60):
        controls, _ = driven(controls, 0.15 / controls.distill_coef, gain=0.2)
    assert 0.15 / controls.distill_coef == pytest.approx(0.05, rel=1e-3)


def test_controls_survive_json():
    controls = Controls(0.123, 4.5)
    assert Controls(**json.loads(json.dumps(dataclasses.asdict(controls)))) == controls
