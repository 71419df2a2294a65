"""OBRS in rational arithmetic: the oracle that the numerical core is tested against.

Sequences of `Fraction` in, `Fraction` out; nothing is rounded, so results are compared with
equality or with a float tolerance that is all the core's own. Standard library only, and not a line
is shared with `jackpot`. p is the target, q the proposal; both may hold zeros, need not have the
same support and need not sum to 1.

Conventions for zeros: a token absent from both has acceptance 0 and adds nothing; q = 0 < p has
acceptance 1; p = 0 < q has acceptance 0. Infinite values are `math.inf`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Row = Sequence[Fraction]


def _pairs(p: Row, q: Row) -> list[tuple[Fraction, Fraction]]:
    if len(p) != len(q):
        raise ValueError(f"p has {len(p)} tokens and q has {len(q)}")
    return [(Fraction(pi), Fraction(qi)) for pi, qi in zip(p, q, strict=True)]


def accept_prob(p: Row, q: Row, lam: Fraction) -> list[Fraction]:
    """a = min(1, p / (lam q)) of every token."""
    return [
        min(Fraction(1), pi / (lam * qi)) if qi else Fraction(pi > 0) for pi, qi in _pairs(p, q)
    ]


def acceptance_rate(p: Row, q: Row, lam: Fraction) -> Fraction:
    """Z, the mean of a under q."""
    return sum((qi * a for qi, a in zip(q, accept_prob(p, q, lam), strict=True)), Fraction(0))


def post_rejection(p: Row, q: Row, lam: Fraction) -> list[Fraction]:
    """q~, the distribution of the accepted tokens; ZeroDivisionError where nothing is accepted."""
    z = acceptance_rate(p, q, lam)
    return [Fraction(qi) * a / z for qi, a in zip(q, accept_prob(p, q, lam), strict=True)]


def reach(p: Row, q: Row) -> Fraction:
    """The largest acceptance rate that any lam > 0 gives: q's mass on the support of p."""
    return sum((qi for pi, qi in _pairs(p, q) if pi), Fraction(0))


def lam_for_budget(p: Row, q: Row, budget: Fraction) -> Fraction:
    """The largest lam > 0 with Z(lam) = budget; ValueError where there is none.

    Between two neighbouring ratios, Z = (mass of p below) / lam + (mass of q above). Walk down the
    distinct ratios to the first at which Z is at least the budget, and solve that one piece.
    """
    if not 0 < budget <= reach(p, q):
        raise ValueError(f"budget {budget} is not in (0, {reach(p, q)}]")
    mass: dict[Fraction, tuple[Fraction, Fraction]] = {}
    for pi, qi in _pairs(p, q):
        if pi and qi:
            below, above = mass.get(pi / qi, (Fraction(0), Fraction(0)))
            mass[pi / qi] = (below + pi, above + qi)
    p_below = sum((m[0] for m in mass.values()), Fraction(0))
    q_above = Fraction(0)
    for ratio in sorted(mass, reverse=True):
        if p_below / ratio + q_above >= budget:
            return p_below / (budget - q_above)
        p_below -= mass[ratio][0]
        q_above += mass[ratio][1]
    raise AssertionError("Z at the smallest ratio is the reach, which is at least the budget")


def common_lam_for_budget(
    ps: Sequence[Row], qs: Sequence[Row], budget: Fraction, d: Row
) -> Fraction:
    """The largest common lam with sum_s d_s Z_s(lam) = budget; d is normalised here."""
    total = sum(d, Fraction(0))
    joint_p = [ds * pi / total for ds, row in zip(d, ps, strict=True) for pi in row]
    joint_q = [ds * qi / total for ds, row in zip(d, qs, strict=True) for qi in row]
    return lam_for_budget(joint_p, joint_q, budget)


def lam_from_ratios(ratios: Row, budget: Fraction) -> Fraction:
    """The largest lam at which the mean of min(1, r / lam) over the ratios is the budget."""
    n = len(ratios)
    return lam_for_budget([r / Fraction(n) for r in ratios], [Fraction(1, n)] * n, budget)


def obrs_weight(r: Fraction, lam: Fraction, z: Fraction) -> Fraction:
    """w = p / q~ of an accepted token: z r where it was accepted for certain, else z lam."""
    return z * r if r > lam else z * lam


def expected_weight(r: Fraction, lam: Fraction, z: Fraction, c1: Fraction | None) -> Fraction:
    """The mean over the coin of mask * min(w, c1), its two sides enumerated; c1 None is no cap."""
    w = obrs_weight(r, lam, z)
    accepted = w if c1 is None else min(w, c1)
    heads = min(Fraction(1), r / lam)
    return heads * accepted + (1 - heads) * 0


def tis(r: Fraction, cap: Fraction) -> Fraction:
    """Truncated importance sampling."""
    return cap if r > cap else r


def icepop(r: Fraction, low: Fraction, high: Fraction) -> Fraction:
    """r inside the band, both ends included, and 0 outside."""
    return Fraction(0) if r < low or r > high else r


def tv(p: Row, q: Row) -> Fraction:
    """Total variation, 1/2 sum |p - q|."""
    return sum((abs(pi - qi) for pi, qi in _pairs(p, q)), Fraction(0)) / 2


def chi2_p_q(p: Row, q: Row) -> Fraction | float:
    """sum (p - q)^2 / q; math.inf where q = 0 < p."""
    if any(pi and not qi for pi, qi in _pairs(p, q)):
        return math.inf
    return sum(((pi - qi) ** 2 / qi for pi, qi in _pairs(p, q) if qi), Fraction(0))


def chi2_q_p(p: Row, q: Row) -> Fraction | float:
    """sum (p - q)^2 / p; math.inf where p = 0 < q."""
    return chi2_p_q(q, p)


def hockey_stick(p: Row, q: Row, gamma: Fraction) -> Fraction:
    """E_gamma = sum max(p - gamma q, 0); together they determine every f-divergence."""
    return sum((max(pi - gamma * qi, Fraction(0)) for pi, qi in _pairs(p, q)), Fraction(0))


def z_topk(
    p_k: Row, q_k: Row, lam: Fraction, p_tail: Fraction, q_tail: Fraction
) -> tuple[Fraction, Fraction]:
    """The least and the greatest Z that the known tokens and two tail masses allow.

    Least: the tails do not overlap. Greatest: they have one common ratio, i.e. are one token.
    """
    lower = acceptance_rate(p_k, q_k, lam)
    return lower, acceptance_rate([*p_k, p_tail], [*q_k, q_tail], lam)


def kappa(accepted: Row, z_approx: Row) -> Fraction:
    """Accepted share of the batch over the mean of z_approx."""
    return sum(map(Fraction, accepted), Fraction(0)) / sum(z_approx, Fraction(0))


def draft_tau(p: Row, q: Row, lam: Fraction) -> Fraction:
    """The mass that drafting rejects at lam, sum (q - p / lam)^+."""
    return sum((max(qi - pi / lam, Fraction(0)) for pi, qi in _pairs(p, q)), Fraction(0))


def draft_mu(p: Row, q: Row, tau: Fraction) -> Fraction | float:
    """The least mu >= 1 with sum (p / mu - q)^+ = tau; math.inf where tau = 0 and q = 0 < p.

    Sort the tokens by p / q, falling: 1 / mu is the least (tau + Q_k) / P_k over the prefixes k.
    """
    if not 0 <= tau <= tv(p, q):
        raise ValueError(f"tau {tau} is not in [0, {tv(p, q)}]")
    tokens = [(pi, qi) for pi, qi in _pairs(p, q) if pi]
    tokens.sort(key=lambda t: t[0] / t[1] if t[1] else math.inf, reverse=True)
    p_sum = q_sum = Fraction(0)
    levels = []
    for pi, qi in tokens:
        p_sum, q_sum = p_sum + pi, q_sum + qi
        levels.append((tau + q_sum) / p_sum)
    return 1 / min(levels) if min(levels) else math.inf


def draft_law(p: Row, q: Row, lam: Fraction) -> tuple[list[Fraction], Fraction | float, Fraction]:
    """s = clip(q, p / mu, p / lam), mu and tau, for lam <= 1; both rows sum to 1."""
    tau = draft_tau(p, q, lam)
    mu = draft_mu(p, q, tau)
    floor = Fraction(0) if mu == math.inf else 1 / Fraction(mu)
    return [min(max(qi, floor * pi), pi / lam) for pi, qi in _pairs(p, q)], mu, tau


def draft_lam(p: Row, q: Row, budget: Fraction) -> Fraction:
    """The largest lam <= 1 whose acceptance rate is the budget, or the nearest rate there is.

    Rejecting more than TV(p, q), or less than q's mass where p = 0, serves nothing.
    """
    if budget <= 1 - tv(p, q):
        return Fraction(1)
    return min(Fraction(1), lam_for_budget(p, q, min(budget, reach(p, q))))


def draft_residual(p: Row, q: Row, mu: Fraction | float) -> list[Fraction]:
    """r ~ (p / mu - q)^+; where that is 0 everywhere, p on the tokens of the largest p / q."""
    floor = Fraction(0) if mu == math.inf else 1 / Fraction(mu)
    rest = [max(floor * pi - qi, Fraction(0)) for pi, qi in _pairs(p, q)]
    if not any(rest):
        largest = max(pi / qi if qi else math.inf for pi, qi in _pairs(p, q) if pi)
        rest = [
            pi if pi and (pi / qi if qi else math.inf) == largest else Fraction(0)
            for pi, qi in _pairs(p, q)
        ]
    return [x / sum(rest, Fraction(0)) for x in rest]


def draft_outcome(p: Row, q: Row, lam: Fraction, residual: Row) -> list[Fraction]:
    """Distribution of the token that comes out: accepted from q, or drawn from the residual."""
    accepted = [qi * a for qi, a in zip(q, accept_prob(p, q, lam), strict=True)]
    left = 1 - sum(accepted, Fraction(0))
    return [x + left * r for x, r in zip(accepted, residual, strict=True)]
