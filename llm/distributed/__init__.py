"""Several processes under torchrun: who this one is, and what all of them must know together."""

from .collectives import (
    add_up,
    barrier,
    gather,
    gather_json,
    is_main,
    largest,
    main_first,
    part,
    rank,
    share_json,
    size,
    sum_counts,
    sum_gradients,
    together,
)
from .global_tokens import AllTokens
from .launch import Told, check, check_groups, joined, lost, reports, tell

__all__ = [
    "AllTokens",
    "Told",
    "add_up",
    "barrier",
    "check",
    "check_groups",
    "gather",
    "gather_json",
    "is_main",
    "joined",
    "largest",
    "lost",
    "main_first",
    "part",
    "rank",
    "reports",
    "share_json",
    "size",
    "sum_counts",
    "sum_gradients",
    "tell",
    "together",
]
