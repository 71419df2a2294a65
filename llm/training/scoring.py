"""p_ref on a whole batch, before any update."""

from __future__ import annotations

import torch

from llm.algorithm.correction import CorrectionState
from llm.rollout.batch import Batch
from llm.settings.schema import SeparateActor

from .context import TrainContext
from .forward import Tokens, Weighing, forward, policy_tokens, read, taken
from .microbatches import in_order, microbatches


def score(
    setup: TrainContext,
    batch: Batch,
    state: CorrectionState,
    *,
    is_target: bool,
    only: Tokens | None = None,
) -> Tokens:
    """`laws.tokens` of a whole batch under the policy, one microbatch after the other.

    only: of the only microbatch, from a forward pass that was made already.
    """
    micro, weighing = microbatches(setup.cfg, batch), Weighing(state, is_target)
    found = [policy_tokens(setup, mb, weighing) if only is None else only for mb, _ in micro]
    logp, topk_logp, tail = zip(*found, strict=True)
    bound = None if tail[0] is None else in_order(tail, micro)
    return Tokens(in_order(logp, micro), in_order(topk_logp, micro), bound)


@torch.no_grad()
def before_updates(
    setup: TrainContext, batch: Batch, state: CorrectionState
) -> tuple[Tokens, torch.Tensor | None]:
    """p_ref and, where Eq. 6 has a correction, p_actor_ref, on a whole batch."""
    cfg = setup.cfg
    ref = score(setup, batch, state, is_target=cfg.correction.target == "ref")
    if not isinstance(cfg.actor, SeparateActor) or cfg.actor.correction.type == "none":
        return ref, None
    micro, actor = microbatches(cfg, batch), setup.trained["actor"]
    sides = (taken(forward(setup, actor, mb), mb) for mb, _ in micro)
    found = [read([side], cfg.rollout.temperature)[0][0].logp for side in sides]
    return ref, in_order(found, micro)  # type: ignore[arg-type]  # they were asked for
