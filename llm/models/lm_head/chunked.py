"""The head without its logits: log-probabilities, entropy, KL, top-k and U' from hidden states.

Chunked linear log-probs: `chunked_logprobs` computes in one pass what a step needs of several
models, and its backward pass shares every recomputed logit between all of their gradients.
Exact over the full vocabulary: only blocks of (tokens, vocabulary) are ever held. `dense_logprobs`
is the same from whole logits, for models whose head has another form (`support.py`). The
derivation: docs/head.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import jackpot

from .autograd import ChunkedHeadFunction, HeadTensors, KLPair, Plan
from .blocks import Chunk, default_chunk
from .threshold_scan import above

Tensor = torch.Tensor


@dataclass(frozen=True)
class Head:
    """logits = softcap(hidden weight^T + bias), softcap(x) = cap tanh(x / cap).

    weight: (v, h), the parameter itself, so tied embeddings and later updates need no care; of a
        quantised model its values, which are updated nowhere.
    bias: (v,), finite or -inf (an id of probability 0), or None. softcap: cap > 0, or None.
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
    """One model at n states, and what is wanted of it.

    states: (n, h), the head's input; without a head (for `dense_logprobs` alone) logits before the
    temperature, (n, v).
    tokens: (n,), whose log-probability is wanted. ids: (n, k), further ones.
    top_k: how many of the likeliest tokens to return. entropy: whether to compute it.
    floor: (n,), nats: count the tokens of larger log-probability (for U', `z_tail.tail_terms`).
    """

    states: Tensor
    head: Head | None = None
    tokens: Tensor | None = None
    ids: Tensor | None = None
    top_k: int = 0
    entropy: bool = False
    floor: Tensor | None = None


class HeadOutput:
    """Of one model, in nats, float32 (float64 if any tensor is). Only what was asked for is there.

    With gradient: logp (n,) of `tokens`, logp_ids (n, k) of `ids`, lse (n,), the log-sum-exp of
    logits / temperature, entropy (n,). Without: topk_logp (n, top_k), falling, and topk_ids;
    n_above, mass_above (n,), float64, number and probability of the tokens above the floor.

    Raises:
        ValueError: on reading an output that was not asked for, with the field of HeadInput to set.
    """

    logp: Tensor
    logp_ids: Tensor
    lse: Tensor
    entropy: Tensor
    topk_logp: Tensor
    topk_ids: Tensor
    n_above: Tensor
    mass_above: Tensor

    def __init__(self, **computed: Tensor | None) -> None:
        """By name; None for what was not asked for."""
        self.__dict__.update({k: x for k, x in computed.items() if x is not None})

    if not TYPE_CHECKING:  # mypy would then believe that every name is an output

        def __getattr__(self, name: str) -> Tensor:
            if name in _ASKED_BY:
                raise ValueError(f"{name} was not asked for: set HeadInput.{_ASKED_BY[name]}")
            raise AttributeError(f"HeadOutput has no {name}")


_ASKED_BY = {"logp": "tokens", "logp_ids": "ids", "entropy": "entropy", "topk_logp": "top_k",
             "topk_ids": "top_k", "n_above": "floor", "mass_above": "floor"}  # fmt: skip


class LogprobsAndKLs(NamedTuple):
    """The outputs of each model, in the order of the inputs, and of each pair its KL (n,)."""

    outputs: list[HeadOutput]
    kls: list[Tensor]


@torch.compiler.disable  # a graph break: the loop over blocks would otherwise unroll
def chunked_logprobs(
    inputs: list[HeadInput],
    pairs: Sequence[KLPair] = (),
    temperature: float = 1.0,
    chunk: Chunk | None = None,
) -> LogprobsAndKLs:
    """Everything asked for of several models at the same n states, in one pass over blocks.

    Backward costs one more product with each weight than the dense path (its logits again). Tokens
    whose upstream gradients are all exactly 0 are left out of it, by model: of a rejected or
    zero-advantage token, say, the policy's head computes nothing but what the KL needs.
    bf16 and float16 operands are widened block by block; bf16 ones may use tiles or tensor cores
    that sum in float32 (`blocks.operand_precision`): products are exact, sums and log-probabilities
    float32, and a gradient is rounded to its parameter's dtype once. There, from width 128 on, the
    logits' gradient is rounded before its products: to bfloat16 in tiles, to TF32 in tensor cores.

    Args:
        inputs: the models, of one vocabulary; at least one. n = 0 is fine.
        pairs: the KLs wanted, by index. Gradient as `KLPair` says, to hidden, weight and bias of
            either.
        temperature: divides the (capped) logits, > 0. chunk: block sizes; None: the device's.

    Returns:
        HeadOutput of each model, and KL (n,) >= 0 of each pair, in nats; exactly 0, with gradient
        exactly 0, at rows where both logits are equal.

    Raises:
        ValueError: shapes or vocabularies differ, an id outside the vocabulary, top_k outside
            [0, v], temperature or chunk not positive, NaN or +inf in a bias. TypeError: ids not
            int64.
    """
    _check(inputs, pairs, temperature, chunk or Chunk())
    chunk = chunk or default_chunk(inputs[0].states.device.type)
    heads = [x.head for x in inputs if x.head is not None]
    if len(heads) < len(inputs):
        raise ValueError("chunked_logprobs needs every input's head; `dense_logprobs` takes logits")
    # autograd saves and differentiates tensors only where they are arguments of their own.
    tensors: list[Any] = []  # flat, as autograd wants them: `HeadTensors` one after the other
    for x, head in zip(inputs, heads, strict=True):
        tensors += HeadTensors(x.states, head.weight, head.bias, _all_ids(x))
    plan = Plan(
        softcap=tuple(head.softcap for head in heads),
        top_k=tuple(x.top_k for x in inputs),
        entropy=tuple(x.entropy for x in inputs),
        pairs=tuple(pairs),
        temperature=float(temperature),
        chunk=chunk,
        floor=tuple(x.floor for x in inputs),
    )
    # A product that autocast rounds would not be the one that backward computes again.
    with torch.autocast(tensors[0].device.type, enabled=False):
        results = plan.named(ChunkedHeadFunction.apply(plan, *tensors))
    # only heads with a floor have counts, in the order of the heads
    above_floor = iter(results.above_floor)
    outputs = [
        _output(x, *sums, *((None, None) if x.floor is None else next(above_floor)))
        for x, sums in zip(inputs, results.heads, strict=True)
    ]
    return LogprobsAndKLs(outputs, results.kls)


def dense_logprobs(
    inputs: list[HeadInput], pairs: Sequence[KLPair] = (), temperature: float = 1.0
) -> LogprobsAndKLs:
    """`chunked_logprobs` from whole (n, v) log-probabilities; inputs may hold logits. Same results.

    Logits are computed in the model's dtype, so in bf16 they are rounded, as a model's own are.
    """
    _check(inputs, pairs, temperature, Chunk())
    outputs, logps, kls = [], [], []
    for x in inputs:
        logits = x.states if x.head is None else x.head.logits(x.states)
        # bf16 (n, v) -> float32 before the softmax: its sums over v would lose their digits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        logp, ids = torch.log_softmax(logits, -1), _all_ids(x)  # (n, v), (n, 1 + k)
        entropy = _entropy(logp) if x.entropy else None
        # which tokens are the likeliest has no gradient
        top = logp.detach().topk(x.top_k) if x.top_k else (None, None)
        logp_ids = None if ids is None else logp.gather(-1, ids)
        high = (None, None) if x.floor is None else above(logp.detach(), x.floor)
        outputs.append(_output(x, logp_ids, logits.logsumexp(-1), entropy, *top, *high))
        logps.append(logp)
    for pair in pairs:
        log_p, log_q = logps[pair.p], logps[pair.q]
        both = outputs[pair.p].lse + outputs[pair.q].lse
        # jackpot refuses NaN by an error that would not say which model it came from
        if not bool(both.isfinite().all()):  # as in blocks: the caller's guard names the culprit
            kls.append(both.detach() * math.nan)
            continue
        # SG of the model that the KL is not to move (Eq. 7: the policy)
        log_p = log_p if pair.train_p else log_p.detach()
        kls.append(jackpot.kl_p_q(log_p, log_q if pair.train_q else log_q.detach()))
    return LogprobsAndKLs(outputs, kls)


def _entropy(logp: Tensor) -> Tensor:
    """-sum p log p of each row, (n, v) -> (n,); a token of probability 0 adds nothing."""
    # 0 times -inf would be NaN; the copy is made only where there is such a token
    none = bool((logp.detach().amin(-1) == -math.inf).any()) if logp.numel() else False
    finite = logp.masked_fill(logp == -math.inf, 0.0) if none else logp
    return -(logp.exp() * finite).sum(-1)


def token_logprobs(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float = 1.0, chunk: Chunk | None = None
) -> Tensor:
    """log p of one token at each state: (n, h), (n,) -> (n,). See `chunked_logprobs`."""
    asked = [HeadInput(hidden, head, tokens)]
    return chunked_logprobs(asked, (), temperature, chunk).outputs[0].logp


def _all_ids(x: HeadInput) -> Tensor | None:
    """Sampled tokens first, then the further ids, (n, 1 + k); either may be missing."""
    parts = [] if x.tokens is None else [x.tokens[:, None]]
    parts += [] if x.ids is None else [x.ids]
    return torch.cat(parts, 1) if parts else None


def _output(x: HeadInput, logp_all: Tensor | None, *others: Tensor | None) -> HeadOutput:
    """`logp_all`, of `_all_ids`, parted again. others: as in HeadOutput, from lse on."""
    logp = logp_ids = None
    if logp_all is not None and x.tokens is not None:
        logp = logp_all[:, 0]  # (n, 1 + k) -> (n,)
    if logp_all is not None and x.ids is not None:
        # from the right: column 0 is the sampled token's, where one was asked for
        logp_ids = logp_all[:, logp_all.shape[1] - x.ids.shape[1] :]
    names = ("lse", "entropy", "topk_logp", "topk_ids", "n_above", "mass_above")
    named = dict(zip(names, others, strict=True))
    return HeadOutput(logp=logp, logp_ids=logp_ids, **named)


def _check(
    inputs: list[HeadInput],
    pairs: Sequence[KLPair],
    temperature: float,
    chunk: Chunk,
) -> None:
    """Raises what `chunked_logprobs` says it raises."""
    if not inputs or not 0.0 < temperature < math.inf or min(chunk) < 1:
        raise ValueError(
            f"needs at least one input, temperature in (0, inf) and chunk sizes of at least 1; got "
            f"{len(inputs)} inputs, temperature {temperature:g} and {tuple(chunk)}"
        )
    shapes = [_shape(x) for x in inputs]
    if len(set(shapes)) > 1:
        raise ValueError(f"inputs must share tokens and vocabulary, got (n, v) = {shapes}")
    n, v = shapes[0]
    for x in inputs:
        if not 0 <= x.top_k <= v:
            raise ValueError(f"top_k must lie in [0, {v}], got {x.top_k}")
        if x.floor is not None:
            _check_shape("floor", x.floor, (n,))
        for name, ids, shape in (("tokens", x.tokens, (n,)), ("ids", x.ids, (n, -1))):
            if ids is not None:
                _check_shape(name, ids, shape)
                if ids.dtype != torch.int64:
                    raise TypeError(f"{name} must be int64, got {ids.dtype}")
                low, high = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
                if ids.numel() and not 0 <= low <= high < v:
                    raise ValueError(f"{name} must lie in [0, {v}), got {low} to {high}")
    for pair in pairs:
        if not (0 <= pair.p < len(inputs) and 0 <= pair.q < len(inputs) and pair.p != pair.q):
            raise ValueError(f"a pair names two of {len(inputs)} inputs, got {pair.p}, {pair.q}")


def _shape(x: HeadInput) -> tuple[int, int]:
    if x.head is None:
        if x.states.ndim != 2:
            raise ValueError(
                f"without a head, states are logits (n, v), got {tuple(x.states.shape)}"
            )
        return len(x.states), x.states.shape[1]
    weight, bias, softcap = x.head.weight, x.head.bias, x.head.softcap
    if x.states.ndim != 2 or weight.ndim != 2 or x.states.shape[1] != weight.shape[1]:
        shapes = f"{tuple(x.states.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"states must be (n, h) and the head's weight (v, h), got {shapes}")
    if bias is not None:
        _check_shape("bias", bias, (len(weight),))
        if not bool((bias < math.inf).all()):
            raise ValueError("the head's bias is not finite: it holds NaN or +inf")
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise ValueError(f"softcap must lie in (0, inf) or be None, got {softcap:g}")
    return len(x.states), len(weight)


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.ndim != len(shape) or any(a not in (-1, b) for a, b in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
