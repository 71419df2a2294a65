"""Z from p everywhere and q at its top k: the tail's sharp bound, and the tail-ratio estimate.

The tail of a state, its tokens of unknown q, adds R = sum min(q, p / lam) to Z, and R <= U'
(`tail_bound`). The sampled tokens that fall into the tail tell which share of U' that is over a
batch, the tail ratio sum R / sum U', without coins. All of it is plain values and pure functions:

    part = tail_statistic(accept, in_tail, bound, log_q_tail)     per micro-batch and rank
    seen = smooth_tail(seen, merge_tail(parts), decay)            per step, from TailStatistic() on
    z = z_tail_ratio(z_known, bound, tail_ratio(seen))

Source: docs/theory_topk.md, D2 to D4 (not in the paper, whose kappa multiplies the known part).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .arrays import (
    Array,
    check_log_prob_values,
    check_mask,
    check_per_state,
    checked,
    checked_log_probs,
    log,
    parameter,
    per_row,
    quiet,
    zero,
)
from .topk import z_topk


@quiet
def tail_bound(
    log_p: Array,
    is_known: Array,
    log_p_tail: Array,
    log_q_tail: Array,
    log_q_cap: Array,
    lam: float | Array,
) -> Array:
    """The largest value that the tail can add to Z, U' = min(q_T, sum over it of min(c, p / lam)).

    Sharp: some q with these known values, this tail mass and no tail token above c attains it. At
    most the lumped min(q_T, p_T / lam), and equal to it, to the last bit, where no tail token has
    p > lam c (so for p = q). The least value is 0 up to (q_T / c + 1) / (v - k) times p_T / lam,
    which is negligible for a large vocabulary.

    Args:
        log_p: target log-probabilities of the whole vocabulary, nats, shape (..., v), float32 or
            float64.
        is_known: True at the k tokens whose q is known, bool, shape (..., v); from their ids in
            torch: `zeros_like(log_p, dtype=bool).scatter(-1, ids, True)`.
        log_p_tail, log_q_tail: log of the mass p and q put on the other tokens, shape (...), the
            dtype of `log_p`; -inf where there are none.
        log_q_cap: log of c, the smallest known q, shape (...): in the tail q <= c.
        lam: threshold in (0, inf): a number or an array of the leading shape.

    Returns:
        U', shape (...), in [0, q_T].

    Raises:
        TypeError, ValueError: as `accept_prob`; also for an `is_known` that is not bool or has
            another shape than `log_p`.

    Source: docs/theory_topk.md, D2 (not in the paper).
    """
    xp, log_p = checked_log_probs(log_p=log_p)
    check_mask(xp, "is_known", is_known, log_p)
    shape = tuple(log_p.shape[:-1])
    per_state = {"log_p_tail": log_p_tail, "log_q_tail": log_q_tail, "log_q_cap": log_q_cap}
    check_per_state(xp, log_p, per_state)
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    log_lam = log(xp, lam, like=log_p)
    log_h = xp.where(is_known, zero(xp, log_p) - math.inf, log_p) - per_row(xp, log_lam)
    cap = xp.expand_dims(log_q_cap, axis=-1)
    capped = xp.sum(xp.exp(xp.minimum(cap, log_h)), axis=-1)
    lumped = xp.exp(xp.minimum(log_q_tail, log_p_tail - log_lam))
    return xp.where(xp.any(log_h > cap, axis=-1), xp.minimum(lumped, capped), lumped)


@quiet
def tail_bound_above(
    count: Array,
    mass: Array,
    log_p_tail: Array,
    log_q_tail: Array,
    log_q_cap: Array,
    lam: float | Array,
) -> Array:
    """`tail_bound` from the few tail tokens that c binds, those with p > lam c, without the rest.

    The others keep p / lam, and they hold p_T less the mass of these: U' = min(q_T, c count +
    (p_T - mass) / lam). Found by comparing alone, they cost one pass over p and no exponential.
    The difference rounds by the last digits of p_T / lam, as the lumped bound itself.

    Args:
        count: number of tail tokens with p > lam c, shape (...), dtype of `log_p_tail`.
        mass: the sum of their p, likewise, in [0, 1].
        log_p_tail, log_q_tail, log_q_cap, lam: as in `tail_bound`.

    Returns:
        U', shape (...), in [0, q_T]; the lumped bound, to the last bit, where count = 0.

    Raises:
        TypeError, ValueError: as `accept_prob`; a negative count, a mass outside [0, 1].

    Source: docs/theory_topk.md, D2 (not in the paper).
    """
    xp, count, mass, log_p_tail, log_q_tail, log_q_cap = checked(
        count=count,
        mass=mass,
        log_p_tail=log_p_tail,
        log_q_tail=log_q_tail,
        log_q_cap=log_q_cap,
    )
    shape = tuple(count.shape)
    parameter(xp, "count", count, shape, 0.0, low_open=False)
    parameter(xp, "mass", mass, shape, 0.0, 1.001, low_open=False)
    for name, x in (("log_p_tail", log_p_tail), ("log_q_tail", log_q_tail), ("cap", log_q_cap)):
        check_log_prob_values(xp, name, x)
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    log_lam = log(xp, lam, like=count)
    rest = log(xp, xp.maximum(xp.exp(log_p_tail) - mass, zero(xp, mass)), like=count)
    capped = count * xp.exp(log_q_cap) + xp.exp(rest - log_lam)
    lumped = xp.exp(xp.minimum(log_q_tail, log_p_tail - log_lam))
    return xp.where(count > 0, xp.minimum(lumped, capped), lumped)


def z_bounds(
    log_p: Array,
    is_known: Array,
    log_p_k: Array,
    log_q_k: Array,
    log_p_tail: Array,
    log_q_tail: Array,
    lam: float | Array,
) -> tuple[Array, Array]:
    """The bounds of `z_topk`, the upper one tightened by p on the whole vocabulary.

    Z_K <= Z <= Z_K + U', where U' is `tail_bound` with c the smallest q in `log_q_k`, which must
    therefore be q's k largest. With k = v both are Z.

    Args:
        log_p, is_known, log_p_tail, log_q_tail, lam: as in `tail_bound`.
        log_p_k, log_q_k: log-probabilities of the known tokens, nats, shape (..., k).

    Returns:
        (lower, upper), each of shape (...).

    Raises:
        TypeError, ValueError: as `tail_bound`.

    Source: docs/theory_topk.md, D2 (not in the paper).
    """
    lower, _ = z_topk(log_p_k, log_q_k, lam, log_p_tail, log_q_tail)
    xp, log_q_k = checked_log_probs(log_q_k=log_q_k)
    cap = xp.min(log_q_k, axis=-1)
    return lower, lower + tail_bound(log_p, is_known, log_p_tail, log_q_tail, cap, lam)


class TailStatistic(NamedTuple):
    """Two sums over sampled tail tokens; the tail ratio is their quotient.

    The default is smoothing's prior, a ratio of 1: it weighs as much as one tail token. Source:
    docs/theory_topk.md, D4.
    """

    accepted: float = 1.0  # sum of a, the acceptance probabilities
    bound: float = 1.0  # sum of g = U' / q_T, what a is at most on average in that tail


@quiet
def tail_statistic(accept: Array, in_tail: Array, bound: Array, log_q_tail: Array) -> TailStatistic:
    """The two sums of a batch (or of a part of it: add parts with `merge_tail`).

    Given its state, E[a 1{tail}] = R and E[g 1{tail}] = U' over the proposal's draw, so the sums
    estimate sum R and sum U'. A tail token of a state with q_T = 0 (possible by rounding only)
    counts in neither.

    Args:
        accept: acceptance probability a of each sampled token, in [0, 1], any shape, float32 or
            float64. Not the coin: that has the same mean and more noise.
        in_tail: True where the sampled token is outside the known set; False at padding. Bool, the
            shape of `accept`.
        bound: U' of each token's state (`tail_bound`), the shape and dtype of `accept`.
        log_q_tail: log q_T of each token's state, the shape and dtype of `accept`.

    Returns:
        TailStatistic of two Python floats, summed in float64; (0, 0) where no token is in a tail.

    Raises:
        TypeError: not arrays of one library and dtype, or `in_tail` is not bool.
        ValueError: shapes differ, NaN, `accept` or `bound` outside [0, 1], a log above 0.

    Source: docs/theory_topk.md, D4.
    """
    xp, accept, bound, log_q_tail = checked(accept=accept, bound=bound, log_q_tail=log_q_tail)
    shape = tuple(accept.shape)
    check_mask(xp, "in_tail", in_tail, accept)
    parameter(xp, "accept", accept, shape, 0.0, 1.001, low_open=False)
    parameter(xp, "bound", bound, shape, 0.0, 1.001, low_open=False)
    check_log_prob_values(xp, "log_q_tail", log_q_tail)
    accept, bound, q_tail = (xp.astype(x, xp.float64) for x in (accept, bound, xp.exp(log_q_tail)))
    counts = in_tail & (q_tail > 0)
    zeros = xp.zeros_like(accept)
    share = xp.where(counts, bound, zeros) / xp.where(counts, q_tail, zeros + 1.0)
    accepted = xp.where(counts, accept, zeros)
    return TailStatistic(float(xp.sum(accepted)), float(xp.sum(share)))


def merge_tail(parts: Iterable[TailStatistic]) -> TailStatistic:
    """The statistic of several parts together (ranks, micro-batches): their sum.

    Rounded once, at the end, so the order of the parts does not matter.

    Args:
        parts: statistics of disjoint sets of tokens; none at all give (0, 0).

    Returns:
        TailStatistic of two sums, dimensionless.

    Raises:
        ValueError: a part is negative or not finite.

    Source: docs/theory_topk.md, D4.
    """
    parts = [_checked_statistic(x) for x in parts]
    return TailStatistic(math.fsum(x.accepted for x in parts), math.fsum(x.bound for x in parts))


def smooth_tail(previous: TailStatistic, new: TailStatistic, decay: float) -> TailStatistic:
    """decay * previous + new: sums over all steps, of which old ones fade.

    Steps weigh by their number of tail tokens, unlike in a mean of their ratios; a step without any
    leaves the ratio alone. Start from `TailStatistic()`, i.e. a ratio of 1, the upper bound.

    Args:
        previous: what this function returned at the step before.
        new: the statistic of this step's whole batch.
        decay: how much of the past remains, in [0, 1): 0.9 remembers about ten steps, 0 none.

    Returns:
        TailStatistic of two discounted sums, dimensionless.

    Raises:
        ValueError: decay outside [0, 1), or a statistic that is negative or not finite.

    Source: docs/theory_topk.md, D4.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay must lie in [0, 1), got {decay:g}")
    previous, new = _checked_statistic(previous), _checked_statistic(new)
    return TailStatistic(
        decay * previous.accepted + new.accepted, decay * previous.bound + new.bound
    )


def tail_ratio(statistic: TailStatistic) -> float:
    """clip(accepted / bound, 0, 1), a Python float; 1 where nothing has been seen.

    A ratio estimate (Hajek): consistent, with a bias of order one over the number of tail tokens.
    The true quotient is at most 1; a sampled one may be larger, hence the clip.

    Args:
        statistic: two sums >= 0, of one batch or smoothed over steps.

    Returns:
        The tail ratio, dimensionless, in [0, 1].

    Raises:
        ValueError: a statistic that is negative or not finite.

    Source: docs/theory_topk.md, D4.
    """
    accepted, bound = _checked_statistic(statistic)
    return min(1.0, accepted / bound) if bound > 0.0 else 1.0


def z_tail_ratio(z_known: Array, bound: Array, ratio: float) -> Array:
    """Z_K + ratio U' of each state: inside [Z_K, Z_K + U'], and right on average over the batch.

    Unlike kappa Z_K it leaves states without a tail alone and cannot exceed the bounds. A state's
    own sampled token reaches it only through the ratio, one number for the batch.

    Args:
        z_known: Z_K, `acceptance_rate` on the known tokens alone, shape (...), float32 or float64.
        bound: U' of each state (`tail_bound`), shape and dtype of `z_known`.
        ratio: from `tail_ratio`, in [0, 1]; 1 gives the upper bound.

    Returns:
        The estimate of Z, shape (...).

    Raises:
        TypeError: not arrays of one library and dtype, or ratio not a number.
        ValueError: shapes differ, NaN, a value outside [0, 1].

    Source: docs/theory_topk.md, D4.
    """
    xp, z_known, bound = checked(z_known=z_known, bound=bound)
    shape = tuple(z_known.shape)
    parameter(xp, "z_known", z_known, shape, 0.0, 1.001, low_open=False)
    parameter(xp, "bound", bound, shape, 0.0, 1.001, low_open=False)
    ratio = parameter(xp, "ratio", ratio, (), 0.0, 1.0, low_open=False)
    return z_known + ratio * bound


def _checked_statistic(statistic: TailStatistic) -> TailStatistic:
    statistic = TailStatistic(*map(float, statistic))
    if not all(0.0 <= x < math.inf for x in statistic):
        raise ValueError(f"a tail statistic holds two finite sums >= 0, got {statistic}")
    return statistic
