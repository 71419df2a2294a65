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
)


def with_advantages(batch: Batch, cfg: Config, step: int) -> Batch:
    """How much better each completion is than the others of its prompt, (b,), and without those
    that the update leaves out.

    Down-sampling comes before the advantages, which are then of what is kept (PODS). Pruning comes
    after them: they are of the whole group, and what is kept stands for what is dropped.
    """
    if not isinstance(cfg.rollout.down_sampling, NoDownSampling):
        batch = _down_sampled(batch, cfg.rollout.down_sampling, cfg.run.seed, step)
    # of all ranks: an allocation or a pruned prompt may leave a group on two of them
    reward, group = (distributed.all_gather(x) for x in (batch.reward, batch.group))  # (B,)
    everywhere = group_advantage(reward, group, cfg.loss.advantage)
    first = _before_this_rank(len(batch.reward))
    batch = replace(batch, advantage=everywhere[first : first + len(batch.reward)])
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
    rows = np.concatenate(kept)
    return _rows(batch, rows, np.arange(len(rows)) + _before_this_rank(len(rows)))


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
    number = np.cumsum(keep)[place[rows]] - 1
    nothing = distributed.all_gather_object(not len(rows))  # by rank
    if not len(rows):
        # Such a rank keeps one completion, which its weight of 0 leaves out. It is numbered after
        # all others, so that their numbers are those of one process.
        last = int(keep.sum()) + sum(nothing[: distributed.rank()])
        rows, number = np.array([0]), np.array([last])
    left = int(keep.sum()) + sum(nothing)
    total = cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt
    factor = torch.from_numpy(weight[place] * left / total).to(batch.advantage)
    return _rows(replace(batch, advantage=batch.advantage * factor), rows, number)


def _rows(batch: Batch, rows: np.ndarray, number: np.ndarray) -> Batch:
    """These sequences, with their new numbers among those of all ranks: random numbers go by
    number."""
    chosen = batch.rows(torch.from_numpy(rows).to(batch.ids.device))
    return replace(chosen, index=torch.from_numpy(number).to(chosen.index))


def _before_this_rank(n: int) -> int:
    """Sequences of the ranks before this one, which has n."""
    return sum(distributed.all_gather_object(n)[: distributed.rank()])
