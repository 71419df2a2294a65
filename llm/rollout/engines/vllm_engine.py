"""vLLM in a process of its own, with its own copy of the model whose weights are replaced in place.

subprocess_engine.py describes the process, its requests and its failures; each rank has one.
vLLM there knows nothing of torchrun, whose variables and process group it would take for its own.
Its log-probabilities are those after the temperature (`processed_logprobs`), its seeds belong to
(run.seed, step, sequence). It rounds in its own way, so the self-test before training compares it
with the trainer. On a machine without a GPU the package is vllm-cpu, in an environment of its own
(`make test-vllm`).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llm import randomness
from llm.models.loading import Model, frozen_copy, logits_width, plain, positions_of, quiet
from llm.settings.loading import Config, ConfigError
from llm.settings.schema import VllmEngineConfig
from llm.tokenizers.pretrained import Tokenizer

from .base import NON_FINITE, EngineError, GenerationRequest, Result
from .subprocess_engine import ProcessEngine
from .weights import deduplicated

_SEEDS = 2**63 - 1
_MODEL = "model"  # folder that vLLM opens
_TENSORS = "model.safetensors"
# Read by vLLM when it is imported or starts; what the user has set stays.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no further process, which could outlive this one
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # GiB


def check_installed() -> None:
    """Raises ConfigError if vLLM is missing, without loading it."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "--rollout.engine.type vllm needs the package vllm (without a GPU vllm-cpu). Install "
            "it in an environment of its own, or use --rollout.engine.type process"
        )


def limits_of(cfg: Config, positions: int, width: int) -> dict[str, int]:
    """vLLM's limits for a model of so many positions and logits: tokens of the longest prompt and
    completion; log-probabilities of a token, at least as many as vLLM allows by default."""
    longest = cfg.task.prompt_tokens_max + cfg.rollout.max_new_tokens
    return {
        "max_model_len": min(positions, longest),
        "max_logprobs": max(20, min(cfg.rollout.top_k, width)),
    }


class VllmEngine(ProcessEngine):
    """The side of the trainer. Weights go by their names in the state dict, as in a checkpoint."""

    def __init__(
        self, cfg: Config, tokenizer: Tokenizer, device: torch.device, model: Model
    ) -> None:
        """Raises ConfigError if vLLM is missing, or for a model that it cannot take."""
        check_installed()
        if plain(model) is model and any(".lora_A." in n for n, _ in model.named_parameters()):
            raise ConfigError(
                "--rollout.engine.type vllm cannot sample from the first layers of a policy with "
                "adapters: use --rollout.engine.type process, or --policy.lora.type none"
            )
        super().__init__(cfg, tokenizer, device, model)
        inner = plain(model)
        config = json.loads(inner.config.to_json_string(use_diff=False))
        (self._folder / _MODEL).mkdir()
        file = self._folder / _MODEL / "config.json"
        file.write_text(json.dumps(config | {"architectures": [type(inner).__name__]}))

    def _description(self, model: Model) -> dict[str, Any]:
        positions = positions_of(model) or sys.maxsize
        width = logits_width(model)
        dtype = next(model.parameters()).dtype
        if hasattr(model, "merge_and_unload"):
            dtype = torch.float32  # rounded to bfloat16, merged weights lose most of a small update
        settings = self.cfg.rollout.engine
        assert isinstance(settings, VllmEngineConfig)
        options = {
            "dtype": str(dtype).removeprefix("torch."),
            **limits_of(self.cfg, positions, width),
            "gpu_memory_utilization": settings.memory,
            "enforce_eager": self.device.type == "cpu",
            "seed": self.cfg.run.seed,
        }
        return {"width": width, "options": options}

    def _save(self, model: Model, path: Path) -> None:
        # not save_pretrained, which under torchrun may leave it to rank 0 to write
        merged = frozen_copy(model) if hasattr(model, "merge_and_unload") else model
        save_file(deduplicated(merged.state_dict()), path, metadata={"format": "pt"})


class Sampler:
    """The side of the process. vLLM is loaded with the first weights."""

    def __init__(self, start: dict[str, Any], folder: Path) -> None:
        """start: as `VllmEngine` describes it. folder: shared with it."""
        on_cpu = start["device"] == "cpu"
        for name, value in (_ENVIRONMENT | (_CPU_ENVIRONMENT if on_cpu else {})).items():
            os.environ.setdefault(name, value)
        with quiet():
            import vllm
        self._vllm: Any = vllm
        self._llm: Any = None
        self._width: int = start["width"]
        self._options: dict[str, Any] = start["options"]
        self._model = folder / _MODEL

    def load_weights(self, weights: Path) -> None:
        """Replace the weights in place. After a failure the model may be of two halves.

        Raises:
            EngineError: vLLM went on with what it had computed from older weights.
        """
        if self._llm is None:
            self._load(weights)
            return
        self._llm.collective_rpc(_reload, args=(weights,))
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not drop its prefix cache, which is of older weights")

    def generate(self, request: GenerationRequest, version: int) -> Result:
        first, everything = request.place or (0, request.sequences)
        seeds = randomness.stream(request.seed, f"{request.purpose}, vllm", request.step).integers(
            _SEEDS, size=everything
        )[first : first + request.sequences]
        prompts = [p for p in request.prompts for _ in range(request.group)]
        k = min(request.top_k, self._width)
        params = [
            self._vllm.SamplingParams(
                temperature=request.temperature,
                max_tokens=request.max_new_tokens,
                logprobs=k,
                seed=int(seed),
                stop_token_ids=request.eos,
                ignore_eos=True,  # the model's own; ours are stop tokens
                detokenize=False,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": p} for p in prompts]
        answers = [a.outputs[0] for a in self._llm.generate(asked, params, use_tqdm=False)]
        return to_result(request, answers, k, first, version)

    def _load(self, weights: Path) -> None:
        threads = torch.get_num_threads()
        tensors = self._model / _TENSORS
        tensors.unlink(missing_ok=True)
        try:
            os.link(weights, tensors)
        except OSError:  # a file system without hard links
            shutil.copyfile(weights, tensors)
        self._llm = self._vllm.LLM(
            model=str(self._model),
            skip_tokenizer_init=True,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            use_tqdm_on_load=False,
            **self._options,
        )
        torch.set_num_threads(threads)
        tensors.unlink()


def to_result(
    request: GenerationRequest, answers: list[Any], k: int, first: int, version: int
) -> Result:
    """vLLM's completions, one for each sequence, as the tensors of `Samples`.

    Each has token_ids, finish_reason and, for each token, {id: entry with .logprob}: the k
    likeliest and, if it is none of them, the sampled token.
    """
    prompts = [p for p in request.prompts for _ in range(request.group)]
    b, t, width = len(prompts), request.max_new_tokens, max(map(len, prompts))
    ids = torch.full((b, width + t), request.pad)
    is_real = torch.zeros((b, width + t), dtype=torch.bool)
    logp, topk_ids, topk_logp = (
        torch.zeros(b, t),
        torch.zeros((b, t, k), dtype=torch.long),
        torch.zeros(b, t, k),
    )
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = list(answer.token_ids)
        ids[i, width - len(prompt) : width + len(tokens)] = torch.tensor([*prompt, *tokens])
        is_real[i, width - len(prompt) : width + len(tokens)] = True
        chosen, names, values = [], [], []
        for token, entries in zip(tokens, answer.logprobs, strict=True):
            chosen.append(entries[token].logprob)
            best = likeliest({n: e.logprob for n, e in entries.items()}, token, k)
            names.append([n for n, _ in best])
            values.append([x for _, x in best])
        flat = torch.tensor([*chosen, *(x for row in values for x in row)])
        sampled = flat[: len(chosen)]
        if bool(flat.isnan().any()) or not bool(sampled.isfinite().all()):
            return {NON_FINITE: flat[None]}
        logp[i, : len(tokens)] = torch.tensor(chosen)
        topk_ids[i, : len(tokens)] = torch.tensor(names)
        topk_logp[i, : len(tokens)] = torch.tensor(values)
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


def _reload(worker: Any, weights: Path) -> None:
    # not model.load_weights: where linear layers are repacked (CPU) it stops half-way
    worker.model_runner.reload_weights(weights_iterator=iter(load_file(weights).items()))
