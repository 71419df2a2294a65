"""The losses, Eq. 2 and 5 to 8, as sums over tokens; the weights in them are correction.py's.

Everything here works on flat lists of real tokens, shape (n,) or (n, v): padding never enters, so
nothing at a padded position can reach a loss. The caller owns denominators (`token_scale`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from .correction import truncated_ratio
from .objectives import ppo


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
    if denominator == "sequence":  # 1 / (b length): rejected tokens count in the length
        lengths = torch.bincount(sequence_index, minlength=n_sequences).to(accepted.dtype)
        return 1.0 / (n_sequences * lengths[sequence_index])
    # Constants of the whole update, all ranks: microbatches and ranks then simply add up.
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
    its ratio, adds exactly 0 to the loss and to the gradient. So does one with p_ref = 0, which the
    policy cannot sample.

    Args:
        logp_new: (n,), with gradient. logp_ref, advantage, weight: (n,), without.
        clip_low, clip_high: inf for no clip on that side.
        scale: a number or (n,), from `token_scale`.

    Returns:
        The loss, a scalar sum over tokens.

    Paper: Eq. 2 and 5 (the policy's), Eq. 6 (the actor's).
    """
    # exp of a rejected token's ratio may be inf, and 0 * inf is NaN; so is 0 / 0 of p_ref = 0
    kept = (weight != 0) & (logp_ref > -math.inf)
    logp_new, logp_ref = logp_new[kept], logp_ref[kept]
    advantage, weight = advantage[kept], weight[kept]
    # The weight has no gradient (SG of Eq. 5): only r has. The minimum is PPO's pessimistic bound.
    clip = {"clip_low": clip_low, "clip_high": clip_high}
    terms = weight * ppo(logp_new, logp_ref, advantage, **clip).term  # (kept,)
    return -(terms * (scale[kept] if isinstance(scale, torch.Tensor) else scale)).sum()


def actor_ppo_sum(
    logp_actor: torch.Tensor,
    logp_inf: torch.Tensor,
    logp_actor_ref: torch.Tensor | None,
    advantage: torch.Tensor,
    clip_low: float,
    clip_high: float,
    *,
    type: str = "none",
    **bounds: float,
) -> torch.Tensor:
    """The actor's PPO loss on its own rollouts, a sum over tokens.

    Args:
        logp_actor: log p_actor of the sampled tokens now, (n,), with gradient.
        logp_inf: log q, (n,).
        logp_actor_ref: before this rollout's updates, (n,); None: `logp_actor` is that.
        advantage: (n,).
        type: F of Eq. 6. none: the PPO ratio is taken to q itself, because q is the actor before
            these updates (DEVIATIONS.md, 8). Others: the ratio is to p_actor_ref, and F(p_actor_ref
            / q) is the weight, as in `correction.truncated_ratio`.
        bounds: what `truncated_ratio` takes beside the type: cap, low, high.

    Paper: Eq. 6.
    """
    # The denominator of r_omega: q, or the actor before this rollout's updates.
    logp_old = logp_inf
    if type != "none":
        # A single update: the actor is p_actor_ref itself. Detached, r = 1 still has a gradient.
        logp_old = logp_actor.detach() if logp_actor_ref is None else logp_actor_ref
    # F(p_actor_ref / q), without gradient; exactly 1 with type = none
    weight = truncated_ratio(logp_old - logp_inf, type=type, **bounds)
    return ppo_clip_sum(logp_actor, logp_old, advantage, weight, clip_low, clip_high)


def joint_loss(
    terms: dict[str, torch.Tensor], distill_coef: float, initial_kl_coef: float
) -> torch.Tensor:
    """L_Jackpot: the policy's and the actor's losses, and the weighted KLs.

    Args:
        terms: any of loss_policy, loss_actor_ppo, loss_distill, loss_initial_kl, scalars.

    Paper: Eq. 8; the KL to the initial policy is ours.
    """
    coefficients = {
        "loss_policy": 1.0,
        "loss_actor_ppo": 1.0,
        "loss_distill": distill_coef,
        "loss_initial_kl": initial_kl_coef,
    }
    # Eq. 8: L = L_PPO-OBRS + L_PPO(actor) + lambda_distill L_distill (+ KL to the initial policy)
    return torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()


def distill_sum(kl: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Eq. 7 as a sum over states, from the KL of each at the distillation temperature, (n,).

    Multiplied by the temperature's square, so that its gradient keeps its size (arXiv 1503.02531).
    """
    return temperature**2 * kl.sum()


def bucketed(
    logp_policy: torch.Tensor, logp_actor: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both distributions over the policy's k likeliest tokens and, last, all others as one token.

    The KL between them is at most the full one. (n, v) each -> (n, k + 1); as they are where k is
    the whole vocabulary.
    """
    if top_k >= logp_policy.shape[-1]:
        return logp_policy, logp_actor
    top = logp_policy.topk(top_k, dim=-1).indices
    return _bucketed(logp_policy, top), _bucketed(logp_actor, top)


def _bucketed(logp: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some tokens and, last, of all others together: (n, k + 1)."""
    known = torch.zeros_like(logp, dtype=torch.bool).scatter(-1, top, True)  # (n, v)
    # By logsumexp: 1 - the sum of the known would be rounding alone where little is left.
    rest = logp.masked_fill(known, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logp.gather(-1, top), rest], dim=-1)
