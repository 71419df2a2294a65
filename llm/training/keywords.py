"""Sections of a configuration as the plain keywords that `jackpot.torch` takes."""

from __future__ import annotations

import math
from typing import Any

from llm.settings.loading import Config
from llm.settings.objective_rules import ratio_denominator
from llm.settings.schema import (
    DivergenceConfig,
    DppoObjective,
    FixedLam,
    JackpotCorrection,
    KLControl,
    NoDivergence,
    SeparateActor,
    StateZ,
    TrackedLam,
)


def correction_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `jackpot.torch.correction.token_weights`."""
    correction = cfg.correction
    if correction.type == "none":
        return {"type": "none"}
    nested = ("target", "lam", "z")
    words: dict[str, Any] = {k: v for k, v in vars(correction).items() if k not in nested}
    words["target"] = correction.target.type
    if correction.target.type == "new":
        words["c2"] = correction.target.c2
    if not isinstance(correction, JackpotCorrection):
        return words
    return words | _z_keywords(correction) | _lam_keywords(correction, limits=True)


def _z_keywords(correction: JackpotCorrection) -> dict[str, Any]:
    if not isinstance(correction.z, StateZ):
        return {"z": correction.z.type}
    tail = correction.z.tail
    return {"z": "state", "z_tail": tail.type, "kappa": tail.type != "ratio" and tail.kappa}


def _lam_keywords(correction: JackpotCorrection, limits: bool) -> dict[str, Any]:
    """limits: with those of a tracked lam."""
    lam = correction.lam
    if isinstance(lam, FixedLam):
        return {"lam": lam.value, "lam_from": "fixed"}
    words: dict[str, Any] = {"lam_from": lam.type, "budget": lam.budget}
    if limits and isinstance(lam, TrackedLam):
        words |= {"lam_min": lam.min, "lam_max": lam.max}
    return words


def lam_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `jackpot.torch.correction.lam_before`, of a correction of type jackpot."""
    words = tail_keywords(cfg)
    return {name: words[name] for name in ("lam", "lam_from") if name in words}


def tail_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `jackpot.torch.correction.forward_tail`, of a correction of type jackpot."""
    assert isinstance(cfg.correction, JackpotCorrection)
    return _lam_keywords(cfg.correction, limits=False)


def next_state_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `jackpot.torch.correction.next_state`."""
    correction = cfg.correction
    if not isinstance(correction, JackpotCorrection) or not isinstance(correction.lam, TrackedLam):
        return {}
    lam = correction.lam
    limits = {"lam_decay": lam.decay, "lam_min": lam.min, "lam_max": lam.max}
    return {"tracked": True, "budget": lam.budget, **limits}


def control_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `jackpot.torch.control.next_controls`, of a control of type kl."""
    assert isinstance(cfg.control, KLControl)
    settings = {name: value for name, value in vars(cfg.control).items() if name != "type"}
    return settings | {"distill_coef": cfg.actor.distill.coef}


def objective_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `objectives.bounds_of`; where no bound adapts, of `policy_loss_sum`."""
    objective = cfg.objective
    nested = ("sequence_mask", "divergence")
    words = {name: value for name, value in vars(objective).items() if name not in nested}
    if isinstance(objective, DppoObjective):
        words |= _divergence_keywords(objective.divergence)
    return words | {"ratio": ratio_denominator(cfg), "opsm_delta": objective.sequence_mask.delta}


def _divergence_keywords(divergence: DivergenceConfig) -> dict[str, Any]:
    if isinstance(divergence, NoDivergence):
        return {"divergence": "binary_tv", "delta": math.inf}  # every distance is kept
    return {"divergence": divergence.type, "delta": divergence.delta}


def actor_ppo_keywords(cfg: Config) -> dict[str, Any]:
    """Clip and F of Eq. 6: keywords of `jackpot.torch.losses.actor_ppo_sum`, of a trained actor."""
    assert isinstance(cfg.actor, SeparateActor)
    clip = {"clip_low": cfg.actor.clip_low, "clip_high": cfg.actor.clip_high}
    return clip | vars(cfg.actor.correction)
