"""Lines of the doctor on what is computed twice: the same weights, sampled from and scored.

Their probabilities should be one distribution. They differ where a copy has other weights (tied by
a config that its file contradicts) or another arithmetic (engine, dtype, merged adapters).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llm.models.configs import text_of
from llm.models.loading import Model, plain
from llm.settings.loading import ModelConfig
from llm.training.context import TrainContext

from .export_parts import config_of_file

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Line(NamedTuple):
    """A check's outcome; `remedy` says what to do unless it is ok."""

    check: str
    status: str
    seen: str
    remedy: str = ""


def tied_weights(setup: TrainContext) -> Line:
    """Whether embedding and head are one tensor, in each model, and what its config.json says."""
    models = {"policy": setup.policy}
    if isinstance(setup.cfg.actor, ModelConfig):
        models["actor"] = setup.actor.model
    seen, odd = [], []
    for role, model in models.items():
        tied, part = _is_tied(model), getattr(setup.cfg, role)
        count = "one tensor" if tied else "two tensors"
        config = config_of_file(part) if part.path else plain(model).config
        said = bool(getattr(text_of(config), "tie_word_embeddings", tied))
        as_said = "as its config.json says" if part.path else "as it was built"
        if said != tied:
            odd.append(role)
            as_said = f"but its config.json says {'one' if said else 'two'}"
        seen.append(f"{role}: embedding and head are {count}, {as_said}")
    if odd:
        kept = "; here, in the engine's copy and in an export they stay what the tensors are"
        remedy = (
            f"set tie_word_embeddings in config.json of the {' and the '.join(odd)} to what the "
            "file holds, for programs that follow the config"
        )
        return Line("tied weights", WARNING, "; ".join(seen) + kept, remedy)
    return Line("tied weights", OK, "; ".join(seen))


def _is_tied(model: Model) -> bool:
    inner = plain(model)
    ends = inner.get_input_embeddings(), inner.get_output_embeddings()
    return None not in ends and ends[0].weight is ends[1].weight


def arithmetic(setup: TrainContext, self_test: dict[str, Any] | None) -> Line:
    """How sampler and scorer compute the same weights, by how much they differ, and whether that is
    corrected. self_test: its result, None where it failed."""
    cfg = setup.cfg
    engine, kind = cfg.rollout.engine.type, setup.actor.kind
    own = cfg.actor if isinstance(cfg.actor, ModelConfig) else cfg.policy
    merged = engine == "vllm" and own.lora.rank > 0
    sampled = "float32" if merged else own.dtype
    where = f"the actor ({kind}) samples with engine {engine} in {sampled}"
    where += ", adapters merged into its weights" if merged else ""
    scored = f"{where}; training scores in {cfg.policy.dtype}"
    if self_test is None:
        remedy = "see the self-test above: what is sampled is not what is scored"
        return Line("arithmetic", PROBLEM, f"{scored}; the two disagree", remedy)
    measured = self_test.get("engine", self_test)
    gap = f"log-probabilities of the same weights differ by {measured['mean']:.2g} nats on average"
    gap += f" and {measured['max']:.2g} at most"
    if self_test["adapters"] is not None:
        check = self_test["adapters"]
        gap += f", adapters lose {check.gap:.2g} of their {check.effect:.2g} nats ({check.place})"
    if engine == "hf" and sampled == cfg.policy.dtype == "float32":
        return Line("arithmetic", OK, f"{scored}; {gap}, which is rounding")
    if cfg.correction.type == "none":
        remedy = (
            "correct it (--correction.type tis, or jackpot), or sample with "
            "--rollout.engine.type hf in float32"
        )
        seen = f"{scored}; {gap}, and no correction is on"
        return Line("arithmetic", WARNING, seen, remedy)
    seen = f"{scored}; {gap}, which --correction.type {cfg.correction.type} corrects"
    return Line("arithmetic", OK, seen)
