"""Which runs judge the paper's claims again, in worlds of longer completions.

A world is listed once on-policy training rises to .9 in it, and the KL of a completion is 1 to 5
nats (docs/evidence.md). The same methods run in each world, each at the rate of its own sweep.
Eight seeds are judged. Two more are held back: they are trained last and reported apart.
"""

from __future__ import annotations

from .configurations import METHODS, Settings
from .drafted_lists import drafted
from .studies import Setting, Study

SEEDS = tuple(range(400, 408))
HELD_BACK = (408, 409)
WORLDS = ("chain 48 falling",)
_SWEEP_STEPS = 50  # half of a run

_COMPARED: dict[str, Settings] = {
    "tis": METHODS["tis+ppo+kl"],
    "jackpot": METHODS["jackpot"],
    "jackpot prefixes": METHODS["jackpot prefixes"],
    "none, frozen actor": METHODS["none"],
    "tis, frozen actor": METHODS["tis"],
    "on-policy": METHODS["on-policy"],
    "drafted, lam 1": drafted(1.0),
}


def _setting(world: str) -> Setting:
    return Setting(
        *("evidence", world, "tis", _COMPARED, {}, SEEDS), world=world, sweep_steps=_SWEEP_STEPS
    )


def _held_back(world: str) -> Setting:
    return Setting(
        *("evidence", f"{world}, held back", "tis", _COMPARED, {}, HELD_BACK),
        rates_of=world,
        world=world,
    )


STUDY = Study("evidence", (*map(_setting, WORLDS), *map(_held_back, WORLDS)))
