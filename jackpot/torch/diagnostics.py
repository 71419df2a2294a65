"""What a step's weights say: acceptance, effective sample size, KLs, clipping."""

from __future__ import annotations

import math

import torch

from .correction import TokenWeights


def ess(weight: torch.Tensor) -> float:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2); 0 if all weights are 0."""
    top = float(weight.max())
    if top == 0.0:
        return 0.0
    w = weight.double() / top  # squares of huge weights would overflow
    return float(w.sum()) ** 2 / (w.numel() * float((w * w).sum()))


def correction_metrics(parts: list[TokenWeights], name: str) -> dict[str, float]:
    """Ratios, acceptance and weights over all tokens of a step, rejected ones included."""
    log_ratio = torch.cat([p.log_ratio for p in parts]).double()
    weight = torch.cat([p.weight for p in parts])
    ratio = log_ratio.exp()
    # E_q[r - 1 - log r] = KL(q || p) and E_q[r log r - r + 1] = KL(p || q): tokens are q's. Each
    # term is >= 0, so neither estimate is negative, unlike the plain mean of -log r.
    possible = log_ratio > -math.inf  # where p > 0; with p = 0 the terms of KL(q || p) are infinite
    some = log_ratio[possible] if bool(possible.any()) else torch.zeros_like(log_ratio)
    metrics = {
        "kl_inf_target_k3": float((torch.expm1(some) - some).mean()),
        "kl_target_inf_est": float(
            (torch.where(possible, ratio * log_ratio, 0.0) - torch.expm1(log_ratio)).mean()
        ),
        "log_ratio_mean": float(some.mean()),
        "log_ratio_max": float(some.max()),
        "ratio_mean": float(ratio.mean()),
        "ratio_p99": _quantile(ratio, 0.99),
        "ratio_max": float(ratio.max()),
        "weight_mean": float(weight.mean()),
        "weight_max": float(weight.max()),
        "ess_raw": ess(ratio),
        "ess_applied": ess(weight),
        "cap_fraction": float(torch.cat([p.capped for p in parts]).mean()),
    }
    if name == "jackpot":
        metrics["accept_prob_mean"] = float(torch.cat([p.accept_prob for p in parts]).mean())
        metrics["accept_rate"] = float(torch.cat([p.accepted for p in parts]).mean())
        metrics["z_mean"] = float(torch.cat([p.z for p in parts]).mean())
        metrics["kappa"] = sum(p.kappa for p in parts) / len(parts)
        metrics["lam_mean"] = float(torch.cat([p.lam for p in parts]).double().mean())
        metrics["budget_infeasible_fraction"] = float(
            torch.cat([p.infeasible for p in parts]).mean()
        )
    return metrics


def _quantile(x: torch.Tensor, share: float) -> float:
    """As torch.quantile, which refuses more than 16 million values."""
    x = x.sort().values
    place = share * (len(x) - 1)
    low = int(place)
    high = min(low + 1, len(x) - 1)
    return float(x[low] + (place - low) * (x[high] - x[low]))


def clipped_tokens(
    logp_new: torch.Tensor, logp_ref: torch.Tensor, advantage: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """1 for each token whose PPO ratio is clipped where that stops its gradient, (n,)."""
    # min(r A, clip(r) A) is constant in r above 1 + high for A > 0 and below 1 - low for A < 0.
    ratio = torch.exp(logp_new.detach() - logp_ref)
    outside = ((ratio > 1 + high) & (advantage > 0)) | ((ratio < 1 - low) & (advantage < 0))
    return outside.float()
