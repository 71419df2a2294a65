"""Every control configuration changes the correction alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from llm.settings.loading import load

CONFIGS = Path(__file__).resolve().parents[2] / "llm" / "configs"
WANTED: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "tis": ("tis", {}),
    "icepop": ("icepop", {}),
    "areal": ("importance", {}),
    "capped": ("tis", {"updates_per_rollout": 2}),
    "jackpot": ("jackpot", {}),
    "jackpot_expected": ("jackpot", {}),
    "jackpot_prefixes": ("jackpot", {}),
}
NO_CLIP: dict[str, Any] = {"clip_low": math.inf, "clip_high": math.inf}


@pytest.mark.parametrize("main", ["tiny_cpu.toml", "demo.toml"])
@pytest.mark.parametrize("name", WANTED)
def test_a_control_loads_after_a_main_configuration_and_changes_the_correction_alone(main, name):
    """The same actor losses, models, task and rollouts as the run it is compared with."""
    correction, loss = WANTED[name]
    plain = load([str(CONFIGS / main)], [])
    found = load([str(CONFIGS / main), str(CONFIGS / "controls" / f"{name}.toml")], [])
    assert found.correction.type == correction
    assert found.loss == dataclasses.replace(plain.loss, **loss)
    clip = NO_CLIP if name == "capped" else {}  # of the policy's loss and of the actor's
    assert found.objective == dataclasses.replace(plain.objective, **clip)
    assert found.actor == dataclasses.replace(plain.actor, **clip)
    changed = {name: getattr(plain, name) for name in ("correction", "loss", "objective", "actor")}
    assert dataclasses.replace(found, **changed) == plain
    mask = getattr(found.correction, "mask", "bernoulli")
    assert (mask == "expected") == (name in ("jackpot_expected", "jackpot_prefixes"))
    scope = getattr(found.correction, "scope", "token")
    assert (scope == "prefix") == (name == "jackpot_prefixes")


def test_every_control_configuration_is_tested():
    assert {p.stem for p in (CONFIGS / "controls").glob("*.toml")} == {*WANTED, "on_policy"}
