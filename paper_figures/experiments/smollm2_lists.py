"""Which runs train a real model: SmolLM2-135M from the rollouts of three cheaper copies of itself.

The copies follow the policy, so none has losses of its own. Each samples the completions, which TIS
or Jackpot correct, or drafts them, which needs no correction. Nothing is swept: the learning rate
is that of llm/configs/smollm2_cpu.toml.
"""

from __future__ import annotations

from .configurations import METHODS, SMOLLM2_LONG, Settings
from .drafted_lists import drafted
from .studies import Setting, Study

SEEDS = (500, 501, 502)  # of no other study
RATE = 5e-6

# The last but one of 30 layers: of the exits of data/ladder_smollm2.csv the one nearest the policy,
# and still 2.7 nats a token away, because no head was trained to read it
ACTORS: dict[str, Settings] = {
    "int8": {"actor.type": "quantized", "actor.bits": 8},
    "4-bit": {"actor.type": "quantized", "actor.bits": 4},
    "early exit": {"actor.type": "early_exit", "actor.exit_layers": 29},
}
TRAINED_BY: dict[str, Settings] = {
    "tis": {"correction.type": "tis"},
    "jackpot": {"correction.type": "jackpot"},
    "drafted": drafted(1.0),
}


def name(how: str, actor: str) -> str:
    """The name of a method."""
    return f"{how}, {actor} actor"


_COMPARED: dict[str, Settings] = {"on-policy": METHODS["on-policy"]} | {
    name(how, actor): own | copy
    for actor, copy in ACTORS.items()
    for how, own in TRAINED_BY.items()
}
STUDY = Study(
    "smollm2",
    (
        Setting(
            *("smollm2", "one-digit sums", "on-policy", _COMPARED, {}, SEEDS),
            world=SMOLLM2_LONG,
            rates=(RATE,),
        ),
    ),
    long=True,
)
