"""The head without its logits: log-probabilities, entropy, KL, top-k and U' from hidden states.

`scores` computes in one pass what a step needs of several models, and its backward pass shares
every recomputed logit between all of their gradients.
Exact over the full vocabulary: only blocks of (tokens, vocabulary) are ever held, and `dense` is
the same from whole logits, for models whose head has another form (`heads.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

import jackpot

from .head_backward import Chunk, Pair, Plan, Scan, inside_block

Tensor = torch.Tensor
CHUNK = Chunk()
RECOMPUTED: Any = {"use_reentrant": False, "preserve_rng_state": False}


@dataclass(frozen=True)
class Head:
    """logits = softcap(hidden weight^T + bias), softcap(x) = cap tanh(x / cap).

    weight: (v, h), the parameter itself, so tied embeddings and later updates need no care.
    bias: (v,), finite, or None. softcap: cap > 0, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """The dense formula, (n, h) -> (n, v) in the dtype of `hidden`."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return out if self.softcap is None else self.softcap * torch.tanh(out / self.softcap)


class Side(NamedTuple):
    """One model at n states. Give `hidden` and `head`, or (for `dense`) `logits`.

    hidden: (n, h), the head's input. logits: (n, v), before the temperature.
    tokens: (n,), whose log-probability is wanted. ids: (n, k), further ones.
    top_k: how many of the likeliest tokens to return. entropy: whether to compute it.
    """

    hidden: Tensor | None = None
    head: Head | None = None
    tokens: Tensor | None = None
    ids: Tensor | None = None
    top_k: int = 0
    entropy: bool = False
    logits: Tensor | None = None


class Scores(NamedTuple):
    """Of one side, in nats, float32 (float64 if any side is); None where not asked for.

    logp (n,), logp_ids (n, k), lse (n,) the log-sum-exp of logits / temperature, entropy (n,): all
    with gradient. topk_logp (n, top_k), falling, and topk_ids: without.
    """

    logp: Tensor | None
    logp_ids: Tensor | None
    lse: Tensor
    entropy: Tensor | None
    topk_logp: Tensor | None
    topk_ids: Tensor | None


@torch.compiler.disable  # a graph break: the loop over blocks would otherwise unroll
def scores(
    sides: list[Side], pairs: Sequence[Pair] = (), temperature: float = 1.0, chunk: Chunk = CHUNK
) -> tuple[list[Scores], list[Tensor]]:
    """Everything asked for of several models at the same n states, in one pass over blocks.

    Backward costs one more product with each weight than the dense path (its logits again). Tokens
    whose upstream gradients are all exactly 0 are left out of it, by model: of a rejected or
    zero-advantage token, say, the policy's head computes nothing but what the KL needs.
    bf16 and float16 operands are widened block by block: products are exact, sums and
    log-probabilities float32, and each gradient is rounded to its parameter's dtype once.

    Args:
        sides: the models, of one vocabulary; at least one. n = 0 is fine.
        pairs: the KLs wanted. Gradient as `Pair` says, to hidden, weight and bias of either.
        temperature: divides the (capped) logits, > 0. chunk: block sizes, the default for a CPU.

    Returns:
        (Scores of each side, KL (n,) >= 0 of each pair, in nats; exactly 0, with gradient exactly
        0, at rows where both logits are equal).

    Raises:
        ValueError: shapes or vocabularies differ, an id outside the vocabulary, top_k outside
            [0, v], temperature or chunk not positive, a bias not finite. TypeError: ids not int64.
    """
    _check(sides, pairs, temperature, chunk)
    heads = [side.head for side in sides if side.head is not None]
    if len(heads) < len(sides):
        raise ValueError("scores needs hidden and head of every side; `dense` takes logits")
    tensors: list[Any] = []
    for side, head in zip(sides, heads, strict=True):
        tensors += [side.hidden, head.weight, head.bias, _all_ids(side)]
    wants = tuple(s.top_k for s in sides), tuple(s.entropy for s in sides), tuple(pairs)
    plan = Plan(tuple(h.softcap for h in heads), *wants, float(temperature), chunk)
    with torch.autocast(tensors[0].device.type, enabled=False):
        found = Scan.apply(plan, *tensors)
    per_side = [_scores(side, *found[5 * i : 5 * i + 5]) for i, side in enumerate(sides)]
    return per_side, list(found[5 * len(sides) :])


def dense(
    sides: list[Side], pairs: Sequence[Pair] = (), temperature: float = 1.0
) -> tuple[list[Scores], list[Tensor]]:
    """`scores` by way of whole (n, v) log-probabilities; sides may hold logits. Same results.

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
        found.append(_scores(side, at, logits.logsumexp(-1), entropy, *top))
        logps.append(logp)
    for pair in pairs:
        log_p, log_q = logps[pair.p], logps[pair.q]
        log_p = log_p if pair.train_p else log_p.detach()
        kls.append(jackpot.kl_p_q(log_p, log_q if pair.train_q else log_q.detach()))
    return found, kls


def token_logprobs(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float = 1.0, chunk: Chunk = CHUNK
) -> Tensor:
    """log p of one token at each state: (n, h), (n,) -> (n,). Details and errors: `scores`."""
    return scores([Side(hidden, head, tokens)], (), temperature, chunk)[0][0].logp  # type: ignore[return-value]


@torch.compiler.disable
def tail_bound(
    hidden: Tensor,
    head: Head,
    lse: Tensor,
    known_ids: Tensor,
    log_p_tail: Tensor,
    log_q_tail: Tensor,
    log_q_cap: Tensor,
    lam: float | Tensor,
    temperature: float = 1.0,
    chunk: Chunk = CHUNK,
) -> Tensor:
    """U' = min(q_T, sum over the tail of min(c, p / lam)), as `jackpot.tail_bound`, in one pass.

    Meant for use without gradient: backward holds the weight's gradient twice.

    Args:
        hidden, head: of p, (n, h).
        lse: `Scores.lse` of p at this temperature, (n,). Gradient passes through it, too.
        known_ids: ids of the k tokens whose q is known, (n, k), int64.
        log_p_tail, log_q_tail: log of the mass p and q put on the others, (n,).
        log_q_cap: log of c, the smallest known q, (n,).
        lam: threshold in (0, inf), a number or (n,).

    Returns:
        U', (n,), in [0, q_T], dtype of `lse`.

    Raises:
        ValueError, TypeError: as `scores`; lam outside (0, inf).

    Source: docs/theory_topk.md, D2.
    """
    n = _check([Side(hidden, head, ids=known_ids)], (), temperature, chunk)
    for x in (lse, log_p_tail, log_q_tail, log_q_cap):
        _check_shape("each of lse, log_p_tail, log_q_tail and log_q_cap", x, (n,))
    lam = torch.as_tensor(lam, dtype=lse.dtype, device=lse.device).expand(n)
    if not bool(((lam > 0) & (lam < math.inf)).all()):
        raise ValueError(f"lam must lie in (0, inf), got {lam}")
    shift, wide = (lse + lam.log())[:, None], torch.promote_types(lse.dtype, torch.float32)

    def part(rows: slice, start: int, weight: Tensor, bias: Tensor | None) -> tuple:
        """Of a block: the sum of min(c, p / lam) over unknown tokens, and whether c bound."""
        block = Head(weight.to(wide), None if bias is None else bias.to(wide), head.softcap)
        with torch.autocast(hidden.device.type, enabled=False):
            log_h = block.logits(hidden[rows].to(wide)) / temperature - shift[rows]
        where, inside = inside_block(known_ids[rows], slice(start, start + len(weight)))
        known = torch.zeros_like(log_h).scatter_add_(1, where, inside.to(wide)) > 0
        log_h, cap = log_h.masked_fill(known, -math.inf), log_q_cap[rows, None].to(wide)
        return torch.minimum(log_h, cap).exp().sum(1), (log_h > cap).any(1)

    lumped = torch.minimum(log_q_tail, log_p_tail - lam.log()).exp()
    weights, found = head.weight.split(chunk.vocab), []
    biases = [None] * len(weights) if head.bias is None else head.bias.split(chunk.vocab)
    for first in range(0, n, chunk.tokens):
        rows = slice(first, first + chunk.tokens)
        parts = [
            checkpoint(part, rows, i * chunk.vocab, *block, **RECOMPUTED)
            for i, block in enumerate(zip(weights, biases, strict=True))
        ]
        sums, binds = (torch.stack(x) for x in zip(*parts, strict=True))
        sharp = torch.minimum(lumped[rows], sums.sum(0))
        found.append(torch.where(binds.any(0), sharp, lumped[rows]))
    return torch.cat(found) if found else lumped


def _all_ids(side: Side) -> Tensor | None:
    parts = [] if side.tokens is None else [side.tokens[:, None]]
    parts += [] if side.ids is None else [side.ids]
    return torch.cat(parts, 1) if parts else None


def _scores(side: Side, at: Tensor | None, *others: Tensor | None) -> Scores:
    """`at`, log-probabilities of `_all_ids`, parted again; then lse, entropy, top-k and its ids."""
    logp = None if at is None or side.tokens is None else at[:, 0]
    more = None if at is None or side.ids is None else at[:, at.shape[1] - side.ids.shape[1] :]
    return Scores(logp, more, *others)  # type: ignore[arg-type]


def _check(sides: list[Side], pairs: Sequence[Pair], temperature: float, chunk: Chunk) -> int:
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


def _shape(side: Side) -> tuple[int, int]:
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
