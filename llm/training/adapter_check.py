"""Before training: does a model whose adapters were merged compute what the adapters compute?

The trainer's forward pass adds adapters to each layer's output. A copy that samples may have them
merged into its weights: in vLLM, and in an actor that is quantised or noisy. Adapters start without
effect, so a wrong merge shows only after some updates. For the check they get an effect of half the
size of the weights, and afterwards what they had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from llm.models.loading import Model, frozen_copy
from llm.rollout.batch import Batch
from llm.settings.loading import ConfigError, ModelConfig
from llm.settings.schema import NoisyActor, QuantizedActor

from .context import TrainContext
from .forward import at_sampled_tokens, forward, logprobs_and_kls

_SIZE = 0.5  # of what the adapters add, over the weight's own Frobenius norm
_SEED = 20_260_207  # of the adapters for the check; the same on all ranks
# The largest share of the adapters' effect that may be lost, and what rounding alone may do, in
# nats on average. An adapter that is left out loses all of it, one that is applied twice as much.
_LIMITS = {"float32": (0.05, 1e-4), "bfloat16": (0.25, 0.02)}


class AdapterCheckError(ConfigError):
    """A copy with merged adapters computes something else than the trainer."""


class AdapterCheck(NamedTuple):
    """gap: what log-probabilities of the likeliest tokens differ by between copy and trainer, nats
    on average. effect: what the adapters change in them. place: which copy."""

    place: str
    gap: float
    effect: float


def adapter_layers(model: Model) -> list[tuple[str, Any]]:
    """Layers with low-rank adapters, by name."""
    return [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)]


@torch.no_grad()
def compare_adapters(ctx: TrainContext, sample: Callable[[], Batch]) -> AdapterCheck | None:
    """Compare the copies that sample with merged adapters to the trainer; None if there are none.

    Args:
        sample: asks the engine for completions. Called while the adapters have an effect.

    Raises:
        AdapterCheckError: an adapter that the copy leaves out, applies twice or scales otherwise.
    """
    model, engine = ctx.actor.model, ctx.cfg.rollout.engine.type
    if adapter_layers(model) and ctx.engine is not None and engine != "hf":
        part = ctx.cfg.actor if isinstance(ctx.cfg.actor, ModelConfig) else ctx.cfg.policy
        version = ctx.engine.version
        try:
            with effective_adapters(model, part):
                ctx.engine.update(model, version=version)
                batch = sample()
                return _judged(ctx, model, part, batch, batch.topk_logp_inf, f"engine {engine}")
        finally:
            ctx.engine.update(model, version=version)
    if adapter_layers(ctx.policy) and isinstance(ctx.cfg.actor, QuantizedActor | NoisyActor):
        with effective_adapters(ctx.policy, ctx.cfg.policy):
            batch = sample()
            copied = _logp(ctx, frozen_copy(ctx.policy), batch)  # as the actor is made of it
            place = f"copy of which the {ctx.cfg.actor.type} actor is made"
            return _judged(ctx, ctx.policy, ctx.cfg.policy, batch, copied, place)
    return None


@contextmanager
def effective_adapters(model: Model, part: ModelConfig) -> Iterator[None]:
    """Adapters that change the outputs of their layers, and in the end those that there were."""
    layers = [layer for _, layer in adapter_layers(model)]
    kept = [(w, w.detach().clone()) for layer in layers for w in _factors(layer)]
    generator = torch.Generator().manual_seed(_SEED)
    try:
        for layer in layers:
            down, up = _factors(layer)  # (r, in), (out, r)
            for factor in (down, up):
                factor.copy_(torch.randn(factor.shape, generator=generator))
            own = layer.get_base_layer().weight.float().norm()
            added = part.lora.alpha / part.lora.rank * (up.float() @ down.float()).norm()
            up.mul_(_SIZE * own / added)
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both factors of a layer's adapter, (r, in) and (out, r)."""
    name = next(iter(layer.lora_A))
    return layer.lora_A[name].weight.data, layer.lora_B[name].weight.data


def _logp(ctx: TrainContext, model: Model, batch: Batch) -> torch.Tensor:
    """(n, k) of the likeliest tokens, as training computes them."""
    asked = at_sampled_tokens(forward(ctx, model, batch), batch)._replace(ids=batch.topk_ids)
    (scored,), _ = logprobs_and_kls([asked], ctx.cfg.rollout.temperature)
    return scored.logp_ids


def _judged(
    ctx: TrainContext,
    model: Model,
    part: ModelConfig,
    batch: Batch,
    copied: torch.Tensor,
    place: str,
) -> AdapterCheck:
    """copied: (n, k) by the copy. While the adapters of `model` have an effect; they lose it."""
    own = _logp(ctx, model, batch)
    for _, layer in adapter_layers(model):
        _factors(layer)[1].zero_()
    without = _logp(ctx, model, batch)
    known = torch.isfinite(copied) & torch.isfinite(own) & torch.isfinite(without)
    change, copied_change = (own - without)[known].double(), (copied - without)[known].double()
    gap, effect = float((copied_change - change).abs().mean()), float(change.abs().mean())
    share, rounding = _LIMITS[part.dtype]
    check = AdapterCheck(place, gap, effect)
    if not bool(torch.isfinite(own).any()):
        return check  # NaN weights: the guard of the first step says so by the model's name
    if not bool(known.any()) or not gap <= share * effect + rounding:
        times = float((copied_change * change).sum() / (change * change).sum().clamp_min(1e-30))
        raise AdapterCheckError(
            f"self-test (adapters): they change log-probabilities by {effect:.3g} nats on average, "
            f"and the {place} differs from the trainer by {gap:.3g} (it applies them about "
            f"{times:.2g} times, with lora.alpha / lora.rank = "
            f"{part.lora.alpha / part.lora.rank:g}). Training would correct for this as if it were "
            "a mismatch: look at how adapters are merged or sent there. Until then take "
            "--rollout.engine.type hf with an actor that has its adapters beside its weights "
            "(self, stale, separate), or --policy.lora.type none"
        )
    return check
