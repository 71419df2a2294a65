"""What a step writes: its row, its samples, the line on the terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm import distributed
from llm.algorithm.correction import TokenWeights

from . import sample_records
from .context import TrainContext
from .minibatches import Share


def start_text(setup: TrainContext, row: dict) -> str:
    skipped = f", {setup.task.skipped} bad rows skipped" if setup.task.skipped else ""
    return (
        f"actor: {setup.actor.kind}, KL(policy, actor) {row['kl_policy_actor']:.4g} nats per token "
        f"at the start{skipped}\n"
    )


def sample_rows(setup: TrainContext, step: int, share: Share, weights: TokenWeights) -> list[dict]:
    """Some of an update's completions, on whichever rank, token by token, for the report.

    weights: of the tokens of all ranks.
    """
    batch, place, every = share.batch, share.places(), share.tokens()
    columns = ("weight", "log_ratio", "accept_prob", "accepted")
    mine: dict[str, Any] = {name: every.mine(getattr(weights, name)) for name in columns}
    own = replace(weights, **mine)
    kept, places = setup.cfg.run.samples_kept, (place.tolist(), every.sequences)
    rows = sample_records.token_rows(step, batch, setup.tokenizer, own, kept, places)
    places_of = distributed.all_gather_object([batch.index.tolist(), place.tolist()])
    order = {i: p for part in places_of for i, p in zip(*part, strict=False)}
    found = [r for rows in distributed.all_gather_object(rows) for r in rows]
    return sorted(found, key=lambda r: order[r["sequence"]])


def progress_text(row: dict) -> str:
    rate = row["tokens"] / (row["seconds_rollout"] + row["seconds_update"])
    kl = f"  KL(q,p) {row['kl_inf_target_k3']:.4f}" if "kl_inf_target_k3" in row else ""
    accept = f"  accept {row['accept_rate']:.3f}" if "accept_rate" in row else ""
    alarms = f"  ALARM {', '.join(row['alarms'])}" if row["alarms"] else ""
    return f"reward {row['reward_mean']:.3f}{kl}{accept}  {rate:.0f} tokens/s{alarms}"
