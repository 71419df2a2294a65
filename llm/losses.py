"""The objective, Eq. 5 to 8: weights of sampled tokens, and losses as sums over tokens.

Everything here works on flat lists of real tokens, shape (n,) or (n, v): padding never enters, so
nothing at a padded position can reach a loss, a weight or a metric. The caller owns denominators.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import jackpot

from .config import CorrectionConfig
from .logprobs import log_tail


@dataclass(frozen=True)
class TokenWeights:
    """What multiplies the PPO term of each proposed token, and how it came about. All (n,) float32.

    weight: the applied weight, 0 for a rejected token. log_ratio: log p - log q, before any cap.
    accept_prob: a(x). accepted: the coin (0 or 1), or a(x) where the mask is `expected`.
    z: acceptance rate used. capped: 1 where c1, the TIS cap or the IcePop band changed the weight.
    kappa: the batch calibration used (1 where none is).
    """

    weight: torch.Tensor
    log_ratio: torch.Tensor
    accept_prob: torch.Tensor
    accepted: torch.Tensor
    z: torch.Tensor
    capped: torch.Tensor
    kappa: float


@torch.no_grad()
def token_weights(
    cfg: CorrectionConfig,
    *,
    logp_inf: torch.Tensor,
    logp_ref: torch.Tensor,
    logp_new: torch.Tensor,
    topk_logp_inf: torch.Tensor,
    topk_logp_target: torch.Tensor,
    uniform: torch.Tensor,
) -> TokenWeights:
    """Mask(x) SG(F(p / q~) p_ref / p) for every proposed token of an update (Alg. 1, l. 18-24).

    Batch statistics (kappa, z = batch) are over exactly the tokens given, so give a whole update.

    Args:
        cfg: which correction, and its settings.
        logp_inf, logp_ref, logp_new: log-probabilities of the sampled tokens, (n,): q, the policy
            before the updates, the policy now. p is logp_ref or logp_new, as `cfg.target` says.
        topk_logp_inf, topk_logp_target: log q and log p of q's k likeliest tokens, (n, k).
        uniform: the acceptance coin of each token, in [0, 1), (n,).

    Returns:
        TokenWeights.
    """
    logp_target = logp_new if cfg.target == "new" else logp_ref
    log_ratio = logp_target - logp_inf
    one = torch.ones_like(log_ratio)
    accept, accepted, z, capped, kappa = one, one, one, torch.zeros_like(one), 1.0
    if cfg.name == "none":
        weight = one
    elif cfg.name == "importance":
        weight = jackpot.importance(log_ratio)
    elif cfg.name == "tis":
        weight = jackpot.tis(log_ratio, cfg.tis_cap)
        capped = (weight < jackpot.importance(log_ratio)).float()
    elif cfg.name == "icepop":
        weight = jackpot.icepop(log_ratio, cfg.icepop_low, cfg.icepop_high)
        capped = (weight != jackpot.importance(log_ratio)).float()
    else:
        # the vocabulary axis of the core, with the sampled token as its only entry
        accept = jackpot.accept_prob(logp_target[:, None], logp_inf[:, None], cfg.lam)[:, 0]
        bernoulli = cfg.mask == "bernoulli"
        accepted = (uniform < accept).float() if bernoulli else accept
        z, kappa = _acceptance_rate(cfg, topk_logp_target, topk_logp_inf, accepted)
        uncapped = jackpot.obrs_weight(log_ratio, cfg.lam, z)
        capped = (uncapped > cfg.c1).float()
        if bernoulli:
            weight = accepted * uncapped.clamp(max=cfg.c1)
        else:
            weight = jackpot.expected_weight(log_ratio, cfg.lam, z, cfg.c1)
    if cfg.target == "new":
        weight = weight * jackpot.tis(logp_ref - logp_new, cfg.c2)  # min(p_ref / p_new, c2)
    return TokenWeights(weight, log_ratio, accept, accepted, z, capped, kappa)


def _acceptance_rate(
    cfg: CorrectionConfig, topk_p: torch.Tensor, topk_q: torch.Tensor, accepted: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Z of each token's state (n,), and the kappa in it.

    DEVIATIONS.md, 3 and 4: the known set is q's own top k (the paper's union needs q where no
    engine gives it), and the tail counts as one token, over q's mass as summed: p = q gives 1.
    """
    if cfg.z == "batch":
        return torch.zeros_like(accepted) + accepted.mean(), 1.0
    tail_p, tail_q = log_tail(topk_p), log_tail(topk_q)
    lower, upper = jackpot.z_topk(topk_p, topk_q, cfg.lam, tail_p, tail_q)
    z = lower
    if cfg.z_tail == "lumped":
        z = upper / jackpot.z_topk(topk_q, topk_q, 1.0, tail_q, tail_q)[1]
    if not cfg.kappa:
        return z, 1.0
    kappa = jackpot.kappa(accepted, z)
    return kappa * z, kappa


def ppo_clip_sum(
    logp_new: torch.Tensor,
    logp_ref: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """-sum weight min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = p_new / p_ref (Eq. 2, 5).

    Tokens of weight 0 are left out before anything is computed: a rejected token, however extreme
    its ratio, adds exactly 0 to the loss and to the gradient.

    Args:
        logp_new: (n,), with gradient. logp_ref, advantage, weight: (n,), without.
        clip_low, clip_high: inf for no clip on that side.

    Returns:
        The loss, a scalar sum over tokens.
    """
    kept = weight != 0
    logp_new, logp_ref = logp_new[kept], logp_ref[kept]
    advantage, weight = advantage[kept], weight[kept]
    ratio = torch.exp(logp_new - logp_ref)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def distill_sum(logp_new: torch.Tensor, logp_actor: torch.Tensor) -> torch.Tensor:
    """sum over states of KL(SG(p_new) || p_actor), full vocabulary, (n, v) each (Eq. 7).

    Forward KL, as Eq. 7 defines it; the paper's text also calls it "reverse" (DEVIATIONS.md, 7).
    """
    return jackpot.kl_p_q(logp_new.detach(), logp_actor).sum()
