"""Phase 1: sample completions and keep, from the same forward pass, what the weights will need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from llm.errors import NonFinite
from llm.tasks.problem import Problem
from llm.tokenizers.pretrained import Tokenizer

from .batch import Samples, Verification, positions
from .preallocated_cache import preallocated_cache

_COMPACT_BELOW = 0.75  # share of unfinished sequences at which the finished ones leave the cache
_BLOCK = 512  # ids per block of the two-level search for a token
_TOGETHER = 1 << 20  # entries searched together on a CPU: larger float64 copies cost page faults
# The name of the cache among the arguments and outputs of a model; before transformers 5.24:
# past_key_values
CACHE_KEYWORD = next(
    x.name for x in fields(CausalLMOutputWithPast) if x.name in ("cache", "past_key_values")
)


@torch.no_grad()
def sample(
    model: Any,  # a transformers causal language model
    tokenizer: Tokenizer,
    problems: list[Problem],
    rng: np.random.Generator,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    group: int = 1,
    place: tuple[int, int] | None = None,
    version: int = 0,
    check: Callable[[torch.Tensor], None] | None = None,
) -> Samples:
    """`group` completions for each problem, neighbours, drawn from softmax(logits / temperature).

    That very distribution, in float32, is what `logp_inf` and the top-k log-probabilities describe.
    All random numbers are drawn first, one per (sequence, position), so a sequence does not depend
    on which others are sampled with it: `place` is (first, all), where these sequences stand among
    all those that share `rng`; None: they are all. A group shares the forward pass of its prompt,
    and finished sequences leave the batch. `check` sees log q (rows, v) before each draw; None
    refuses NaN. `version` is noted for every token.

    Raises:
        NonFinite: log q holds NaN (or what `check` raises).
    """
    device = model.device
    b, t = len(problems) * group, max_new_tokens
    first, everything = place or (0, b)
    # one number per (sequence, position) of all ranks, cut to this rank's sequences: (b, t)
    uniform = torch.from_numpy(rng.random((everything, t))[first : first + b]).to(device)
    samples = without_completions(
        tokenizer, problems, group, device,
        t=t, k=min(top_k, vocabulary_of(model)), first=first, version=version,
    )  # fmt: skip
    width = samples.ids.shape[1] - t
    position = samples.is_real.sum(dim=1)  # (b,) of the first sampled token: the prompt's length
    ends = torch.tensor(sorted(tokenizer.eos), device=device)
    cache = preallocated_cache(model, width + t - 1)
    logits = _after_prompts(model, samples, group, cache)  # (b, v)
    rows = torch.arange(b, device=device)  # the sequence in each row of the cache
    for i in range(t):
        # p_inf: the distribution that is sampled from, temperature included (Alg. 1, l. 4)
        logq = torch.log_softmax(logits / temperature, dim=-1)  # (rows, v) float32
        (check or refuse_nan)(logq)  # before the draw: of NaN no token can be drawn
        token = inverse_cdf(logq, uniform[rows, i])  # (rows,)
        _note(samples, rows, i, token, logq)
        samples.finished[rows] |= torch.isin(token, ends)
        stay = ~samples.finished[rows]
        left = int(stay.sum())
        if left == 0 or i == t - 1:
            break
        if left < _COMPACT_BELOW * len(rows):  # copying the cache costs about as much as a step
            keep = stay.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows = rows[keep]  # fewer rows from here on
        new = samples.ids[rows, width + i : width + i + 1]  # (rows, 1)
        past = samples.is_real[rows, : width + i + 1]  # (rows, t_prompt + i + 1), masks padding
        logits = _forward(model, new, past, position[rows, None] + i, cache)  # (rows, v)
    return samples


def vocabulary_of(model: Any) -> int:
    """Rows of the logits; a wrapper of several models keeps the sizes of the one for text apart."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def without_completions(
    tokenizer: Tokenizer,
    problems: list[Problem],
    group: int,
    device: torch.device,
    *,
    t: int,
    k: int,
    first: int,
    version: int,
    verified: bool = False,
) -> Samples:
    """Each prompt `group` times, before the first token: the rest is filled in, in place."""
    padded = _left_padded([tokenizer.prompt(p.prompt) for p in problems], tokenizer)
    prompt, prompt_real = (x.to(device).repeat_interleave(group, dim=0) for x in padded)
    b = len(prompt)
    blank = torch.full((b, t), tokenizer.pad, device=device)
    is_real = torch.cat([prompt_real, torch.zeros_like(blank, dtype=torch.bool)], dim=1)
    return Samples(
        ids=torch.cat([prompt, blank], dim=1),  # (b, t_prompt + t)
        is_real=is_real,
        is_completion=is_real[:, prompt.shape[1] :],  # a view: it follows is_real
        logp_inf=torch.zeros((b, t), device=device),
        topk_ids=torch.zeros((b, t, k), dtype=torch.long, device=device),
        topk_logp_inf=torch.zeros((b, t, k), device=device),
        index=torch.arange(first, first + b, device=device),
        finished=torch.zeros(b, dtype=torch.bool, device=device),
        version=torch.full((b, t), version, device=device),
        prompts=[p.prompt for p in problems for _ in range(group)],
        answers=[p.answer for p in problems for _ in range(group)],
        extras=[p.extra for p in problems for _ in range(group)],
        verification=Verification.blank(b, t, k, device) if verified else None,
    )


def _after_prompts(model: Any, samples: Samples, group: int, cache: Any) -> torch.Tensor:
    """Logits of each first token, (b, v), and the prompts' keys and values in the cache.

    The prompt of a group goes through the model once; what it gives is then repeated.
    """
    width = samples.ids.shape[1] - samples.is_completion.shape[1]
    prompt, is_real = samples.ids[::group, :width], samples.is_real[::group, :width]
    logits = _forward(model, prompt, is_real, positions(is_real), cache)  # (problems, v)
    if group > 1:
        cache.batch_repeat_interleave(group)
    return logits.repeat_interleave(group, dim=0)  # (b, v)


def _note(
    samples: Samples, rows: torch.Tensor, i: int, token: torch.Tensor, logq: torch.Tensor
) -> None:
    """Write token i of the unfinished sequences among `rows`, its log q and q's top k.

    Args:
        rows, token: the sequence in each row of the cache, and its draw, (rows,).
        logq: (rows, v).
    """
    # Finished rows stay in the cache until it is compacted; what was drawn for them is dropped.
    open_ = ~samples.finished[rows]
    live, width = rows[open_], samples.ids.shape[1] - samples.logp_inf.shape[1]
    samples.ids[live, width + i] = token[open_]
    samples.is_real[live, width + i] = True
    samples.logp_inf[live, i] = logq.gather(1, token[:, None])[open_, 0]
    best = logq.topk(samples.topk_ids.shape[2], dim=-1)  # (rows, k), for Z (l. 5)
    samples.topk_ids[live, i] = best.indices[open_]
    samples.topk_logp_inf[live, i] = best.values[open_]


def _forward(
    model: Any, ids: torch.Tensor, is_real: torch.Tensor, position: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits after the last of `ids`, float32, (rows, v)."""
    out = model(
        input_ids=ids,
        attention_mask=is_real.long(),
        position_ids=position,
        use_cache=True,
        logits_to_keep=1,
        **{CACHE_KEYWORD: cache},
    )
    return out.logits[:, -1].float()


def refuse_nan(logq: torch.Tensor) -> None:
    if bool(torch.isnan(logq).any()):
        raise NonFinite("the log-probabilities of the model that samples hold NaN")


def inverse_cdf(logq: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulative probability first exceeds `uniform`: (b, v), (b,) -> (b,).

    Exact sampling, sums in float64; a token of probability 0 is never drawn. Large vocabularies are
    searched in two levels, a block and a token in it, which saves the cumulative sum of the rest.
    """
    if logq.shape[-1] <= 2 * _BLOCK:
        return _search(logq.double().exp(), uniform)[0]
    size = max(1, _TOGETHER // logq.shape[-1] if logq.device.type == "cpu" else len(logq))
    pairs = zip(logq.split(size), uniform.split(size), strict=True)
    return torch.cat([_in_two_levels(*pair) for pair in pairs])


def _in_two_levels(logq: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """`inverse_cdf` of rows that fit into the cache."""
    q = torch.nn.functional.pad(logq.exp(), (0, -logq.shape[-1] % _BLOCK))
    blocks = q.unflatten(1, (-1, _BLOCK))
    block, within = _search(blocks.sum(dim=-1, dtype=torch.float64), uniform)
    inside = blocks[torch.arange(len(q), device=q.device), block].double()
    return block * _BLOCK + _search(inside, within)[0]


def _search(mass: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The entry that holds the point `uniform` of the total, and where in the entry, in [0, 1]."""
    cumulative = mass.cumsum(dim=-1)
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))  # rounding must not reach past the end
    point = torch.minimum(uniform * total, below)[:, None]
    entry = torch.searchsorted(cumulative, point, right=True)
    start = cumulative.gather(1, (entry - 1).clamp(min=0)) * (entry > 0)
    return entry[:, 0], ((point - start) / mass.gather(1, entry))[:, 0].clamp(0.0, 1.0)


def _left_padded(
    prompts: list[list[int]], tokenizer: Tokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), tokenizer.pad)
    real = torch.zeros((len(prompts), width), dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        real[i, width - len(prompt) :] = True
    return ids, real
