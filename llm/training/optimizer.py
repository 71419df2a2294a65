"""AdamW that keeps float32 master weights of lower-precision models, and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from jackpot.torch.control import Controls
from jackpot.torch.correction import CorrectionState
from llm import distributed
from llm.distributed.dtensors import full
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config
from llm.settings.schema import OptimConfig, SeparateActor

from .context import TrainContext
from .pair_gaps import PairGaps


class MasterAdamW(torch.optim.AdamW):
    """AdamW in float32 whatever the parameters are.

    A step of a bfloat16 parameter is made on its float32 master and rounded; in bfloat16 itself a
    step below 1/256 of a weight is lost. Float32 parameters are their own masters, and the
    optimiser is then torch's. Masters are part of the state: a restored run repeats exactly.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], **settings: Any) -> None:
        trained = [p for p in parameters if p.requires_grad]
        # detached copies: the model's graph never reaches a master
        masters = [p if p.dtype == torch.float32 else p.detach().float() for p in trained]
        self._pairs = [
            (i, p, m) for i, (p, m) in enumerate(zip(trained, masters, strict=True)) if p is not m
        ]
        super().__init__(masters, **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        # Gradients go up to float32, the step is made there, and values come back rounded once.
        for _, parameter, master in self._pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
        super().step(closure)
        for _, parameter, master in self._pairs:
            master.grad = None  # float32, as large as the model: freed before the next forward
            parameter.copy_(master)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        # torch's optimiser knows the masters alone; the model's own gradients are cleared here
        for _, parameter, _ in self._pairs:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        base = super().state_dict()
        state = dict(base["state"])
        # also before the first step, when torch has no state of a parameter
        for i, _, master in self._pairs:
            state[i] = {**state.get(i, {}), "master": master.detach()}
        return {**base, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = {i: dict(values) for i, values in state_dict["state"].items()}
        masters = [(m, state[i].pop("master")) for i, _, m in self._pairs]
        # without masters, which torch's optimiser does not know; an empty entry is no state
        super().load_state_dict({**state_dict, "state": {i: v for i, v in state.items() if v}})
        for master, kept in masters:
            master.detach().copy_(kept)  # not from the rounded parameter: low bits would be lost


def adamw(model: torch.nn.Module, lr: float, weight_decay: float, eps: float = 1e-8) -> MasterAdamW:
    """AdamW (betas 0.9 and 0.95) over the parameters of `model` that are trained."""
    return MasterAdamW(
        list(model.parameters()), lr=lr, betas=(0.9, 0.95), eps=eps, weight_decay=weight_decay
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_factor(cfg: OptimConfig, step: int, steps: int) -> float:
    """What both learning rates are multiplied by at a step of `steps`.

    Rises to 1 over lr_warmup_steps; then 1, or to 0 (linearly, or as a cosine), which it would
    reach just after the last step: no step is without effect.
    """
    if step < cfg.lr_warmup_steps:
        return (step + 1) / (cfg.lr_warmup_steps + 1)
    done = (step - cfg.lr_warmup_steps) / max(1, steps - cfg.lr_warmup_steps)
    if cfg.schedule == "linear":
        return 1.0 - done
    if cfg.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


Optimizers = dict[str, torch.optim.Optimizer]


@dataclass
class Learner:
    """What an update uses besides the models.

    optimizers: by role. guard: stops at NaN and inf. controls: values that closed loops drive.
    correction: statistics of earlier steps, for the weights. gaps: those of alpha-DPO.
    """

    optimizers: Optimizers
    guard: Guard
    controls: Controls
    correction: CorrectionState = field(default_factory=CorrectionState)
    gaps: PairGaps = field(default_factory=PairGaps)

    def zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()


def open_learner(ctx: TrainContext, guard: Guard) -> Learner:
    """A learner before its first step."""
    return Learner(open_optimizers(ctx), guard, Controls(ctx.cfg.actor.distill.coef))


def open_optimizers(ctx: TrainContext) -> Optimizers:
    """One for each model that is trained."""
    optim, rates = ctx.cfg.optim, learning_rates(ctx.cfg)
    return {
        role: adamw(model, rates[role], optim.weight_decay, optim.eps)
        for role, model in ctx.trained.items()
    }


def learning_rates(cfg: Config) -> dict[str, float]:
    """The configured ones, by role."""
    own = {"actor": cfg.actor.lr} if isinstance(cfg.actor, SeparateActor) else {}
    return {"policy": cfg.optim.policy_lr} | own


def set_learning_rates(
    cfg: Config, learner: Learner, alarm_factor: float, step: int
) -> dict[str, float]:
    """This step's rates, lr_<role>: configured, scheduled, lowered by alarms, and controlled."""
    factor, controls = alarm_factor * lr_factor(cfg.optim, step, cfg.run.steps), learner.controls
    controlled = {"policy": controls.policy_lr_factor, "actor": controls.actor_lr_factor}
    rates = {role: lr * factor * controlled[role] for role, lr in learning_rates(cfg).items()}
    for role, optimizer in learner.optimizers.items():
        set_lr(optimizer, rates[role])
    return {f"lr_{role}": rates[role] for role in learner.optimizers}


def optimizer_step(
    ctx: TrainContext, learner: Learner, step: int, idle: Collection[str] = ()
) -> dict[str, float]:
    """Sum gradients over ranks, refuse NaN and inf, clip each model's norm, step.

    idle: roles that are not stepped; with a gradient of 0 AdamW's momentum and decay would still
    move them. The same on all ranks.

    Returns:
        grad_norm_<role>, before clipping.

    Raises:
        NonFinite: NaN or inf in a gradient; no optimiser was stepped.
    """
    norms = {}
    for role in learner.optimizers:
        model = ctx.trained[role]
        if role not in ctx.shards:  # sharded gradients are summed already
            distributed.all_reduce_gradients(model.parameters())
        # Clipping would turn one inf into NaN everywhere, so the guard looks first; and all models
        # are looked at before any is stepped, so policy and actor never part.
        learner.guard.gradients(step, **{role: model})
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), ctx.cfg.optim.grad_clip)
        norms[f"grad_norm_{role}"] = float(full(norm))
    for role, optimizer in learner.optimizers.items():
        if role not in idle:
            optimizer.step()
    return norms
