"""The losses, Eq. 2 and 5 to 8, as sums over tokens; the weights in them are correction.py's.

Everything here works on flat lists of real tokens, shape (n,) or (n, v): padding never enters, so
nothing at a padded position can reach a loss. The caller owns denominators (`token_scale`).
"""

from __future__ import annotations

from typing import Literal

import torch

import jackpot


def token_scale(
    denominator: Literal["proposed", "accepted", "sequence"],
    accepted: torch.Tensor,
    sequence_index: torch.Tensor,
    n_sequences: int,
) -> torch.Tensor:
    """What multiplies each token's term so that the sum is the wanted mean, over a whole update.

    proposed: 1 / proposed tokens. accepted: 1 / accepted tokens, and 1 where none is accepted
    (the sum is 0 then). sequence: the mean over sequences of each one's mean over its proposed
    tokens; a rejected token counts in its sequence's length.

    Args:
        denominator: which.
        accepted: `TokenWeights.accepted` of all the update's tokens, (n,).
        sequence_index: the sequence each token belongs to, 0 to n_sequences - 1, (n,), int64.
        n_sequences: sequences of the update.

    Returns:
        Multipliers, (n,), float32: slice them as the tokens are sliced into microbatches.
    """
    if denominator == "sequence":
        lengths = torch.bincount(sequence_index, minlength=n_sequences).to(accepted.dtype)
        return 1.0 / (n_sequences * lengths[sequence_index])
    count = float(len(accepted))
    if denominator == "accepted":
        count = float(accepted.double().sum()) or 1.0
    return torch.full_like(accepted, 1.0 / count)


def ppo_clip_sum(
    logp_new: torch.Tensor,
    logp_ref: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    clip_low: float,
    clip_high: float,
    scale: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """-sum scale weight min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = p_new / p_ref.

    Tokens of weight 0 are left out before anything is computed: a rejected token, however extreme
    its ratio, adds exactly 0 to the loss and to the gradient.

    Args:
        logp_new: (n,), with gradient. logp_ref, advantage, weight: (n,), without.
        clip_low, clip_high: inf for no clip on that side.
        scale: a number or (n,), from `token_scale`.

    Returns:
        The loss, a scalar sum over tokens.

    Paper: Eq. 2 and 5 (the policy's), Eq. 6 (the actor's).
    """
    kept = weight != 0
    logp_new, logp_ref = logp_new[kept], logp_ref[kept]
    advantage, weight = advantage[kept], weight[kept]
    ratio = torch.exp(logp_new - logp_ref)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    terms = weight * torch.minimum(ratio * advantage, clipped * advantage)
    return -(terms * (scale[kept] if isinstance(scale, torch.Tensor) else scale)).sum()


def distill_sum(
    logp_policy: torch.Tensor,
    logp_actor: torch.Tensor,
    direction: Literal["forward", "reverse"] = "forward",
    top_k: int = 0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """sum over states of the KL between SG(policy) and actor, (n, v) each (Eq. 7).

    forward: KL(policy || actor), as Eq. 7 defines it; the paper's text also calls it "reverse"
    (DEVIATIONS.md, 7). reverse: KL(actor || policy). It trains the actor alone.

    Args:
        logp_policy, logp_actor: full log-probabilities, nats; the second with gradient.
        direction: which KL.
        top_k: above 0, between the laws of the policy's k likeliest tokens and one bucket that
            holds all others: at most the full KL. 0: full vocabulary.
        temperature: divides both models' log-probabilities, which are normalised again; the loss
            is multiplied by its square, so that its gradient keeps its size (arXiv 1503.02531).

    Returns:
        The loss, a scalar sum over states, >= 0, exactly 0 for equal models.
    """
    logp_policy = logp_policy.detach()
    if temperature != 1.0:
        logp_policy = torch.log_softmax(logp_policy / temperature, dim=-1)
        logp_actor = torch.log_softmax(logp_actor / temperature, dim=-1)
    if 0 < top_k < logp_policy.shape[-1]:
        top = logp_policy.topk(top_k, dim=-1).indices
        logp_policy, logp_actor = _bucketed(logp_policy, top), _bucketed(logp_actor, top)
    kl = jackpot.kl_p_q if direction == "forward" else jackpot.kl_q_p
    return temperature**2 * kl(logp_policy, logp_actor).sum()


def anchor_sum(logp_new: torch.Tensor, logp_anchor: torch.Tensor) -> torch.Tensor:
    """sum over states of KL(policy || SG(anchor)), (n, v) each, with gradient to the policy.

    Not in the paper.
    """
    return jackpot.kl_p_q(logp_new, logp_anchor.detach()).sum()


def _bucketed(logp: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some tokens and, last, of all others together: (n, k + 1)."""
    known = torch.zeros_like(logp, dtype=torch.bool).scatter(-1, top, True)
    rest = logp.masked_fill(known, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logp.gather(-1, top), rest], dim=-1)
