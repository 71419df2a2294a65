"""What is kept of a step's samples: padded as they are sampled, flat from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch


class Verification(NamedTuple):
    """What the policy's passes over drafted tokens gave, of each token: (b, t), or flat (n,).

    logp: log p of the sampled token, nats, 0 at padding. topk_logp: log p of `topk_ids`,
        (b, t, k) or (n, k).
    accept_rate: Z of its state, the probability that what the actor proposes there is accepted;
        1 where is_bonus.
    lam, mu: p / s of its state lies between them; 1 where is_bonus; mu is inf where nothing is
        rejected and some token has q = 0 < p.
    kl_sampled: KL(p || s) of its state, nats. kl_actor: KL(p || q), 0 where is_bonus.
    is_bonus: it was drawn from p after a block that was accepted to its end.
    starts_round: it is the first of a policy pass over its sequence.
    """

    logp: torch.Tensor
    topk_logp: torch.Tensor
    accept_rate: torch.Tensor
    lam: torch.Tensor
    mu: torch.Tensor
    kl_sampled: torch.Tensor
    kl_actor: torch.Tensor
    is_bonus: torch.Tensor
    starts_round: torch.Tensor

    @classmethod
    def blank(cls, b: int, t: int, k: int, device: torch.device) -> Verification:
        """Before the first token."""
        tokens = [torch.zeros((b, t), device=device) for _ in range(6)]
        flags = [torch.zeros((b, t), dtype=torch.bool, device=device) for _ in range(2)]
        return cls(tokens[0], torch.zeros((b, t, k), device=device), *tokens[1:], *flags)

    def at(self, chosen: torch.Tensor) -> Verification:
        """Of some tokens: their places, or where they are."""
        return Verification(*(x[chosen] for x in self))


@dataclass(frozen=True)
class Samples:
    """Completions as an engine gives them. b sequences, t completion positions, k of q's likeliest.

    ids: prompt left-padded, completion right-padded, (b, t_prompt + t).
    is_real: a token, not padding, (b, t_prompt + t).
    is_completion: a sampled token, end-of-sequence included, (b, t).
    logp_inf: log q of the sampled token, nats, 0 at padding, (b, t) float32.
    topk_ids, topk_logp_inf: the k likeliest tokens of q and their log q, (b, t, k).
    index: number of the sequence within the step's batch, (b,): what its random numbers belong to.
    version: of the weights that each token was sampled from, (b, t): steps whose updates they hold.
    finished: the completion ended itself, (b,).
    prompts, answers: text of each prompt, and its right answer.
    extras: the other columns of its row as JSON, see `Problem`; [] where nothing reads them.
    verification: of drafted tokens, (b, t) each; None where the model that samples is alone. q is
        then the distribution s that the tokens follow.
    """

    ids: torch.Tensor
    is_real: torch.Tensor
    is_completion: torch.Tensor
    logp_inf: torch.Tensor
    topk_ids: torch.Tensor
    topk_logp_inf: torch.Tensor
    index: torch.Tensor
    finished: torch.Tensor
    version: torch.Tensor
    prompts: list[str]
    answers: list[str]
    extras: list[str] = field(default_factory=list)
    verification: Verification | None = None

    def flat(self, group_size: int = 1) -> Batch:
        """The same with one entry per sampled token: the only place where padding is dropped.

        group_size: completions of each prompt, neighbours in `index`.
        """
        real = self.is_completion  # (b, t)
        sequence, position = real.nonzero().T  # (n,) each, in order of sequence, then position
        blank = torch.zeros(len(real), device=real.device)
        return Batch(
            ids=self.ids,
            is_real=self.is_real,
            is_completion=real,
            index=self.index,
            group=self.index // group_size,
            multiplier=torch.ones(len(real), device=real.device),
            finished=self.finished,
            prompts=self.prompts,
            answers=self.answers,
            extras=self.extras,
            reward=blank,
            advantage=blank.clone(),
            value=blank.clone(),
            sequence=sequence,
            position=position,
            token_ids=self.ids[:, -real.shape[1] :][real],
            logp_inf=self.logp_inf[real],
            topk_ids=self.topk_ids[real],
            topk_logp_inf=self.topk_logp_inf[real],
            version=self.version[real],
            verification=None if self.verification is None else self.verification.at(real),
        )


@dataclass(frozen=True)
class Batch:
    """Sequences, and their sampled tokens, flat. b sequences, n tokens, k of q's likeliest.

    Of each sequence: ids, is_real, is_completion (what a forward pass reads), index, finished,
    prompts, answers, extras as in `Samples`; group, the number of its prompt within the step, (b,).
    The trainer fills in reward and advantage, (b,); multiplier, (b,), of the advantages, where
    prompts have different numbers of completions; value, (b,), the V* of A*-PO, else 0.
    Of each token, in order of sequence, then position:
    sequence: its row in `ids`, (n,). position: its place in the completion, from 0, (n,).
    token_ids: the sampled token, (n,). logp_inf: its log q, nats, (n,) float32.
    topk_ids, topk_logp_inf: the k likeliest tokens of q at its state and their log q, (n, k).
    version: of the weights it was sampled from, (n,). verification: as in `Samples`, (n,) each.
    """

    ids: torch.Tensor
    is_real: torch.Tensor
    is_completion: torch.Tensor
    index: torch.Tensor
    group: torch.Tensor
    multiplier: torch.Tensor
    finished: torch.Tensor
    prompts: list[str]
    answers: list[str]
    reward: torch.Tensor
    advantage: torch.Tensor
    value: torch.Tensor
    sequence: torch.Tensor
    position: torch.Tensor
    token_ids: torch.Tensor
    logp_inf: torch.Tensor
    topk_ids: torch.Tensor
    topk_logp_inf: torch.Tensor
    version: torch.Tensor
    extras: list[str] = field(default_factory=list)
    verification: Verification | None = None

    @property
    def lengths(self) -> torch.Tensor:
        """Sampled tokens of each sequence, (b,)."""
        return self.is_completion.sum(dim=1)

    @property
    def in_topk(self) -> torch.Tensor:
        """Whether the sampled token is one of q's k likeliest, (n,)."""
        return (self.topk_ids == self.token_ids[:, None]).any(dim=-1)

    @property
    def token_advantage(self) -> torch.Tensor:
        """The advantage of each token's completion, (n,)."""
        return self.advantage[self.sequence]

    def token_index(self, rows: torch.Tensor) -> torch.Tensor:
        """Places of the tokens of these sequences, sequence by sequence: (r,) -> (m,) int64."""
        # Tokens lie sequence by sequence: sequence i has lengths[i] of them, from first[i] on.
        lengths = self.lengths
        first = lengths.cumsum(dim=0) - lengths  # (b,) of each sequence's first token
        counts = lengths[rows]
        # 0, 1, .. within each chosen sequence: a count over all, less where the sequence began
        within = torch.arange(int(counts.sum()), device=counts.device)
        within -= (counts.cumsum(dim=0) - counts).repeat_interleave(counts)
        return first[rows].repeat_interleave(counts) + within

    def rows(self, chosen: torch.Tensor, tokens: torch.Tensor | None = None) -> Batch:
        """The batch of these sequences, in this order. tokens: their `token_index`, if known."""
        tokens = self.token_index(chosen) if tokens is None else tokens
        order = chosen.tolist()
        picked: dict[str, Any] = {}
        for name, values in vars(self).items():
            if values is None:
                continue
            if isinstance(values, Verification):
                picked[name] = values.at(tokens)
            elif isinstance(values, list):
                picked[name] = [values[i] for i in order] if values else []
            else:
                picked[name] = values[tokens if name in _OF_TOKENS else chosen]
        # `sequence` names rows of `ids`, and these have new numbers now.
        row = torch.arange(len(order), device=tokens.device)
        picked["sequence"] = row.repeat_interleave(self.lengths[chosen])
        return replace(self, **picked)

    def columns(self, left: int, width: int) -> Batch:
        """Without the first `left` columns of prompts, and `width` completion positions wide.

        What is left out must be padding.
        """
        end = self.ids.shape[1] - self.is_completion.shape[1] + width
        return replace(
            self,
            ids=self.ids[:, left:end],
            is_real=self.is_real[:, left:end],
            is_completion=self.is_completion[:, :width],
        )

    def without_tokens(self) -> Batch:
        """The first sequence, cut to two columns, of which no token counts."""
        # A sharded model's ranks must all run a forward pass: one column of prompt, one completed.
        one = self.rows(torch.arange(1))
        prompt_width = one.ids.shape[1] - one.is_completion.shape[1]
        one = one.columns(prompt_width - 1, 1)
        none: dict[str, Any] = {name: getattr(one, name)[:0] for name in _OF_TOKENS}
        if one.verification is not None:
            none["verification"] = one.verification.at(one.sequence[:0])
        return replace(one, is_completion=torch.zeros_like(one.is_completion), **none)

    def completions(self) -> list[list[int]]:
        """Sampled ids of each sequence."""
        return [ids.tolist() for ids in self.token_ids.split(self.lengths.tolist())]


_OF_TOKENS = (
    *("sequence", "position", "token_ids", "logp_inf", "topk_ids", "topk_logp_inf", "version"),
)


def in_order(parts: Sequence[torch.Tensor], places: Sequence[torch.Tensor]) -> torch.Tensor:
    """Values of the tokens at some places, put in order: (m, ...) each, (m,) each -> (n, ...)."""
    values = torch.cat(list(parts))
    ordered = torch.empty_like(values)
    ordered[torch.cat(list(places))] = values  # microbatches took them in another order
    return ordered


def positions(is_real: torch.Tensor) -> torch.Tensor:
    """Position id of every token, counted from each sequence's first real token, (b, s)."""
    # Left padding would count as -1, which is no position; attention masks it out anyway.
    return (is_real.long().cumsum(dim=-1) - 1).clamp(min=0)
