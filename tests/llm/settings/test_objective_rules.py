"""Which objective goes with which correction, staleness and number of updates: all of them."""

from __future__ import annotations

import itertools

import pytest
import sections

from llm.errors import ConfigError
from llm.settings.loading import load, resolve
from llm.settings.schema import (
    BapoObjective,
    LossConfig,
    RolloutConfig,
    SelfActor,
    SeparateActor,
    Settings,
)
from llm.settings.validation import check

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


def reasons(
    objective: str, correction: str, actor: str, stale: bool, updates: int, opsm: bool
) -> set[str]:
    """Words of the refusals that hold; none where the two together estimate p_new / p_inf once,
    and have an effect. The first two are refused with any objective."""
    samples_itself, moves = actor == "self" and not stale, updates > 1
    corrected, new = correction != "none", "new" in correction
    of_ref = objective in OF_REF or (objective == "dppo" and correction.startswith("jackpot"))
    holds = {
        "at a single update p_new is p_ref": new and not moves,
        "p_inf = p_ref": corrected and samples_itself and not (moves and new),
        "twice": corrected and not of_ref and objective != "dppo",
        "again": corrected and objective == "dppo" and not correction.startswith("jackpot new"),
        "opsm would have no effect": opsm and of_ref and not moves,
        "p_new is p_ref, so its": not moves and objective in OF_REF[1:],
        "p_new is p_inf": not moves and not of_ref and samples_itself,
        "whole sequences": "prefix" in correction and (objective == "gspo ref" or opsm),
    }
    return {words for words, held in holds.items() if held}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_combination_is_meaningful_or_refused_with_the_reason(objective):
    allowed = 0
    for name, actor, stale, updates, opsm in itertools.product(
        CORRECTIONS, (SeparateActor(), SelfActor()), (0, 1), (1, 2), (False, True)
    ):
        mask = {"sequence_mask.type": "opsm"} if opsm else {}
        cfg = Settings(
            actor=actor,
            correction=sections.correction(**CORRECTIONS[name]),
            objective=sections.objective(**OBJECTIVES[objective], **mask),
            rollout=RolloutConfig(max_staleness=stale),
            loss=LossConfig(
                updates_per_rollout=updates,
                denominator="sequence" if "gspo" in objective else "proposed",
            ),
        )
        wanted = reasons(objective, name, actor.type, bool(stale), updates, opsm)
        where = (name, actor.type, stale, updates, opsm)
        try:
            check(cfg)
        except ConfigError as e:
            assert any(words in str(e) for words in wanted), (where, str(e), wanted)
        else:
            assert not wanted, (where, wanted)
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


def test_a_step_in_which_alpha_dpo_can_never_have_two_pairs_is_refused():
    flags = {**WHOLE, "objective.type": "alpha_dpo", "rollout.prompts_per_step": 1}
    resolve({**flags, "rollout.rollouts_per_prompt": 3})
    resolve({**flags, "rollout.prompts_per_step": 2, "rollout.rollouts_per_prompt": 2})
    with pytest.raises(ConfigError, match="can give one at most"):
        resolve({**flags, "rollout.rollouts_per_prompt": 2})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *(("a_star_po", "beta", 0.0), ("a_star_po", "value_beta", -1.0)),
        *(("a_star_po", "value_rollouts", 0), ("dmpo", "alpha", 0.0), ("dmpo", "ess_min", 1.5)),
        *(("alpha_dpo", "beta", float("inf")), ("alpha_dpo", "decay", 1.0)),
        *(("alpha_dpo", "alpha", float("nan")), ("dmpo", "baseline.coef", -1.0)),
        *(("dmpo", "baseline.coef", 0.0), ("dmpo", "baseline.coef", float("inf"))),
    ],
)
def test_a_bound_of_theirs_that_is_none_is_refused(kind, name, value):
    with pytest.raises(ConfigError, match=f"objective.{name}"):
        resolve({**WHOLE, "objective.type": kind, f"objective.{name}": value})


BAD = [
    ("cispo", "clip_high nan", "finite"),
    ("cispo", "clip_low -0.1", "greater than 0"),
    ("gspo", "clip_high 0", "greater than 0"),
    ("dppo", "cap 0", "greater than 0"),
    ("dppo", "divergence.delta -1", "at least 0"),
    ("dppo", "divergence.delta nan", "finite"),
    ("dppo", "divergence.type tv", "must be one of"),
    ("dppo", "divergence.delta inf", "finite number .--objective.divergence.type none leaves no"),
    ("dppo", "ratio ref", "ratio is a setting of objective.type cispo or gspo or bapo"),
    ("minpro", "clip_low nan", "finite"),
    ("minpro", "tau 1", "tau is a setting of objective.type m2po"),
    ("m2po", "tau inf", "finite"),
    ("m2po", "tau -1", "at least 0"),
    ("bapo", "share 0", "greater than 0"),
    ("bapo", "share 1.5", "at most 1"),
    ("bapo", "high_max inf", "finite"),
    ("bapo", "high_max 1.1", "objective.high_max must be >= objective.high_min"),
    ("bapo", "low_min 0.95", "objective.low_max must be >= objective.low_min"),
    ("bapo", "low_min -0.1", "at least 0"),
    ("bapo", "low_step 0", "greater than 0"),
    ("bapo", "high_step nan", "finite"),
    ("bapo", "high_min 0.9", "--objective.high_min at least 1"),
    ("bapo", "high_step 1e-9", r"up to 1.8e\+09 steps .* at most 10,000 are made: raise high_step"),
    ("bapo", "low_step 1e-30", "raise low_step, or lower low_max"),
    ("bapo", "high_step 1.81", "high_step 1.81 is more than lies .* 1.2 .* 3, .* never move"),
    ("bapo", "low_step 0.31", "low_step 0.31 is more than lies .* 0.6 .* 0.9, .* never move"),
    ("m2po", "sequence_mask.delta 0.1", "delta is a setting of objective.sequence_mask.type opsm"),
]


@pytest.mark.parametrize(("kind", "flag", "said"), BAD, ids=lambda x: x.replace(" ", "-"))
def test_a_bound_that_is_no_bound_is_refused_by_its_name(kind, flag, said):
    name, value = flag.split()
    flags = ["--objective.type", kind, "--loss.updates_per_rollout", "2"]
    flags += ["--correction.type", "none", f"--objective.{name}", value]
    flags += ["--loss.denominator", "sequence"] if kind == "gspo" else []
    with pytest.raises(ConfigError, match=said):
        load([], flags)


def test_a_step_of_bapo_may_be_the_whole_range():
    given = {"objective.type": "bapo", "loss.updates_per_rollout": 2}
    steps = {"objective.high_step": 3.0 - 1.2, "objective.low_step": 0.3}  # .9 - .6 is below .3
    objective = resolve({**given, **steps}).objective
    assert isinstance(objective, BapoObjective) and objective.low_step == 0.3


def test_a_mask_of_sequences_may_have_no_slack():
    given = {"objective.sequence_mask.type": "opsm", "objective.sequence_mask.delta": 0.0}
    assert resolve({**given, "loss.updates_per_rollout": 2}).objective.sequence_mask.delta == 0.0
    with pytest.raises(ConfigError, match="finite"):
        endless = {"objective.sequence_mask.delta": float("inf")}
        resolve({**given, **endless, "loss.updates_per_rollout": 2})


FIXED = {"objective.low_min": 0.8, "objective.low_max": 0.8, "objective.high_max": 1.2}
NO_REGION = {"objective.type": "dppo", "objective.divergence.type": "none"}
SWITCHED_OFF: list[tuple[dict, str]] = [
    (
        {"objective.type": "dmpo", "objective.baseline.type": "none", "objective.baseline.coef": 1},
        "coef is a setting of objective.baseline.type neg or mean or self, and",
    ),
    ({**NO_REGION, "objective.divergence.delta": 0.1}, "delta is a setting of objective.divergenc"),
    (
        {"objective.type": "bapo", "objective.low_min": 0.9, "objective.low_step": 0.1},
        "low_step 0.1 would have no effect: it needs objective.low_max above objective.low_min",
    ),
    (
        {"objective.type": "bapo", "objective.high_max": 1.2, "objective.high_step": 0.05},
        "high_step 0.05 would have no effect: it needs objective.high_max above objective.high_min",
    ),
    ({"objective.type": "bapo", **FIXED}, "so share and accounting would have no effect: set"),
    *[
        (
            {"objective.type": "alpha_dpo", "objective.alpha": 0.0, f"objective.{name}": value},
            f"{name} .* would have no effect: it needs objective.alpha above 0",
        )
        for name, value in (("decay", 0.5), ("bias_correction", True))
    ],
]


@pytest.mark.parametrize(("given", "said"), SWITCHED_OFF)
def test_what_another_value_of_the_objective_switches_off_is_refused(given, said):
    several = 1 if given["objective.type"] in ("dmpo", "alpha_dpo") else 2
    around = {"correction.type": "none", "loss.updates_per_rollout": several}
    with pytest.raises(ConfigError, match=said):
        resolve({**around, **given})
    kept = {"objective.type", "objective.alpha", *NO_REGION, "objective.high_max"}
    assert resolve({**around, **{k: v for k, v in given.items() if k in kept}})


def test_a_ratio_to_p_ref_without_a_trust_region_needs_several_updates():
    given = {**NO_REGION, "correction.target.type": "new", "correction.target.c2": 0.5}
    with pytest.raises(
        ConfigError, match=r"dppo would have no effect: .* --objective.type ppo, or"
    ):
        resolve(given)
    assert resolve({**given, "loss.updates_per_rollout": 2})
    assert resolve({**given, "objective.divergence.type": "binary_kl"})
