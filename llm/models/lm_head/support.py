"""Which models' heads can be computed in blocks, and what is then asked of the models."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from llm.models import loading, sharding
from llm.models.loading import Model, plain
from llm.settings.loading import Config, ConfigError, ModelConfig

from .chunked import Head

BLOCKS_FROM = 1_024  # ids from which "auto" means blocks: fewer are not slower whole
ROUNDINGS = 32  # that logits of one formula may differ by, in slope and of the largest
SLOPE, GAP = 0.005, 2**-5  # at most these, however coarse the dtype
WIDE = 300.0  # the largest logit of a trial
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")  # their names in transformers' configs


def in_blocks(cfg: Config, vocabulary: int) -> bool:
    """Whether the settings ask for blocks, as far as the models allow them."""
    if cfg.optim.head != "auto":
        return cfg.optim.head == "chunked"
    return vocabulary >= BLOCKS_FROM and not cfg.actor.distill.top_k


def chunked(cfg: Config, policy: Model, actor: Model) -> bool:
    """Whether the run's logits are computed in blocks.

    Raises:
        ConfigError: that was demanded, and a model's head is of another form.
    """
    if not in_blocks(cfg, loading.logits_width(policy)):
        return False
    own = isinstance(cfg.actor, ModelConfig)  # the others have the policy's head
    roles = {"policy": policy} | ({"actor": actor} if own else {})
    if heads_of(roles, cfg.optim.head) is None:
        return False
    head, why = own_head(actor)
    if head is None:
        warnings.warn(
            f"evaluation holds whole logits in memory, for the actor: {why}", stacklevel=2
        )
    return True


def head_of(model: Model) -> tuple[Head | None, str]:
    """The head of a transformers causal language model, or None and the reason.

    Whatever a model does between hidden states and logits, a few tokens tell: the logits of its own
    forward pass must be those of the formula on `hidden_states`; and what it makes of float32
    logits up to `WIDE`, put in place of its head's, must be what the formula makes of them, which
    shows a scale that bfloat16 would hide and a cap that small logits would. No gradient, no
    randomness.
    """
    head, why = own_head(model)
    if head is None:
        return None, why
    if head.bias is not None and not bool(head.bias.isfinite().all()):
        return None, "its head's bias is not finite"
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # dropout would make the two passes differ
    try:
        with torch.no_grad():
            ids = torch.arange(min(8, len(head.weight)), device=head.weight.device)[None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            own_logits = model(**inputs).logits[0]  # (8, v)
            ours = head.logits(hidden_states(model, **inputs)[0])
            wide = torch.linspace(-WIDE, WIDE, ours.numel(), device=ours.device).view_as(ours)
            replaced = own_layer(model).register_forward_hook(lambda *_: wide[None])
            try:
                of_wide = model(**inputs).logits[0]  # what follows the head, alone
            finally:
                replaced.remove()
    except Exception as e:  # an unusual model may fail in any way; the dense path then still works
        return None, f"its hidden states cannot be had separately ({type(e).__name__}: {e})"
    finally:
        for module, training in modes:
            module.training = training
    # The model may round logits to another dtype than we do: the coarser of both is the measure.
    eps = max(torch.finfo(x.dtype).eps for x in (own_logits, ours))
    for one, two, rounding in (
        (own_logits, ours, eps),
        (of_wide, head.capped(wide), torch.finfo(of_wide.dtype).eps),
    ):
        slope, gap = differences(one, two)
        limits = (min(ROUNDINGS * rounding, most) for most in (SLOPE, GAP))
        if not all(x <= limit for x, limit in zip((slope, gap), limits, strict=True)):
            return None, (
                "its logits are not those of its head's weight: they differ by "
                f"{slope:.3g} in scale, and by up to {gap:.3g} of the largest"
            )
    return head, ""


def differences(theirs: torch.Tensor, ours: torch.Tensor) -> tuple[float, float]:
    """|1 - regression slope through 0|, and the largest gap over the largest value, (n, v) each."""
    if theirs.shape != ours.shape:
        return math.inf, math.inf
    a, b = theirs.float(), ours.float()
    # In float64: a float32 sum of n v squares may miss by more than the slope is allowed to.
    square = float((b * b).sum(dtype=torch.float64))
    if square == 0.0:
        return 0.0, math.inf if bool(a.any()) else 0.0
    slope = float((a * b).sum(dtype=torch.float64)) / square
    return abs(1.0 - slope), float((a - b).abs().max() / b.abs().max())


def own_layer(model: Model) -> Any:
    """The layer that makes logits, of whatever class."""
    return plain(model).get_output_embeddings()


def own_head(model: Model) -> tuple[Head | None, str]:
    """As `head_of` by its form alone, without a forward pass; of a sharded model, sharded.

    A quantised weight is given dequantised, a copy without gradient.
    """
    try:
        linear = own_layer(model)
        config = plain(model).config.get_text_config()
    except (AttributeError, NotImplementedError) as e:
        return None, f"it is not a transformers causal language model ({e})"
    # FSDP2 makes a class of its own of every module it shards, derived from the module's.
    kind = type(linear).__bases__[-1] if isinstance(linear, FSDPModule) else type(linear)
    if kind is not torch.nn.Linear:
        return None, f"its head is {kind.__name__}, not a plain linear layer"
    weight = linear.weight
    if type(weight) not in (torch.nn.Parameter, DTensor):  # a quantised one, say
        weight = dequantized(weight)
        if weight is None:
            return None, f"its head's weight is stored as {type(linear.weight).__name__}"
    softcap = next((c for c in (getattr(config, x, None) for x in SOFTCAPS) if c), None)
    return Head(weight, linear.bias, softcap), ""


@torch.no_grad()
def dequantized(weight: Any) -> torch.Tensor | None:
    """The values of a weight of torchao, (v, h), a plain tensor; None of one that has none."""
    try:
        values = weight.dequantize()
    except Exception:  # each kind of tensor fails in its own way, and whole logits still work
        return None
    return values if type(values) is torch.Tensor and values.shape == weight.shape else None


def hidden_states(model: Model, **inputs: Any) -> torch.Tensor:
    """What the head is applied to, (b, t, h): the model without its head, same inputs."""
    return sharding.as_forward(model, lambda: plain(model).base_model(**inputs).last_hidden_state)


def heads_of(models: dict[str, Model], wanted: str = "auto") -> dict[str, Head] | None:
    """The heads of all models, by role, or None for the dense path: one odd head forces it on all.

    wanted: "auto" (dense with a warning where need be), "chunked" (a ConfigError instead), "dense".
    """
    if wanted not in ("auto", "chunked", "dense"):
        raise ConfigError(f'head must be "auto", "chunked" or "dense", got "{wanted}"')
    if wanted == "dense":
        return None
    heads = {role: head_of(model) for role, model in models.items()}
    reasons = [f"the {role}: {why}" for role, (head, why) in heads.items() if head is None]
    sizes = {len(head.weight) for head, _ in heads.values() if head is not None}
    if len(sizes) > 1:
        reasons.append(f"the models' vocabularies have {sorted(sizes)} ids")
    if not reasons:
        return {role: head for role, (head, _) in heads.items() if head is not None}
    why = "; ".join(reasons)
    if wanted == "chunked":
        raise ConfigError(f'head = "chunked" is out of reach for {why}. Use head = "auto"')
    warnings.warn(f"whole logits are held in memory, for {why}", stacklevel=2)
    return None
