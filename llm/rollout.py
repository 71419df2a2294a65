"""Phase 1: sample completions and keep, from the same forward pass, what the weights will need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from . import data
from .logprobs import positions


@dataclass(frozen=True)
class Batch:
    """Sequences with what was known when they were sampled. b sequences, t completion positions.

    ids: prompt left-padded, completion right-padded, (b, t_prompt + t).
    is_real: a token, not padding, (b, t_prompt + t).
    is_completion: a sampled token, end-of-sequence included, (b, t).
    logp_inf: log q of the sampled token, 0 at padding, (b, t) float32.
    topk_ids, topk_logp_inf: the k likeliest tokens of q and their log q, (b, t, k).
    index: number of the sequence within the step's batch, (b,): what its random numbers belong to.
    answers: the right text of each prompt. reward, advantage: (b,), filled in by the trainer.
    """

    ids: torch.Tensor
    is_real: torch.Tensor
    is_completion: torch.Tensor
    logp_inf: torch.Tensor
    topk_ids: torch.Tensor
    topk_logp_inf: torch.Tensor
    index: torch.Tensor
    answers: list[str]
    reward: torch.Tensor
    advantage: torch.Tensor

    @property
    def completion_ids(self) -> torch.Tensor:
        return self.ids[:, -self.is_completion.shape[1] :]

    def rows(self, chosen: torch.Tensor) -> Batch:
        """The sub-batch of these sequences, in this order."""
        tensors = {k: v[chosen] for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors, answers=[self.answers[i] for i in chosen.tolist()])

    def completions(self) -> list[list[int]]:
        """Sampled ids of each sequence, without padding."""
        lengths = self.is_completion.sum(dim=1).tolist()
        rows = self.completion_ids.tolist()
        return [row[:n] for row, n in zip(rows, lengths, strict=True)]


@torch.no_grad()
def sample(
    model: Any,  # a transformers causal language model
    problems: list[tuple[str, str]],
    rng: np.random.Generator,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    check: Callable[[torch.Tensor], None] = lambda logq: None,
) -> Batch:
    """One completion for each problem, drawn from softmax(logits / temperature).

    That very distribution, in float32, is what `logp_inf` and the top-k log-probabilities describe.
    All random numbers are drawn first, one per (sequence, position), so a sequence does not depend
    on which others are sampled with it. `check` sees log q (b, v) before each draw.
    """
    b, t = len(problems), max_new_tokens
    uniform = torch.from_numpy(rng.random((b, t)))
    prompt, prompt_real = _left_padded([data.encode(p) for p, _ in problems])
    width = prompt.shape[1]
    ids = torch.cat([prompt, torch.full((b, t), data.PAD)], dim=1)
    is_real = torch.cat([prompt_real, torch.zeros((b, t), dtype=torch.bool)], dim=1)
    k = min(top_k, model.config.vocab_size)
    logp_inf = torch.zeros((b, t))
    topk_ids = torch.zeros((b, t, k), dtype=torch.long)
    topk_logp = torch.zeros((b, t, k))
    alive = torch.ones(b, dtype=torch.bool)
    cache = DynamicCache(config=model.config)
    new, new_positions = prompt, positions(prompt_real)
    for i in range(t):
        out = model(
            input_ids=new,
            attention_mask=is_real[:, : width + i].long(),
            position_ids=new_positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logq = torch.log_softmax(out.logits[:, -1].float() / temperature, dim=-1)  # (b, v)
        check(logq)
        token = inverse_cdf(logq, uniform[:, i])
        best = logq.topk(k, dim=-1)
        ids[alive, width + i] = token[alive]
        is_real[:, width + i] = alive
        logp_inf[alive, i] = logq.gather(1, token[:, None])[alive, 0]
        topk_ids[:, i], topk_logp[:, i] = best.indices, best.values
        new_positions = new_positions[:, -1:] + 1
        new = ids[:, width + i : width + i + 1]
        alive = alive & (token != data.EOS)
        if not bool(alive.any()):
            break
    return Batch(
        ids=ids,
        is_real=is_real,
        is_completion=is_real[:, width:],
        logp_inf=logp_inf,
        topk_ids=topk_ids,
        topk_logp_inf=topk_logp,
        index=torch.arange(b),
        answers=[answer for _, answer in problems],
        reward=torch.zeros(b),
        advantage=torch.zeros(b),
    )


def inverse_cdf(logq: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulative probability first exceeds `uniform`: (b, v), (b,) -> (b,).

    Exact sampling, in float64; a token of probability 0 is never drawn.
    """
    cumulative = logq.double().exp().cumsum(dim=-1)
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))  # rounding must not reach past the end
    point = torch.minimum(uniform * total, below)[:, None]
    return torch.searchsorted(cumulative, point, right=True)[:, 0]


def _left_padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), data.PAD)
    real = torch.zeros((len(prompts), width), dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        real[i, width - len(prompt) :] = True
    return ids, real
