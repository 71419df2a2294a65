"""The bounds that the page of settings states are those that are checked."""

import re

import pytest

from llm import settings
from llm.errors import ConfigError
from llm.settings import bounds, sections
from llm.settings.schema import Settings

OUTSIDE = {  # for each bound that depends on other settings: flags that break it
    "task.digits_max": "--task.digits_max 7",
    "task.pad_prompt_to": "--task.digits_min 2 --task.pad_prompt_to 5",
    "task.source": "--task.type problems --policy.path x --actor.path x",
    "reward.function": "--reward.function f.py",
    "actor.exit_layers": "--actor.type early_exit --actor.exit_layers 2",
    "actor.correction.high": "--rollout.max_staleness 1 --actor.correction.type icepop "
    "--actor.correction.low 0 --actor.correction.high inf",
    "correction.high": "--correction.type icepop --correction.low 0 --correction.high inf",
    "objective.divergence.delta": "--objective.type dppo --correction.type none "
    "--objective.divergence.delta 1",
    "rollout.mode.block.length": "--rollout.mode.type drafted --rollout.mode.block.length 90",
    "rollout.mode.block.length_max": "--rollout.mode.type drafted "
    "--rollout.mode.block.type adaptive --rollout.mode.block.length_max 2",
    "rollout.down_sampling.keep": "--rollout.down_sampling.type max_variance "
    "--rollout.down_sampling.keep 1",
    "rollout.pruning.prompt_rate": "--rollout.pruning.type horvitz_thompson "
    "--rollout.pruning.prompt_rate 1",
    "rollout.pruning.completion_rate": "--rollout.pruning.type horvitz_thompson "
    "--rollout.pruning.completion_rate -0.1",
    "rollout.pruning.candidate_fraction": "--rollout.pruning.type horvitz_thompson "
    "--rollout.pruning.candidate_fraction 0",
    "loss.updates_per_rollout": "--loss.updates_per_rollout 7",
    "optim.lr_warmup_steps": "--optim.lr_warmup_steps 300",
    "alarm.action.lowerings_max": "--alarm.action.type lower --alarm.action.lowerings_max 0",
    "run.folder": "--run.folder=",
}


def test_values_on_the_wrong_side_of_a_stated_bound_are_refused():
    base = sections.flatten(Settings())
    stated = 0
    for key in sections.all_keys(Settings):
        for wanted, holds in bounds.bounds_of(key):
            tried = (-1, -0.5, 0, 1e-14, 1e-9, 1, 1.5, 3, 1e13)
            wrong = [x for x in tried if not holds(x)]
            assert wrong, f"{key}: {wanted}"
            with pytest.raises(ConfigError, match=re.escape(f"--{key} must be ")):
                bounds.check_bounds({**base, key: wrong[0]})
            stated += 1
    assert stated > 150


def test_every_bound_beside_other_settings_is_checked_somewhere():
    assert OUTSIDE.keys() == bounds._CHECKED_WITH_OTHERS.keys()
    for key, flags in OUTSIDE.items():
        with pytest.raises(ConfigError, match=re.escape(key)):
            settings.load([], flags.split())


@pytest.mark.parametrize("section", ["correction", "actor.correction"])
def test_a_cap_that_caps_nothing_is_another_type(section):
    ahead = ["--rollout.max_staleness", "1"]  # else no weight of the actor has an effect
    capped = [*ahead, f"--{section}.type", "tis", f"--{section}.cap"]
    settings.load([], [*capped, "3"])
    with pytest.raises(ConfigError, match=f"finite number .--{section}.type importance has no cap"):
        settings.load([], [*capped, "inf"])
    band = [*ahead, f"--{section}.type", "icepop", f"--{section}.high", "inf", f"--{section}.low"]
    settings.load([], [*band, "0.1"])
    with pytest.raises(ConfigError, match=f"to keep every ratio: --{section}.type importance"):
        settings.load([], [*band, "0"])


def test_bounds_are_said_in_words():
    assert bounds.words_of("correction.lam.decay") == "at least 0; below 1"
    assert bounds.words_of("correction.lam.min") == "greater than 0; below correction.lam.max"
    assert bounds.words_of("objective.low_min") == "at least 0; at most objective.low_max"
    assert bounds.words_of("run.tracker") == ""
