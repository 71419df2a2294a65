"""The head without its logits: log-probabilities, entropy, KL, top-k and U' from hidden states.

`chunked_logprobs` computes in one pass what a step needs of several models, and its backward pass shares
every recomputed logit between all of their gradients.
Exact over the full vocabulary: only blocks of (tokens, vocabulary) are ever held, and `dense_logprobs` is
the same from whole logits, for models whose head has another form (`heads.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import jackpot

from .head_backward import ChunkedHeadFunction, KLPair, Plan
from .head_blocks import Chunk
from .tail import above

Tensor = torch.Tensor
CHUNK = Chunk()


@dataclass(frozen=True)
class Head:
    """logits = softcap(hidden weight^T + bias), softcap(x) = cap tanh(x / cap).

    weight: (v, h), the parameter itself, so tied embeddings and later updates need no care; of a
        quantised model its values, which are updated nowhere.
    bias: (v,), finite, or None. softcap: cap > 0, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """The dense formula, (n, h) -> (n, v) in the dtype of `hidden`."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return self.capped(out)

    def capped(self, x: Tensor) -> Tensor:
        """softcap(x)."""
        return x if self.softcap is None else self.softcap * torch.tanh(x / self.softcap)


class HeadInput(NamedTuple):
    """One model at n states. Give `hidden` and `head`, or (for `dense_logprobs`) `logits`.

    hidden: (n, h), the head's input. logits: (n, v), before the temperature.
    tokens: (n,), whose log-probability is wanted. ids: (n, k), further ones.
    top_k: how many of the likeliest tokens to return. entropy: whether to compute it.
    floor: (n,), nats: count the tokens of larger log-probability (for U', `tail.tail_terms`).
    """

    hidden: Tensor | None = None
    head: Head | None = None
    tokens: Tensor | None = None
    ids: Tensor | None = None
    top_k: int = 0
    entropy: bool = False
    logits: Tensor | None = None
    floor: Tensor | None = None


class HeadOutput(NamedTuple):
    """Of one side, in nats, float32 (float64 if any side is); None where not asked for.

    logp (n,), logp_ids (n, k), lse (n,) the log-sum-exp of logits / temperature, entropy (n,): all
    with gradient. topk_logp (n, top_k), falling, and topk_ids: without. n_above, mass_above (n,),
    float64: number and probability of the tokens above the floor: without.
    """

    logp: Tensor | None
    logp_ids: Tensor | None
    lse: Tensor
    entropy: Tensor | None
    topk_logp: Tensor | None
    topk_ids: Tensor | None
    n_above: Tensor | None = None
    mass_above: Tensor | None = None


@torch.compiler.disable  # a graph break: the loop over blocks would otherwise unroll
def chunked_logprobs(
    sides: list[HeadInput],
    pairs: Sequence[KLPair] = (),
    temperature: float = 1.0,
    chunk: Chunk = CHUNK,
) -> tuple[list[HeadOutput], list[Tensor]]:
    """Everything asked for of several models at the same n states, in one pass over blocks.

    Backward costs one more product with each weight than the dense path (its logits again). Tokens
    whose upstream gradients are all exactly 0 are left out of it, by model: of a rejected or
    zero-advantage token, say, the policy's head computes nothing but what the KL needs.
    bf16 and float16 operands are widened block by block: products are exact, sums and
    log-probabilities float32, and each gradient is rounded to its parameter's dtype once.

    Args:
        sides: the models, of one vocabulary; at least one. n = 0 is fine.
        pairs: the KLs wanted. Gradient as `KLPair` says, to hidden, weight and bias of either.
        temperature: divides the (capped) logits, > 0. chunk: block sizes, the default for a CPU.

    Returns:
        (HeadOutput of each side, KL (n,) >= 0 of each pair, in nats; exactly 0, with gradient exactly
        0, at rows where both logits are equal).

    Raises:
        ValueError: shapes or vocabularies differ, an id outside the vocabulary, top_k outside
            [0, v], temperature or chunk not positive, a bias not finite. TypeError: ids not int64.
    """
    _check(sides, pairs, temperature, chunk)
    heads = [side.head for side in sides if side.head is not None]
    if len(heads) < len(sides):
        raise ValueError(
            "chunked_logprobs needs hidden and head of every side; `dense_logprobs` takes logits"
        )
    tensors: list[Any] = []
    for side, head in zip(sides, heads, strict=True):
        tensors += [side.hidden, head.weight, head.bias, _all_ids(side)]
    wants = tuple(s.top_k for s in sides), tuple(s.entropy for s in sides), tuple(pairs)
    floors = tuple(s.floor for s in sides)
    plan = Plan(tuple(h.softcap for h in heads), *wants, float(temperature), chunk, floors)
    with torch.autocast(tensors[0].device.type, enabled=False):
        found = ChunkedHeadFunction.apply(plan, *tensors)
    per_side = [_scores(side, *found[5 * i : 5 * i + 5]) for i, side in enumerate(sides)]
    end = 5 * len(sides) + len(pairs)
    high = iter(found[end:])
    for i, side in enumerate(sides):
        if side.floor is not None:
            per_side[i] = per_side[i]._replace(n_above=next(high), mass_above=next(high))
    return per_side, list(found[5 * len(sides) : end])


def dense_logprobs(
    sides: list[HeadInput], pairs: Sequence[KLPair] = (), temperature: float = 1.0
) -> tuple[list[HeadOutput], list[Tensor]]:
    """`chunked_logprobs` by way of whole (n, v) log-probabilities; sides may hold logits. Same results.

    Logits are computed in the model's dtype, so in bf16 they are rounded, as a model's own are.
    """
    _check(sides, pairs, temperature, CHUNK)
    found, logps, kls = [], [], []
    for side in sides:
        logits = side.logits if side.head is None else side.head.logits(side.hidden)  # type: ignore[arg-type]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature  # type: ignore[union-attr]
        logp, ids = torch.log_softmax(logits, -1), _all_ids(side)
        entropy = -(logp.exp() * logp).sum(-1) if side.entropy else None
        top = logp.detach().topk(side.top_k) if side.top_k else (None, None)
        at = None if ids is None else logp.gather(-1, ids)
        high = (None, None) if side.floor is None else above(logp.detach(), side.floor)
        found.append(_scores(side, at, logits.logsumexp(-1), entropy, *top, *high))
        logps.append(logp)
    for pair in pairs:
        log_p, log_q = logps[pair.p], logps[pair.q]
        both = found[pair.p].lse + found[pair.q].lse
        if not bool(both.isfinite().all()):  # as in blocks: the caller's guard names the culprit
            kls.append(both.detach() * math.nan)
            continue
        log_p = log_p if pair.train_p else log_p.detach()
        kls.append(jackpot.kl_p_q(log_p, log_q if pair.train_q else log_q.detach()))
    return found, kls


def token_logprobs(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float = 1.0, chunk: Chunk = CHUNK
) -> Tensor:
    """log p of one token at each state: (n, h), (n,) -> (n,). Details and errors: `chunked_logprobs`."""
    return chunked_logprobs([HeadInput(hidden, head, tokens)], (), temperature, chunk)[0][0].logp  # type: ignore[return-value]


def _all_ids(side: HeadInput) -> Tensor | None:
    parts = [] if side.tokens is None else [side.tokens[:, None]]
    parts += [] if side.ids is None else [side.ids]
    return torch.cat(parts, 1) if parts else None


def _scores(side: HeadInput, at: Tensor | None, *others: Tensor | None) -> HeadOutput:
    """`at`, log-probabilities of `_all_ids`, parted again; then lse, entropy, top-k and its ids."""
    logp = None if at is None or side.tokens is None else at[:, 0]
    more = None if at is None or side.ids is None else at[:, at.shape[1] - side.ids.shape[1] :]
    return HeadOutput(logp, more, *others)  # type: ignore[arg-type]


def _check(
    sides: list[HeadInput], pairs: Sequence[KLPair], temperature: float, chunk: Chunk
) -> int:
    """n, after everything at the door has been looked at."""
    if not sides or not 0.0 < temperature < math.inf or min(chunk) < 1:
        raise ValueError(
            f"needs at least one side, temperature in (0, inf) and chunk sizes of at least 1; got "
            f"{len(sides)} sides, temperature {temperature:g} and {tuple(chunk)}"
        )
    shapes = [_shape(side) for side in sides]
    if len(set(shapes)) > 1:
        raise ValueError(f"sides must share tokens and vocabulary, got (n, v) = {shapes}")
    n, v = shapes[0]
    for side in sides:
        if not 0 <= side.top_k <= v:
            raise ValueError(f"top_k must lie in [0, {v}], got {side.top_k}")
        if side.floor is not None:
            _check_shape("floor", side.floor, (n,))
        for name, x, shape in (("tokens", side.tokens, (n,)), ("ids", side.ids, (n, -1))):
            if x is not None:
                _check_shape(name, x, shape)
                if x.dtype != torch.int64:
                    raise TypeError(f"{name} must be int64, got {x.dtype}")
                if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < v:
                    raise ValueError(f"{name} must lie in [0, {v}), got {x.min()} to {x.max()}")
    for pair in pairs:
        if not (0 <= pair.p < len(sides) and 0 <= pair.q < len(sides) and pair.p != pair.q):
            raise ValueError(f"a pair names two of {len(sides)} sides, got {pair.p}, {pair.q}")
    return n


def _shape(side: HeadInput) -> tuple[int, int]:
    if side.hidden is None or side.head is None:
        if side.logits is None or side.logits.ndim != 2 or side.head is not None:
            raise ValueError("a side needs hidden and head, or logits (n, v)")
        return len(side.logits), side.logits.shape[1]
    weight, bias, softcap = side.head.weight, side.head.bias, side.head.softcap
    if side.hidden.ndim != 2 or weight.ndim != 2 or side.hidden.shape[1] != weight.shape[1]:
        found = f"{tuple(side.hidden.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"hidden must be (n, h) and the head's weight (v, h), got {found}")
    if bias is not None:
        _check_shape("bias", bias, (len(weight),))
        if not bool(bias.isfinite().all()):
            raise ValueError("the head's bias is not finite: use the dense path")
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise ValueError(f"softcap must lie in (0, inf) or be None, got {softcap:g}")
    return len(side.hidden), len(weight)


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.ndim != len(shape) or any(a not in (-1, b) for a, b in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
