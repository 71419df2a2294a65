"""The forward passes of one optimiser step: as few as the weights and the losses need."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from jackpot.torch.objectives import NEEDS_ALL_TOKENS

from .context import TrainContext
from .forward import ModelOutputs, PolicyLogprobs, forward_all
from .microbatches import microbatches
from .minibatches import Minibatch
from .optimizer import Learner
from .scoring import in_batch_order, of_verification, score


class ForwardPasses:
    """The passes over a minibatch's microbatches.

    Weights need statistics of the whole update, so they come before the first loss. With one
    microbatch a single pass with gradient serves both. With several the policy is scored once over
    all of them first, except where weights and the objective's bounds are of p_ref alone, which is
    known already.
    """

    def __init__(self, ctx: TrainContext, learner: Learner, minibatch: Minibatch) -> None:
        self._ctx, self._learner, self._minibatch = ctx, learner, minibatch
        self._micro = microbatches(ctx.cfg, minibatch.batch)
        self._new_is_target = minibatch.new_is_target(ctx.cfg)
        # bounds that adapt, and whole completions, are of p_new at all tokens; before the first
        # update it is p_ref
        objective = ctx.cfg.objective
        adapts = objective.type in NEEDS_ALL_TOKENS or objective.needs_initial
        self._bounds_need_p_new = adapts and not minibatch.is_first
        self._only: ModelOutputs | None = None

    def logprobs_for_weights(self) -> tuple[PolicyLogprobs, PolicyLogprobs]:
        """p_ref and p_new for the weights, of the sampled tokens (n,) and of q's top k (n, k).

        p_ref is p_new where there is a single update per rollout. p_new is p_ref where computing it
        would cost a pass and nothing uses it, or no update has moved it yet.
        """
        # Z's calibration and lam are statistics of the whole update, so weights wait for all of it.
        p_ref = self._minibatch.p_ref
        if len(self._micro) == 1:  # its graph is kept, and its loss reuses it
            self._only = self._forward(0, for_weights=True)
            assert self._only.for_weights is not None
            p_new = in_batch_order([self._only.for_weights], self._micro)
        # Target p_ref: p_new is used nowhere in the weights, and p_ref stands in for it.
        elif p_ref is not None and not self._new_is_target and not self._bounds_need_p_new:
            p_new = p_ref
        else:
            state = self._learner.correction
            # Several microbatches: one more pass without gradient, as all their graphs may not fit.
            reused = of_verification(self._ctx, self._minibatch.batch) if p_ref is None else None
            p_new = reused or score(self._ctx, self._micro, state, is_target=self._new_is_target)
        return (p_new if p_ref is None else p_ref), p_new

    def microbatches(self) -> Iterator[tuple[torch.Tensor, ModelOutputs]]:
        """Of each: the places of its tokens, (m,), and what the models say there, with gradient."""
        for i, mb in enumerate(self._micro):
            yield mb.tokens, self._only or self._forward(i, for_weights=False)

    def _forward(self, i: int, *, for_weights: bool) -> ModelOutputs:
        return forward_all(
            self._ctx,
            self._micro[i].batch,
            self._learner.controls,
            self._learner.correction,
            for_weights=for_weights,
            is_target=self._new_is_target,
        )
