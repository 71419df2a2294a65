"""The [correction] and [control] sections as the plain keywords that `llm.algorithm` takes."""

from __future__ import annotations

from typing import Any

from llm.settings.loading import Config

_RENAMED = {"name": "type", "tis_cap": "cap", "icepop_low": "low", "icepop_high": "high"}
_OF_OBRS = ("lam", "lam_from", "budget", "mask", "scope", "z", "z_tail", "kappa", "c1")


def of_correction(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.token_weights`."""
    settings = {_RENAMED.get(k, k): v for k, v in vars(cfg.correction).items()}
    if settings["type"] != "jackpot":
        return {k: v for k, v in settings.items() if k not in _OF_OBRS}
    return settings | {"lam_min": cfg.control.lam_min, "lam_max": cfg.control.lam_max}


def of_tail(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.forward_tail` where Z is computed from the tail's bound."""
    settings = of_correction(cfg)
    return {k: settings[k] for k in ("lam", "lam_from", "budget")}


def of_next_state(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.correction.next_state`."""
    settings, control = of_correction(cfg), cfg.control
    if settings.get("lam_from") != "tracked":
        return {}
    return {
        "tracked": True,
        "budget": settings["budget"],
        "lam_decay": control.lam_decay,
        "lam_min": control.lam_min,
        "lam_max": control.lam_max,
    }


def of_controls(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.control.next_controls`."""
    names = ("kl_target", "distill", "actor_lr", "policy_lr", "gain", "factor_max")
    settings = {name: getattr(cfg.control, name) for name in names}
    return settings | {"distill_coef": cfg.loss.distill_coef}


def of_actor_correction(cfg: Config) -> dict[str, Any]:
    """Keywords of `algorithm.losses.actor_ppo_sum`."""
    correction = cfg.correction
    return {
        "type": cfg.loss.actor_correction,
        "cap": correction.tis_cap,
        "low": correction.icepop_low,
        "high": correction.icepop_high,
    }
