"""What drafted rollouts cost: seconds, operations and bytes beside plain decoding.

A round drafts a block of gamma tokens with the actor and verifies it with one pass of the policy.
With rho = (the actor's pass over one token) / (the policy's), and c_v = (the policy's pass over
gamma + 1 tokens) / (over one), drafting takes

    (gamma rho + c_v) / E[N],    E[N] = 1 + Z + ... + Z^gamma = (1 - Z^(gamma + 1)) / (1 - Z)

of the seconds of decoding the policy, if tokens are accepted independently with probability Z
(docs/drafting.md). `drafted` takes rho and c_v from the roofline of cost.py, for an engine that
gives the place of a finished sequence to another. Where a batch waits for its slowest sequence, as
with the engines hf and process, `closed_batch_seconds` counts the rounds. benchmarks/drafted.py
measures all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from . import cost

LENGTHS = range(1, 17)  # of the blocks among which the best is looked for
RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # acceptance rates of the table


class Rooms(NamedTuple):
    """Sequences sampled together: with the caches of the actor, of the policy, of both."""

    actor: int
    policy: int
    both: int


class Drafted(NamedTuple):
    """Drafting with blocks of `length` tokens at the acceptance rate z.

    tokens: E[N], of a round. seconds: of all completions of a step, prompts included. over_policy,
    over_actor: `seconds` over plain decoding by either. flops, bytes: of a new token, over those of
    decoding the policy.
    """

    z: float
    length: int
    tokens: float
    seconds: float
    over_policy: float
    over_actor: float
    flops: float
    bytes: float


def tokens_per_round(z: float, length: int) -> float:
    """E[N]: tokens that one pass of the policy yields, the redrawn one or the bonus included.

    Args:
        z: probability that a drafted token is accepted, in [0, 1], independent of the others.
        length: tokens of a block, >= 1.

    Raises:
        ValueError: either out of bounds.

    Source: docs/drafting.md; arXiv 2211.17192, Eq. 1.
    """
    if not (0 <= z <= 1 and length >= 1):
        raise ValueError(f"needs z in [0, 1] and length >= 1, got {z:g} and {length}")
    return sum(z**i for i in range(length + 1))


def over_policy(z: float, length: int, rho: float, c_v: float) -> float:
    """Seconds of drafting over those of decoding the policy; rho and c_v as above, both > 0."""
    return (length * rho + c_v) / tokens_per_round(z, length)


class PassSeconds(NamedTuple):
    """Seconds of one pass: `fixed`, and `row` for each row that it reads tokens of."""

    fixed: float
    row: float


def shares_left(z: float, length: int, tokens: int) -> list[float]:
    """Share of sequences that need more than k rounds for `tokens` tokens, k = 0, 1, .. to 0.

    Args and Raises: as `tokens_per_round`.
    """
    tokens_per_round(z, length)  # refuses what is out of bounds
    # of a round: n tokens with z^(n - 1) (1 - z), and length + 1 of them with z^length
    yields = [z**n * (1 - z) for n in range(length)] + [z**length]
    mass, shares = [1.0] + [0.0] * (tokens - 1), []  # by tokens done
    while sum(mass) > 1e-9:
        shares.append(sum(mass))
        later = [0.0] * tokens
        for done, m in enumerate(mass):
            for n, share in enumerate(yields[: tokens - done - 1], start=1):
                later[done + n] += m * share
        mass = later
    return shares


def closed_batch_seconds(
    z: float, length: int, tokens: int, rows: int, drafting: PassSeconds, verifying: PassSeconds
) -> float:
    """Passes of `rows` sequences of `tokens` tokens that start together, prompts left out.

    No other sequence takes the place of a finished one. So there are as many rounds as the slowest
    sequence needs, and those at the end have few rows. drafting: a pass over one token.
    verifying: one over length + 1 tokens.
    """
    shares = shares_left(z, length, tokens)
    rounds = sum(1 - (1 - share) ** rows for share in shares)  # expected, of the slowest
    of_rows = rows * sum(shares)  # expected rounds of all sequences together
    return (length * drafting.fixed + verifying.fixed) * rounds + (
        length * drafting.row + verifying.row
    ) * of_rows


def drafted(
    policy: cost.Shape,
    actor: cost.Shape,
    work: cost.Work,
    device: cost.Device,
    rooms: Rooms,
    *,
    z: float,
    length: int,
) -> Drafted:
    """Predicted drafting of a step's completions; `work.at_once` gives way to `rooms`."""
    by_policy = cost.plain_seconds(policy, work._replace(at_once=rooms.policy), device)
    by_actor = cost.plain_seconds(actor, work._replace(at_once=rooms.actor), device)
    tokens = tokens_per_round(z, length)
    steps, rows, middle = cost.decode_steps(work._replace(at_once=rooms.both))
    drafting, verifying, one = (
        cost.decode_step(shape, rows, middle, new)
        for shape, new in ((actor, 1), (policy, length + 1), (policy, 1))
    )
    parts = (cost.step_seconds(x, s, device) for x, s in ((drafting, actor), (verifying, policy)))
    seconds = steps / tokens * sum(n * x for n, x in zip((length, 1), parts, strict=True))
    seconds += sum(cost.prefill_seconds(shape, work, device) for shape in (actor, policy))
    flops, moved = (
        (length * d + v) / tokens / p for d, v, p in zip(drafting, verifying, one, strict=True)
    )
    return Drafted(
        z, length, tokens, seconds, seconds / by_policy, seconds / by_actor, flops, moved
    )


def best(
    policy: cost.Shape,
    actor: cost.Shape,
    work: cost.Work,
    device: cost.Device,
    rooms: Rooms,
    z: float,
) -> Drafted:
    """The block length of LENGTHS, at most the longest completion, with the fewest seconds."""
    return min(
        (
            drafted(policy, actor, work, device, rooms, z=z, length=n)
            for n in LENGTHS
            if n <= work.longest
        ),
        key=lambda x: x.seconds,
    )


def least_rate(
    policy: cost.Shape, actor: cost.Shape, work: cost.Work, device: cost.Device, rooms: Rooms
) -> float | None:
    """The acceptance rate, in steps of 0.01, from which drafting is faster than decoding the
    policy; None where it never is."""
    for percent in range(101):
        if best(policy, actor, work, device, rooms, percent / 100).over_policy < 1:
            return percent / 100
    return None
