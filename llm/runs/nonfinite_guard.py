"""NaN and inf end a run before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from llm import distributed
from llm.checkpoints.checkpoint import latest
from llm.distributed.dtensors import local
from llm.errors import NonFinite


class Guard:
    """Stops a run at the first NaN or inf, naming the step, the tensor and the last checkpoint.

    together: what one rank finds stops all of them; all must then make the same calls.
    """

    def __init__(self, checkpoints: Path, together: bool = False) -> None:
        self.checkpoints, self.together = checkpoints, together

    def finite(self, step: int, **tensors: torch.Tensor) -> None:
        """Raises NonFinite unless every value is finite."""
        self._refuse(step, torch.isfinite, tensors)

    def logprobs(self, step: int, **tensors: torch.Tensor) -> None:
        """The same of log-probabilities, in which -inf is legal: a probability of 0."""
        self._refuse(step, lambda x: torch.isfinite(x) | torch.isneginf(x), tensors)

    def _refuse(
        self,
        step: int,
        legal: Callable[[torch.Tensor], torch.Tensor],
        tensors: dict[str, torch.Tensor],
    ) -> None:
        first = None
        for name, x in tensors.items():
            if first is None and not bool(legal(x).all()):
                first = name, int((~legal(x)).sum()), x.numel()
        if self.together and distributed.all_reduce_max(first is not None):
            first = next(f for f in distributed.all_gather_object(first) if f)
        if first is not None:
            self._stop(step, *first)

    def gradients(self, step: int, **models: torch.nn.Module) -> None:
        """The same of all gradients: one check, and a search for the culprit only if it fails."""
        gradients = {
            f"gradient of {role}.{name}": local(parameter.grad)
            for role, model in models.items()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        # the largest magnitude: unlike a sum of squares it cannot overflow, and it keeps NaN
        parts = [
            x for x in gradients.values() if x.numel()
        ]  # of a small tensor a rank may have none
        largest = torch._foreach_norm(parts, float("inf")) if parts else []
        norms = torch.stack([x.float() for x in largest]) if parts else torch.zeros(0)
        bad = not bool(torch.isfinite(norms).all())
        if distributed.all_reduce_max(bad) if self.together else bad:
            self.finite(step, **gradients)

    def _stop(self, step: int, name: str, bad: int, count: int) -> None:
        kept = latest(self.checkpoints)
        remedy = (
            "Lower the learning rate or the caps c1, c2: as another run, with another "
            "--run.folder, which may start from a model that `python -m llm export` makes."
        )
        if step == 0:
            remedy = (
                "No step was done yet, so look at the models first: python -m llm doctor, "
                "--policy.dtype float32."
            )
        raise NonFinite(
            f"step {step}: {name} holds {bad} NaN or inf of {count} values, so training "
            f"stopped before using it. Last good checkpoint: {kept if kept else 'none yet'}. "
            f"{remedy}"
        )
