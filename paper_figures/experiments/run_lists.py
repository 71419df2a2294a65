"""Which runs each figure and table needs. The same run may stand in several: it is trained once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .configurations import FIGURE_SEEDS, TUNING_SEEDS, WORLDS, RunSpec, run


class Scale(NamedTuple):
    """How much is trained. seeds: of headline comparisons; few: of the others; length: share of
    the steps."""

    name: str
    seeds: tuple[int, ...]
    few: tuple[int, ...]
    length: float


FULL = Scale("full", FIGURE_SEEDS, FIGURE_SEEDS[:3], 1.0)
QUICK = Scale("quick", (10,), (10,), 0.125)

HEADLINE = (
    *("on-policy", "on-policy small", "none", "kl", "tis", "tis+kl", "tis+ppo+kl"),
    *("jackpot", "jackpot expected"),
)
PAIRS = ("chain small", "chain", "chain near")  # from a small actor to one near the policy
FORMS = "chain forms"  # 2,048 ids
SLOW_PRETRAINING = (FORMS, "chain long")  # cut short at less than full scale
PAIR_STEPS = 100  # of Figure 4
SHORT_STEPS = 60  # of 2,048 ids, of Table 1 and of the ablation
LENGTHS = (4, 6, 8)  # digits of Table 1's held-out sets
TABLE1 = (
    *("on-policy", "on-policy small", "kl", "tis+kl", "tis+ppo+kl"),
    *("jackpot", "jackpot prefixes"),
)
STALE = ("clipped", "no clip", "capped", "tis new", "jackpot new", "jackpot expected new")
STALENESS = (16, 64, 128)
STALE_UPDATES = {16: 128, 64: 128, 128: 256}  # in all, by staleness
STALE_PROMPTS = 4  # of each update
KEPT_STALENESS = 64  # of Table 2
KEPT = ("clipped", "jackpot clipped")
INT8 = ("int8", "int8 tis", "int8 jackpot")
WITHOUT_KL = ("tis+ppo", "jackpot+ppo")
WITHOUT_KL_STEPS = 120
LONG_STEPS = 480


def group(
    scale: Scale, world: str, methods: Sequence[str], few: bool, **extra: Any
) -> list[RunSpec]:
    """Every method with every seed, shortened where the scale says so."""
    steps = extra.pop("run__steps", WORLDS[world]["run.steps"])
    if scale.length < 1:
        steps = max(2, round(steps * scale.length))
        extra = {**extra, "run__eval_every": max(1, steps // 6)}
        if world in SLOW_PRETRAINING:
            extra["pretrain__policy_steps"] = 60
    if steps != WORLDS[world]["run.steps"]:
        extra["run__steps"] = steps
    seeds = scale.few if few else scale.seeds
    return [run(world, m, s, **extra) for m in methods for s in seeds]


def fig1(scale: Scale) -> list[RunSpec]:
    return group(scale, "chain", HEADLINE, few=False)


# The two that a sweep found better at a lower rate than the one that is drawn (`tune rates`)
OWN_RATE = 2e-4
OWN_RATES = ("none", "tis")


def own_rates(scale: Scale) -> list[RunSpec]:
    """Methods of Figure 1 at the learning rate that is best for them."""
    return group(scale, "chain", OWN_RATES, few=False, optim__policy_lr=OWN_RATE)


def fig4(scale: Scale) -> dict[str, list[RunSpec]]:
    """By world: three pairs of models, and a task with 2,048 ids."""
    by_world = {"chain": fig1(scale)}
    for world in (*PAIRS, FORMS):
        if world != "chain":
            steps = SHORT_STEPS if world == FORMS else PAIR_STEPS
            methods = [m for m in HEADLINE if (m, world) != ("on-policy small", FORMS)]
            by_world[world] = group(scale, world, methods, few=True, run__steps=steps)
    return {world: by_world[world] for world in (*PAIRS, FORMS)}


def table1(scale: Scale) -> list[RunSpec]:
    return group(scale, "chain lengths", TABLE1, few=True, run__steps=SHORT_STEPS)


def stale(scale: Scale, updates: int, methods: Sequence[str]) -> list[RunSpec]:
    """One rollout batch for so many updates, STALE_UPDATES in all."""
    extra = {
        "rollout.prompts_per_step": STALE_PROMPTS * updates,
        "loss.updates_per_rollout": updates,
        "run.steps": max(1, round(STALE_UPDATES[updates] * scale.length / updates)),
        "run.eval_every": 1,
        "run.checkpoint_every": 1,
    }
    if updates > 16:
        extra["run.eval_updates"] = 16
    return [
        RunSpec("chain", m, s, tuple(sorted(extra.items()))) for m in methods for s in scale.few
    ]


def fig5(scale: Scale) -> dict[int, list[RunSpec]]:
    """By staleness: updates per rollout."""
    return {updates: stale(scale, updates, STALE) for updates in STALENESS}


def table2(scale: Scale) -> dict[str, list[RunSpec]]:
    """Where rejection should make no difference: the PPO clip kept; a small mismatch."""
    int8 = {
        "rollout__prompts_per_step": 2 * WORLDS["chain"]["rollout.prompts_per_step"],
        "loss__updates_per_rollout": 2,  # so that the clip can bind
        "run__steps": WORLDS["chain"]["run.steps"] // 2,
        "run__eval_every": WORLDS["chain"]["run.eval_every"] // 2,
    }
    return {
        "stale": stale(scale, KEPT_STALENESS, KEPT),
        "int8": group(scale, "chain", INT8, few=True, **int8),
    }


def without_kl(scale: Scale) -> list[RunSpec]:
    """The project page's extra: the actor learns by PPO alone; at the rate at which runs break."""
    return group(scale, "chain", WITHOUT_KL, few=True, run__steps=WITHOUT_KL_STEPS, **HOT)


# Jackpot with one factor of its weight, or one actor loss, changed; settings in `run`'s spelling
ABLATIONS: dict[str, dict[str, Any]] = {
    "expected mask": {"correction__mask": "expected"},
    "prefixes": {"correction__scope": "prefix"},
    "Z = 1": {"correction__z__type": "none"},
    "Z of the batch": {"correction__z__type": "batch"},
    "Z from the top k, kappa (paper)": {
        **{"correction__z__tail__type": "dropped", "correction__z__tail__kappa": True},
    },
    "no cap c1": {"correction__c1": float("inf")},
    "lam = 2": {"correction__lam__value": 2.0},
    "per accepted token": {"loss__denominator": "accepted"},
    "actor: no KL": {"actor__distill__type": "none"},
    "actor: no PPO": {"actor__ppo": False},
    "controller at 0.05 nats": {"control__type": "kl", "control__kl_target": 0.05},
}
# with two updates per rollout p_new moves away from p_ref, so that these are not idle
SEVERAL: dict[str, dict[str, Any]] = {
    "p_ref": {},
    "p_new": {"correction__target__type": "new"},
    "p_new, no cap c2": {"correction__target__type": "new", "correction__target__c2": float("inf")},
}


def ablation(scale: Scale) -> dict[str, list[RunSpec]]:
    """By what was changed; "" is Jackpot as it is. A weak actor, so that the weight matters."""

    def some(**extra: Any) -> list[RunSpec]:
        return group(scale, "chain weak", ("jackpot",), few=True, run__steps=SHORT_STEPS, **extra)

    single = {"": some()} | {name: some(**extra) for name, extra in ABLATIONS.items()}
    two = {"loss__updates_per_rollout": 2}
    return single | {f"2 updates, {name}": some(**two, **e) for name, e in SEVERAL.items()}


LONG = ("tis+ppo+kl", "jackpot", "jackpot prefixes")


def long_runs(scale: Scale) -> list[RunSpec]:
    return group(scale, "chain", LONG, few=True, run__steps=LONG_STEPS, run__eval_every=20)


COST = {
    "chain long": ("on-policy", "jackpot", "jackpot prefixes"),
    "chain": ("on-policy", "tis+ppo+kl", "jackpot"),
}


def cost(scale: Scale) -> dict[str, list[RunSpec]]:
    """By world: one in which decoding dominates, and one in which it does not."""
    return {w: group(scale, w, own, few=w != "chain") for w, own in COST.items()}


# The same sweep for every method, on seeds of its own: both learning rates together
RATES = ((1e-4, 3e-4), (2e-4, 6e-4), (4e-4, 1.2e-3))
TUNED = ("on-policy", "none", "kl", "tis", "tis+kl", "tis+ppo+kl", "jackpot", "jackpot expected")


ACTOR_FIXED = ("on-policy", "none", "tis")  # methods without a learning rate of the actor


def rate_sweep(world: str, methods: Sequence[str]) -> list[RunSpec]:
    """Every method at every pair of learning rates."""
    runs = []
    for policy_lr, actor_lr in RATES:
        for method in methods:
            rates = {"optim__policy_lr": policy_lr}
            if method not in ACTOR_FIXED:
                rates["actor__lr"] = actor_lr
            runs += [run(world, method, seed, **rates) for seed in TUNING_SEEDS]
    return runs


def tuning() -> list[RunSpec]:
    return rate_sweep("chain", TUNED)


# The same for caps, at the learning rates chosen: TIS's C, Jackpot's c1
CAPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "tis": ("correction__cap", (1.5, 2.0, 4.0)),
    "tis+kl": ("correction__cap", (1.5, 2.0, 4.0)),
    "tis+ppo+kl": ("correction__cap", (1.5, 2.0, 4.0)),
    "jackpot": ("correction__c1", (1.5, 3.0, 6.0)),
    "jackpot expected": ("correction__c1", (1.5, 3.0, 6.0)),
}


def cap_tuning() -> dict[str, list[RunSpec]]:
    """By method and cap."""
    return {
        f"{method}, {cap:g}": [run("chain", method, s, **{name: cap}) for s in TUNING_SEEDS]
        for method, (name, caps) in CAPS.items()
        for cap in caps
    }


def stale_tuning() -> dict[float, list[RunSpec]]:
    """By learning rate: the methods of Figure 5 at 64 updates per rollout."""
    by_rate = {}
    for rate, _ in RATES:
        own = stale(FULL._replace(few=TUNING_SEEDS), 64, STALE)
        by_rate[rate] = [
            r._replace(extra=tuple(sorted({**dict(r.extra), "optim.policy_lr": rate}.items())))
            for r in own
        ]
    return by_rate


LONG_TUNED = ("on-policy", "tis+ppo+kl", "jackpot", "jackpot prefixes")


def long_tuning() -> list[RunSpec]:
    """The same sweep where decoding dominates."""
    return rate_sweep("chain long", LONG_TUNED)


# What might be more stable than TIS with the same actor losses, at twice the highest rate of the
# sweep, where on-policy training is still well and all others waver
HOT: dict[str, Any] = {"optim__policy_lr": 8e-4, "actor__lr": 2.4e-3}
NO_PPO: dict[str, Any] = {"actor__ppo": False}
TRIPLE: dict[str, Any] = {"actor__distill__coef": 3.0}
CONTROL: dict[str, Any] = {
    **{"control__type": "kl", "control__kl_target": 0.02, "control__gain": 0.5}
}
WAITS: dict[str, Any] = {
    **{"control__type": "kl", "control__kl_target": 0.05, "control__gain": 0.3},
    **{"control__distill": False, "control__policy_lr": True},
}
LOW_LAM: dict[str, Any] = {"correction__lam__value": 0.5}
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "TIS + the same actor losses": ("tis+ppo+kl", {}),
    "only KL": ("kl", {}),
    "TIS + KL": ("tis+kl", {}),
    "TIS + KL, distil x 3": ("tis+kl", TRIPLE),
    "TIS, the policy waits": ("tis+ppo+kl", WAITS),
    "Jackpot": ("jackpot", {}),
    "expected mask": ("jackpot expected", {}),
    "expected mask, KL alone": ("jackpot expected", NO_PPO),
    "expected mask, controlled": ("jackpot expected", CONTROL),
    "prefixes, coins": ("jackpot", {"correction__scope": "prefix"}),
    "prefixes": ("jackpot expected", {"correction__scope": "prefix"}),
    "prefixes, coins, KL alone": ("jackpot", {"correction__scope": "prefix", **NO_PPO}),
    "prefixes, KL alone": ("jackpot prefixes", {}),
    "prefixes, KL alone, lam = 0.5": ("jackpot prefixes", LOW_LAM),
    "prefixes, KL alone, distil x 3": ("jackpot prefixes", TRIPLE),
    "prefixes, KL alone, the policy waits": ("jackpot prefixes", WAITS),
    "TIS on prefixes, KL alone": ("tis prefixes", {}),
}
HOT_STEPS = 190
CANDIDATE_SEEDS = (0, 1, 2, 3)
JUDGED_SEEDS = tuple(range(100, 108))


def candidates(seeds: Sequence[int] = CANDIDATE_SEEDS) -> dict[str, list[RunSpec]]:
    return {
        name: [run("chain", method, s, **HOT, **extra, run__steps=HOT_STEPS) for s in seeds]
        for name, (method, extra) in CANDIDATES.items()
    }


def hot_on_policy(seeds: Sequence[int]) -> list[RunSpec]:
    """That the rate is not too hot in itself."""
    rate = HOT["optim__policy_lr"]
    return [
        run("chain", "on-policy", s, optim__policy_lr=rate, run__steps=HOT_STEPS) for s in seeds
    ]


CHOSEN = "prefixes, KL alone"  # by `tune`, on CANDIDATE_SEEDS
BASE = "TIS + the same actor losses"
SHOWN = (BASE, "only KL", "TIS + KL", "TIS on prefixes, KL alone", CHOSEN)


def prefix_rejection(scale: Scale) -> dict[str, list[RunSpec]]:
    """What is judged: the chosen setting, what it must beat, and what tells its parts apart."""
    if scale.length == 1:
        judged = {name: own for name, own in candidates(JUDGED_SEEDS).items() if name in SHOWN}
        return {**judged, "on-policy": hot_on_policy(JUDGED_SEEDS)}
    return {
        name: group(scale, "chain", (method,), few=True, **HOT, **extra)
        for name, (method, extra) in CANDIDATES.items()
        if name in (BASE, CHOSEN)
    }
