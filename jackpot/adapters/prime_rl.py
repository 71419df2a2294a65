"""prime-rl: `[trainer.loss] type = "custom"`, `import_path = "jackpot.adapters.prime_rl.loss"`.

prime-rl calls the function for one completion at a time, and hands over p_new and p_inf. So the
target is p_new, there is no clip, and Z would be of a single completion: the default is z = none,
with which mask and weight together are p_new / p_inf, capped at c1. prime-rl divides by the tokens
of all processes; since September 2026 by the sum of their `rl_weights`. Read at commit 559b4477
(2026-08-21, 0.8.0), and in the source of September 2026, where prime-rl's own losses are objects.
"""

from __future__ import annotations

from typing import Any

import torch

from jackpot.torch.checks import real_mask, refuse_unusable
from jackpot.torch.token_layout import per_token

from .hook import Hook, PeerError, options_of_environment, require_read, required

READ = ("0.8.0",)

_hooks: dict[tuple[tuple[str, str], ...], Hook] = {}


def hook_of(options: dict[str, Any]) -> Hook:
    """The hook of this process with these options, the `kwargs` of [trainer.loss], which go
    before those of the environment variable JACKPOT_OPTIONS.

    Raises:
        PeerError: prime-rl is another version than the one that was read.
        ValueError: an option that prime-rl cannot follow.
    """
    # As text: a list is no key, and True would be the key of 1.
    key = tuple(sorted((name, repr(value)) for name, value in options.items()))
    if key not in _hooks:
        _hooks[key] = new_hook(options)
    return _hooks[key]


def new_hook(options: dict[str, Any]) -> Hook:
    """A hook of its own; options and errors as `hook_of`."""
    require_read("prime-rl", READ)
    own = options_of_environment() | options
    return Hook("prime-rl", own, defaults={"z": "none"}, one_policy=True)


def loss(inputs: Any, **options: Any) -> Any:
    """The policy gradient of one completion's tokens, sum of -weight A log p_new.

    Args:
        inputs: prime-rl's LossInputs. trainer_logprobs (with gradient), inference_logprobs,
            advantages, loss_mask, (n,) each; loss_weights, (n,) or None.

    Returns:
        prime-rl's LossOutputs, whose loss is a sum.
    """
    return loss_of_completion(hook_of(options), inputs)


class CompletionLoss:
    """The same as an object with a method `loss`, which prime-rl's losses are since September 2026.

    prime-rl's configuration names functions alone, and wraps them in such an object. This one is
    for a loop of your own around prime-rl's `compute_loss`, as `rl_loss_fn`. It has a counter of
    its own.

    Args:
        options: as the `kwargs` of [trainer.loss].

    Raises:
        PeerError, ValueError: as `hook_of`.
    """

    def __init__(self, **options: Any) -> None:
        self.hook = new_hook(options)

    def loss(self, inputs: Any) -> Any:
        """As the function `loss`."""
        return loss_of_completion(self.hook, inputs)


def loss_of_completion(hook: Hook, inputs: Any) -> Any:
    """LossOutputs of LossInputs, as `loss`.

    Raises:
        PeerError: prime-rl is not installed, or its LossInputs lack what is named there.
        TypeError, ValueError: as `Corrector.weights`; NaN or inf at a token that counts.
    """
    try:
        from prime_rl.trainer.rl.loss import LossOutputs
    except ImportError as e:
        raise PeerError(f"prime-rl's LossOutputs could not be imported: {e}") from e
    new, mask, advantages = (
        required("prime-rl", f"{name} in LossInputs", getattr(inputs, name, None))
        for name in ("trainer_logprobs", "loss_mask", "advantages")
    )
    mask = real_mask(mask, new.shape)
    sequence = torch.zeros_like(mask, dtype=torch.long)
    logp_inf = getattr(inputs, "inference_logprobs", None)
    weights = hook.weights(logp_inf, new.detach(), new, mask, sequence)
    kept = weights.weight != 0
    factors = {"advantages": per_token(advantages, new)}
    if getattr(inputs, "loss_weights", None) is not None:
        factors["loss_weights"] = per_token(inputs.loss_weights, new, "loss_weights")
    others = {name: x[kept].detach() for name, x in factors.items()}
    refuse_unusable({"trainer_logprobs": new[kept]}, others, "tokens that count")
    # r = p_new / SG(p_new) is 1 and has the gradient of log p_new: PPO's term before any update.
    ratio = (new[kept] - new[kept].detach()).exp()
    losses = -weights.weight[kept] * ratio
    for x in others.values():
        losses = losses * x
    metrics = {name: torch.tensor(value) for name, value in hook.metrics(weights).items()}
    return LossOutputs(loss=losses.sum(), metrics=metrics)
