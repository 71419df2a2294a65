"""Which runs judge the paper's claims again, in worlds of longer completions.

A world is listed once on-policy training rises to .9 in it, and the KL of a completion is 1 to 5
nats (docs/evidence.md). The same methods run in each world, each at the rate of its own sweep.
Eight seeds are judged. Two more are held back: they are trained last and reported apart.

Four questions have settings of their own, with five seeds: the length of a completion, what the
mask of Jackpot does, what makes training without correction fail, and stale rollouts.
"""

from __future__ import annotations

from .configurations import LENGTHS, METHODS, Settings
from .drafted_lists import drafted
from .rival_lists import CORRECTIONS, SEVERAL, stale
from .studies import Setting, Study

SEEDS = tuple(range(400, 408))
HELD_BACK = (408, 409)
QUESTION_SEEDS = tuple(range(410, 415))
OTHER_SEEDS = tuple(range(420, 425))  # of questions in the same world as a length's
WORLDS = ("chain 48 falling", "chain final", "chain 24 forms")
_SWEEP_STEPS = 50  # about half of a run
_HIGH_RATE = 8e-4  # at which on-policy training is best, and methods differ most

_COMPARED: dict[str, Settings] = {
    "tis": METHODS["tis+ppo+kl"],
    "jackpot": METHODS["jackpot"],
    "jackpot prefixes": METHODS["jackpot prefixes"],
    "none, frozen actor": METHODS["none"],
    "tis, frozen actor": METHODS["tis"],
    "on-policy": METHODS["on-policy"],
    "drafted, lam 1": drafted(1.0),
}
_BY_LENGTH = {
    m: _COMPARED[m] for m in ("on-policy", "tis", "jackpot", "jackpot prefixes", "drafted, lam 1")
}


def _driven(what: str) -> Settings:
    """Jackpot, and a closed loop that holds KL(policy || actor) at .02 nats a token."""
    own: Settings = {"control.type": "kl", "control.kl_target": 0.02}
    return METHODS["jackpot"] | own | {"control.distill": False} | {f"control.{what}": True}


# The actor is trained and distilled in each, so that the policy's loss alone differs, or the loop
_MASK: dict[str, Settings] = {
    "tis": METHODS["tis+ppo+kl"],
    "none": METHODS["none+ppo+kl"],
    "jackpot": METHODS["jackpot"],
    "jackpot expected": METHODS["jackpot expected"],
    "jackpot, distillation driven": _driven("distill"),
    "jackpot, policy's rate driven": _driven("policy_lr"),
}
# Each takes one cause away from the first: wrong weights of tokens; the actor's states, by weights
# of prefixes or by drafting; and three quarters of the variance of sampling
_CAUSES: dict[str, Settings] = {
    "none, frozen actor": METHODS["none"],
    "tis, frozen actor": METHODS["tis"],
    "tis prefixes, frozen actor": {"actor.type": "frozen"} | CORRECTIONS["tis prefixes"],
    "none, 4 x completions": METHODS["none"] | {"rollout.prompts_per_step": 32},
    "drafted, lam 1": drafted(1.0),
}
_STALE = {m: SEVERAL[m] for m in ("no clip", "ppo", "tis", "jackpot")}
STALE_UPDATES = (16, 32, 64, 128)  # of one rollout
UPDATES = 128  # in all


def _world(world: str) -> Setting:
    return Setting(
        *("evidence", world, "tis", _COMPARED, {}, SEEDS), world=world, sweep_steps=_SWEEP_STEPS
    )


def _held_back(world: str) -> Setting:
    return Setting(
        *("evidence", f"{world}, held back", "tis", _COMPARED, {}, HELD_BACK),
        rates_of=world,
        world=world,
    )


def _length(digits: int) -> Setting:
    name = f"{digits} sums"
    return Setting(*("evidence", name, "on-policy", _BY_LENGTH, {}, QUESTION_SEEDS), world=name)


def _question(name: str, baseline: str, methods: dict[str, Settings]) -> Setting:
    return Setting(*("evidence", name, baseline, methods, {}, OTHER_SEEDS), rates=(_HIGH_RATE,))


def _stale(updates: int) -> Setting:
    return Setting(
        *("evidence", f"{updates} updates", "no clip", _STALE, stale(updates), QUESTION_SEEDS),
        rates=(4e-4,),
        steps=UPDATES // updates,
        quick={"run.steps": 1, "run.eval_every": 1},
    )


# In the order in which they are trained
STUDY = Study(
    "evidence",
    (
        *map(_world, WORLDS),
        _question("mask", "tis", _MASK),
        _question("causes", "none, frozen actor", _CAUSES),
        *map(_length, LENGTHS),
        *map(_stale, STALE_UPDATES),
        *map(_held_back, WORLDS),
    ),
)
