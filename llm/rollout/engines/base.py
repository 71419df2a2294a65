"""Rollout engines: who samples a step's completions, from which weights, and how far ahead.

Every engine answers a `GenerationRequest`, which is numbers alone, with what `sampling.sample`
gives from the same random streams (vllm: from seeds of its own for each step and sequence). With
rollout.max_staleness = d the batch of step t is requested once step t - 1 - d is done, from the
weights as they are then, so at most d + 1 batches wait and results never depend on timing. Batches
that wait belong to a checkpoint (`state_dict`, `load_state_dict`): a resumed run takes them from
there.

Each rank has an engine of its own for its own sequences. What waits is put together from all ranks
for a checkpoint (`gather`), and cut to each rank's part when it is read, so ranks may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from llm import distributed, randomness
from llm.models.loading import Model
from llm.rollout import sampling
from llm.rollout.batch import Samples, Verification
from llm.rollout.draft_dial import DraftDial, open_dial
from llm.rollout.drafted import Drafting, LogqCheck, sample_drafted
from llm.settings.loading import Config, ConfigError
from llm.settings.schema import (
    DraftedMode,
    FixedDraftLam,
    PriceDraftLam,
    StateDraftLam,
)
from llm.tasks.problem import Problem
from llm.tokenizers.pretrained import Tokenizer

Result = dict[str, torch.Tensor]  # the tensors FIELDS of Samples, or NON_FINITE alone
FIELDS = (
    *("ids", "is_real", "is_completion", "logp_inf", "topk_ids", "topk_logp_inf"),
    *("index", "finished", "version"),
)
VERIFIED = tuple(f"verified_{name}" for name in Verification._fields)  # of drafted ones too
NON_FINITE = "non_finite"  # log-probabilities (rows, v) that sampling stopped at


class EngineError(ConfigError):
    """An engine that cannot sample, however often it is asked."""


class GenerationRequest(NamedTuple):
    """What to sample. prompts: token ids, each for `group` sequences that are neighbours. place:
    as for `sampling.sample`. drafting: as for `drafted.sample_drafted`; None: the actor alone."""

    seed: int
    purpose: str
    step: int
    prompts: list[list[int]]
    group: int
    max_new_tokens: int
    temperature: float
    top_k: int
    pad: int
    eos: list[int]
    place: tuple[int, int] | None = None
    drafting: Drafting | None = None

    @property
    def sequences(self) -> int:
        return len(self.prompts) * self.group


class _Ids:
    """The part of a tokenizer that sampling needs: prompts are numbered, their ids known."""

    def __init__(self, request: GenerationRequest) -> None:
        self._prompts, self.pad, self.eos = request.prompts, request.pad, frozenset(request.eos)

    def prompt(self, number: str) -> list[int]:
        return self._prompts[int(number)]


class _UnusableLogits(Exception):
    def __init__(self, logq: torch.Tensor) -> None:
        super().__init__("log-probabilities that are not finite")
        self.logq = logq


def drafting_of(cfg: Config, dial: DraftDial | None = None) -> Drafting | None:
    """What rollout.mode says; None where the actor alone samples. dial: of a tracked lam or price,
    by default as at the start."""
    mode = cfg.rollout.mode
    if not isinstance(mode, DraftedMode):
        return None
    block = mode.block
    dial = dial or open_dial(mode.lam)
    words: dict[str, float] = {}
    if dial is not None:
        words = {"price" if dial.is_price else "lam": dial.value}
    elif isinstance(mode.lam, FixedDraftLam):
        words = {"lam": mode.lam.value}
    elif isinstance(mode.lam, PriceDraftLam):
        words = {"price": mode.lam.price}
    elif isinstance(mode.lam, StateDraftLam):
        words = {"budget": mode.lam.budget}
    return Drafting(block.length, block.longest, **{"lam": None, **words})


def generate(
    model: Model, request: GenerationRequest, version: int, policy: Model | None = None
) -> Result:
    """Sample what a request asks for from `model`, whose weights are of `version`.

    policy: verifies where the request is for drafting.
    """

    def check(logq: torch.Tensor) -> None:
        if bool(torch.isnan(logq).any()):  # of an infinite logit too; -inf is a probability of 0
            raise _UnusableLogits(logq)

    numbered: Any = _Ids(request)
    what: tuple[Any, ...] = (
        numbered,
        [Problem(str(i), "") for i in range(len(request.prompts))],
        randomness.stream(request.seed, request.purpose, request.step),
    )
    how: dict[str, Any] = {
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "group": request.group,
        "place": request.place,
        "version": version,
        "check": check,
    }
    try:
        if request.drafting is None:
            samples = sampling.sample(model, *what, **how)
        else:
            samples = sample_drafted(model, policy, *what, drafting=request.drafting, **how)
    except _UnusableLogits as e:
        return {NON_FINITE: e.logq}
    result = {name: getattr(samples, name) for name in FIELDS}
    if samples.verification is not None:
        result |= dict(zip(VERIFIED, samples.verification, strict=True))
    return result


class Engine:
    """What all engines share: requests by step, ahead or not. Subclasses begin and finish one.

    version: of the weights it samples from. `update` gives the next one, so it is the number of
    steps whose updates the weights hold.
    """

    def __init__(
        self,
        cfg: Config,
        tokenizer: Tokenizer,
        device: torch.device,
        policy: Model | None = None,
    ) -> None:
        """policy: verifies where rollout.mode is drafted; as it is whenever the sampling model's
        weights are taken over."""
        self._policy = policy
        self.cfg, self.tokenizer, self.device = cfg, tokenizer, device
        self.version = 0
        mode = cfg.rollout.mode
        # of the requests to come; `Run` moves it between steps
        self.dial = open_dial(mode.lam) if isinstance(mode, DraftedMode) else None
        self._waiting: dict[
            int, GenerationRequest | None
        ] = {}  # by step; None: its result was put back
        self._results: dict[int, Result] = {}
        self._gathered: dict[int, Result] = {}  # of all ranks

    def update(self, model: Model, version: int | None = None) -> None:
        """Take over the sampling model's present weights. version: theirs; by default the next."""
        self.version = self.version + 1 if version is None else version

    def generate(
        self,
        step: int,
        problems: list[Problem],
        *,
        place: tuple[int, int] | None = None,
        check: LogqCheck = lambda logq: None,
    ) -> Samples:
        """Completions of a step's problems, rollouts_per_prompt of each.

        place: as for `sampling.sample`. check: is given log q where it holds NaN.

        Raises:
            EngineError: the engine failed, and went on failing when it was started again.
        """
        self.submit(step, problems, place=place)
        return self.collect(step, problems, check=check)

    def submit(
        self,
        step: int,
        problems: list[Problem],
        *,
        place: tuple[int, int] | None = None,
        group: int | None = None,
    ) -> None:
        """Request a step's completions from the present weights; nothing if that is done.

        group: completions of each problem; None: rollouts_per_prompt.
        """
        if step not in self._waiting:
            r = self.cfg.rollout
            group = group or r.rollouts_per_prompt
            request = self._request(
                "sampling", step, problems, group, r.max_new_tokens, r.top_k, place
            )
            self._waiting[step] = request
            self._begin(step, request)

    def collect(
        self, step: int, problems: list[Problem], *, check: LogqCheck = lambda logq: None
    ) -> Samples:
        """What was requested for a step; waits for it where the engine works by itself."""
        request = self._waiting[step]
        if step not in self._results:
            assert request is not None
            self._results[step] = self._finish(step)
        del self._waiting[step]
        self._gathered.pop(step, None)
        return self._batch(self._results.pop(step), problems, check)

    def is_requested(self, step: int) -> bool:
        return step in self._waiting

    def probe(
        self,
        problems: list[Problem],
        group: int,
        max_new_tokens: int,
        top_k: int,
        *,
        drafted: bool = False,
    ) -> Samples:
        """Completions for the self-test, which are not of any step. drafted: as rollout.mode says;
        else of the sampling model alone."""
        request = self._request("self-test", 0, problems, group, max_new_tokens, top_k, None)
        if not drafted:
            request = request._replace(drafting=None)
        self._begin(-1, request)
        return self._batch(self._finish(-1), problems, lambda logq: None)

    def counts(self) -> dict[str, int]:
        """Metrics of the engine since the last call."""
        return {}

    def close(self) -> None:
        """End what the engine has started."""

    def gather(self) -> None:
        """Put together what waits on all ranks, for `tensors`; waits for it. All ranks must ask.

        Raises:
            EngineError: the engine of a rank failed; on all ranks.
        """

        def finish() -> None:
            for step in self._waiting:
                if step not in self._results:
                    self._results[step] = self._finish(step)

        distributed.raise_on_all_ranks(finish, EngineError)
        for step in self._waiting:
            if step not in self._gathered:
                self._gathered[step] = _gathered_result(self._results[step], self.tokenizer.pad)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What `gather` found, `step.field`: what a checkpoint must hold."""
        return {f"{s}.{k}": v for s, result in self._gathered.items() for k, v in result.items()}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Have again this rank's part of what `tensors` gave."""
        for key, tensor in tensors.items():
            step, name = key.split(".", 1)
            if name not in (*FIELDS, *VERIFIED, NON_FINITE):
                raise ValueError(f"{key} is no part of a batch")
            self._gathered.setdefault(int(step), {})[name] = tensor
        self._results |= {s: _own_part(result) for s, result in self._gathered.items()}
        self._waiting |= dict.fromkeys(self._results)

    def _begin(self, key: int, request: GenerationRequest) -> None:
        raise NotImplementedError

    def _finish(self, key: int) -> Result:
        raise NotImplementedError

    def _request(
        self,
        purpose: str,
        step: int,
        problems: list[Problem],
        group: int,
        max_new_tokens: int,
        top_k: int,
        place: tuple[int, int] | None,
    ) -> GenerationRequest:
        return GenerationRequest(
            self.cfg.run.seed,
            purpose,
            step,
            [self.tokenizer.prompt(p.prompt) for p in problems],
            group,
            max_new_tokens,
            self.cfg.rollout.temperature,
            top_k,
            self.tokenizer.pad,
            sorted(self.tokenizer.eos),
            place,
            drafting_of(self.cfg, self.dial),
        )

    def _batch(self, result: Result, problems: list[Problem], check: LogqCheck) -> Samples:
        if NON_FINITE in result:
            check(result[NON_FINITE])
            raise EngineError("the sampling model gives log-probabilities that are not finite")
        moved = {name: x.to(self.device) for name, x in result.items()}
        verification = None
        if VERIFIED[0] in moved:
            verification = Verification(*(moved[name] for name in VERIFIED))
        own: dict[str, Any] = {name: moved[name] for name in FIELDS}
        b = len(result["ids"])
        group = b // len(problems)
        return Samples(
            **own,
            verification=verification,
            prompts=[p.prompt for p in problems for _ in range(group)],
            answers=[p.answer for p in problems for _ in range(group)],
            extras=[p.extra for p in problems for _ in range(group)],
        )


def _gathered_result(result: Result, pad: int) -> Result:
    """Results of all ranks, in rank order, padded on the left to one width; of all that hold
    log-probabilities that are not finite the first, alone."""
    bad = distributed.all_gather_object(NON_FINITE in result)
    if any(bad):
        is_ours = bad.index(True) == distributed.rank()
        width = distributed.all_reduce_max(result[NON_FINITE].shape[1] if is_ours else 0)
        example = next(iter(result.values()))
        values = (
            result[NON_FINITE] if is_ours else example.new_zeros((0, width), dtype=torch.float32)
        )
        return {NON_FINITE: distributed.all_gather(values)}
    more = distributed.all_reduce_max(result["ids"].shape[1]) - result["ids"].shape[1]
    wide = result | {
        "ids": torch.nn.functional.pad(result["ids"], (more, 0), value=pad),
        "is_real": torch.nn.functional.pad(result["is_real"], (more, 0)),
    }
    names = [name for name in (*FIELDS, *VERIFIED) if name in wide]  # in one order on all ranks
    return {name: distributed.all_gather(wide[name]) for name in names}


def _own_part(result: Result) -> Result:
    """This rank's sequences of a whole batch, without columns that are padding in all of them."""
    if NON_FINITE in result:
        return result
    own = distributed.rank_slice(len(result["ids"]))
    part = {name: x[own.start : own.stop] for name, x in result.items()}
    first = int(part["is_real"].any(dim=0).nonzero()[0])
    return part | {name: part[name][:, first:] for name in ("ids", "is_real")}


def request_ahead(
    engine: Engine,
    steps: Iterable[int],
    problems: Callable[[int], list[Problem]],
    place: tuple[int, int] | None = None,
    group: int | None = None,
) -> None:
    """Request the batches of these steps, in their order, that are not requested yet."""
    for step in steps:
        if not engine.is_requested(step):
            engine.submit(step, problems(step), place=place, group=group)
