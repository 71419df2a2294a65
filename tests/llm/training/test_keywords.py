"""Keywords are those that the functions of jackpot/torch take, with the values of the settings."""

from __future__ import annotations

import inspect
import math
from typing import get_args

import pytest
import sections
import torch

from jackpot.torch import control, correction, losses, objectives
from llm.settings.loading import Config
from llm.settings.schema import (
    Distillation,
    KLControl,
    LossConfig,
    SeparateActor,
    TisWeight,
    Weight,
)
from llm.training import keywords


def taken(function) -> set[str]:
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "none"},
        {"type": "tis", "cap": 3.0},
        {"type": "icepop", "target": "new", "c2": 2.0},
        {"type": "jackpot", "lam": 2.0},
        {"type": "jackpot", "lam_from": "state", "budget": 0.8, "z": "none"},
        {"type": "jackpot", "lam_from": "tracked", "budget": 0.8, "z": "batch"},
        {"type": "jackpot", "z": "state", "z_tail": "dropped", "kappa": True},
    ],
)
def test_the_keywords_of_weights_are_the_settings_of_the_section(settings):
    loss = LossConfig(updates_per_rollout=2)
    cfg = Config(correction=sections.correction(**settings), loss=loss)
    found = keywords.correction_keywords(cfg)
    assert set(found) <= taken(correction.token_weights) | taken(correction.obrs_weights)
    assert settings.items() <= found.items()
    assert all(isinstance(value, float | str | bool) for value in found.values())


def test_the_keywords_of_the_tail_and_of_lam_are_taken():
    cfg = Config(correction=sections.correction(type="jackpot", lam=1.5))
    assert keywords.lam_keywords(cfg) == {"lam": 1.5, "lam_from": "fixed"}
    assert set(keywords.tail_keywords(cfg)) <= taken(correction.forward_tail)


def test_only_a_tracked_lam_moves_the_state():
    assert keywords.next_state_keywords(Config()) == {}
    tracked = sections.correction(type="jackpot", lam_from="tracked", budget=0.7)
    found = keywords.next_state_keywords(Config(correction=tracked))
    assert found["tracked"] is True and found["budget"] == 0.7
    assert set(found) <= taken(correction.next_state)


def test_the_controller_is_told_the_configured_coefficient_and_never_the_type():
    actor = SeparateActor(distill=Distillation(coef=0.3))
    cfg = Config(control=KLControl(kl_target=0.1), actor=actor)
    found = keywords.control_keywords(cfg)
    assert found["kl_target"] == 0.1 and found["distill_coef"] == 0.3 and "type" not in found
    assert set(found) <= taken(control.next_controls)


def test_the_actors_correction_goes_to_equation_6():
    weight = TisWeight(cap=1.5)
    actor = SeparateActor(dtype="bfloat16", correction=weight, clip_low=0.1, clip_high=0.3)
    cfg = Config(actor=actor, loss=LossConfig(updates_per_rollout=2))
    found = keywords.actor_ppo_keywords(cfg)
    assert found == {"type": "tis", "cap": 1.5, "clip_low": 0.1, "clip_high": 0.3}
    assert {"clip_low", "clip_high", "type"} <= taken(losses.actor_ppo_sum)
    assert "cap" in correction.TRUNCATIONS["tis"]


def test_every_weight_of_the_settings_is_computed_from_its_own_keywords():
    """A weight that the settings have and Eq. 5 or Eq. 6 does not take ended in the first step."""
    settings = {cls().type: set(vars(cls())) - {"type"} for cls in get_args(Weight)}
    assert settings == {name: set(words) for name, words in correction.TRUNCATIONS.items()}
    for name, words in correction.TRUNCATIONS.items():
        assert set(words) <= taken(correction.truncated_ratio) & taken(correction.token_weights)
        correction.truncated_ratio(torch.zeros(2), type=name)


@pytest.mark.parametrize(
    ("correction", "objective", "wanted"),
    [
        ({"type": "none"}, {"type": "ppo"}, {"ratio": "ref", "opsm_delta": math.inf}),
        ({"type": "none"}, {"type": "minpro"}, {"ratio": "inf"}),
        ({"type": "none"}, {"type": "bapo", "ratio": "inf"}, {"ratio": "inf", "share": 0.4}),
        ({"type": "tis"}, {"type": "cispo"}, {"ratio": "ref", "clip_high": 4.0}),
        ({"type": "none"}, {"type": "dppo"}, {"ratio": "inf", "delta": 0.15, "cap": 20.0}),
        (
            {"type": "none"},
            {"type": "dppo", "divergence.type": "none"},
            {"ratio": "inf", "delta": math.inf, "cap": 20.0},
        ),
        (  # Jackpot's weight has p_inf's part
            {"type": "jackpot", "target": "new"},
            {"type": "dppo", "divergence.type": "binary_kl", "divergence.delta": 0.01},
            {"ratio": "ref", "delta": 0.01, "divergence": "binary_kl"},
        ),
        (
            {"type": "none"},
            {"type": "m2po", "sequence_mask.type": "opsm", "sequence_mask.delta": 0.3},
            {"ratio": "inf", "tau": 0.04, "opsm_delta": 0.3},
        ),
    ],
)
def test_an_objective_becomes_keywords_that_its_functions_take(correction, objective, wanted):
    cfg = Config(
        correction=sections.correction(**correction),
        objective=sections.objective(**objective),
        loss=LossConfig(updates_per_rollout=2),
    )
    found = keywords.objective_keywords(cfg)
    assert wanted.items() <= found.items()
    extra = found.keys() - {"type", "ratio", "opsm_delta", "divergence"}
    function = "bapo_bounds" if objective["type"] == "bapo" else objective["type"]
    function = "m2po_threshold" if objective["type"] == "m2po" else function
    assert extra <= taken(getattr(objectives, function))
