"""Which objective goes with which correction, actor and number of updates; why others do not.

The ratio of the objective and the weight of the correction multiply. Together they must correct for
the mismatch between p_inf and p_new at most once.
"""

from __future__ import annotations

from typing import Literal

from llm.errors import ConfigError

from .rollout_rules import is_lossless
from .schema import (
    AlphaDpoObjective,
    AStarPoObjective,
    BapoObjective,
    DmpoObjective,
    DppoObjective,
    GspoObjective,
    JackpotCorrection,
    M2poObjective,
    MinproObjective,
    PpoObjective,
    Settings,
    WholeCompletionObjective,
)


def ratio_denominator(cfg: Settings) -> Literal["ref", "inf"]:
    """Whose probability is in the denominator of the objective's ratio."""
    objective = cfg.objective
    if isinstance(objective, PpoObjective | WholeCompletionObjective):
        return "ref"
    if isinstance(objective, DppoObjective):
        # w r = p_new / p_inf: Jackpot's weight has p_inf's part already
        return "ref" if cfg.correction.type == "jackpot" else "inf"
    if isinstance(objective, MinproObjective | M2poObjective):
        return "inf"
    return objective.ratio


def check_objective(cfg: Settings, *, fresh: bool) -> None:
    """Raises ConfigError, with the reason, for an objective that does not fit what is around it.

    fresh: what samples gives a token the probability that it is scored with, if it is the policy.
    """
    objective = cfg.objective
    given = f"--objective.type {objective.type}"
    if isinstance(objective, WholeCompletionObjective):
        _check_whole_completions(cfg, objective, given)
        return
    if hasattr(objective, "ratio"):
        given += f" with --objective.ratio {objective.ratio}"
    _check_correction(cfg, given)
    if cfg.loss.updates_per_rollout == 1:
        _check_ratio(cfg, given, fresh)
    _check_whole_sequences(cfg, given)
    if isinstance(objective, BapoObjective):
        _check_bapo(objective, given)


_BAPO_STEPS = 10_000  # bounds tried in an update: each takes two sums over the tokens of all ranks


def _check_bapo(objective: BapoObjective, given: str) -> None:
    """The bounds are around 1, and move, in a number of steps that ends soon."""
    if not objective.low_max <= 1 <= objective.high_min:
        raise ConfigError(
            "--objective.low_max must be at most 1 and --objective.high_min at least 1, got "
            f"{objective.low_max} and {objective.high_min}"
        )
    if (objective.low_min, objective.high_min) == (objective.low_max, objective.high_max):
        raise ConfigError(
            f"{given} moves its bounds, and low_min = low_max and high_min = high_max fix them, so "
            "share and accounting would have no effect: set --objective.high_max above "
            "--objective.high_min, or choose --objective.type ppo"
        )
    for name, first, last, step in (
        ("low", objective.low_min, objective.low_max, objective.low_step),
        ("high", objective.high_min, objective.high_max, objective.high_step),
    ):
        steps = (last - first) / step + 1e-9  # bapo_bounds makes as many whole ones
        if first != last and steps < 1:
            raise ConfigError(
                f"--objective.{name}_step {step:g} is more than lies between "
                f"--objective.{name}_min {first:g} and --objective.{name}_max {last:g}, so this "
                f"bound would never move: lower {name}_step, or set {name}_max to {name}_min"
            )
        if steps > _BAPO_STEPS:
            raise ConfigError(
                f"--objective.{name}_step {step:g} makes up to {steps:.3g} steps from "
                f"--objective.{name}_min {first:g} to --objective.{name}_max {last:g} in each "
                f"update, and at most {_BAPO_STEPS:,} are made: raise {name}_step, or lower "
                f"{name}_max"
            )


def _check_ratio(cfg: Settings, given: str, fresh: bool) -> None:
    """With a single update per rollout p_new is p_ref. A ratio of 1 leaves nothing to an objective;
    PPO is REINFORCE then, and the mask of dppo is around p_inf whatever its ratio."""
    of_ref, own = ratio_denominator(cfg) == "ref", cfg.objective
    masks = isinstance(own, DppoObjective) and own.divergence.type != "none"
    if of_ref and not masks and not isinstance(own, PpoObjective):
        remedy = "--objective.ratio inf with --correction.type none"
        if isinstance(own, DppoObjective):
            remedy = "--objective.type ppo, or another --objective.divergence.type than none"
        raise ConfigError(
            f"{given} would have no effect: with one update per rollout p_new is p_ref, so its "
            f"ratio is 1. Set --loss.updates_per_rollout above 1, or {remedy}"
        )
    if not of_ref and is_lossless(cfg) and fresh:
        raise ConfigError(
            f"{given} would have no effect: --rollout.mode.lam.value 1 samples from the policy's "
            "own distribution, so with one update per rollout p_new is p_inf and its ratio is 1. "
            "Set --loss.updates_per_rollout above 1, or --rollout.mode.lam.value below 1, or "
            "--objective.type ppo"
        )
    if not of_ref and cfg.actor.type == "self" and fresh:
        raise ConfigError(
            f"{given} would have no effect: --actor.type self samples from the policy itself, so "
            "with one update per rollout p_new is p_inf and its ratio is 1. Set "
            "--loss.updates_per_rollout above 1, or --rollout.max_staleness above 0, or "
            "--objective.type ppo"
        )


def _check_correction(cfg: Settings, given: str) -> None:
    """The mismatch between p_inf and p_new is corrected for at most once."""
    kind, target = cfg.correction.type, cfg.correction.target.type
    if kind == "none":
        return
    if isinstance(cfg.objective, DppoObjective):
        if (kind, target) != ("jackpot", "new"):
            raise ConfigError(
                f"{given} multiplies each token by min(p_new / p_inf, cap), and --correction.type "
                f"{kind} with --correction.target.type {target} would correct for the same "
                "mismatch again. Set --correction.type none, or jackpot with "
                "--correction.target.type new, whose weight takes the place of that factor"
            )
    elif ratio_denominator(cfg) == "inf":
        remedy = "--objective.ratio ref" if hasattr(cfg.objective, "ratio") else (
            "--objective.type ppo"
        )  # fmt: skip
        raise ConfigError(
            f"{given} takes the ratio to p_inf, which corrects for the mismatch already, and "
            f"--correction.type {kind} would count it twice. Set --correction.type none, or "
            f"{remedy}"
        )


def _check_whole_sequences(cfg: Settings, given: str) -> None:
    """What is of whole sequences needs them, and a mean over sequences."""
    gspo, opsm = isinstance(cfg.objective, GspoObjective), cfg.objective.sequence_mask.type
    if gspo and cfg.loss.denominator != "sequence":
        raise ConfigError(
            f"{given} has one ratio for all tokens of a sequence, and its loss is the mean over "
            "sequences, so that long ones do not count more. Set --loss.denominator sequence, not "
            f"{cfg.loss.denominator}"
        )
    prefix = isinstance(cfg.correction, JackpotCorrection) and cfg.correction.scope == "prefix"
    if prefix and (gspo or opsm != "none"):
        what = given if gspo else f"--objective.sequence_mask.type {opsm}"
        raise ConfigError(
            f"{what} is of whole sequences, and --correction.scope prefix leaves of each only what "
            "comes before its first rejected token. Set --correction.scope token"
        )


def _check_whole_completions(
    cfg: Settings, objective: WholeCompletionObjective, given: str
) -> None:
    """A*-PO, DMPO and alpha-DPO use rewards, p_pre and p_inf themselves."""
    kind, updates = cfg.correction.type, cfg.loss.updates_per_rollout
    if kind != "none":
        why = "it divides by p_inf already" if isinstance(objective, DmpoObjective) else (
            "its loss has the same minimum whatever sampled"
            if isinstance(objective, AStarPoObjective)
            else "its pairs are compared under p_new and p_pre alone"
        )  # fmt: skip
        raise ConfigError(
            f"{given} takes no --correction.type {kind}: {why}. Set --correction.type none"
        )
    if isinstance(objective, AStarPoObjective) and not cfg.task.pool:
        raise ConfigError(
            f"{given} keeps V* of each prompt, so prompts must come back: give --task.pool, the "
            "number of different prompts to train on"
        )
    if updates > 1 and not isinstance(objective, AStarPoObjective):
        raise ConfigError(
            f"{given} compares the completions of a prompt, and the --loss.updates_per_rollout "
            f"{updates} updates of a rollout each get some completions of many prompts: use 1"
        )
    r = cfg.rollout
    for name, section, idle in (
        ("allocation", r.allocation, "uniform"),
        ("down_sampling", r.down_sampling, "none"),
        ("pruning", r.pruning, "none"),
    ):
        if section.type != idle:
            raise ConfigError(
                f"--rollout.{name}.type {section.type} acts on advantages, which {given} does not "
                f"use: choose {idle}"
            )
    if isinstance(objective, AStarPoObjective | AlphaDpoObjective):
        positive = {"beta": objective.beta}
    else:
        assert isinstance(objective, DmpoObjective)
        positive = {"alpha": objective.alpha}
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"--objective.{name} {value} must be above 0")
    prompts, n = r.prompts_per_step, r.rollouts_per_prompt
    # the margins of a step's pairs are standardised, and n // 2 right ones give the most pairs
    if isinstance(objective, AlphaDpoObjective) and prompts * (n // 2) * (n - n // 2) < 2:
        raise ConfigError(
            f"{given} needs two pairs of a right and a wrong completion, and "
            f"--rollout.prompts_per_step {prompts} with --rollout.rollouts_per_prompt {n} can give "
            "one at most: raise one of them"
        )
