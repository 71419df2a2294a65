"""What drafting, allocation, down-sampling and pruning are refused with."""

from __future__ import annotations

import pytest

from llm.errors import ConfigError
from llm.settings.loading import resolve

SIZES = {"rollout.prompts_per_step": 4, "rollout.rollouts_per_prompt": 6, "task.pool": 16}
VIP = {
    **SIZES,
    "rollout.allocation.type": "vip",
    "rollout.allocation.prompt_weight": "equal",
    "loss.advantage": "rloo",
}
COBA = {**SIZES, "rollout.allocation.type": "coba", "rollout.allocation.prompt_weight": "rollouts"}
PODS = {**SIZES, "rollout.down_sampling.type": "max_variance", "rollout.down_sampling.keep": 2}
PRUNED = {
    **SIZES,
    "rollout.pruning.type": "horvitz_thompson",
    "rollout.pruning.prompt_rate": 0.5,
    "loss.denominator": "sequence",
}


DRAFTED = {"rollout.mode.type": "drafted", "rollout.mode.lam.value": 0.5}
ADAPTIVE = {**DRAFTED, "rollout.mode.block.type": "adaptive"}
TRACKED = {"rollout.mode.type": "drafted", "rollout.mode.lam.type": "tracked"}
PRICED = {**TRACKED, "rollout.mode.lam.type": "tracked_price"}
LOSSLESS = {"rollout.mode.type": "drafted", "correction.type": "none"}


@pytest.mark.parametrize(
    "flags",
    [
        DRAFTED,
        ADAPTIVE,
        LOSSLESS,
        {**DRAFTED, "rollout.engine.type": "process", "actor.type": "stale"},
        {**LOSSLESS, "correction.type": "jackpot", "rollout.max_staleness": 1},
        {**LOSSLESS, "loss.updates_per_rollout": 2, "rollout.mode.reuse_logp": False},
        {**LOSSLESS, "actor.correction.type": "tis"},  # s is not the distribution of the actor
        {**DRAFTED, "actor.type": "frozen", "rollout.max_staleness": 1},  # the policy moves
        {"rollout.mode.type": "drafted", "rollout.mode.lam.type": "state"},
        {**TRACKED, "rollout.mode.lam.type": "price", "rollout.mode.lam.price": 2.5},
        {**TRACKED, "rollout.mode.lam.min": 0.3},
        {**PRICED, "rollout.max_staleness": 2},
        VIP,
        {**VIP, "loss.advantage": "dr_grpo", "rollout.allocation.rollouts_min": 3},
        COBA,
        PODS,
        {**PODS, "loss.updates_per_rollout": 4},
        PRUNED,
        {**COBA, "rollout.pruning.type": "horvitz_thompson", "loss.denominator": "sequence"},
        SIZES,
    ],
)
def test_what_belongs_together_is_accepted(flags):
    resolve(flags)


@pytest.mark.parametrize("prompts", [2, 3, 7, 49])
def test_the_least_fraction_of_candidates_that_is_advised_is_enough(prompts):
    """1/3 to three digits is .333, and .333 of 3 prompts is none."""
    given = {**PRUNED, "rollout.prompts_per_step": prompts, "task.pool": 60}
    with pytest.raises(ConfigError, match="prompt_rate has no effect: give at least") as refused:
        resolve({**given, "rollout.pruning.candidate_fraction": 0.5 / prompts})
    advised = float(str(refused.value).rsplit("at least ", 1)[1])
    assert resolve({**given, "rollout.pruning.candidate_fraction": advised})
    # 1 / 49 * 49 is below 1 in floating point; horvitz_thompson counts it as 1
    assert resolve({**given, "rollout.pruning.candidate_fraction": 1 / prompts})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({**VIP, "task.pool": 0}, "type vip goes by the history of each prompt.*--task.pool"),
        ({**COBA, "rollout.max_staleness": 1}, "type coba goes by the rewards of all steps before"),
        ({**COBA, "rollout.allocation.prompt_weight": ""}, "prompt_weight equal .* or rollouts"),
        ({**VIP, "loss.advantage": "grpo"}, "of --loss.advantage rloo or dr_grpo, not of grpo"),
        ({**VIP, "loss.advantage": "dr_grpo", "rollout.allocation.rollouts_min": 2},
         "rollouts_min 2 must be at least 3: its variance is convex from 3 on"),
        ({**VIP, "rollout.allocation.rollouts_min": 1}, "must be at least 2: one has no baseline"),
        ({**VIP, "rollout.allocation.rollouts_min": 7}, "cannot share out 24 completions among 4"),
        ({**COBA, "rollout.allocation.rollouts_max": 5}, "cannot share out 24 completions among 4"),
        ({**VIP, "rollout.allocation.rollouts_min": 6}, "has nothing to share out"),
        ({**VIP, "rollout.allocation.rollouts_max": 6}, "each of 4 prompts gets its 6 completions"),
        ({**COBA, "rollout.allocation.concentration": 2.0}, "concentration must be above 2"),
        ({**SIZES, "task.pool": 3}, "--task.pool 3 is less than --rollout.prompts_per_step 4"),
        ({**PODS, "rollout.down_sampling.keep": 6}, "keep 6 must be at least 2 and below"),
        ({**PODS, "rollout.down_sampling.keep": 1}, "keep 1 must be at least 2 and below"),
        ({**PODS, **COBA}, "would throw away what --rollout.allocation.type coba has shared out"),
        ({**PODS, **PRUNED}, "is unbiased only if chance alone chooses"),
        ({**PODS, "loss.updates_per_rollout": 3}, "must divide the 8 completions"),
        ({**PRUNED, "rollout.pruning.prompt_rate": 1.0}, "prompt_rate 1.0 must be at least 0 and"),
        ({**PRUNED, "rollout.pruning.completion_rate": -0.1}, "completion_rate -0.1 must be"),
        ({**PRUNED, "rollout.pruning.candidate_fraction": 0.0},
         r"candidate_fraction 0.0 must be in \(0, 1\]"),
        ({**PRUNED, "rollout.pruning.prompt_rate": 0.0, "rollout.pruning.completion_rate": 0.0},
         "drops nothing"),
        ({**PRUNED, "rollout.pruning.candidate_fraction": 0.01},
         "of 4 is none, so prompt_rate has no eff"),
        ({**PRUNED, "loss.denominator": "proposed"}, "use --loss.denominator sequence"),
        ({**PRUNED, "loss.updates_per_rollout": 2}, "that chance decides"),
        ({**PRUNED, "task.pool": 0}, "prompt_rate goes by the history"),
        ({**DRAFTED, "rollout.engine.type": "vllm"}, "is not done by --rollout.engine.type vllm"),
        ({**LOSSLESS, "actor.type": "self"}, "the policy would verify its own tokens"),
        ({**DRAFTED, "rollout.mode.block.length": 13}, "length 13 is more than --rollout.max_new"),
        ({**ADAPTIVE, "rollout.mode.block.length_max": 13}, "length_max 13 is more than"),
        ({**ADAPTIVE, "rollout.mode.block.length": 8}, "8 must be above --rollout.mode.block.leng"),
        ({**DRAFTED, "rollout.mode.lam.value": 1.5}, "lam.value must be at most 1, got 1.5"),
        ({**DRAFTED, "rollout.mode.lam.value": 0.0}, "lam.value must be greater than 0"),
        ({**TRACKED, "rollout.mode.lam.budget": 1.0}, "budget 1 rejects nothing, .* less than 1"),
        ({**PRICED, "rollout.mode.lam.budget": 1.0}, "type tracked_price is led by what is reject"),
        ({**TRACKED, "rollout.mode.lam.min": 1.0}, "min 1 must be below 1, where lam starts"),
        ({**PRICED, "rollout.mode.lam.price": 11.0}, "price 11 must lie from .*0.001 to .*max 10"),
        ({**PRICED, "rollout.mode.lam.min": 0.5}, "price 0.1 must lie from"),
        ({**PRICED, "rollout.mode.lam.gain": 0.0}, "lam.gain must be greater than 0"),
        ({**PRICED, "rollout.mode.lam.gain": 1.5}, "lam.gain must be at most 1"),
        ({**PRICED, "rollout.mode.lam.price": 0.0}, "lam.price must be greater than 0"),
        ({**LOSSLESS, "correction.type": "tis"}, "1 is lossless: .* no mismatch to correct"),
        ({**LOSSLESS, "objective.type": "minpro"}, "samples from the policy's own distribution"),
        ({**LOSSLESS, "rollout.mode.reuse_logp": False}, "needs a pass that it can save"),
        ({**PRUNED, **COBA}, "gives few completions already: use one of them"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_together_is_refused_with_the_reason(flags, said):
    with pytest.raises(ConfigError, match=said):
        resolve(flags)
