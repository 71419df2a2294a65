"""The sampler of rollout/sampling.py in a process of its own, with its own copy of the model.

It can sample batches ahead while this process trains. A line of JSON says what to do or what is
done. Requests, weights and results are files in a private folder, tensors as safetensors, so
nothing is pickled and no pipe fills up. A process that dies, says nothing for
rollout.engine.timeout seconds or answers nonsense is replaced, given the weights again that each
waiting request was for, and asked again: since an answer depends on weights and request alone, the
run is the same.

The process belongs to no group of torchrun's and sees one GPU, this rank's. Other ranks wait
while a process is replaced.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm import distributed
from llm.distributed import launch
from llm.models.loading import Model, logits_width
from llm.settings.loading import Config, ConfigError
from llm.settings.rollout_rules import drafts
from llm.settings.schema import ProcessEngineConfig
from llm.tokenizers.pretrained import Tokenizer

from .base import FIELDS, NON_FINITE, VERIFIED, Engine, EngineError, GenerationRequest, Result
from .weights import drafting_weights, shape_of, weights_of

_RESTARTS_MAX = 3  # in a row, for one batch
_LINE_MAX = 1 << 16
# What torchrun sets for a rank: a library that finds it takes itself for one
_OF_RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE"),
    *("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
_ROOT = Path(__file__).resolve().parents[3]


class _ProcessFailed(Exception):
    """The process is of no more use; says why."""


@dataclasses.dataclass
class _Pending:
    number: int
    request: GenerationRequest
    version: int


class ProcessEngine(Engine):
    """See the module. The process starts with the first `update` and ends with `close`, or when
    this process does."""

    def __init__(
        self,
        cfg: Config,
        tokenizer: Tokenizer,
        device: torch.device,
        model: Model,
        policy: Model | None = None,
    ) -> None:
        """Raises ConfigError if other ranks would lose patience with this one's process first."""
        super().__init__(cfg, tokenizer, device, policy)
        longest = launch.TIMEOUT.total_seconds() / 2 / (_RESTARTS_MAX + 1)
        if distributed.world_size() > 1 and self._timeout > longest:
            raise ConfigError(
                f"--rollout.engine.timeout {self._timeout:g} is too long for several "
                f"ranks: others wait while one's process is replaced {_RESTARTS_MAX} times. Give "
                f"at most {longest:g}"
            )
        self._width = logits_width(model)
        self._folder = Path(tempfile.mkdtemp(prefix="jackpot-engine-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, True)
        description = {
            "engine": cfg.rollout.engine.type,
            "device": "cuda:0" if device.type == "cuda" else str(device),
            "threads": torch.get_num_threads(),
            **self._description(model),
        }
        (self._folder / "start.json").write_text(json.dumps(description))
        self._process: subprocess.Popen | None = None
        self._received = b""
        self._requests: dict[int, _Pending] = {}  # by key, in the order of asking
        self._answers: dict[int, Result] = {}
        self._numbers = self._restarts = 0
        self._weights_sent = -1  # version of the weights that the process was last told to load

    @property
    def _timeout(self) -> float:
        """Seconds."""
        engine = self.cfg.rollout.engine
        assert isinstance(engine, ProcessEngineConfig)
        return engine.timeout

    @property
    def pid(self) -> int:
        """Of the process that samples."""
        assert self._process is not None
        return self._process.pid

    def update(self, model: Model, version: int | None = None) -> None:
        super().update(model, version)
        draft = self._folder / "weights.draft"
        self._save(model, draft)
        os.replace(draft, self._weights(self.version))
        self._weights_sent = -1
        self._drop_old_weights()
        if self._process is None:
            self._start()

    def counts(self) -> dict[str, int]:
        restarts, self._restarts = self._restarts, 0
        return {"engine_restarts": restarts}

    def close(self) -> None:
        self._terminate()
        self._remove()

    def _begin(self, key: int, request: GenerationRequest) -> None:
        self._numbers += 1
        waiting = self._requests[key] = _Pending(self._numbers, request, self.version)
        path = self._folder / f"request_{waiting.number}.json"
        path.write_text(json.dumps(request._asdict()))
        self._send_request(waiting)

    def _finish(self, key: int) -> Result:
        failures = 0
        while key not in self._answers:
            try:
                self._receive()
            except _ProcessFailed as e:
                failures += 1
                self._replace(str(e), failures)
        return self._answers.pop(key)

    def _description(self, model: Model) -> dict[str, Any]:
        """What the process must know of the model to build its copy."""
        description = {"shape": shape_of(model, self.cfg)}
        if drafts(self.cfg):
            description["policy_shape"] = shape_of(self._policy, self.cfg, of_policy=True)
        return description

    def _save(self, model: Model, path: Path) -> None:
        """Write the weights for the process."""
        both = drafts(self.cfg)
        save_file(drafting_weights(model, self._policy) if both else weights_of(model), path)

    def _replace(self, reason: str, failures: int) -> None:
        last_error = self._last_error_line()
        self._terminate()
        whose = f" of rank {distributed.rank()}" if distributed.world_size() > 1 else ""
        if failures > _RESTARTS_MAX:
            raise EngineError(
                f"--rollout.engine.type {self.cfg.rollout.engine.type}: the process that "
                f"samples{whose} failed {failures} times in a row; at last {reason}.{last_error} "
                "Is there memory for a second copy of the model? Raise --rollout.engine.timeout if "
                "it is only slow, or use --rollout.engine.type hf"
            )
        self._restarts += 1
        sys.stderr.write(
            f"rollout engine{whose}: {reason}; started again ({failures} of {_RESTARTS_MAX})\n"
        )
        self._start()
        for waiting in self._requests.values():
            self._send_request(waiting)

    def _start(self) -> None:
        with (self._folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command(),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(self.device),
            )
        self._received, self._weights_sent = b"", -1

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "llm.rollout.engines.worker", str(self._folder)]

    def _terminate(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def _send_request(self, waiting: _Pending) -> None:
        if waiting.version != self._weights_sent:
            self._send({"weights": self._weights(waiting.version).name})
            self._weights_sent = waiting.version
        self._send({"request": waiting.number, "version": waiting.version})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # it has died: the next `_receive` finds that out, and this is sent again

    def _receive(self) -> None:
        """Wait for one line, and accept the result that it announces.

        Raises:
            _ProcessFailed: there is none, or it makes no sense.
        """
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._received:
            if not wait([pipe], max(0.0, deadline - time.monotonic())):
                seconds = self._timeout
                raise _ProcessFailed(f"process {self.pid} gave no answer for {seconds:g} s")
            data = os.read(pipe, _LINE_MAX)
            if not data:
                raise _ProcessFailed(f"process {self.pid} {_exit_reason(self._process.wait())}")
            self._received += data
            if len(self._received) > _LINE_MAX:
                break
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
            if message == {"ready": True}:
                return
            if set(message) == {"error"}:
                raise _ProcessFailed(f"process {self.pid} failed: {str(message['error'])[:500]}")
            key = next(k for k, w in self._requests.items() if message == {"done": w.number})
        except (ValueError, TypeError, StopIteration, RecursionError):
            raise _ProcessFailed(
                f"process {self.pid} said {line[:80]!r}, which is no answer"
            ) from None
        self._accept_result(key)

    def _accept_result(self, key: int) -> None:
        waiting = self._requests[key]
        path = self._folder / f"result_{waiting.number}.safetensors"
        try:
            result = load_file(path)
        except (OSError, SafetensorError, ValueError) as e:
            raise _ProcessFailed(f"process {self.pid} left no readable answer ({e})") from None
        wrong = _result_error(result, waiting, self._width)
        if wrong:
            raise _ProcessFailed(f"process {self.pid} answered nonsense: {wrong}")
        self._answers[key] = result
        del self._requests[key]
        path.unlink()
        (self._folder / f"request_{waiting.number}.json").unlink()
        self._drop_old_weights()

    def _drop_old_weights(self) -> None:
        """Delete weights that nothing waits for any more."""
        needed = {w.version for w in self._requests.values()} | {self.version}
        for path in self._folder.glob("weights_*.safetensors"):
            if int(path.stem.removeprefix("weights_")) not in needed:
                path.unlink()

    def _weights(self, version: int) -> Path:
        return self._folder / f"weights_{version}.safetensors"

    def _last_error_line(self) -> str:
        try:
            lines = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f" It wrote: {lines[-1][:300]}." if lines else ""


def environment(device: torch.device) -> dict[str, str]:
    """Of the process that samples: no rank's, and of several GPUs it sees `device` alone."""
    variables = {k: v for k, v in os.environ.items() if k not in _OF_RANKS}
    variables = {k: v for k, v in variables.items() if not k.startswith("TORCHELASTIC_")}
    variables["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(_ROOT), variables.get("PYTHONPATH")))
    )
    if device.type == "cuda":
        number, seen = device.index or 0, variables.get("CUDA_VISIBLE_DEVICES")
        variables["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number].strip() if seen else str(number)
    return variables


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _result_error(result: Result, waiting: _Pending, vocabulary: int) -> str:
    """What is wrong with an answer; "" if it can be one."""
    if set(result) == {NON_FINITE}:
        return ""
    request = waiting.request
    drafted = () if request.drafting is None else VERIFIED
    if set(result) != {*FIELDS, *drafted}:
        return f"it holds {sorted(result)}"
    b, t, k = request.sequences, request.max_new_tokens, min(request.top_k, vocabulary)
    width = max(map(len, request.prompts))
    shapes = {
        **dict.fromkeys(("ids", "is_real"), (b, width + t)),
        **dict.fromkeys(("is_completion", "logp_inf", "version"), (b, t)),
        **dict.fromkeys(("topk_ids", "topk_logp_inf"), (b, t, k)),
        **dict.fromkeys(("index", "finished"), (b,)),
        **dict.fromkeys(drafted, (b, t)),
    }
    if drafted:
        shapes["verified_topk_logp"] = (b, t, k)
    for name, shape in shapes.items():
        if tuple(result[name].shape) != shape:
            return f"{name} has the shape {tuple(result[name].shape)}, not {shape}"
    real = result["is_completion"]
    prompts = [p for p in request.prompts for _ in range(request.group)]
    seen = zip(result["ids"][:, :width], result["is_real"][:, :width], strict=True)
    if any(ids[mask].tolist() != p for (ids, mask), p in zip(seen, prompts, strict=True)):
        return "its prompts are others"
    if not bool(real[:, 0].all()) or bool((real[:, 1:] & ~real[:, :-1]).any()):
        return "a completion has a gap"
    for name in ("ids", "topk_ids"):
        if int(result[name].min()) < 0 or int(result[name].max()) >= max(
            vocabulary, request.pad + 1
        ):
            return f"{name} has ids outside the vocabulary"
    for name in ("logp_inf", "topk_logp_inf", *(x for x in drafted if x.endswith("logp"))):
        x = result[name]
        impossible = torch.isneginf(x) & (name in ("logp_inf", "verified_logp"))  # it was sampled
        if bool((torch.isnan(x) | impossible).any()) or float(x.max()) > 1e-4:
            return f"{name} holds what are no log-probabilities"
    if not bool((result["version"] == waiting.version).all()):
        return f"it was sampled from other weights than version {waiting.version}"
    return ""
