"""What a run works with, opened once and handed on: data, scorer, tokenizer, models."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llm import distributed
from llm.models import actors, loading, roles, sharding
from llm.models.actors import Actor
from llm.models.lm_head import support
from llm.models.loading import Model
from llm.phases import during
from llm.rewards import scorers
from llm.rollout.engines.base import Engine
from llm.rollout.engines.factory import open_engine
from llm.rollout.engines.vllm_engine import check_installed
from llm.settings.loading import Config, ConfigError
from llm.tasks import factory, problem
from llm.tokenizers import pretrained

from .allocation import open_history, open_values
from .prompt_history import OptimalValues, PromptHistory


class TrainContext(NamedTuple):
    """Closes its processes where it is left as a context manager.

    initial_policy: the policy as it was at the start, frozen; None where no loss needs it.
    engine: samples the rollouts; None where there are none.
    shards: by role, what is trained in place of a model that is spread over ranks.
    chunked: logits are computed in blocks, for all models that have a head of their own form.
    history, values: of the prompts of the pool; None where nothing goes by them.
    folder: of the run."""

    cfg: Config
    tokenizer: pretrained.Tokenizer
    task: problem.Task
    scorer: scorers.Scorer
    policy: Model
    actor: Actor
    initial_policy: Model | None
    device: torch.device
    engine: Engine | None = None
    shards: Mapping[str, Model] = {}
    chunked: bool = False
    history: PromptHistory | None = None
    values: OptimalValues | None = None
    folder: Path = Path()

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints are."""
        return self.folder / "checkpoints"

    @property
    def full_models(self) -> dict[str, Model]:
        """The trained models, by role: those that sample, are evaluated and are saved."""
        return {"policy": self.policy} | ({"actor": self.actor.model} if self.actor.trained else {})

    @property
    def trained(self) -> dict[str, Model]:
        """The trained models, by role, as they are trained."""
        return {**self.full_models, **self.shards}

    def gather_shards(self) -> None:
        """Copy what was trained in shards into the full models."""
        sharding.collect(self.shards, self.full_models)

    def publish_weights(self, step: int) -> None:
        """After the updates of `step` the actor and the sampling engine take over the weights."""
        # In this order: an actor made from the policy copies the full weights, and the engine its.
        self.gather_shards()
        self.actor.refresh(self.policy, step)
        if self.engine is not None:
            self.engine.update(self.actor.model, version=step + 1)

    def __enter__(self) -> TrainContext:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of engine and scorer."""
        if self.engine is not None:
            self.engine.close()
        self.scorer.close()


def open_context(
    cfg: Config, folder: Path, reward: Callable[..., Any] | None = None
) -> TrainContext:
    """Data, scorer, models and engine of a run; built models are pretrained, in `folder` by
    default. reward: a function of this process, in place of the task's scorer.

    Raises:
        ConfigError: models that share no tokenizer, bad data, sequences longer than a model's
            positions, fewer token ids than rollout.top_k, a missing package or device.
    """
    if cfg.rollout.engine.type == "vllm":
        check_installed()  # before pretraining, which may take long
    torch.set_num_threads(cfg.run.threads)
    device = open_device(cfg.run.device)
    tokenizer = roles.open_tokenizer(cfg, folder)
    with contextlib.ExitStack() as undo:  # what was started ends if what follows fails
        scorer = scorers.open_scorer(cfg.task, tokenizer, cfg.reward, reward)
        undo.callback(scorer.close)
        task = factory.open_task(cfg.task, tokenizer, cfg.reward)
        task = factory.with_pool(cfg, task)
        with during("while models were opened"):
            ctx = _with_models(cfg, folder, tokenizer, task, scorer, device, undo)
        undo.pop_all()
    return ctx


def _with_models(
    cfg: Config,
    folder: Path,
    tokenizer: pretrained.Tokenizer,
    task: problem.Task,
    scorer: scorers.Scorer,
    device: torch.device,
    undo: contextlib.ExitStack,
) -> TrainContext:
    """`open_context` from the models on. undo: what is to be ended if this fails."""
    factory.require_distinct_prompts(cfg, task)
    policy = distributed.main_first(lambda: roles.open_policy(cfg, folder)).to(device)
    actor = distributed.main_first(lambda: actors.open_actor(cfg, policy, folder))
    longest = max(factory.prompt_lengths(cfg, task, tokenizer))
    by_role = {"policy": policy, "actor": actor.model}
    loading.check_positions(by_role, longest, cfg.rollout.max_new_tokens)
    initial = None
    if cfg.loss.initial_kl_coef > 0 or cfg.objective.needs_initial:
        # before sharding and any update: a copy of the policy as it starts
        initial = copy.deepcopy(policy).requires_grad_(False)
    engine = open_engine(cfg, tokenizer, actor.model, device, policy)
    undo.callback(engine.close)
    ctx = TrainContext(cfg, tokenizer, task, scorer, policy, actor, initial, device, engine)
    chunked = support.chunked(cfg, policy, actor.model)
    ctx = ctx._replace(chunked=chunked, folder=folder)
    ctx = ctx._replace(history=open_history(cfg, task), values=open_values(cfg, task))
    if cfg.run.sharding == "fsdp" and distributed.world_size() > 1:
        shards = {role: sharding.shard(model) for role, model in ctx.full_models.items()}
        ctx = ctx._replace(shards=shards)
    if cfg.run.activation_checkpointing:
        for model in ctx.trained.values():
            loading.enable_recomputing(model)
    return ctx


def open_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if distributed.takes_cuda(name) else "cpu"
    try:
        device = torch.zeros(1, device=name).device
        if device.type == "meta":
            raise RuntimeError("it holds shapes and no numbers")
        return device
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(
            f"--run.device {name} cannot be used: {str(e).splitlines()[0]}. Use auto or cpu"
        ) from e
