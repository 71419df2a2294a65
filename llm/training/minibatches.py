"""The sequences of each optimiser step of a rollout, with their random numbers and p_ref."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from llm import distributed, randomness
from llm.distributed import GlobalTokens
from llm.rollout.batch import Batch
from llm.settings.loading import Config

from .context import TrainContext
from .forward import PolicyLogprobs
from .optimizer import Learner
from .scoring import score_before_updates, score_initial


@dataclass(frozen=True)
class Minibatch:
    """What one optimiser step works on: this rank's sequences of it, n tokens.

    uniform: of each token in [0, 1), (n,) float64: below its a(x) the token is accepted.
    p_ref: of its tokens; None where there is a single update per rollout, whose own forward pass
        gives it.
    logp_actor_ref: log p_actor_ref of the sampled tokens, (n,); None likewise, or where Eq. 6 has
        no correction.
    global_row: where each sequence stands among those of all ranks, (b,); (0,) if there is none.
    is_first: no update of its rollout came before it, so p_new is p_ref.
    logp_init: log p of the initial policy, (n,); None where the objective has no use for it.
    """

    batch: Batch
    uniform: torch.Tensor
    p_ref: PolicyLogprobs | None
    logp_actor_ref: torch.Tensor | None
    global_row: torch.Tensor
    is_first: bool = True
    logp_init: torch.Tensor | None = None

    def actor_ref_at(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """logp_actor_ref of some tokens, (m,) places."""
        return None if self.logp_actor_ref is None else self.logp_actor_ref[tokens]

    def new_is_target(self, cfg: Config) -> bool:
        """Whether the target p of the weights is p_new; with a single update p_ref is the same."""
        return self.p_ref is None or cfg.correction.target.type == "new"

    @cached_property
    def all_ranks(self) -> GlobalTokens:
        """Its tokens among those of all ranks. A collective: all ranks must ask first together."""
        return GlobalTokens(self.batch.sequence, self.batch.position, self.global_row)


def split_minibatches(
    ctx: TrainContext, batch: Batch, learner: Learner, step: int
) -> list[Minibatch]:
    """The sequences of each optimiser step of a rollout: all of them, or random equal shares.

    Where there are several, p_ref and p_actor_ref are computed here, before any update. The
    number that decides over a token belongs to (sequence, position), so it depends on neither the
    split nor the ranks. The split is of the sequences of all ranks, so of some minibatches a rank
    may have none.
    """
    cfg, device = ctx.cfg, batch.ids.device
    n_sequences = sum(distributed.all_gather_object(len(batch.answers)))
    width = batch.is_completion.shape[1]
    rng = randomness.stream(cfg.run.seed, "rejection", step)
    # Every rank draws for all sequences and takes its own: no number depends on the ranks. Not by
    # acceptance_coins, which has a stream for each sequence: recorded runs have these numbers.
    uniforms = torch.from_numpy(rng.random((n_sequences, width))).to(device)  # (all sequences, t)
    uniform = uniforms[batch.index[batch.sequence], batch.position]  # (n,)
    logp_init = score_initial(ctx, batch)
    if cfg.loss.updates_per_rollout == 1:
        return [Minibatch(batch, uniform, None, None, batch.index, logp_init=logp_init)]
    # Before the first update: afterwards p_ref is no longer there to be computed.
    p_ref, logp_actor_ref = score_before_updates(ctx, batch, learner.correction)
    order = torch.from_numpy(
        # "shares" is part of the seed: another word would give recorded runs other minibatches.
        randomness.stream(cfg.run.seed, "shares", step).permutation(n_sequences)
    )
    minibatches: list[Minibatch] = []
    for numbers in order.to(device).reshape(cfg.loss.updates_per_rollout, -1):
        rows, global_row = (batch.index[:, None] == numbers).nonzero().T  # of this rank
        # In the permuted order, whose places `global_row` holds: ranks put together restore it.
        rows, global_row = rows[global_row.argsort()], global_row.sort().values
        tokens = batch.token_index(rows)
        minibatches.append(
            Minibatch(
                batch.rows(rows, tokens) if len(rows) else batch.without_tokens(),
                uniform[tokens],
                p_ref.at(tokens),
                None if logp_actor_ref is None else logp_actor_ref[tokens],
                global_row,
                is_first=not minibatches,
                logp_init=None if logp_init is None else logp_init[tokens],
            )
        )
    return minibatches
