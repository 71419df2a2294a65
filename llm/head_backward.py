"""Passes over the logits of heads in blocks: an autograd function that never holds (n, v).

A pass walks vocabulary blocks (outer) and token chunks (inner). Forward keeps running sums for each
token, in float64. Backward computes a block's logits again, turns them into their own gradient and
multiplies that straight into the gradient of the weight's block and of the hidden states. With
C = log softmax(l) and P = exp(C) a head's logits l receive

    g at the ids, -P sum(g)   from log-probabilities of given ids
    g P                       from the log-sum-exp
    -g P (C + H)              from the entropy H
    g P (C - C_q - KL)        from KL(P || Q)
    g (P - P_p)               from KL(P_p || P)

A block is float32 (float64 if an operand is): narrower operands are widened, so that products are
exact and only sums round, and a gradient is rounded to its tensor's dtype once, when complete.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from .head_blocks import Chunk, HeadBlocks, blocks, buffers, inside_block, view
from .tail import Above, above

Tensor = torch.Tensor


class KLPair(NamedTuple):
    """KL(p || q) between two sides, by index; train_p, train_q: which of them it is to move.

    A side that is not trained is SG(side): Eq. 7 is KLPair(policy, actor, train_p=False).
    """

    p: int
    q: int
    train_p: bool = True
    train_q: bool = True

    def trains(self, side: int) -> bool:
        return (self.p == side and self.train_p) or (self.q == side and self.train_q)


class Plan(NamedTuple):
    """What a pass computes of every side, and the KLs between them."""

    softcap: tuple[float | None, ...]
    top_k: tuple[int, ...]
    entropy: tuple[bool, ...]
    pairs: tuple[KLPair, ...]
    temperature: float
    chunk: Chunk
    floor: tuple[Tensor | None, ...]  # (n,) each, nats: see `tail.above`


class ChunkedHeadFunction(torch.autograd.Function):
    """For every side logp of its ids, lse, entropy, top-k; for every pair KL(p || q).

    Tensors, four for each side: hidden (n, h), weight (v, h), bias (v,) or None and ids (n, k) or
    None. Returns, five for each side: logp_ids (n, k) or None, lse (n,), entropy (n,) or None,
    top-k log-probabilities and ids (n, top_k) or None; then KL (n,) of each pair; then count and
    mass (n,) of the tokens above each side's floor, where it has one.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        sides = _open(plan, tensors)
        runs = [OnlineSoftmax(s, plan, i, tensors[4 * i + 3]) for i, s in enumerate(sides)]
        cross = [torch.zeros_like(runs[0].total) for _ in plan.pairs]
        centred, (spare, *exps) = (buffers(sides[0], plan.chunk, len(sides) + i) for i in (0, 1))
        for cols, rows in blocks(sides, plan.chunk):
            c, e = [], []
            for side, run, one, two in zip(sides, runs, centred, exps, strict=True):
                c.append(side.logits(rows, one))
                e.append(view(two, c[0]))
                run.add(rows, cols, c[-1], e[-1], view(spare, c[0]))
            for x, pair in zip(cross, plan.pairs, strict=True):
                p, q = runs[pair.p], runs[pair.q]
                gap = torch.sub(c[pair.p], c[pair.q], out=view(spare, c[0]))
                part = gap.mul_(e[pair.p]).sum(1).double()
                x[rows] = x[rows] * p.shrink + part + p.part * (p.peak - q.peak)[rows].double()
        found, keep = [], []
        for run in runs:
            found += run.results()
            keep += [run.lse, run.entropy]
        for x, pair in zip(cross, plan.pairs, strict=True):
            kl = x / runs[pair.p].total - runs[pair.p].lse + runs[pair.q].lse
            keep.append(kl.clamp_(min=0.0))  # rounding alone makes it negative
            found.append(kl.to(sides[0].dtype))
        high = [y for side, run in zip(sides, runs, strict=True) for y in run.above_floor(side)]
        found += high
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *keep)
        ctx.set_materialize_grads(False)
        # Which tokens are the likeliest has no gradient; scored as given ids they have one.
        top = [x for i in range(len(sides)) for x in found[5 * i + 3 : 5 * i + 5] if x is not None]
        ctx.mark_non_differentiable(*top, *high)
        return tuple(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, needs, m = ctx.plan, ctx.needs_input_grad[1:], len(ctx.plan.softcap)
        tensors, keep = list(ctx.saved_tensors[: 4 * m]), list(ctx.saved_tensors[4 * m :])
        grads = tuple(None if g is None else g / plan.temperature for g in grads)
        on = [any(needs[4 * i : 4 * i + 3]) for i in range(m)]
        pulls = [
            UpstreamGrads.of(grads[5 * i :], keep[2 * i + 1]) if on[i] else UpstreamGrads()
            for i in range(m)
        ]
        of_pairs = grads[5 * m : 5 * m + len(plan.pairs)]
        pairs = zip(plan.pairs, of_pairs, keep[2 * m :], strict=True)
        kls = [(pair, g, kl) for pair, g, kl in pairs if g is not None]
        hidden = tensors[0::4]
        nowhere, active = torch.zeros_like(keep[0], dtype=torch.bool), []
        for i, pull in enumerate(pulls):
            own = [g != 0 for pair, g, _ in kls if on[i] and pair.trains(i)]
            active.append(torch.stack([nowhere, *pull.active(), *own]).any(0))
        some = torch.stack(active).any(0)
        kept = None if bool(some.all()) else some.nonzero()[:, 0]
        if kept is not None:  # a token without any gradient takes part in no matrix product
            for i in (*range(0, 4 * m, 4), *range(3, 4 * m, 4)):  # hidden and ids
                tensors[i] = None if tensors[i] is None else tensors[i][kept]
            keep = [None if x is None else x[kept] for x in keep[: 2 * m]]
            pulls = [pull.at(kept) for pull in pulls]
            kls = [(pair, g[kept], kl[kept]) for pair, g, kl in kls]
            active = [x[kept] for x in active]
        sides = _open(plan, tensors)
        for i, side in enumerate(sides):
            side.start_gradients(needs[4 * i : 4 * i + 3])
        _pull_back(plan, sides, tensors[3::4], keep[0 : 2 * m : 2], pulls, kls, active)
        out: list[Tensor | None] = [None]
        for side, full in zip(sides, hidden, strict=True):
            out += [*side.gradients(full, kept), None]
        return tuple(out)


def _pull_back(
    plan: Plan, sides: list, ids: list, lse: list, pulls: list, kls: list, active: list
) -> None:
    """The second pass. kls: pair, its upstream gradient, its KL; active: where a side has any."""
    dtype, trained = sides[0].dtype, [bool(x.any()) for x in active]
    kls = [x for x in kls if any(trained[i] and x[0].trains(i) for i in x[0][:2])]
    needed = [i for i, t in enumerate(trained) if t or any(i in pair[:2] for pair, _, _ in kls)]
    centred, probs = (buffers(sides[0], plan.chunk, len(sides)) for _ in "cp")
    dl_buffer, gap_buffer = buffers(sides[0], plan.chunk, 2)
    for side, trains in zip(sides, trained, strict=True):
        if side.softcap is not None and trains:
            (side.tanh,) = buffers(side, plan.chunk, 1)
    lse = [x.to(dtype)[:, None] for x in lse]
    kls = [(pair, g[:, None], kl.to(dtype)[:, None]) for pair, g, kl in kls]
    size = plan.chunk.tokens  # below: rows with a gradient by side and token chunk, None for all
    picked = [[None if a.all() else a.nonzero()[:, 0] for a in x.split(size)] for x in active]
    for cols, rows in blocks(sides, plan.chunk):
        c, p = {}, {}
        for i in needed:
            c[i] = sides[i].logits(rows, centred[i]).sub_(lse[i][rows])
            p[i] = torch.exp(c[i], out=view(probs[i], c[i]))
        for i in needed:
            pick = picked[i][rows.start // size]
            if pick is not None and not len(pick):
                continue
            pull, dl, gap = pulls[i].at(rows), view(dl_buffer, c[i]), view(gap_buffer, c[i])
            dl.zero_() if pull.row is None else torch.mul(p[i], pull.row[:, None], out=dl)
            if pull.entropy is not None:
                dl.addcmul_(torch.mul(p[i], c[i], out=gap), pull.entropy[:, None], value=-1.0)
            for pair, g, kl in kls:
                if pair.p == i and pair.train_p:
                    torch.sub(c[i], c[pair.q], out=gap).sub_(kl[rows]).mul_(p[i])
                    dl.addcmul_(gap, g[rows])
                if pair.q == i and pair.train_q:  # exactly 0 where both rows are equal
                    dl.addcmul_(torch.sub(p[i], p[pair.p], out=gap), g[rows])
            if pull.ids is not None:
                where, inside = inside_block(ids[i][rows], cols)
                dl.scatter_add_(1, where, torch.where(inside, pull.ids, 0.0))
            sides[i].add(rows, cols, dl, pick)


class OnlineSoftmax:
    """Sums of one side in forward, float64, of exponentials relative to the peak so far."""

    def __init__(self, side: HeadBlocks, plan: Plan, i: int, ids: Tensor | None) -> None:
        n, k, like = len(side.hidden), plan.top_k[i], side.hidden
        self.ids, self.dtype, self.chunk, self.floor = ids, side.dtype, plan.chunk, plan.floor[i]
        self.peak = like.new_full((n,), -math.inf)
        self.total = like.new_zeros((n,), dtype=torch.float64)
        self.mean = torch.zeros_like(self.total) if plan.entropy[i] else None  # sum of l exp(l)
        self.at: Any = None if ids is None else like.new_zeros(ids.shape)
        self.top: Any = like.new_full((n, k), -math.inf) if k else None
        self.top_ids: Any = like.new_zeros((n, k), dtype=torch.long) if k else None
        self.high = None
        if self.floor is not None:
            known = (
                self.peak
                if ids is None or not ids.shape[1]
                else side.logit_of_given(ids, plan.chunk)
            )
            self.high = Above(self.floor, known)

    def add(self, rows: slice, cols: slice, logits: Tensor, e: Tensor, spare: Tensor) -> None:
        """Take a block in; leaves logits - peak in `logits` and its exponential in `e`."""
        if self.ids is not None:
            where, inside = inside_block(self.ids[rows], cols)
            self.at[rows] = torch.where(inside, logits.gather(1, where), self.at[rows])
        block_peak = logits.amax(1)
        if self.top is not None:
            self._merge_top(rows, cols, logits, block_peak)
        if self.high is not None:
            seen = (self.peak[rows].double() + self.total[rows].log()).to(self.dtype)
            self.high.add(rows, logits, torch.maximum(seen, block_peak))
        old, new = self.peak[rows], torch.maximum(self.peak[rows], block_peak)
        torch.exp(logits.sub_(new[:, None]), out=e)
        self.shrink, self.part = (old - new).double().exp(), e.sum(1).double()
        self.total[rows] = self.total[rows] * self.shrink + self.part
        if self.mean is not None:
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
            ids = torch.cat([self.top_ids[look], place + cols.start], 1)
            self.top[look], order = torch.cat([self.top[look], value], 1).topk(k)
            self.top_ids[look] = ids.gather(1, order)

    def results(self) -> list[Tensor | None]:
        """What `ChunkedHeadFunction` returns of a side."""
        self.lse = self.peak.double() + self.total.log()
        self.entropy = None if self.mean is None else self.lse - self.mean / self.total
        logp, top = (None if x is None else x - self.lse[:, None] for x in (self.at, self.top))
        found = [logp, self.lse, self.entropy, top]
        return [*(None if x is None else x.to(self.dtype) for x in found), self.top_ids]

    def above_floor(self, side: HeadBlocks) -> tuple[Tensor, ...]:
        """Count and mass; one more pass where candidates were too many to be kept."""
        if self.high is None or self.floor is None:
            return ()
        found = self.high.results(self.lse, self.dtype)
        if found is None:
            found = torch.zeros_like(self.total), torch.zeros_like(self.total)
            (buffer,) = buffers(side, self.chunk, 1)
            for _, rows in blocks([side], self.chunk):
                logp = (side.logits(rows, buffer) - self.lse[rows, None]).to(self.dtype)
                for x, part in zip(found, above(logp, self.floor[rows]), strict=True):
                    x[rows] += part
        return found


class UpstreamGrads(NamedTuple):
    """Upstream gradients of one side: of its ids' log-probabilities, of P, of its entropy."""

    ids: Tensor | None = None
    row: Tensor | None = None
    entropy: Tensor | None = None

    @staticmethod
    def of(grads: tuple[Tensor | None, ...], h: Tensor) -> UpstreamGrads:
        g_ids, g_lse, g_h = grads[:3]
        parts = [] if g_lse is None else [g_lse]
        parts += [] if g_ids is None else [-g_ids.sum(1)]
        parts += [] if g_h is None else [-g_h * h.to(g_h.dtype)]
        return UpstreamGrads(g_ids, torch.stack(parts).sum(0) if parts else None, g_h)

    def at(self, rows: Tensor | slice) -> UpstreamGrads:
        return UpstreamGrads(*(None if x is None else x[rows] for x in self))

    def active(self) -> list[Tensor]:
        found = [x != 0 for x in (self.row, self.entropy) if x is not None]
        return found if self.ids is None else [*found, (self.ids != 0).any(1)]


def _open(plan: Plan, tensors: Any) -> list[HeadBlocks]:
    wide = any(x is not None and x.dtype == torch.float64 for x in tensors)
    dtype = torch.float64 if wide else torch.float32
    shared = plan.temperature, dtype
    return [HeadBlocks(tensors[4 * i : 4 * i + 4], x, *shared) for i, x in enumerate(plan.softcap)]
