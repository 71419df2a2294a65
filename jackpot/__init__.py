"""Jackpot's verified core: Optimal Budgeted Rejection Sampling on arrays; it imports no torch.

Functions take log-probabilities as numpy or torch arrays. The last axis is the vocabulary, and any
number of batch dimensions may come before it.
"""

from .budget import common_lam_for_budget, lam_for_budget, lam_from_samples
from .divergence import chi2_p_q, chi2_q_p, hellinger2, js, kl_p_q, kl_q_p, tv
from .drafting import (
    DraftLaw,
    common_price_for_budget,
    draft_accept_prob,
    draft_law,
    draft_residual,
)
from .obrs import accept_prob, acceptance_rate, post_rejection
from .tail import (
    TailStatistic,
    merge_tail,
    smooth_tail,
    tail_bound,
    tail_bound_above,
    tail_ratio,
    tail_statistic,
    z_bounds,
    z_tail_ratio,
)
from .topk import kappa, z_topk, z_union
from .tracking import track_lam
from .weights import expected_weight, icepop, importance, obrs_weight, tis

__version__ = "0.1.0"

__all__ = [
    "DraftLaw",
    "TailStatistic",
    "accept_prob",
    "acceptance_rate",
    "chi2_p_q",
    "chi2_q_p",
    "common_lam_for_budget",
    "common_price_for_budget",
    "draft_accept_prob",
    "draft_law",
    "draft_residual",
    "expected_weight",
    "hellinger2",
    "icepop",
    "importance",
    "js",
    "kappa",
    "kl_p_q",
    "kl_q_p",
    "lam_for_budget",
    "lam_from_samples",
    "merge_tail",
    "obrs_weight",
    "post_rejection",
    "smooth_tail",
    "tail_bound",
    "tail_bound_above",
    "tail_ratio",
    "tail_statistic",
    "tis",
    "track_lam",
    "tv",
    "z_bounds",
    "z_tail_ratio",
    "z_topk",
    "z_union",
]
