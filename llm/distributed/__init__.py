"""Several processes under torchrun, and what all of them must know together; no models."""

from .collectives import (
    all_gather,
    all_gather_object,
    all_reduce_gradients,
    all_reduce_max,
    all_reduce_sum,
    barrier,
    broadcast_object,
    is_main,
    main_first,
    raise_on_all_ranks,
    rank,
    rank_slice,
    sum_counts,
    world_size,
)
from .global_tokens import GlobalTokens
from .launch import (
    Terminated,
    check_groups,
    check_settings,
    is_first_to_report,
    process_group,
    takes_cuda,
    why_lost,
)

__all__ = [
    "GlobalTokens",
    "Terminated",
    "all_gather",
    "all_gather_object",
    "all_reduce_gradients",
    "all_reduce_max",
    "all_reduce_sum",
    "barrier",
    "broadcast_object",
    "check_groups",
    "check_settings",
    "is_first_to_report",
    "is_main",
    "main_first",
    "process_group",
    "raise_on_all_ranks",
    "rank",
    "rank_slice",
    "sum_counts",
    "takes_cuda",
    "why_lost",
    "world_size",
]
