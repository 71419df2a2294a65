"""After the rewards: which completions the update uses, and what their advantages are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from jackpot import selection
from jackpot.torch.advantages import group_advantage
from llm import distributed, randomness
from llm.rollout.batch import Batch
from llm.settings.loading import Config
from llm.settings.schema import (
    DownSampling,
    HorvitzThompsonPruning,
    NoDownSampling,
    UniformAllocation,
)


def with_advantages(batch: Batch, cfg: Config, step: int) -> Batch:
    """How much better each completion is than the others of its prompt, (b,), and without those
    that the update leaves out.

    Down-sampling comes before the advantages, which are then of what is kept (PODS). Pruning comes
    after them: they are of the whole group, and what is kept stands for what is dropped.
    """
    if not isinstance(cfg.rollout.down_sampling, NoDownSampling):
        batch = _down_sampled(batch, cfg.rollout.down_sampling, cfg.run.seed, step)
    if isinstance(cfg.rollout.allocation, UniformAllocation):  # no rank parts a group
        advantage = group_advantage(batch.reward, batch.group, cfg.loss.advantage)
    else:
        reward, group = (distributed.all_gather(x) for x in (batch.reward, batch.group))  # (B,)
        everywhere = group_advantage(reward, group, cfg.loss.advantage)
        first = _before_this_rank(len(batch.reward))
        advantage = everywhere[first : first + len(batch.reward)]
    batch = replace(batch, advantage=advantage)
    if isinstance(cfg.rollout.pruning, HorvitzThompsonPruning):
        batch = _pruned(batch, cfg.rollout.pruning, cfg, step)
    # last: pruning goes by the advantages within the group
    return replace(batch, advantage=batch.advantage * batch.multiplier)


def _down_sampled(batch: Batch, chosen: DownSampling, seed: int, step: int) -> Batch:
    """PODS: of each prompt's completions those that its rule keeps."""
    reward, group = batch.reward.double().cpu().numpy(), batch.group.cpu().numpy()
    kept = []
    for prompt in np.unique(group).tolist():
        rows = np.flatnonzero(group == prompt)
        rng = None
        if chosen.type == "random":
            rng = randomness.stream(seed, f"down-sampling of prompt {prompt}", step)
        kept.append(rows[selection.pods(reward[rows], chosen.keep, chosen.type, rng)])
    return _rows(batch, np.concatenate(kept))


def _pruned(batch: Batch, pruning: HorvitzThompsonPruning, cfg: Config, step: int) -> Batch:
    """Without the completions that a coin drops; the advantages of the others are multiplied.

    With loss.denominator sequence the expected loss is that of all completions: its mean is over
    prompts_per_step x rollouts_per_prompt, and the update divides by those that are left.
    """
    score, index = (distributed.all_gather(x) for x in (batch.advantage.abs(), batch.index))  # (B,)
    order = index.argsort()  # by number, so that no coin depends on the ranks
    rng = randomness.stream(cfg.run.seed, "completion pruning", step)
    rate, fraction = pruning.completion_rate, pruning.candidate_fraction
    sorted_score = score[order].double().cpu().numpy()
    keep, weight = selection.horvitz_thompson(sorted_score, rate, fraction, rng)
    place = torch.searchsorted(index[order], batch.index).cpu().numpy()  # (b,) in that order
    rows = np.flatnonzero(keep[place])
    # a rank that has nothing left keeps one completion, which its weight of 0 leaves out
    rows = rows if len(rows) else np.array([0])
    left = sum(distributed.all_gather_object(len(rows)))
    total = cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt
    factor = torch.from_numpy(weight[place] * left / total).to(batch.advantage)
    return _rows(replace(batch, advantage=batch.advantage * factor), rows)


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    """These sequences, numbered anew among those of all ranks: random numbers go by number."""
    chosen = batch.rows(torch.from_numpy(rows).to(batch.ids.device))
    number = torch.arange(len(rows), device=chosen.index.device) + _before_this_rank(len(rows))
    return replace(chosen, index=number)


def _before_this_rank(n: int) -> int:
    """Sequences of the ranks before this one, which has n."""
    return sum(distributed.all_gather_object(n)[: distributed.rank()])
