"""What one optimiser step measures, put together over its microbatches and over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from jackpot.torch.objectives import PolicyLoss
from llm import distributed
from llm.distributed import GlobalTokens
from llm.rollout.batch import in_order

from .forward import ModelOutputs


class UpdateMetrics:
    """Losses are summed over microbatches and ranks; token metrics are means over all tokens."""

    def __init__(self, all_ranks: GlobalTokens, objective: Mapping[str, Any]) -> None:
        """objective: the keywords of `policy_loss_sum`."""
        self._all_ranks, self._objective = all_ranks, objective
        self._places: list[torch.Tensor] = []
        self._sums: dict[str, float] = {}
        self._entropy: list[torch.Tensor] = []
        self._policy: list[PolicyLoss] = []

    def add(
        self,
        places: torch.Tensor,
        terms: dict[str, torch.Tensor],
        out: ModelOutputs,
        policy: PolicyLoss,
    ) -> None:
        """A microbatch's loss terms (without coefficients), outputs, and what the objective says.

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
        self._policy.append(policy)

    def of_all_ranks(self) -> dict[str, float]:
        """The metrics of the update; all ranks must ask."""
        device = self._places[0].device
        sums = distributed.all_reduce_sum(list(self._sums.values()), device)
        return {
            **dict(zip(self._sums, sums, strict=True)),
            "entropy_policy": self._mean(self._entropy),
            "clip_fraction": self._mean([x.clipped for x in self._policy]),
            **self._of_objective(),
            **self._objective.get("metrics", {}),  # of whole completions, of all ranks
        }

    def _of_objective(self) -> dict[str, float]:
        """Shares of tokens that masks leave out, and bounds that adapted to the update."""
        kind, metrics = self._objective["type"], {}
        if kind in ("dppo", "m2po"):
            metrics["objective_mask_fraction"] = self._mean([x.masked for x in self._policy])
        if self._objective.get("opsm_delta", math.inf) < math.inf:
            metrics["sequence_mask_fraction"] = self._mean(
                [x.sequence_masked for x in self._policy]
            )
        bounds = {"bapo_low": "low", "bapo_high": "high", "m2po_threshold": "threshold"}
        for metric, name in bounds.items():
            if math.isfinite(bound := self._objective.get(name, math.inf)):  # inf: nothing masked
                metrics[metric] = bound
        return metrics

    def _mean(self, parts: list[torch.Tensor]) -> float:
        return float(self._all_ranks.all_gather(in_order(parts, self._places)).mean())
