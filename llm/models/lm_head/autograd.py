"""Chunked (or fused) linear log-probs: an autograd function that never holds the (n, v) logits.

A pass walks vocabulary blocks (outer) and token chunks (inner). Forward is an online softmax: it
keeps float64 sums for each token. Backward computes a block's logits again, turns them into their
own gradient and multiplies that straight into the gradients of the weight's block and of the hidden
states. With C = log softmax(l) and P = exp(C) a head's logits l receive, of an upstream gradient g,

    g at the ids, -P sum(g)   from log-probabilities of given ids
    g P                       from the log-sum-exp
    -g P (C + H)              from the entropy H
    g P (C - C_q - KL)        from KL(P || Q)
    g (P - P_p)               from KL(P_p || P)

Derived on a page, with what it costs: docs/head.md. A block is float32 (float64 if an operand is):
products of narrower operands are exact, only sums round, and a gradient is rounded to its tensor's
dtype once, when complete. The gradient of the logits is rounded to
`HeadBlocks.gradient_precision` before its products, where that names one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .blocks import LOWEST, Chunk, HeadBlocks, blocks, buffers, inside_block, view
from .threshold_scan import Above, above

Tensor = torch.Tensor


class KLPair(NamedTuple):
    """KL(p || q) between two heads, by index; train_p, train_q: which of them it is to move.

    A head that is not trained is SG(head): Eq. 7 is KLPair(policy, actor, train_p=False).
    """

    p: int
    q: int
    train_p: bool = True
    train_q: bool = True

    def trains(self, head: int) -> bool:
        return (self.p == head and self.train_p) or (self.q == head and self.train_q)


class HeadTensors(NamedTuple):
    """What a pass reads of one head. bias, ids: None where there are none."""

    hidden: Tensor  # (n, h)
    weight: Tensor  # (v, h)
    bias: Tensor | None  # (v,)
    ids: Tensor | None  # (n, k), int64


class HeadSums(NamedTuple):
    """What a pass returns of one head, differentiable or not; None where it was not asked for."""

    logp_ids: Tensor | None  # (n, k)
    lse: Tensor  # (n,)
    entropy: Tensor | None  # (n,)
    topk_logp: Tensor | None  # (n, top_k), no gradient
    topk_ids: Tensor | None  # (n, top_k), no gradient


class KeptSums(NamedTuple):
    """What backward needs of one head from forward, float64."""

    lse: Tensor  # (n,)
    entropy: Tensor | None  # (n,)


class PassResults(NamedTuple):
    """The outputs of a pass. above_floor: count and mass, (n,) each, of each head with a floor."""

    heads: list[HeadSums]
    kls: list[Tensor]  # (n,) of each pair
    above_floor: list[tuple[Tensor, Tensor]]


class Plan(NamedTuple):
    """What a pass computes of every head, and the KLs between them."""

    softcap: tuple[float | None, ...]
    top_k: tuple[int, ...]
    entropy: tuple[bool, ...]
    pairs: tuple[KLPair, ...]
    temperature: float
    chunk: Chunk
    floor: tuple[Tensor | None, ...]  # (n,) each, nats: see `threshold_scan.above`

    def named(self, flat: Sequence[Any]) -> PassResults:
        """The outputs of `ChunkedHeadFunction`, or their gradients, by name."""
        of_heads = len(HeadSums._fields) * len(self.softcap)
        of_kls = of_heads + len(self.pairs)
        rest = flat[of_kls:]
        above_floor = list(zip(rest[0::2], rest[1::2], strict=True))
        return PassResults(
            _each(HeadSums, flat[:of_heads]), list(flat[of_heads:of_kls]), above_floor
        )


class ChunkedHeadFunction(torch.autograd.Function):
    """For every head logp of its ids, lse, entropy, top-k; for every pair KL(p || q).

    autograd takes and gives flat tuples: `HeadTensors` of each head one after the other, and what
    `Plan.named` puts into `PassResults`.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = _each(HeadTensors, tensors)
        heads = _open(plan, inputs)
        softmaxes = [
            OnlineSoftmax(head, plan, i, x.ids)
            for i, (head, x) in enumerate(zip(heads, inputs, strict=True))
        ]
        # S = sum_v exp(l_p - peak_p) (l_p - l_q) of each pair, (n,): KL(p || q) but for the lse.
        cross = [torch.zeros_like(softmaxes[0].total) for _ in plan.pairs]
        logit_buffers = buffers(heads[0], plan.chunk, len(heads))
        spare, *exp_buffers = buffers(heads[0], plan.chunk, len(heads) + 1)
        for cols, rows in blocks(heads, plan.chunk):
            centred, exps = [], []  # of each head (r, c): l - peak, exp(l - peak)
            for head, softmax, one, two in zip(
                heads, softmaxes, logit_buffers, exp_buffers, strict=True
            ):
                centred.append(head.logits(rows, one))
                exps.append(view(two, centred[0]))
                softmax.add(rows, cols, centred[-1], exps[-1], view(spare, centred[0]))
            for total, pair in zip(cross, plan.pairs, strict=True):
                p, q = softmaxes[pair.p], softmaxes[pair.q]
                gap = torch.sub(centred[pair.p], centred[pair.q], out=view(spare, centred[0]))
                part = gap.mul_(exps[pair.p]).sum(1).double()  # (r, c) -> (r,)
                # `centred` lacks each head's own peak: what that leaves out is the last term.
                peaks = (p.peak - q.peak)[rows].double()
                total[rows] = total[rows] * p.shrink + part + p.part * peaks
        results = PassResults([x.results() for x in softmaxes], [], [])
        kls = []
        for total, pair in zip(cross, plan.pairs, strict=True):
            p, q = softmaxes[pair.p], softmaxes[pair.q]
            kl = total / p.total - p.lse + q.lse  # E_p[l_p - l_q] - lse_p + lse_q
            kl.clamp_(min=0.0)  # a KL is not negative: rounding alone makes it so
            if heads[pair.p].allows_more_than(heads[pair.q]):
                kl.fill_(math.inf)  # q = 0 < p
            kls.append(kl)
            results.kls.append(kl.to(heads[0].dtype))
        for head, softmax in zip(heads, softmaxes, strict=True):
            if softmax.floor is not None:
                results.above_floor.append(softmax.above_floor(head))
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *(y for x in softmaxes for y in (x.lse, x.entropy)), *kls)
        ctx.set_materialize_grads(False)
        # Which tokens are the likeliest has no gradient; scored as given ids they have one.
        top = [y for x in results.heads for y in (x.topk_logp, x.topk_ids) if y is not None]
        high = [y for counted in results.above_floor for y in counted]
        ctx.mark_non_differentiable(*top, *high)
        return (*(y for x in results.heads for y in x), *results.kls, *high)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, m = ctx.plan, len(ctx.plan.softcap)
        ends = len(HeadTensors._fields) * m, (len(HeadTensors._fields) + len(KeptSums._fields)) * m
        inputs = _each(HeadTensors, ctx.saved_tensors[: ends[0]])
        kept_sums = _each(KeptSums, ctx.saved_tensors[ends[0] : ends[1]])
        kls = ctx.saved_tensors[ends[1] :]
        # Whether hidden, weight and bias of each head need a gradient; ids never do.
        needs = [x[:3] for x in _each(HeadTensors, ctx.needs_input_grad[1:])]
        # l = softcap(z) / temperature: the division's share of the chain rule is taken here.
        upstream = plan.named([None if g is None else g / plan.temperature for g in grads])
        of_heads = [
            UpstreamGrads.of(g, sums.entropy) if any(need) else UpstreamGrads()
            for g, sums, need in zip(upstream.heads, kept_sums, needs, strict=True)
        ]
        of_pairs = [
            PairGrad(pair, g, kl)
            for pair, g, kl in zip(plan.pairs, upstream.kls, kls, strict=True)
            if g is not None
        ]
        # Rows (n,) at which each head's logits have a gradient at all.
        nowhere, active = torch.zeros_like(kept_sums[0].lse, dtype=torch.bool), []
        for i, (own, need) in enumerate(zip(of_heads, needs, strict=True)):
            by_kl = [x.grad != 0 for x in of_pairs if any(need) and x.pair.trains(i)]
            active.append(torch.stack([nowhere, *own.nonzero_rows(), *by_kl]).any(0))
        some = torch.stack(active).any(0)
        kept = None if bool(some.all()) else some.nonzero()[:, 0]
        full_hidden = [x.hidden for x in inputs]
        if kept is not None:  # a token without any gradient takes part in no matrix product
            inputs = [
                x._replace(hidden=x.hidden[kept], ids=None if x.ids is None else x.ids[kept])
                for x in inputs
            ]
            kept_sums = [x._replace(lse=x.lse[kept]) for x in kept_sums]
            of_heads = [x.at(kept) for x in of_heads]
            of_pairs = [PairGrad(x.pair, x.grad[kept], x.kl[kept]) for x in of_pairs]
            active = [x[kept] for x in active]
        heads = _open(plan, inputs)
        for head, need in zip(heads, needs, strict=True):
            head.start_gradients(need)
        ids, lse = [x.ids for x in inputs], [x.lse for x in kept_sums]
        _backward_pass(plan, heads, ids, lse, of_heads, of_pairs, active)
        out: list[Tensor | None] = [None]  # of the plan
        for head, full in zip(heads, full_hidden, strict=True):
            out += [*head.gradients(full, kept), None]
        return tuple(out)


def _backward_pass(
    plan: Plan,
    heads: list[HeadBlocks],
    ids: list[Tensor | None],
    lse: list[Tensor],
    of_heads: list[UpstreamGrads],
    of_pairs: list[PairGrad],
    active: list[Tensor],
) -> None:
    """Logits again, block by block, their gradient, its products. active: rows that have any."""
    dtype, trained = heads[0].dtype, [bool(x.any()) for x in active]
    # A KL whose trained heads have no row left asks for nothing; a head nobody asks for is skipped.
    of_pairs = [
        x for x in of_pairs if any(trained[i] and x.pair.trains(i) for i in (x.pair.p, x.pair.q))
    ]
    needed = [
        i for i, t in enumerate(trained) if t or any(i in (x.pair.p, x.pair.q) for x in of_pairs)
    ]
    logit_buffers, prob_buffers = (buffers(heads[0], plan.chunk, len(heads)) for _ in range(2))
    dl_buffer, spare_buffer = buffers(heads[0], plan.chunk, 2)
    for head, trains in zip(heads, trained, strict=True):
        if head.softcap is not None and trains:
            (head.tanh,) = buffers(head, plan.chunk, 1)
    lse = [x.to(dtype)[:, None] for x in lse]  # (n,) -> (n, 1), as the two below
    of_pairs = [PairGrad(x.pair, x.grad[:, None], x.kl.to(dtype)[:, None]) for x in of_pairs]
    size = plan.chunk.tokens  # below: rows with a gradient by head and token chunk, None for all
    picked = [[None if a.all() else a.nonzero()[:, 0] for a in x.split(size)] for x in active]
    for cols, rows in blocks(heads, plan.chunk):
        logp, prob = {}, {}  # C and P of a block, (r, c)
        for i in needed:
            logp[i] = heads[i].logits(rows, logit_buffers[i]).sub_(lse[i][rows])
            prob[i] = torch.exp(logp[i], out=view(prob_buffers[i], logp[i]))
        for i in needed:
            pick = picked[i][rows.start // size]
            if pick is not None and not len(pick):
                continue
            own = of_heads[i].at(rows)
            dl, spare = view(dl_buffer, logp[i]), view(spare_buffer, logp[i])
            # g P of the log-sum-exp, -P sum(g) of the ids and -g P H of the entropy, together
            if own.probs is None:
                dl.zero_()
            else:
                torch.mul(prob[i], own.probs[:, None], out=dl)
            if own.entropy is not None:  # -g P C, the other half of the entropy's
                dl.addcmul_(
                    torch.mul(prob[i], logp[i], out=spare), own.entropy[:, None], value=-1.0
                )
            for pair, g, kl in of_pairs:
                if pair.p == i and pair.train_p:  # g P (C - C_q - KL)
                    torch.sub(logp[i], logp[pair.q], out=spare).sub_(kl[rows]).mul_(prob[i])
                    dl.addcmul_(spare, g[rows])
                if pair.q == i and pair.train_q:  # Eq. 7. Exactly 0 where both rows are equal
                    dl.addcmul_(torch.sub(prob[i], prob[pair.p], out=spare), g[rows])
            chosen = ids[i]
            if own.ids is not None and chosen is not None:  # g at the ids, of those in the block
                where, inside = inside_block(chosen[rows], cols)
                dl.scatter_add_(1, where, torch.where(inside, own.ids, 0.0))
            heads[i].add(rows, cols, dl, pick)


class OnlineSoftmax:
    """Running sums of one head over vocabulary blocks, float64, relative to the peak so far.

    After blocks 1..b: peak = max l, total = sum exp(l - peak), mean = sum l exp(l - peak). A block
    with a larger peak multiplies what was summed by `shrink` = exp(old - new peak).
    """

    def __init__(self, head: HeadBlocks, plan: Plan, i: int, ids: Tensor | None) -> None:
        n, k, like = len(head.hidden), plan.top_k[i], head.hidden
        self.ids, self.dtype, self.chunk, self.floor = ids, head.dtype, plan.chunk, plan.floor[i]
        self.peak = like.new_full((n,), -math.inf)
        self.total = like.new_zeros((n,), dtype=torch.float64)
        self.mean = torch.zeros_like(self.total) if plan.entropy[i] else None
        self.at_ids: Any = None if ids is None else like.new_zeros(ids.shape)  # logits, (n, k)
        self.top: Any = like.new_full((n, k), -math.inf) if k else None  # logits, falling
        self.top_ids: Any = like.new_zeros((n, k), dtype=torch.long) if k else None
        self.candidates = None
        if self.floor is not None:
            bound = self.peak  # -inf is always a lower bound of the lse; a known logit a better one
            if ids is not None and ids.shape[1]:
                bound = head.logit_of_given(ids, plan.chunk)
            self.candidates = Above(self.floor.clamp(min=LOWEST), bound)

    def add(self, rows: slice, cols: slice, logits: Tensor, e: Tensor, spare: Tensor) -> None:
        """Take a block in, (r, c); leaves logits - peak in `logits`, its exponential in `e`."""
        if self.ids is not None:
            where, inside = inside_block(self.ids[rows], cols)
            self.at_ids[rows] = torch.where(inside, logits.gather(1, where), self.at_ids[rows])
        block_peak = logits.amax(1)  # (r,)
        if self.top is not None:
            self._merge_top(rows, cols, logits, block_peak)
        if self.candidates is not None:
            seen = (self.peak[rows].double() + self.total[rows].log()).to(self.dtype)
            self.candidates.add(rows, logits, torch.maximum(seen, block_peak))
        old, new = self.peak[rows], torch.maximum(self.peak[rows], block_peak)
        torch.exp(logits.sub_(new[:, None]), out=e)  # at most 1: cannot overflow
        self.shrink, self.part = (old - new).double().exp(), e.sum(1).double()
        self.total[rows] = self.total[rows] * self.shrink + self.part
        if self.mean is not None:
            # sum l e = sum (l - peak) e + peak sum e
            part = torch.mul(logits, e, out=spare).sum(1).double() + self.part * new.double()
            self.mean[rows] = self.mean[rows] * self.shrink + part
        self.peak[rows] = new

    def _merge_top(self, rows: slice, cols: slice, logits: Tensor, block_peak: Tensor) -> None:
        """Only tokens whose k-th largest so far is below this block's peak need a look."""
        look = (block_peak > self.top[rows, -1]).nonzero()[:, 0]
        if len(look):
            k = self.top.shape[1]
            value, place = logits[look].topk(min(k, logits.shape[1]))
            look += rows.start
            ids = torch.cat([self.top_ids[look], place + cols.start], 1)  # (looked at, <= 2 k)
            self.top[look], order = torch.cat([self.top[look], value], 1).topk(k)
            self.top_ids[look] = ids.gather(1, order)

    def results(self) -> HeadSums:
        """What the function returns of a head; also sets lse and entropy in float64."""
        self.lse = self.peak.double() + self.total.log()
        # H = lse - E[l]
        self.entropy = None if self.mean is None else self.lse - self.mean / self.total
        logp, top = (None if x is None else self._logp(x) for x in (self.at_ids, self.top))
        return HeadSums(
            logp_ids=None if logp is None else logp.to(self.dtype),
            lse=self.lse.to(self.dtype),
            entropy=None if self.entropy is None else self.entropy.to(self.dtype),
            topk_logp=None if top is None else top.to(self.dtype),
            topk_ids=self.top_ids,
        )

    def _logp(self, logits: Tensor) -> Tensor:
        """Of some logits, (n, k); those of masked ids are -inf again."""
        return (logits - self.lse[:, None]).masked_fill(logits < LOWEST, -math.inf)

    def above_floor(self, head: HeadBlocks) -> tuple[Tensor, Tensor]:
        """Count and mass, (n,); one more pass where candidates were too many to be kept."""
        assert self.candidates is not None and self.floor is not None
        counted = self.candidates.results(self.lse, self.dtype)
        if counted is None:
            counted = torch.zeros_like(self.total), torch.zeros_like(self.total)
            (buffer,) = buffers(head, self.chunk, 1)
            for _, rows in blocks([head], self.chunk):
                logp = (head.logits(rows, buffer) - self.lse[rows, None]).to(self.dtype)
                floor = self.floor[rows].clamp(min=LOWEST)
                for total, part in zip(counted, above(logp, floor), strict=True):
                    total[rows] += part
        return counted


class PairGrad(NamedTuple):
    """A KL in backward: upstream gradient and value, (n,), in the pass (n, 1)."""

    pair: KLPair
    grad: Tensor
    kl: Tensor


class UpstreamGrads(NamedTuple):
    """Factors of one head's logit gradients: at its ids (n, k), of P (n,), of -P C (n,).

    The entropy's -g P (C + H) has a part in the last two.
    """

    ids: Tensor | None = None
    probs: Tensor | None = None
    entropy: Tensor | None = None

    @staticmethod
    def of(grads: HeadSums, entropy: Tensor | None) -> UpstreamGrads:
        """grads: of what a head returned, each None where nothing was asked of it."""
        of_probs = [] if grads.lse is None else [grads.lse]
        if grads.logp_ids is not None:
            of_probs.append(-grads.logp_ids.sum(1))
        if grads.entropy is not None and entropy is not None:
            of_probs.append(-grads.entropy * entropy.to(grads.entropy.dtype))
        probs = torch.stack(of_probs).sum(0) if of_probs else None
        return UpstreamGrads(grads.logp_ids, probs, grads.entropy)

    def at(self, rows: Tensor | slice) -> UpstreamGrads:
        return UpstreamGrads(*(None if x is None else x[rows] for x in self))

    def nonzero_rows(self) -> list[Tensor]:
        """(n,), bool, for each factor there is."""
        rows = [x != 0 for x in (self.probs, self.entropy) if x is not None]
        return rows if self.ids is None else [*rows, (self.ids != 0).any(1)]


def _each(kind: Any, flat: Sequence[Any]) -> list[Any]:
    """A flat sequence as named tuples of that kind, one for each head."""
    size = len(kind._fields)
    return [kind(*flat[i : i + size]) for i in range(0, len(flat), size)]


def _open(plan: Plan, inputs: list[HeadTensors]) -> list[HeadBlocks]:
    """float64 for all heads if any tensor has it (ids are int64), else float32."""
    wide = any(x is not None and x.dtype == torch.float64 for tensors in inputs for x in tensors)
    dtype = torch.float64 if wide else torch.float32
    return [
        HeadBlocks(x, softcap, plan.temperature, dtype)
        for x, softcap in zip(inputs, plan.softcap, strict=True)
    ]
