"""Phase 1 by drafting: the actor drafts blocks of tokens, and the policy verifies them.

The policy reads a drafted block in one forward pass. Each token is accepted with the probability
min(1, p / (lam q)), the first rejected one is drawn anew, and what follows it is dropped. After a
block that is accepted to its end one more token, the bonus, comes from p. So every token follows a
distribution that is known: s = clip(q, p / mu, p / lam) of `jackpot.draft_law`, or p for a bonus.
With lam 1 that is p throughout.

All random numbers belong to (sequence, position). A position that is drafted again uses them again,
which is exact: what was drafted there before was dropped because of a rejection further left, in
which it had no part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from jackpot import draft_law, draft_residual
from llm.tasks.problem import Problem
from llm.tokenizers.pretrained import Tokenizer

from .batch import Samples
from .row_cache import RowCache
from .sampling import inverse_cdf, refuse_nan, vocabulary_of, without_completions

LogqCheck = Callable[[torch.Tensor], None]


class Drafting(NamedTuple):
    """How to draft. Exactly one of lam, budget and price is given, before anything is sampled.

    length: tokens of a block. length_max: a block that was accepted to its end is followed by one
    of twice its length, at most this; another by one of a token more than were accepted.
    lam: threshold of the acceptance, in (0, 1]. budget: wanted acceptance rate in every state.
    price: mu - lam in every state, nats per rejection, > 0.
    """

    length: int = 4
    length_max: int = 4
    lam: float | None = 1.0
    budget: float | None = None
    price: float | None = None


@torch.no_grad()
def sample_drafted(
    actor: Any,  # transformers causal language models over one vocabulary
    policy: Any,
    tokenizer: Tokenizer,
    problems: list[Problem],
    rng: np.random.Generator,
    *,
    drafting: Drafting,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    group: int = 1,
    place: tuple[int, int] | None = None,
    version: int = 0,
    check: LogqCheck | None = None,
) -> Samples:
    """`group` completions for each problem, neighbours, drafted by the actor, verified by p.

    p and q are softmax(logits / temperature) of policy and actor. `logp_inf` and the top k are of
    the distribution s that the tokens follow; `verification` has log p of the same tokens.
    Arguments, and what a sequence depends on, are as in `sampling.sample`. With an adaptive block
    length a sequence's blocks depend on its own earlier blocks alone.

    Raises:
        NonFinite: log p or log q holds NaN (or what `check` raises).
        ConfigError: a model whose cache cannot be cut back by row.
    """
    device, t = policy.device, max_new_tokens
    b = len(problems) * group
    first, everything = place or (0, b)
    # (b, t, 3): of each (sequence, position) one number drafts, one accepts, one draws anew
    uniform = torch.from_numpy(rng.random((everything, t, 3))[first : first + b]).to(device)
    samples = without_completions(
        tokenizer, problems, group, device,
        t=t, k=min(top_k, vocabulary_of(policy)), first=first, version=version, verified=True,
    )  # fmt: skip
    state = _Rows(actor, policy, samples, group, drafting)
    ends = torch.tensor(sorted(tokenizer.eos), device=device)
    while len(state.rows):
        drafts = _draft(state, uniform, ends, temperature, check or refuse_nan)
        log_p = torch.log_softmax(
            state.policy.read(
                torch.cat([state.last_tokens(1), drafts.ids], dim=1), drafts.ids.shape[1] + 1
            )
            / temperature,
            dim=-1,
        )  # (r, g + 1, v)
        (check or refuse_nan)(log_p.flatten(0, 1))
        _verify(state, drafts, log_p, uniform, ends)
    return samples


class _Drafts(NamedTuple):
    """ids: what was drafted, (r, g). log_q: of which distributions, (r, g, v). offered: how many of
    a row's drafts count, (r,); the others are padding."""

    ids: torch.Tensor
    log_q: torch.Tensor
    offered: torch.Tensor


class _Rows:
    """The unfinished sequences. rows: their numbers in `samples`, (r,). done: tokens sampled, (r,).
    length: of each row's next block, (r,)."""

    def __init__(
        self, actor: Any, policy: Any, samples: Samples, group: int, drafting: Drafting
    ) -> None:
        self.samples, self.drafting = samples, drafting
        b, t = samples.logp_inf.shape
        self.rows = torch.arange(b, device=samples.ids.device)
        self.done = torch.zeros_like(self.rows)
        self.length = torch.full_like(self.rows, drafting.length)
        self.width = samples.ids.shape[1] - t
        self.prompt = samples.is_real.sum(dim=1)  # (b,) tokens of each prompt
        self.actor, self.policy = (RowCache(m, self.prompt + t - 1) for m in (actor, policy))
        # all but the last token of each prompt: that one is read with the first block
        head = slice(0, self.width - 1)
        for cache in (self.actor, self.policy):
            cache.read_prompts(samples.ids[::group, head], samples.is_real[::group, head], group)

    def last_tokens(self, f: int) -> torch.Tensor:
        """The last f tokens of each row, (r, f)."""
        column = (self.width + self.done)[:, None] + torch.arange(-f, 0, device=self.done.device)
        return self.samples.ids[self.rows[:, None], column]

    def keep(self, stay: torch.Tensor, accepted: torch.Tensor, drafted: int) -> None:
        """After a round: the caches hold what was accepted, and finished rows leave.

        stay: the rows that go on, (r',). accepted: drafts accepted of every row, (r,). drafted:
        tokens of the block, of which the actor has read all but the last.
        """
        total = self.prompt[self.rows] + self.done  # (r,), the newest included, which none has read
        # The actor lacks one token, or two where its last draft was accepted. All rows read as many
        # in the next round, so where one of them lacks two, the others read one again.
        short = int((accepted[stay] == drafted).any()) + 1 if len(stay) else 1
        self.rows, self.done = self.rows[stay], self.done[stay]
        self.length = self.length[stay]
        if len(stay):
            self.policy.cut(stay, total[stay] - 1)
            self.actor.cut(stay, total[stay] - short)


def _draft(
    state: _Rows, uniform: torch.Tensor, ends: torch.Tensor, temperature: float, check: LogqCheck
) -> _Drafts:
    """A block of each row, drawn from the actor token by token."""
    t = uniform.shape[1]
    wanted = state.length.minimum(t - state.done)  # (r,)
    unread = int((state.prompt[state.rows] + state.done - state.actor.held).max())
    tokens = state.last_tokens(unread)  # (r, 1 or 2)
    ids: list[torch.Tensor] = []
    log_qs: list[torch.Tensor] = []
    offered = wanted.clone()
    while len(ids) < int(offered.max()):  # a block ends with an end-of-sequence token
        log_q = torch.log_softmax(state.actor.read(tokens, 1)[:, 0] / temperature, dim=-1)
        check(log_q)
        at = (state.done + len(ids)).clamp(max=t - 1)  # beyond it a row's drafts do not count
        token = inverse_cdf(log_q, uniform[state.rows, at, 0])  # (r,)
        ids.append(token)
        log_qs.append(log_q)
        is_end = torch.isin(token, ends)
        offered = torch.where(is_end, offered.clamp(max=len(ids)), offered)
        tokens = token[:, None]
    return _Drafts(torch.stack(ids, dim=1), torch.stack(log_qs, dim=1), offered)


def _verify(
    state: _Rows,
    drafts: _Drafts,
    log_p: torch.Tensor,
    uniform: torch.Tensor,
    ends: torch.Tensor,
) -> None:
    """Accept, draw anew, write, cut back. log_p: (r, g + 1, v)."""
    g = drafts.ids.shape[1]
    t, device = uniform.shape[1], log_p.device
    offset = torch.arange(g, device=device)
    at = (state.done[:, None] + offset).clamp(max=t - 1)  # (r, g) positions of the drafts
    lam = _lam(state.drafting, log_p[:, :g], drafts.log_q)  # (r, g)
    of_p, of_q = (x.gather(2, drafts.ids[..., None])[..., 0] for x in (log_p[:, :g], drafts.log_q))
    log_r = (of_p - of_q).double()  # (r, g)
    # the coin is below 1, so min(1, p / (lam q)) needs no minimum
    accept = uniform[state.rows[:, None], at, 1] < (log_r - lam.log()).exp()
    accept &= offset < drafts.offered[:, None]
    n = accept.long().cumprod(dim=1).sum(dim=1)  # (r,) accepted before the first that is not
    rejected = n < drafts.offered
    last = drafts.ids.gather(1, (n - 1).clamp(min=0)[:, None])[:, 0]
    ended = ~rejected & torch.isin(last, ends)  # an accepted end is the last that is offered
    bonus = ~rejected & ~ended & (state.done + n < t)

    # Of the drafted states, those of accepted tokens and of a rejected one count.
    row, col = (offset < (n + rejected.long())[:, None]).nonzero().T  # (m,)
    p, q = log_p[row, col], drafts.log_q[row, col]  # (m, v)
    s = _distribution(p, q, lam[row, col], lossless=state.drafting.lam == 1.0)
    ids = drafts.ids.clone()
    redrawn = rejected[row] & (col == n[row])  # (m,), one for each rejected row
    if bool(redrawn.any()):
        residual = draft_residual(p[redrawn], q[redrawn], s.mu[redrawn])
        i, j = row[redrawn], col[redrawn]
        ids[i, j] = inverse_cdf(residual, uniform[state.rows[i], state.done[i] + j, 2])
    _write(state, row, col, ids[row, col], p, s, starts=col == 0)
    if bool(bonus.any()):
        row = bonus.nonzero()[:, 0]
        p = log_p[row, n[row]]
        token = inverse_cdf(p, uniform[state.rows[row], state.done[row] + n[row], 2])
        s = _Distribution(p, *(torch.full_like(p[:, 0], x) for x in (1.0, 1.0, 1.0, 0.0, 0.0)))
        _write(state, row, n[row], token, p, s, bonus=True)

    state.done = state.done + n + (rejected | bonus).long()
    newest = state.last_tokens(1)[:, 0]
    is_end = torch.isin(newest, ends)
    state.samples.finished[state.rows] = is_end
    state.length = _next_length(state.drafting, state.length, n, bonus)
    stay = (~is_end & (state.done < t)).nonzero()[:, 0]
    state.keep(stay, n, g)


def _lam(drafting: Drafting, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """The threshold of each drafted state, (r, g) float64; log_p, log_q: (r, g, v)."""
    if drafting.lam is not None:
        return torch.full_like(log_p[..., 0], drafting.lam, dtype=torch.float64)
    return draft_law(log_p, log_q, budget=drafting.budget, price=drafting.price).lam.double()


class _Distribution(NamedTuple):
    """Of m states: log s, (m, v); Z, lam, mu, KL(p || s) and KL(p || q), (m,)."""

    log_s: torch.Tensor
    accept_rate: torch.Tensor
    lam: torch.Tensor
    mu: torch.Tensor
    kl_sampled: torch.Tensor
    kl_actor: torch.Tensor


def _distribution(
    log_p: torch.Tensor, log_q: torch.Tensor, lam: torch.Tensor, *, lossless: bool
) -> _Distribution:
    """What tokens follow in drafted states, (m, v) each, at their thresholds, (m,)."""
    kl_actor = _kl(log_p, log_q)
    if lossless:  # lam is 1, s = p, and the rest needs no solver
        z = torch.minimum(log_p, log_q).exp().sum(dim=-1, dtype=torch.float64).clamp(max=1.0)
        one = torch.ones_like(kl_actor)
        return _Distribution(log_p, z.float(), one, one, torch.zeros_like(one), kl_actor)
    # the lam of a budget or price is solved for once, in `_lam`: mu and the rest follow from it
    s = draft_law(log_p, log_q, lam=lam)
    kl_sampled = _kl(log_p, s.log_s)
    return _Distribution(s.log_s, 1.0 - s.tau, s.lam, s.mu, kl_sampled, kl_actor)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), (m, v) each -> (m,): a metric, so float32 up to the sum is exact enough."""
    log_r = torch.where(torch.isneginf(log_p), 0.0, log_p - log_q)  # 0 log 0 = 0
    return (log_p.exp() * log_r).sum(dim=-1, dtype=torch.float64).clamp(min=0.0).float()


def _write(
    state: _Rows,
    row: torch.Tensor,
    offset: torch.Tensor,
    token: torch.Tensor,
    log_p: torch.Tensor,
    s: _Distribution,
    *,
    starts: torch.Tensor | None = None,
    bonus: bool = False,
) -> None:
    """Note m tokens of some rows, `offset` after what was done; starts: the first of a round.

    Args:
        row, offset, token: (m,). log_p: (m, v).
    """
    samples, verified = state.samples, state.samples.verification
    assert verified is not None
    at = (state.rows[row], state.done[row] + offset)  # sequence and position
    samples.ids[at[0], state.width + at[1]] = token
    samples.is_real[at[0], state.width + at[1]] = True
    samples.logp_inf[at] = s.log_s.gather(1, token[:, None])[:, 0]
    best = s.log_s.topk(samples.topk_ids.shape[2], dim=-1)  # (m, k), of what is sampled from
    samples.topk_ids[at], samples.topk_logp_inf[at] = best.indices, best.values
    verified.logp[at] = log_p.gather(1, token[:, None])[:, 0]
    verified.topk_logp[at] = log_p.gather(1, best.indices)
    for name in ("accept_rate", "lam", "mu", "kl_sampled", "kl_actor"):
        getattr(verified, name)[at] = getattr(s, name)
    verified.is_bonus[at] = bonus
    verified.starts_round[at] = False if starts is None else starts


def _next_length(
    drafting: Drafting, length: torch.Tensor, accepted: torch.Tensor, full: torch.Tensor
) -> torch.Tensor:
    """Of each row's next block, (r,), from its last one alone."""
    if drafting.length_max == drafting.length:
        return length
    return torch.where(full, 2 * length, accepted + 1).clamp(max=drafting.length_max)
