"""Drafted completions follow the noted distribution, whatever they are sampled with."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from table_model import END, HORIZON, PROMPTS, TableModel, Texts
from tiny_context import PROBLEMS, TOKENIZER, full_logprobs, random_pair

from jackpot import draft_law
from llm.models.actors import early_exit, quantized
from llm.rollout.batch import Samples, Verification
from llm.rollout.drafted import Drafting, sample_drafted
from llm.tasks.problem import Problem

POLICY = TableModel(1)
ACTOR = TableModel(2, 0.8, near=POLICY)
CASES = {
    "lossless, blocks of 1": Drafting(1, 1, 1.0),
    "lossless, blocks of 3": Drafting(3, 3, 1.0),
    "lam .5, blocks of 2": Drafting(2, 2, 0.5),
    "lam .1, blocks of 7": Drafting(7, 7, 0.1),
    "budget .85, blocks of 3": Drafting(3, 3, None, 0.85),
    "lam .6, adaptive": Drafting(1, 4, 0.6),
    "price .15, blocks of 3": Drafting(3, 3, None, None, 0.15),
}


def drafted(problems: list[Problem], actor: Any, policy: Any, **settings: Any) -> Samples:
    tokenizer: Any = Texts()
    wanted: dict[str, Any] = {"temperature": 1.0, "top_k": 4, "max_new_tokens": HORIZON, **settings}
    rng = wanted.pop("rng", None) or np.random.default_rng(wanted.pop("seed", 0))
    return sample_drafted(
        actor, policy, wanted.pop("tokenizer", tokenizer), problems, rng, **wanted
    )


def exact_step(p: np.ndarray, q: np.ndarray, drafting: Drafting) -> tuple[Any, ...]:
    """q a, tau and r of a state, by bisection: code that shares nothing with the core's."""

    def tau_of(lam: float) -> float:
        return float(np.maximum(q - p / lam, 0).sum())

    lam = drafting.lam
    if drafting.price is not None:
        low, lam = 1e-9, 1.0  # sum clip(q, p / (lam + price), p / lam) falls with lam
        for _ in range(60):
            middle = (low + lam) / 2
            total = np.clip(q, p / (middle + drafting.price), p / middle).sum()
            low, lam = (middle, lam) if total > 1 else (low, middle)
    elif lam is None:
        assert drafting.budget is not None
        low, lam = (1.0 if tau_of(1.0) <= 1 - drafting.budget else 1e-9), 1.0
        for _ in range(60):  # the largest lam that accepts so much
            middle = (low + lam) / 2
            low, lam = (middle, lam) if tau_of(middle) < 1 - drafting.budget else (low, middle)
        lam = low
    kept, tau = np.minimum(q, p / lam), tau_of(lam)
    low, top = 0.0, 1.0  # of 1 / mu
    for _ in range(60):
        u = (low + top) / 2
        low, top = (u, top) if np.maximum(u * p - q, 0).sum() < tau else (low, u)
    rest = np.maximum(top * p - q, 0)
    return kept, tau, rest / max(rest.sum(), 1e-300)


def exact_distribution(
    prompt: list[int], drafting: Drafting, temperature: float
) -> dict[tuple, float]:
    """Probability of every completion, by enumeration of all rounds."""
    distribution: dict[tuple, float] = {}
    adapts = drafting.length_max > drafting.length
    # mass of (prefix, its tokens of this block, length of the block), prefixes of one length
    now: dict[tuple, float] = {((), 0, drafting.length): 1.0}
    for _ in range(HORIZON + 1):
        later: dict[tuple, float] = {}
        for done in {key[0] for key in now}:
            keys = [key for key in now if key[0] == done]
            if len(done) == HORIZON or (done and done[-1] == END):
                distribution[done] = sum(now[key] for key in keys)
                continue
            p, q = (m.distribution([*prompt, *done], temperature) for m in (POLICY, ACTOR))
            kept, tau, residual = exact_step(p, q, drafting)
            for _, offset, length in keys:
                mass = now[done, offset, length]
                longer = min(2 * length, drafting.length_max) if adapts else length
                shorter = min(offset + 1, drafting.length_max) if adapts else length
                if offset == length:  # the bonus
                    ways = [(0, longer, p)]
                else:
                    ways = [(offset + 1, length, kept), (0, shorter, tau * residual)]
                for x in range(4):
                    for *place, share in ways:
                        key = ((*done, x), *place)
                        later[key] = later.get(key, 0.0) + mass * share[x]
        now = later
    return distribution


def p_value(ids: torch.Tensor, distribution: dict[tuple, float]) -> float:
    """Chi-square of completions (n, HORIZON), which padding fills up, against a distribution.

    Cells of fewer than 5 expected are put together.
    """
    n, base = len(ids), 5
    place = base ** torch.arange(HORIZON)
    counts = torch.bincount(((ids + 1) * place).sum(dim=1), minlength=base**HORIZON).numpy()
    wanted = np.zeros(base**HORIZON)
    for completion, mass in distribution.items():
        padded = [*completion, *[Texts.pad] * (HORIZON - len(completion))]
        wanted[sum((x + 1) * int(c) for x, c in zip(padded, place, strict=True))] = n * mass
    assert not counts[wanted == 0].any()  # what the distribution excludes
    rare = wanted < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    return float(chi2.sf(((seen - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


@pytest.mark.parametrize("case", CASES)
def test_completions_follow_the_enumerated_distribution(case):
    """60,000 samples over three prompts of unequal length, at temperature .8, seeds fixed."""
    drafting, group = CASES[case], 20_000
    out = drafted(
        [Problem(str(i), "") for i in range(3)], ACTOR, POLICY,
        drafting=drafting, group=group, temperature=0.8, seed=5,
    )  # fmt: skip
    for i, prompt in enumerate(PROMPTS):
        distribution = exact_distribution(prompt, drafting, 0.8)
        assert sum(distribution.values()) == pytest.approx(1.0, abs=1e-9)
        own = out.ids[i * group : (i + 1) * group, -HORIZON:]
        assert p_value(own, distribution) > 1e-3


def test_at_lam_1_the_distribution_is_the_policys_own():
    """The enumeration over rounds is the product of p, so the chi-square above is against it."""
    distribution = exact_distribution(PROMPTS[1], CASES["lossless, blocks of 3"], 1.0)
    for completion, mass in distribution.items():
        own = 1.0
        for i, x in enumerate(completion):
            own *= POLICY.distribution([*PROMPTS[1], *completion[:i]])[x]
        assert mass == pytest.approx(own, rel=1e-9)


def noted_distributions(
    out: Samples, policy: Any, actor: Any, drafting: Drafting, **world: Any
) -> Any:
    """log p, log s of every completion position by passes without a cache, (n, v) each."""
    batch = out.flat()
    width, temperature = world["width"], world["temperature"]
    full = [full_logprobs(m, batch.ids, batch.is_real, width, temperature) for m in (policy, actor)]
    p, q = (x.detach()[batch.is_completion] for x in full)
    assert batch.verification is not None
    dial = {name: getattr(drafting, name) for name in ("lam", "budget", "price")}
    s = draft_law(p, q, **dial).log_s
    return batch, p, torch.where(batch.verification.is_bonus[:, None], p, s)


def noisy(policy: Any) -> Any:
    actor = copy.deepcopy(policy)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in actor.parameters():
            weight.mul_(1 + 0.1 * torch.randn_like(weight))
    return actor


@pytest.fixture(scope="module")
def pair():
    """The actor is the policy with noise, so that some drafts are accepted and some are not."""
    policy, _ = random_pair()
    return policy, noisy(policy)


REAL: dict[str, Any] = {"tokenizer": TOKENIZER, "max_new_tokens": 9, "top_k": 5}


@pytest.mark.parametrize(
    "drafting",
    [
        Drafting(3, 3, 1.0),
        Drafting(2, 6, 0.4),
        Drafting(3, 3, None, 0.9),
        Drafting(3, 3, None, None, 0.2),
    ],
)
def test_noted_log_probabilities_are_those_of_passes_without_a_cache(pair, drafting):
    """log s, its top k, and log p of the same tokens; a real model, ragged rows, temperature 1.3"""
    policy, actor = pair
    out = drafted(PROBLEMS * 4, actor, policy, drafting=drafting, temperature=1.3, group=2, **REAL)
    batch, p, s = noted_distributions(out, policy, actor, drafting, width=9, temperature=1.3)
    verified = batch.verification

    def taken(distribution: torch.Tensor) -> torch.Tensor:
        return distribution.gather(1, batch.token_ids[:, None])[:, 0]

    # Below lam 1, tau = sum (q - p / lam)^+ is a difference of nearly equal numbers, and mu follows
    # from it: with tau = 0.03 the rounding of a pass is 30 times as large in log s = log(p / mu).
    of_s = 3e-5 if drafting.lam == 1.0 else 3e-4
    assert torch.allclose(batch.logp_inf, taken(s), atol=of_s)
    assert torch.allclose(verified.logp, taken(p), atol=3e-5)
    best = s.topk(5, dim=-1)
    assert torch.allclose(batch.topk_logp_inf, best.values, atol=of_s)
    assert torch.allclose(s.gather(1, batch.topk_ids), best.values, atol=of_s)
    assert torch.allclose(verified.topk_logp, p.gather(1, batch.topk_ids), atol=3e-5)
    drafts = ~verified.is_bonus
    assert 0 < int(drafts.sum()) < len(drafts)
    for name, of_bonus in (("lam", 1.0), ("mu", 1.0), ("kl_sampled", 0.0)):
        assert bool((getattr(verified, name)[~drafts] == of_bonus).all())
    kl = (p.exp() * (p - s)).sum(dim=-1)
    assert torch.allclose(verified.kl_sampled, kl, atol=1e-4)
    gap = verified.logp - batch.logp_inf
    assert float((gap - verified.lam.log()).min()) >= -3e-5  # of a bonus lam is 1
    if drafting.lam is not None:
        assert float(gap.min()) >= np.log(drafting.lam) - 1e-5


def test_a_sequence_is_the_same_alone_and_in_a_batch(pair):
    """Tokens equal, log-probabilities to rounding; adaptive blocks, at its place in the step."""
    policy, actor = pair
    settings = {"drafting": Drafting(2, 5, 0.5), "group": 2, **REAL}
    together = drafted(PROBLEMS, actor, policy, **settings)
    for i, problem in enumerate(PROBLEMS):
        place = (2 * i, 2 * len(PROBLEMS))
        alone = drafted([problem], actor, policy, place=place, **settings)
        assert alone.flat().completions() == together.flat().completions()[2 * i : 2 * i + 2]
        rows = slice(2 * i, 2 * i + 2)
        assert torch.allclose(alone.logp_inf, together.logp_inf[rows], atol=1e-5)
        assert alone.index.tolist() == together.index[rows].tolist()
        mine, theirs = alone.verification, together.verification
        assert mine is not None and theirs is not None
        assert torch.equal(mine.starts_round, theirs.starts_round[rows])


def test_an_actor_that_is_the_policy_is_accepted_and_needs_few_policy_passes():
    """Blocks of 4 and a bonus: five tokens of one round, whose passes are counted."""
    policy, actor = copy.copy(POLICY), copy.copy(POLICY)
    policy.passes = actor.passes = 0
    policy.logits = actor.logits = POLICY.logits.clone()
    policy.logits[:, END] = -torch.inf  # nothing ends early
    out = drafted([Problem("1", "")], actor, policy, drafting=Drafting(4, 4, 1.0), group=50)
    verified = out.verification
    assert verified is not None and policy.passes == 2 and actor.passes == 5
    assert bool((verified.starts_round.sum(dim=1) == 1).all())
    assert verified.is_bonus.tolist() == [[False] * 4 + [True]] * 50
    assert torch.allclose(verified.accept_rate, torch.ones(50, HORIZON))


def test_an_end_inside_a_block_ends_the_completion():
    """What was drafted after it is not sampled; the row is finished, and padding follows."""
    out = drafted([Problem("0", "")], ACTOR, POLICY, drafting=Drafting(5, 5, 0.2), group=500)
    lengths = out.is_completion.sum(dim=1)
    for ids, n, finished in zip(out.ids[:, -HORIZON:].tolist(), lengths, out.finished, strict=True):
        tokens = ids[: int(n)]
        assert END not in tokens[:-1] and bool(finished) == (tokens[-1] == END)
        assert ids[int(n) :] == [Texts.pad] * (HORIZON - int(n))
    assert 0 < int((lengths < HORIZON).sum()) < 500


def test_rows_of_a_batch_keep_their_verification(pair):
    """`Batch.rows` takes what belongs to the tokens of the chosen sequences."""
    policy, actor = pair
    batch = drafted(PROBLEMS, actor, policy, drafting=Drafting(), **REAL).flat()
    chosen = torch.tensor([3, 1])
    part, whole = batch.rows(chosen).verification, batch.verification
    assert isinstance(part, Verification) and whole is not None
    for mine, all_ in zip(part, whole, strict=True):
        assert torch.equal(mine, torch.cat([all_[batch.sequence == i] for i in (3, 1)]))
    empty = cast(Verification, batch.without_tokens().verification)
    assert len(empty.logp) == 0


def kind_of_actor(kind: str, policy: Any) -> Any:
    if kind == "early exit":
        return early_exit(policy, 1)
    if kind == "quantised":
        return quantized(policy, 8)
    return noisy(policy)  # as a model of its own, or a stale one


@pytest.mark.parametrize("kind", ["a model of its own", "early exit", "quantised"])
def test_every_kind_of_actor_drafts_what_its_own_passes_say(pair, kind):
    """log s is of p and q by passes without a cache, whatever modules the two share."""
    policy, drafting = pair[0], Drafting(2, 2, 0.02)
    actor = kind_of_actor(kind, policy)
    out = drafted(PROBLEMS, actor, policy, drafting=drafting, group=2, **REAL)
    batch, _, s = noted_distributions(out, policy, actor, drafting, width=9, temperature=1.0)
    taken = s.gather(1, batch.token_ids[:, None])[:, 0]
    assert torch.allclose(batch.logp_inf, taken, atol=5e-5)
    assert bool(batch.verification.is_bonus.any())
