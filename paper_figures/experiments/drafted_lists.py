"""Which runs say whether drafted rollouts train well: at 9 and at 49 tokens a completion.

Nothing is swept: every method runs at each rate, and the rates are judged apart. The actor that
drafts is frozen, so it drifts from the policy as far as the policy learns, but for one method, in
which it is distilled. That one was added after the others were judged.
"""

from __future__ import annotations

from .configurations import METHODS, Settings
from .studies import Setting, Study

SEEDS = tuple(range(300, 308))  # of no other study


def drafted(lam: float) -> Settings:
    """The frozen actor drafts; below lam 1 the policy's loss is weighted by p / s."""
    return {
        "actor.type": "frozen",
        "rollout.mode.type": "drafted",
        "rollout.mode.lam.value": lam,
        "correction.type": "none" if lam == 1 else "importance",
    }


_COMPARED: dict[str, Settings] = {
    "on-policy": METHODS["on-policy"],
    "tis": METHODS["tis+ppo+kl"],
    "jackpot": METHODS["jackpot"],
    "jackpot prefixes": METHODS["jackpot prefixes"],
    "drafted, lam 1": drafted(1.0),
    "drafted, lam 0.5": drafted(0.5),
    "drafted, lam 0.25": drafted(0.25),
    "drafted, lam 1, actor distilled": drafted(1.0)
    | {"actor.type": "separate", "actor.ppo": False},
}


def _setting(name: str, world: str, rate: float) -> Setting:
    return Setting(
        *("drafted", name, "on-policy", _COMPARED, {}, SEEDS), world=world, rates=(rate,)
    )


STUDY = Study(
    "drafted",
    (
        _setting("9 tokens, rate 4e-4", "chain", 4e-4),
        _setting("9 tokens, rate 8e-4", "chain", 8e-4),
        _setting("9 tokens, rate 1.6e-3", "chain", 1.6e-3),
        _setting("49 tokens, rate 4e-4", "chain 48", 4e-4),
        _setting("49 tokens, rate 8e-4", "chain 48", 8e-4),
    ),
)
