"""The paper and related objectives on torch tensors, for any trainer; no models and no files.

`Corrector` and the three losses take a trainer's own layout, padded (B, T) or packed (n,). The
modules beside them hold the same formulas as pure functions of flat tensors.
"""

from .advantages import group_advantage
from .corrector import Corrector, TopK, UpdateWeights
from .trainer_losses import actor_loss, distill_loss, policy_loss

__all__ = [
    "Corrector",
    "TopK",
    "UpdateWeights",
    "actor_loss",
    "distill_loss",
    "group_advantage",
    "policy_loss",
]
