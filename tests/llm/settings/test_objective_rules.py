"""Which objective goes with which correction, staleness and number of updates: all of them."""

from __future__ import annotations

import itertools

import pytest

from llm.errors import ConfigError
from llm.settings.loading import resolve

OBJECTIVES: dict[str, dict] = {
    "ppo": {},
    "cispo ref": {"type": "cispo"},
    "cispo inf": {"type": "cispo", "ratio": "inf"},
    "gspo ref": {"type": "gspo"},
    "gspo inf": {"type": "gspo", "ratio": "inf"},
    "dppo": {"type": "dppo"},
    "minpro": {"type": "minpro"},
    "bapo ref": {"type": "bapo"},
    "bapo inf": {"type": "bapo", "ratio": "inf"},
    "m2po": {"type": "m2po"},
}
CORRECTIONS: dict[str, dict] = {
    "none": {"type": "none"},
    **{
        f"{kind} {target}": {"type": kind} | ({"target.type": "new"} if target == "new" else {})
        for kind in ("importance", "tis", "icepop", "jackpot")
        for target in ("ref", "new")
    },
    "jackpot ref prefix": {"type": "jackpot", "scope": "prefix"},
    "jackpot new prefix": {"type": "jackpot", "target.type": "new", "scope": "prefix"},
}
OF_REF = ("ppo", "cispo ref", "gspo ref", "bapo ref")  # the correction takes them to p_inf


def reason(objective: str, correction: str, actor: str, stale: bool, updates: int, opsm: bool):
    """A word of the refusal, or None where the two together are one estimate of p_new / p_inf, and
    have an effect. Of any setting that is refused without an objective too: "any"."""
    samples_itself = actor == "self" and not stale
    moves = updates > 1
    corrected = correction != "none"
    if corrected and "new" in correction and not moves:
        return "any"  # p_new is p_ref
    if corrected and samples_itself and not (moves and "new" in correction):
        return "any"  # p_ref is p_inf
    of_ref = objective in OF_REF or (objective == "dppo" and correction.startswith("jackpot"))
    if corrected and not of_ref:
        return "again" if objective == "dppo" else "twice"
    if opsm and of_ref and not moves:
        return "opsm would have no effect"
    if objective == "dppo" and corrected and "new" not in correction:
        return "again"
    if not moves and of_ref and objective != "ppo":
        return "p_new is p_ref"
    if not moves and not of_ref and samples_itself:
        return "p_new is p_inf"
    if "prefix" in correction and (objective == "gspo ref" or opsm):
        return "whole sequences"
    return None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_combination_is_meaningful_or_refused_with_the_reason(objective):
    allowed = 0
    for name, actor, stale, updates, opsm in itertools.product(
        CORRECTIONS, ("separate", "self", "frozen"), (False, True), (1, 2), (False, True)
    ):
        given = {f"correction.{k}": v for k, v in CORRECTIONS[name].items()}
        given |= {f"objective.{k}": v for k, v in OBJECTIVES[objective].items()}
        given |= {"objective.sequence_mask.type": "opsm"} if opsm else {}
        given |= {"actor.type": actor, "rollout.max_staleness": int(stale)}
        given |= {"loss.updates_per_rollout": updates}
        given |= {"loss.denominator": "sequence"} if "gspo" in objective else {}
        wanted = reason(objective, name, actor, stale, updates, opsm)
        try:
            resolve(given)
        except ConfigError as e:
            said = str(e)
            assert wanted is not None, (given, said)
            assert wanted == "any" or wanted in said, (given, said)
        else:
            assert wanted is None, given
            allowed += 1
    assert allowed > 10
