"""V* of each prompt of the pool, once, from the policy at the start."""

from __future__ import annotations

import pytest
import torch
from threaded_ranks import on_ranks
from tiny_context import world

from jackpot.torch.sequence_objectives import optimal_value
from llm import randomness
from llm.rollout.sampling import sample
from llm.settings.loading import resolve
from llm.tasks import factory
from llm.training.allocation import open_values
from llm.training.optimal_values import with_optimal_values
from llm.training.prompt_history import OptimalValues
from llm.training.rollout_phase import rewards, sample_rollouts

FLAGS = {
    **{"rollout.prompts_per_step": 3, "rollout.rollouts_per_prompt": 2, "task.pool": 7},
    **{"task.digits_min": 1, "task.digits_max": 1, "rollout.max_new_tokens": 3},
    **{"correction.type": "none", "objective.type": "a_star_po", "objective.value_rollouts": 6},
    "rollout.temperature": 0.5,
}


@pytest.fixture
def ctx(pair):
    return opened(pair)


def opened(pair, **flags):
    cfg = resolve(FLAGS | flags)
    made = world(cfg, pair)
    made = made._replace(initial_policy=pair[0], task=factory.with_pool(cfg, made.task))
    return made._replace(values=open_values(cfg, made.task))


def test_a_new_prompts_value_is_of_completions_of_the_policy_at_the_start(ctx, pair):
    batch = with_optimal_values(ctx, sample_rollouts(ctx, 0), 0)
    problems = ctx.task.batch(0, 0, 3)
    rng = randomness.stream(0, "optimal values", 0)
    own = sample(pair[0], ctx.tokenizer, problems, rng, max_new_tokens=3, top_k=1, group=6,
                 temperature=0.5)  # fmt: skip
    reward = rewards(own.flat(6), ctx.scorer).reshape(3, 6)
    wanted = [optimal_value(r, beta=0.5) for r in reward]
    assert batch.value.tolist() == pytest.approx([v for v in wanted for _ in range(2)], abs=1e-6)
    known = {ctx.task.rows[p.prompt] for p in problems}
    assert set(ctx.values.known.nonzero()[:, 0].tolist()) == known


def test_values_are_sampled_at_the_temperature_of_the_rollouts(ctx, monkeypatch):
    """At another one V* would be of another policy than the one that is trained."""
    asked = []

    def sampled(*args, **keywords):
        asked.append((keywords["temperature"], keywords["max_new_tokens"], keywords["place"]))
        return sample(*args, **keywords)

    monkeypatch.setattr("llm.training.optimal_values.sample", sampled)
    with_optimal_values(ctx, sample_rollouts(ctx, 0), 0)
    assert asked == [(0.5, 3, (0, 18))]


def test_each_prompt_is_sampled_once_and_comes_back_with_its_value(ctx, monkeypatch):
    seen = []

    def rewarded(flat, scorer):
        seen.extend(flat.prompts[::6])
        return torch.linspace(0, 1, len(flat.prompts))

    monkeypatch.setattr("llm.training.optimal_values.rewards", rewarded)
    for step in range(5):
        batch = with_optimal_values(ctx, sample_rollouts(ctx, step), step)
        rows = [ctx.task.rows[p] for p in batch.prompts]
        assert torch.equal(batch.value, ctx.values.value[rows].float())
    assert len(seen) == len(set(seen)) == 7 and ctx.values.known.all()


def test_two_ranks_sample_the_values_that_one_does(pair, monkeypatch):
    """Random numbers go by the place of a completion among those of all ranks."""
    monkeypatch.setattr(
        "llm.training.optimal_values.rewards",
        lambda flat, _: torch.tensor([sum(c) / 100 for c in flat.completions()]),
    )

    def values(_rank):
        ctx = opened(pair, **{"rollout.prompts_per_step": 4})
        with_optimal_values(ctx, sample_rollouts(ctx, 0), 0)
        return ctx.values.value.tolist()

    alone = values(0)
    assert len(set(alone)) == 5  # of four prompts that came, and 0
    assert on_ranks(2, values) == [pytest.approx(alone)] * 2


def test_other_objectives_know_no_value(ctx):
    batch = sample_rollouts(ctx, 0)
    assert with_optimal_values(ctx._replace(values=None), batch, 0) is batch
    assert open_values(resolve({"correction.type": "none"}), ctx.task) is None


def test_values_are_kept_and_read_back_and_wrong_ones_refused():
    values, other = OptimalValues(3), OptimalValues(3)
    values.value[1], values.known[1] = 0.5, 1
    kept = values.state_dict()
    values.value[1] = 0.75  # nothing is shared
    other.load_state_dict(kept)
    assert other.value.tolist() == [0.0, 0.5, 0.0] and other.known.tolist() == [0, 1, 0]
    for wrong, said in (
        ({**kept, "value": torch.zeros(2, dtype=torch.float64)}, r"value is \(2,\)"),
        ({**kept, "known": kept["known"] * 2}, "neither 0 nor 1"),
        ({**kept, "value": kept["value"] / 0}, "not finite"),
        ({"value": kept["value"]}, "optimal values hold"),
    ):
        with pytest.raises(ValueError, match=said):
            other.load_state_dict(wrong)
