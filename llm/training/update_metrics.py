"""What one optimiser step measures, put together over its microbatches and over ranks."""

from __future__ import annotations

import torch

from llm import distributed
from llm.distributed import GlobalTokens
from llm.rollout.batch import in_order

from .forward import ModelOutputs


class UpdateMetrics:
    """Losses are summed over microbatches and ranks; token metrics are means over all tokens."""

    def __init__(self, all_ranks: GlobalTokens) -> None:
        self._all_ranks = all_ranks
        self._places: list[torch.Tensor] = []
        self._sums: dict[str, float] = {}
        self._entropy: list[torch.Tensor] = []
        self._clipped: list[torch.Tensor] = []

    def add(
        self,
        places: torch.Tensor,
        terms: dict[str, torch.Tensor],
        out: ModelOutputs,
        clipped: torch.Tensor,
    ) -> None:
        """A microbatch's loss terms (without coefficients), outputs, and clipped tokens, (m,).

        places: of its tokens among this rank's, (m,).
        """
        terms = dict(terms)
        self._places.append(places)
        if "control" in out.kl:
            # divided by the tokens of all ranks: the sum over microbatches and ranks is the mean
            n_proposed = len(self._all_ranks.sequence)
            terms["kl_policy_actor_now"] = out.kl["control"].sum() / n_proposed
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(term.detach())
        self._entropy.append(out.entropy)
        self._clipped.append(clipped)

    def of_all_ranks(self) -> dict[str, float]:
        """The metrics of the update; all ranks must ask."""
        device = self._places[0].device
        sums = distributed.all_reduce_sum(list(self._sums.values()), device)
        return {
            **dict(zip(self._sums, sums, strict=True)),
            "entropy_policy": self._mean(self._entropy),
            "clip_fraction": self._mean(self._clipped),
        }

    def _mean(self, parts: list[torch.Tensor]) -> float:
        return float(self._all_ranks.all_gather(in_order(parts, self._places)).mean())
