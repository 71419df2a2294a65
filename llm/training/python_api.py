"""`llm.train(cfg, reward=f)`: training from Python, in one call and this process."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llm import distributed
from llm.rewards.function_scorer import callable_name
from llm.runs import run_folder
from llm.runs.first_checks import check_first
from llm.settings.loading import Config, ConfigError
from llm.settings.schema import AutoReward, PythonReward


def make_callable(name: str) -> None:
    """Calling the module of this name, which has a function `train`, trains.

    `llm.train` names the module llm/train.py as soon as anything imports it, whatever
    llm/__init__.py defines under that name. So the module itself is what `llm.train(cfg)` calls.
    Python makes a module callable by its class.
    """
    sys.modules[name].__class__ = _CallableModule


class _CallableModule(types.ModuleType):
    train: Callable[..., dict[str, Any]]

    def __call__(self, cfg: Config, *, reward: Callable[..., Any] | None = None) -> dict[str, Any]:
        """Train or resume a run in cfg.run.folder; returns its summary, also of a complete run.

        Args:
            cfg: from `llm.load`.
            reward: a function in place of a scorer (docs/rewards.md). It is called in this process,
                without limits on time and memory; one that cfg.reward.function names has them.

        Signals: while models are opened yours stay as they are, so Ctrl-C is a KeyboardInterrupt
        and SIGTERM ends the process, and there is nothing to save. While steps are made, and only
        in the main thread, SIGINT, SIGTERM, SIGHUP and SIGUSR1 save the run and raise
        `llm.runs.signals.Stopped`; your handlers are back then. In other threads no handler is
        touched, and a signal does what it does without this call.

        Raises:
            ConfigError: settings or a folder that cannot be used; and what llm.train.train raises.
        """
        cfg = cfg if reward is None else with_callable(cfg, reward)
        check_first(cfg)
        distributed.check_settings(cfg)
        with run_folder.prepared(cfg) as folder:
            if run_folder.is_complete(folder, cfg):
                return run_folder.summary(folder)
            return self.train(cfg, folder, reward)


def with_callable(cfg: Config, reward: Callable[..., Any]) -> Config:
    """The settings of a run whose rewards are a Python callable's: they name it.

    Raises:
        ConfigError: the settings choose another function, or a scorer.
    """
    own = PythonReward() if isinstance(cfg.reward, AutoReward) else cfg.reward
    if not isinstance(own, PythonReward):
        raise ConfigError(
            f"reward.type {own.type} is set, and a callable was given too: leave one of them out"
        )
    return replace(cfg, reward=replace(own, callable=callable_name(reward)))
