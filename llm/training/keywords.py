"""Sections of a configuration as the plain keywords that `llm.algorithm` takes."""

from __future__ import annotations

from typing import Any

from llm.settings.loading import Config
from llm.settings.schema import JackpotCorrection, KLControl, SeparateActor


def correction_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.token_weights`."""
    return {name: value for name, value in vars(cfg.correction).items() if name != "lam_decay"}


def lam_keywords(cfg: Config) -> dict[str, Any]:
    """lam and lam_from, of a correction of type jackpot."""
    assert isinstance(cfg.correction, JackpotCorrection)
    return {"lam": cfg.correction.lam, "lam_from": cfg.correction.lam_from}


def tail_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.forward_tail`, of a correction of type jackpot."""
    assert isinstance(cfg.correction, JackpotCorrection)
    return {**lam_keywords(cfg), "budget": cfg.correction.budget}


def next_state_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.next_state`."""
    correction = cfg.correction
    if not isinstance(correction, JackpotCorrection) or correction.lam_from != "tracked":
        return {}
    names = ("budget", "lam_decay", "lam_min", "lam_max")
    return {"tracked": True, **{name: getattr(correction, name) for name in names}}


def control_keywords(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.control.next_controls`, of a control of type kl."""
    assert isinstance(cfg.control, KLControl)
    settings = {name: value for name, value in vars(cfg.control).items() if name != "type"}
    return settings | {"distill_coef": cfg.actor.distill_coef}


def actor_correction_keywords(cfg: Config) -> dict[str, Any]:
    """F of Eq. 6: keywords of `algorithm.losses.actor_ppo_sum`, of a trained actor."""
    assert isinstance(cfg.actor, SeparateActor)
    return vars(cfg.actor.correction)
