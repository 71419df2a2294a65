"""The forward passes of one optimiser step: as few as the weights and the losses need."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .context import TrainContext
from .forward import ModelOutputs, PolicyLogprobs, forward_all
from .microbatches import microbatches
from .minibatches import Minibatch
from .optimizer import Learner
from .scoring import merged, score


class ForwardPasses:
    """The passes over a minibatch's microbatches.

    Weights need statistics of the whole update. With one microbatch a single pass serves weights
    and loss. With several the policy is scored once over all of them first, except where the
    weights are of p_ref alone, which is known already.
    """

    def __init__(self, ctx: TrainContext, learner: Learner, minibatch: Minibatch) -> None:
        self._ctx, self._learner, self._minibatch = ctx, learner, minibatch
        self._micro = microbatches(ctx.cfg, minibatch.batch)
        self.places = [mb.tokens for mb in self._micro]
        self.new_is_target = minibatch.p_ref is None or ctx.cfg.correction.target == "new"
        self._only: ModelOutputs | None = None
        if len(self._micro) == 1:
            self._only = self._forward(0, for_weights=True)

    def policy_logprobs(self) -> PolicyLogprobs:
        """log p_new for the weights, of the sampled tokens (n,) and of q's top k (n, k)."""
        if self._only is not None:
            assert self._only.for_weights is not None
            return merged([self._only.for_weights], self._micro)
        p_ref = self._minibatch.p_ref
        if p_ref is not None and not self.new_is_target:
            return p_ref
        state = self._learner.correction
        return score(self._ctx, self._micro, state, is_target=self.new_is_target)

    def with_gradient(self) -> Iterator[tuple[torch.Tensor, ModelOutputs]]:
        """Of each microbatch: the places of its tokens, (m,), and what the models say there."""
        for i, tokens in enumerate(self.places):
            yield tokens, self._only or self._forward(i, for_weights=False)

    def _forward(self, i: int, *, for_weights: bool) -> ModelOutputs:
        return forward_all(
            self._ctx,
            self._micro[i].batch,
            self._learner.controls,
            self._learner.correction,
            for_weights=for_weights,
            is_target=self.new_is_target,
        )
