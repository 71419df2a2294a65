"""Feedback control of drafting: a number moves between steps, so that Z approaches a budget.

The number is a lam or a price, the same in every state of a step. It is fixed before the step's
first token is drawn. One that moved with the tokens of its own step would depend on them. Then s,
which is noted for a token, would not be the distribution that the token follows given what came
before.
"""

from __future__ import annotations

import math

import torch

from jackpot.torch.control import Decision
from llm.settings.schema import DraftLam, TrackedDraftLam, TrackedPriceDraftLam


class DraftDial:
    """The value in force, as part of a checkpoint.

    value: lam or price. is_price: which.
    """

    def __init__(self, lam: TrackedDraftLam | TrackedPriceDraftLam) -> None:
        self.is_price = isinstance(lam, TrackedPriceDraftLam)
        self.value, self._top = (
            (lam.price, lam.max) if isinstance(lam, TrackedPriceDraftLam) else (1.0, 1.0)
        )
        self._lam = lam

    def move(self, accept_rate: float) -> Decision:
        """After a step in which drafted states had this mean acceptance rate Z, of all ranks.

        Integral control in logs: (1 - Z) / (1 - budget), the rejections over those wanted, to the
        power `gain` divides lam or multiplies the price. Its logarithm counts as at most 1.
        """
        wanted, rejected = 1.0 - self._lam.budget, 1.0 - accept_rate
        # clamped, so that one odd batch moves nothing by more than e^gain; log 0 does not exist
        error = max(-1.0, min(1.0, math.log(rejected / wanted))) if rejected > 0 else -1.0
        before = self.value
        moved = before * math.exp((1 if self.is_price else -1) * self._lam.gain * error)
        self.value = max(self._lam.min, min(self._top, moved))
        return Decision(
            setting="rollout.mode.lam." + ("price" if self.is_price else "value"),
            before=before,
            after=self.value,
            reason=f"acceptance {accept_rate:.4g}, budget {self._lam.budget:.4g}",
            limited=self.value != moved,
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"value": torch.tensor([self.value], dtype=torch.float64)}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Raises ValueError: not one number within the limits."""
        value = tensors.get("value", torch.zeros(0))
        if tensors.keys() != {"value"} or value.shape != (1,) or value.dtype != torch.float64:
            raise ValueError("the lam or price of drafting is one number")
        if not self._lam.min <= float(value) <= self._top:
            raise ValueError(
                f"the lam or price of drafting cannot be {float(value)}, outside "
                f"[{self._lam.min:g}, {self._top:g}]"
            )
        self.value = float(value)


def open_dial(lam: DraftLam) -> DraftDial | None:
    """None where lam does not depend on earlier steps."""
    return DraftDial(lam) if isinstance(lam, TrackedDraftLam | TrackedPriceDraftLam) else None
