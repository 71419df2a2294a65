"""Sampling in the trainer's own process, with transformers."""

from __future__ import annotations

import torch

from llm.models.loading import Model
from llm.settings.loading import Config
from llm.tokenizers.pretrained import Tokenizer

from .base import Engine, GenerationRequest, Result, generate


class HfEngine(Engine):
    """In this process, from the actor's own model, which is not copied; ahead, but not beside."""

    def __init__(
        self,
        cfg: Config,
        tokenizer: Tokenizer,
        device: torch.device,
        policy: Model | None = None,
    ) -> None:
        super().__init__(cfg, tokenizer, device, policy)
        self._model: Model = None
        self._results: dict[int, Result] = {}

    def update(self, model: Model, version: int | None = None) -> None:
        super().update(model, version)
        self._model = model

    def _begin(self, key: int, request: GenerationRequest) -> None:
        self._results[key] = generate(self._model, request, self.version, self._policy)

    def _finish(self, key: int) -> Result:
        return self._results.pop(key)
