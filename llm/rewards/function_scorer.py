"""Rewards by a function of the user's, called in workers (a name) or in this process (a callable).

The function is called with keyword arguments: prompt, completion, answer, finished, and the row's
other columns (`arguments`). What fails is counted, the first failures are shown, and it scores 0 or
stops the run (reward.on_error).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llm.errors import Interruption
from llm.settings.schema import FunctionReward, OwnReward

from .function_pool import FunctionPool, Reply, RewardError
from .function_worker import call_function, described, parameters

_SHOWN_MAX = 3  # different failures that are shown
_EXCERPT = 200  # characters of a prompt or completion in a message
_COUNTED_AS = {"late": "score_timeouts", "lost": "score_crashes"}  # all others: score_errors

Call = Callable[[Sequence[tuple[dict[str, Any], int | None]]], list[Reply]]


class FunctionScorer:
    """Scores by a function. Any finite float may be a reward."""

    def __init__(self, cfg: OwnReward, tokenizer: Any, own: Callable[..., Any] | None) -> None:
        """Args: own: a callable of this process; None: the function that `cfg` names, in workers.

        Raises:
            RewardError: a function that cannot be loaded; a callable that was not given.
        """
        self._cfg, self._tokenizer = cfg, tokenizer
        self._named = "the reward function"  # in messages
        if cfg.name:
            self._named = f"--reward.{'callable' if own else 'function'} {cfg.name}"
        self._counts = dict.fromkeys(("score_errors", "score_timeouts", "score_crashes"), 0)
        self._shown: set[str] = set()
        self._pool: FunctionPool | None = None
        if own is None:
            if not isinstance(cfg, FunctionReward):
                name = cfg.name.rpartition(".")[2] or "f"
                raise RewardError(
                    f"--reward.type python is a callable, {cfg.name or 'of your own'}, that is "
                    f"given as llm.train(cfg, reward={name}): give it so again, or name its file: "
                    "--reward.function FILE.py:NAME"
                )
            self._pool = FunctionPool(cfg)
            self._call: Call = self._pool.call
            self._needed, self._digest = self._pool.needed, self._pool.digest
            self._modules = self._pool.modules
        else:
            self._call = lambda jobs: [_called(own, *job) for job in jobs]
            known = parameters(own)
            self._needed, self._digest = known[1] if known else [], source_digest(own)
            self._modules = {}

    def score(
        self,
        completions: list[list[int]],
        answers: list[str],
        prompts: Sequence[str] = (),
        extras: Sequence[str] = (),
    ) -> list[float]:
        """One reward for each completion; 0 for one that it could not be computed of.

        Raises:
            RewardError: a failure where reward.on_error is stop; an argument that no row has.
        """
        given = [
            arguments(c, a, p, x, self._tokenizer)
            for c, a, p, x in zip(completions, answers, prompts, extras, strict=True)
        ]
        if not given:
            return []
        self._refuse_unknown(given)
        jobs: list[tuple[dict[str, Any], int | None]] = [(g, None) for g in given]
        if self._cfg.batched:
            jobs = [(together(given), len(given))]
        results: list[float | str] = []
        kinds: list[str] = []
        for (_, count), reply in zip(jobs, self._call(jobs), strict=True):
            n = 1 if count is None else count
            good = reply.outcome == "rewards" and len(reply.rewards) == n
            results += reply.rewards if good else [reply.message or "no reply"] * n
            kinds += [_COUNTED_AS.get(reply.outcome, "score_errors")] * n
        return self._without_failures(results, kinds, given)

    def counts(self) -> dict[str, int]:
        """Completions whose reward failed since the last call, by kind."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return counts

    def identity(self) -> dict[str, str]:
        """Digests of the function's source and of the modules beside it that it imports, which a
        resumed run must have too."""
        own = {f"reward.function: {name} (SHA-256)": d for name, d in self._modules.items()}
        return {"reward.function (SHA-256 of its source)": self._digest, **own}

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _without_failures(
        self, results: list[float | str], kinds: list[str], given: list[dict[str, Any]]
    ) -> list[float]:
        """Rewards, with 0 in place of every failure, which is counted and perhaps shown."""
        for result, kind, one in zip(results, kinds, given, strict=True):
            if not isinstance(result, str):
                continue
            self._counts[kind] += 1
            message = (
                f"{self._named} failed: {result}; prompt "
                f"{one['prompt'][-_EXCERPT:]!r}, completion {one['completion'][-_EXCERPT:]!r}"
            )
            if self._cfg.on_error == "stop":
                raise RewardError(f"{message}. --reward.on_error zero scores it 0 and goes on")
            if len(self._shown) < _SHOWN_MAX and result not in self._shown:
                self._shown.add(result)
                last = len(self._shown) == _SHOWN_MAX
                more = "; others are only counted (score_errors and the like)" if last else ""
                sys.stderr.write(f"{message}; it scores 0{more}\n")
        return [0.0 if isinstance(r, str) else float(r) for r in results]

    def _refuse_unknown(self, given: list[dict[str, Any]]) -> None:
        """An argument that no row has would fail in every call."""
        for name in self._needed:
            if not any(name in g for g in given):
                known = ", ".join(dict.fromkeys(k for g in given for k in g))
                raise RewardError(
                    f"{self._named} needs an argument {name!r}, which no "
                    f"row has: there are {known}. Give it a default, or name it otherwise"
                )


def arguments(
    completion: list[int], answer: str, prompt: str, extra: str, tokenizer: Any
) -> dict[str, Any]:
    """What a function is called with for one completion.

    Args:
        completion: sampled ids, end-of-sequence included.
        extra: the row's other columns as a JSON object; empty: none.

    Returns:
        The row's other columns, and in place of any of the same name `prompt`, `completion` (text,
        without the end-of-sequence token), `answer` (text, "" if the row has none; or what the row
        has, if that is no text) and `finished` (whether the completion ended itself).
    """
    row: dict[str, Any] = json.loads(extra) if extra else {}
    row["prompt"] = prompt
    row["completion"] = tokenizer.decode(completion) if completion else ""
    if answer or "answer" not in row:  # an answer that is no text is among the columns
        row["answer"] = answer
    row["finished"] = bool(completion) and completion[-1] in tokenizer.eos
    return row


def together(given: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of several completions as lists, with None where a row lacks a column."""
    names = dict.fromkeys(name for g in given for name in g)
    return {name: [g.get(name) for g in given] for name in names}


def source_digest(function: Callable[..., Any]) -> str:
    """SHA-256 of a callable's source; of its name where Python finds none."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = callable_name(function)
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def callable_name(function: Callable[..., Any]) -> str:
    """module.name of a callable; of its class if it has no name."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _called(function: Callable[..., Any], given: dict[str, Any], count: int | None) -> Reply:
    """A call in this process: whatever it raises is a failure, panics of libraries in Rust and
    sys.exit too, which are no Exception. An interrupt is not."""
    try:
        return Reply("rewards", call_function(function, given, count))
    except (KeyboardInterrupt, Interruption):
        raise
    except BaseException as e:
        return Reply("failed", [], described(e))
