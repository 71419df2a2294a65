"""What drafting, allocation, down-sampling and pruning need, and what excludes them."""

from __future__ import annotations

import math

from llm.errors import ConfigError

from .schema import (
    AdaptiveBlock,
    DownSampling,
    DraftedMode,
    DraftLam,
    FixedDraftLam,
    HorvitzThompsonPruning,
    JackpotCorrection,
    RatioTail,
    Settings,
    StateZ,
    TrackedDraftLam,
    TrackedPriceDraftLam,
    UniformAllocation,
    VipAllocation,
)


def check_rollout(cfg: Settings) -> None:
    """Raises ConfigError: what was asked, and what it lacks."""
    _check_mode(cfg)
    _check_allocation(cfg)
    _check_down_sampling(cfg)
    _check_pruning(cfg)
    pool, prompts = cfg.task.pool, cfg.rollout.prompts_per_step
    if pool and pool < prompts:
        raise ConfigError(
            f"--task.pool {pool} is less than --rollout.prompts_per_step {prompts}, and a step "
            "holds no prompt twice: raise the pool, or lower the prompts"
        )


def drafts(cfg: Settings) -> bool:
    """Whether the actor drafts and the policy verifies."""
    return isinstance(cfg.rollout.mode, DraftedMode)


def is_lossless(cfg: Settings) -> bool:
    """Whether drafted completions follow the policy that verifies them."""
    mode = cfg.rollout.mode
    if not isinstance(mode, DraftedMode) or not isinstance(mode.lam, FixedDraftLam):
        return False
    return mode.lam.value == 1


def reuses_logp(cfg: Settings) -> bool:
    """Whether a step has a forward pass that the log-probabilities of a verification can spare:
    the policy then has the weights that verified, and no part of Z needs its whole distribution."""
    correction, micro = cfg.correction, cfg.optim.microbatch
    z = correction.z if isinstance(correction, JackpotCorrection) else None
    needs_distribution = isinstance(z, StateZ) and isinstance(z.tail, RatioTail)
    own_pass = cfg.loss.updates_per_rollout > 1 or bool(micro.sequences or micro.tokens)
    return drafts(cfg) and own_pass and cfg.rollout.max_staleness == 0 and not needs_distribution


def _check_mode(cfg: Settings) -> None:
    mode = cfg.rollout.mode
    if not isinstance(mode, DraftedMode):
        return
    asked = "--rollout.mode.type drafted"
    if cfg.rollout.engine.type == "vllm":
        raise ConfigError(
            f"{asked} is not done by --rollout.engine.type vllm: use --rollout.engine.type hf or "
            "process, or --rollout.mode.type plain (docs/drafting.md says what vLLM lacks)"
        )
    if cfg.actor.type == "self":
        raise ConfigError(
            f"{asked} lets a cheaper model draft, and with --actor.type self the policy would "
            "verify its own tokens, which costs more and changes nothing: choose another actor, "
            "or --rollout.mode.type plain"
        )
    block, longest = mode.block, cfg.rollout.max_new_tokens
    top = block.longest
    name = "length_max" if isinstance(block, AdaptiveBlock) else "length"
    if top > longest:
        raise ConfigError(
            f"--rollout.mode.block.{name} {top} is more than --rollout.max_new_tokens {longest}, "
            "the longest completion: lower it"
        )
    if isinstance(block, AdaptiveBlock) and block.length_max <= block.length:
        raise ConfigError(
            f"--rollout.mode.block.length_max {block.length_max} must be above "
            f"--rollout.mode.block.length {block.length}, or blocks adapt to nothing: raise it, or "
            "choose --rollout.mode.block.type fixed"
        )
    _check_tracked(mode.lam)


def _check_tracked(lam: DraftLam) -> None:
    if isinstance(lam, TrackedDraftLam | TrackedPriceDraftLam) and lam.budget >= 1:
        raise ConfigError(
            f"--rollout.mode.lam.budget {lam.budget:g} rejects nothing, and "
            f"--rollout.mode.lam.type {lam.type} is led by what is rejected: give less than 1"
        )
    if isinstance(lam, TrackedDraftLam) and lam.min >= 1:
        raise ConfigError(
            f"--rollout.mode.lam.min {lam.min:g} must be below 1, where lam starts: a lam that "
            "cannot move is --rollout.mode.lam.type fixed"
        )
    if isinstance(lam, TrackedPriceDraftLam) and not (
        lam.min <= lam.price <= lam.max and lam.min < lam.max
    ):
        raise ConfigError(
            f"--rollout.mode.lam.price {lam.price:g} must lie from --rollout.mode.lam.min "
            f"{lam.min:g} to --rollout.mode.lam.max {lam.max:g}, which must differ"
        )


def _check_allocation(cfg: Settings) -> None:
    r, own = cfg.rollout, cfg.rollout.allocation
    if isinstance(own, UniformAllocation):
        return
    asked = f"--rollout.allocation.type {own.type}"
    _needs_history(cfg, asked)
    if not own.prompt_weight:
        raise ConfigError(
            f"{asked} makes groups of unequal sizes: say what that means for the loss by "
            "--rollout.allocation.prompt_weight equal (every prompt counts the same) or rollouts "
            "(a prompt counts by its completions)"
        )
    least = 3 if isinstance(own, VipAllocation) and cfg.loss.advantage == "dr_grpo" else 2
    if own.rollouts_min < least:
        why = "its variance is convex from 3 on" if least == 3 else "one has no baseline"
        raise ConfigError(
            f"--rollout.allocation.rollouts_min {own.rollouts_min} must be at least {least}: {why}"
        )
    if isinstance(own, VipAllocation) and cfg.loss.advantage == "grpo":
        raise ConfigError(
            f"{asked} minimises the variance of --loss.advantage rloo or dr_grpo, not of grpo: "
            "choose one of them"
        )
    n, total = r.prompts_per_step, r.prompts_per_step * r.rollouts_per_prompt
    if not own.rollouts_min * n <= total <= own.rollouts_max * n:
        raise ConfigError(
            f"{asked} cannot share out {total} completions among {n} prompts with at least "
            f"{own.rollouts_min} and at most {own.rollouts_max} each: change "
            "--rollout.rollouts_per_prompt, or rollout.allocation.rollouts_min or rollouts_max"
        )
    if own.rollouts_min * n == total:
        raise ConfigError(
            f"{asked} has nothing to share out: {own.rollouts_min} completions for each of {n} "
            "prompts are all there are. Lower rollouts_min"
        )
    if own.rollouts_max * n == total:
        raise ConfigError(
            f"{asked} has nothing to share out: each of {n} prompts gets its "
            f"{own.rollouts_max} completions, the most it may have. Raise rollouts_max"
        )


def _check_down_sampling(cfg: Settings) -> None:
    r, own = cfg.rollout, cfg.rollout.down_sampling
    if not isinstance(own, DownSampling):
        return
    asked = f"--rollout.down_sampling.type {own.type}"
    if not 2 <= own.keep < r.rollouts_per_prompt:
        raise ConfigError(
            f"--rollout.down_sampling.keep {own.keep} must be at least 2 and below "
            f"--rollout.rollouts_per_prompt {r.rollouts_per_prompt}, else nothing is left out"
        )
    if not isinstance(r.allocation, UniformAllocation):
        raise ConfigError(
            f"{asked} would throw away what --rollout.allocation.type {r.allocation.type} has "
            "shared out: choose one of them"
        )
    if isinstance(r.pruning, HorvitzThompsonPruning):
        raise ConfigError(
            f"{asked} is a choice by rewards, and --rollout.pruning.type horvitz_thompson is "
            "unbiased only if chance alone chooses: use one of them"
        )
    left = r.prompts_per_step * own.keep
    if left % cfg.loss.updates_per_rollout:
        raise ConfigError(
            f"--loss.updates_per_rollout {cfg.loss.updates_per_rollout} must divide the {left} "
            f"completions that {asked} keeps of a step"
        )


def _check_pruning(cfg: Settings) -> None:
    r, own = cfg.rollout, cfg.rollout.pruning
    if not isinstance(own, HorvitzThompsonPruning):
        return
    asked = "--rollout.pruning.type horvitz_thompson"
    for name, rate in (("prompt_rate", own.prompt_rate), ("completion_rate", own.completion_rate)):
        if not 0 <= rate < 1:
            raise ConfigError(
                f"--rollout.pruning.{name} {rate} must be at least 0 and below 1: what is always "
                "dropped cannot be made up for"
            )
    if not 0 < own.candidate_fraction <= 1:
        raise ConfigError(
            f"--rollout.pruning.candidate_fraction {own.candidate_fraction} must be in (0, 1]"
        )
    if own.prompt_rate == own.completion_rate == 0:
        raise ConfigError(f"{asked} drops nothing: give a prompt_rate or a completion_rate")
    completions = r.prompts_per_step * r.rollouts_per_prompt
    for name, rate, n in (
        ("prompt_rate", own.prompt_rate, r.prompts_per_step),
        ("completion_rate", own.completion_rate, completions),
    ):
        if rate > 0 and int(own.candidate_fraction * n + 1e-9) == 0:  # as horvitz_thompson counts
            least = math.ceil(1e6 / n) / 1e6  # rounded up: what is advised must be enough
            raise ConfigError(
                f"--rollout.pruning.candidate_fraction {own.candidate_fraction} of {n} is none, so "
                f"{name} has no effect: give at least {least:g}"
            )
    if cfg.loss.denominator != "sequence":
        raise ConfigError(
            f"{asked} is unbiased for a mean over completions, and the tokens of what is dropped "
            "are not known: use --loss.denominator sequence"
        )
    if cfg.loss.updates_per_rollout > 1:
        raise ConfigError(
            f"{asked} leaves a number of completions that chance decides, which cannot be shared "
            f"out among --loss.updates_per_rollout {cfg.loss.updates_per_rollout}: use 1"
        )
    if own.prompt_rate > 0:
        _needs_history(cfg, "--rollout.pruning.prompt_rate")
        if not isinstance(r.allocation, UniformAllocation):
            raise ConfigError(
                "--rollout.pruning.prompt_rate drops prompts that --rollout.allocation.type "
                f"{r.allocation.type} gives few completions already: use one of them"
            )


def _needs_history(cfg: Settings, asked: str) -> None:
    if not cfg.task.pool:
        raise ConfigError(
            f"{asked} goes by the history of each prompt, so prompts must come back: give "
            "--task.pool, the number of different prompts to train on"
        )
    if cfg.rollout.max_staleness:
        raise ConfigError(
            f"{asked} goes by the rewards of all steps before, and with --rollout.max_staleness "
            f"{cfg.rollout.max_staleness} batches are sampled before those are known: use 0"
        )
