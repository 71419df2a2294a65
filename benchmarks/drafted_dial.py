"""What does a lam below 1 buy? More tokens per pass of the policy, for KL(p || s).

    python benchmarks/drafted_dial.py [--seeds 8]

Models, prompts and completions without end are those of benchmarks/drafted.py, at a smaller size.
Each seed has its own policy, prompts and random numbers, and all dials of a seed share them. The
gain is in tokens per pass, over lossless drafting (lam = 1) of the same seed; the last block of a
completion is cut at its length. KL(p || s) is the trainer's `draft_kl_policy_sampled`: exact over
the vocabulary, its mean over all sampled tokens, 0 for a bonus, which follows p. KL(p || q) is its
`draft_kl_policy_actor`, the mean over the states that the policy verified. Both depend on what was
drafted, so KL(p || q) is that of lam = 1. Intervals: Student's, 95 %, over the seeds.

A row is marked where the whole interval of its gain is at least 10 % and that of its KL(p || s) at
most 0.01 nats a token.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from drafted import Prompts, policy_of

from llm.models.actors import early_exit
from llm.rollout.drafted import Drafting, sample_drafted
from llm.tasks.problem import Problem
from paper_figures.analysis.run_statistics import SEEDS_MIN, Interval, student

SIZE: dict[str, Any] = {"width": 128, "vocabulary": 1024, "tokens": 48}
LAYERS, ACTOR_LAYERS, ROWS, GAMMA = 4, 1, 64, 4
MISMATCHES = (0.3, 0.1, 0.037)  # KL(p || q) of about 0.5, 0.07 and 0.01 nats
GAIN_MIN, KL_MAX = 0.10, 0.01

_LOSSLESS = Drafting(GAMMA, GAMMA, 1.0)
DIALS = {
    **{f"lam {lam:g}": Drafting(GAMMA, GAMMA, lam) for lam in (0.9, 0.8, 0.7, 0.5)},
    **{f"price {x:g}": Drafting(GAMMA, GAMMA, None, price=x) for x in (0.05, 0.1, 0.2, 0.3, 0.4)},
}


class Rollout(NamedTuple):
    tokens_per_pass: float
    accept_rate: float
    kl_sampled: float  # KL(p || s), mean over sampled tokens
    kl_actor: float  # KL(p || q), mean over verified states


def rollout(actor: Any, policy: Any, drafting: Drafting, seed: int) -> Rollout:
    tokenizer: Any = Prompts(SIZE["vocabulary"])
    problems = [Problem(str(1000 * seed + i), "") for i in range(ROWS)]
    verified = sample_drafted(
        actor, policy, tokenizer, problems, np.random.default_rng(seed),
        drafting=drafting, max_new_tokens=SIZE["tokens"], temperature=1.0, top_k=1,
    ).verification  # fmt: skip
    assert verified is not None
    drafted = ~verified.is_bonus
    return Rollout(
        drafted.numel() / int(verified.starts_round.sum()),
        float(verified.accept_rate[drafted].mean()),
        float(verified.kl_sampled.mean()),
        float(verified.kl_actor[drafted].mean()),
    )


def rows_of(mismatch: float, seeds: int) -> list[str]:
    """Of the table: lossless drafting, and each dial."""
    lossless: list[Rollout] = []
    found: dict[str, list[Rollout]] = {name: [] for name in DIALS}
    for seed in range(seeds):
        policy = policy_of(SIZE, LAYERS, mismatch, ACTOR_LAYERS, seed)
        actor = early_exit(policy, ACTOR_LAYERS)
        lossless.append(rollout(actor, policy, _LOSSLESS, seed))
        for name, drafting in DIALS.items():
            found[name].append(rollout(actor, policy, drafting, seed))
    kl_actor = np.mean([r.kl_actor for r in lossless])
    lines = []
    for name, own in {"lam 1": lossless, **found}.items():
        z, per_pass = (np.mean(x) for x in zip(*(r[1::-1] for r in own), strict=True))
        pairs = zip(own, lossless, strict=True)
        gain = student([a.tokens_per_pass / b.tokens_per_pass - 1 for a, b in pairs])
        kl = student([r.kl_sampled for r in own])
        paid = "yes" if gain.low >= GAIN_MIN and kl.high <= KL_MAX else ""
        of_gain = "" if name == "lam 1" else Interval(*(100 * x for x in gain)).text(1)
        lines.append(
            f"| {kl_actor:.3f} | {name} | {z:.3f} | {per_pass:.2f} | {of_gain} | {kl.text(4)} | "
            f"{paid} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, choices=range(SEEDS_MIN, 1001))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| KL(p, q) | dial | Z | tokens / pass | gain, % | KL(p, s) | 10 % at 0.01 |")
    print("|" + " --- |" * 7)
    for mismatch in MISMATCHES:
        print("\n".join(rows_of(mismatch, args.seeds)), flush=True)


if __name__ == "__main__":
    main()
