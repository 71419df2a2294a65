"""Which runs judge the paper's claims again, in worlds of 25 to 97 tokens a completion.

The same methods run in each world, each at the rate of its own sweep. Eight seeds are judged. Two
more are held back: they are trained last and reported apart.
"""

from __future__ import annotations

from .configurations import METHODS, Settings
from .drafted_lists import drafted
from .studies import Setting, Study

SEEDS = tuple(range(400, 408))
HELD_BACK = (408, 409)
WORLDS = ("chain 48", "chain final", "chain 24 forms")

_COMPARED: dict[str, Settings] = {
    "tis": METHODS["tis+ppo+kl"],
    "jackpot": METHODS["jackpot"],
    "jackpot prefixes": METHODS["jackpot prefixes"],
    "none, frozen actor": METHODS["none"],
    "tis, frozen actor": METHODS["tis"],
    "on-policy": METHODS["on-policy"],
    "drafted, lam 1": drafted(1.0),
    "drafted, lam 0.5": drafted(0.5),
}


def _setting(world: str) -> Setting:
    return Setting(*("evidence", world, "tis", _COMPARED, {}, SEEDS), world=world)


def _held_back(world: str) -> Setting:
    return Setting(
        *("held back", world, "tis", _COMPARED, {}, HELD_BACK), rates_of=world, world=world
    )


STUDY = Study("evidence", (*map(_setting, WORLDS), *map(_held_back, WORLDS)))
