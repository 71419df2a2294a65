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


WHOLE = {"correction.type": "none", "task.pool": 64}


@pytest.mark.parametrize("kind", ["a_star_po", "dmpo", "alpha_dpo"])
def test_objectives_of_whole_completions_stand_alone(kind):
    flags = {**WHOLE, "objective.type": kind}
    resolve(flags)
    resolve({**flags, "rollout.max_staleness": 2})
    for correction in CORRECTIONS:
        if correction != "none":
            given = {f"correction.{k}": v for k, v in CORRECTIONS[correction].items()}
            updates = 1 if "new" not in correction else 2
            with pytest.raises(ConfigError, match=f"{kind} takes no --correction.type"):
                resolve({**flags, **given, "loss.updates_per_rollout": updates})
    for name, other in (("allocation", "coba"), ("pruning", "horvitz_thompson")):
        more = {f"rollout.{name}.type": other, "rollout.allocation.prompt_weight": "equal"}
        more = {k: v for k, v in more.items() if name == "allocation" or "allocation" not in k}
        more |= {} if name == "allocation" else {"loss.denominator": "sequence"}
        with pytest.raises(ConfigError, match=f"{other} acts on advantages, which|no effect"):
            resolve({**flags, **more})
    with pytest.raises(ConfigError, match=r"loss\.denominator"):
        resolve({**flags, "loss.denominator": "sequence"})
    with pytest.raises(ConfigError, match=r"loss\.advantage"):
        resolve({**flags, "loss.advantage": "rloo", "actor.ppo": False})
    several = {**flags, "loss.updates_per_rollout": 2}
    if kind == "a_star_po":
        resolve(several)
        with pytest.raises(ConfigError, match="keeps V\\* of each prompt"):
            resolve({**flags, "task.pool": 0})
    else:
        with pytest.raises(ConfigError, match="compares the completions of a prompt"):
            resolve(several)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *(("a_star_po", "beta", 0.0), ("a_star_po", "value_beta", -1.0)),
        *(("a_star_po", "value_rollouts", 0), ("dmpo", "alpha", 0.0), ("dmpo", "ess_min", 1.5)),
        *(("alpha_dpo", "beta", float("inf")), ("alpha_dpo", "decay", 1.0)),
        *(("alpha_dpo", "alpha", float("nan")), ("dmpo", "baseline_coef", -1.0)),
    ],
)
def test_a_bound_of_theirs_that_is_none_is_refused(kind, name, value):
    with pytest.raises(ConfigError, match=f"objective.{name}"):
        resolve({**WHOLE, "objective.type": kind, f"objective.{name}": value})
