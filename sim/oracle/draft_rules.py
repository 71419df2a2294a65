"""Other rules for drafting, and whole blocks of drafts, in rational arithmetic.

A rule of one token accepts x ~ q with probability a(x) and draws a rejected token anew from r. Each
function returns the distribution s = q a + tau r of the token that comes out. All rows sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction as F
from itertools import product

from . import exact

Row = Sequence[F]


def lenient(p: Row, q: Row, lam: F) -> list[F]:
    """Accept min(1, p / (lam q)), redraw from (p - lam q)^+: lam q in the place of q."""
    rest = [max(a - lam * b, F(0)) for a, b in zip(p, q, strict=True)]
    return exact.draft_outcome(p, q, lam, _normalised(rest, p))


def lenient_acceptance(p: Row, q: Row, lam: F) -> list[F]:
    """The same acceptance, with the residual (p - q)^+ of the lossless rule."""
    rest = [max(a - b, F(0)) for a, b in zip(p, q, strict=True)]
    return exact.draft_outcome(p, q, lam, _normalised(rest, p))


def regenerated(p: Row, q: Row, lam: F) -> list[F]:
    """The same acceptance; a rejected token is drawn from p itself."""
    return exact.draft_outcome(p, q, lam, p)


def mixture(p: Row, q: Row, tau: F) -> list[F]:
    """Lossless for the mixture of p and q whose rejection rate is tau."""
    share = tau / exact.tv(p, q) if exact.tv(p, q) else F(1)
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def towards(q: Row, x: Row, tau: F) -> list[F]:
    """The distribution on the way from q to x at which TV(q, .) is tau, or x if that is nearer."""
    distance = exact.tv(q, x)
    share = min(F(1), tau / distance) if distance else F(1)
    return [b + share * (a - b) for a, b in zip(x, q, strict=True)]


def rivals(rng, p: Row, q: Row, lam: F) -> Iterator[tuple[F, ...]]:
    """Distributions other than the best that some rule reaches at the rejection rate of lam."""
    best, _, tau = exact.draft_law(p, q, lam)
    rows = [rule(p, q, lam) for rule in (lenient, lenient_acceptance, regenerated)]
    rows.append(mixture(p, q, tau))
    rows += [towards(q, _random(rng, len(p)), tau) for _ in range(2)]
    rows += [_moved(rng, best) for _ in range(4)]
    for row in rows:
        if row != best and exact.tv(q, row) <= tau:
            yield tuple(row)


def block_distribution(
    targets: Sequence[Row], proposals: Sequence[Row], whole: bool
) -> tuple[list[F], F]:
    """Distribution of two tokens from one block of two drafts, and the mean number of drafts kept.

    `targets` and `proposals` hold the distribution of the first token, then that of the second
    after each first one. `whole`: block verification (arXiv 2403.10444, Algorithm 2), else token by
    token. Every token after the block follows its target.
    """
    v = len(targets[0])
    joint, kept = [F(0)] * v**2, F(0)
    for x, y in product(range(v), repeat=2):
        drawn = proposals[0][x] * proposals[1 + x][y]
        if not drawn:
            continue
        for probability, length, after in _endings(targets, proposals, (x, y), whole):
            kept += drawn * probability * length
            mass = drawn * probability
            if length == 2:
                joint[x * v + y] += mass
            elif length == 1:
                for z in range(v):
                    joint[x * v + z] += mass * after[z]
            else:
                for z, w in product(range(v), repeat=2):
                    joint[z * v + w] += mass * after[z] * targets[1 + z][w]
    return joint, kept


def _endings(targets, proposals, draft, whole: bool) -> list[tuple[F, int, Row]]:
    """(probability, drafts kept, distribution of the token after them) of one block of two."""
    x, y = draft
    steps = ((targets[0], proposals[0], x), (targets[1 + x], proposals[1 + x], y))
    if whole:
        return _whole_block(targets, proposals, steps)
    first, second = (min(F(1), p[i] / q[i]) for p, q, i in steps)
    rests = [
        _normalised([max(a - b, F(0)) for a, b in zip(p, q, strict=True)], p) for p, q, _ in steps
    ]
    return [
        (1 - first, 0, rests[0]),
        (first * (1 - second), 1, rests[1]),
        (first * second, 2, ()),
    ]


def _whole_block(targets, proposals, steps) -> list[tuple[F, int, Row]]:
    """Block verification: the longest prefix whose own coin succeeds is kept."""
    weights = [F(1)]  # p_i = min(p_{i-1} target / proposal, 1)
    for p, q, i in steps:
        weights.append(min(weights[-1] * p[i] / q[i], F(1)))
    rests, coins = [], [F(1)]  # of prefixes of length 0 and 1; the empty one is always kept
    for k, (p, q, _) in enumerate(steps):
        rest = [max(weights[k] * a - b, F(0)) for a, b in zip(p, q, strict=True)]
        total = sum(rest, F(0))
        rests.append(_normalised(rest, p))
        if k:
            left = total + 1 - weights[k]
            coins.append(total / left if left else F(1))
    coins.append(weights[2])
    return [
        ((1 - coins[2]) * (1 - coins[1]), 0, rests[0]),
        ((1 - coins[2]) * coins[1], 1, rests[1]),
        (coins[2], 2, ()),
    ]


def _normalised(rest: Row, fallback: Row) -> list[F]:
    """The masses divided by their sum; any will do where they are 0: it is never drawn from."""
    total = sum(rest, F(0))
    return [x / total for x in rest] if total else list(fallback)


def _random(rng, v: int) -> list[F]:
    while True:
        weights = rng.integers(0, 9, v)
        if weights.any():
            return [F(int(w), int(weights.sum())) for w in weights]


def _moved(rng, row: Row) -> list[F]:
    """The distribution with some of one token's mass given to another."""
    i, j = rng.permutation(len(row))[:2]
    moved = list(row)
    step = row[i] * F(int(rng.integers(1, 9)), int(rng.choice([8, 800])))
    moved[i], moved[j] = row[i] - step, row[j] + step
    return moved
