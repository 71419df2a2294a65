"""The cost model of drafting, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from plan_cases import of_preset, tiny

from llm import settings
from llm.planning import cost, drafting, estimate, memory
from llm.settings.loading import ConfigError

POLICY = cost.shape_of(tiny())  # 3 layers
ACTOR = POLICY._replace(layers=1, body=POLICY.body // 3)
WORK = cost.Work(10, 8, 5, 50, 100, at_once=80)
ROOMS = drafting.Rooms(80, 80, 80)
# A pass takes as many seconds as the model has layers, whatever it reads
LAUNCHES = cost.Device(flops=1e30, bandwidth=1e30, layer_seconds=1.0)


def test_tokens_of_a_round_are_those_of_simulated_rounds():
    """1 + 1/2 + 1/4 by hand; 200,000 rounds of coins at other rates, to four standard errors."""
    assert drafting.tokens_per_round(0.5, 2) == 1.75
    assert drafting.tokens_per_round(1.0, 4) == 5.0 and drafting.tokens_per_round(0.0, 4) == 1.0
    rng = np.random.default_rng(0)
    for z, length in ((0.3, 3), (0.8, 4), (0.95, 8)):
        accepted = np.cumprod(rng.random((200_000, length)) < z, axis=1).sum(axis=1)
        tokens = accepted + 1  # a redrawn token or the bonus
        error = tokens.std() / len(tokens) ** 0.5
        assert abs(tokens.mean() - drafting.tokens_per_round(z, length)) < 4 * error
    for z, length in ((1.1, 2), (-0.1, 2), (0.5, 0)):
        with pytest.raises(ValueError, match="z in"):
            drafting.tokens_per_round(z, length)


def test_a_closed_batch_waits_for_its_slowest_sequence():
    """By hand at Z 0 and 1; at other rates by 20,000 simulated batches."""
    assert drafting.shares_left(0.0, 3, 4) == [1.0] * 4
    assert drafting.shares_left(1.0, 4, 11) == [1.0] * 3
    assert drafting.shares_left(0.5, 1, 2) == [1.0, 0.5]  # a first draft that is rejected: again
    rng = np.random.default_rng(0)
    for z, length, rows in ((0.6, 3, 4), (0.9, 4, 8)):
        coins = rng.random((20_000, rows, 20, length)) < z
        tokens = (np.cumprod(coins, axis=3).sum(axis=3) + 1).cumsum(axis=2)
        rounds = (tokens < 20).sum(axis=2) + 1  # (batches, rows)
        one, other = drafting.PassSeconds(0.5, 0.25), drafting.PassSeconds(2.0, 0.125)
        wanted = (length * one.fixed + other.fixed) * rounds.max(axis=1).mean()
        wanted += (length * one.row + other.row) * rounds.sum(axis=1).mean()
        found = drafting.closed_batch_seconds(z, length, 20, rows, one, other)
        assert found == pytest.approx(wanted, rel=5e-3)
    with pytest.raises(ValueError, match="z in"):
        drafting.shares_left(1.1, 2, 3)


def test_seconds_are_those_of_a_round_over_its_tokens():
    """100 steps; blocks of 2: 2 passes of one layer and one of three for 1.75 tokens."""
    found = drafting.drafted(POLICY, ACTOR, WORK, LAUNCHES, ROOMS, z=0.5, length=2)
    assert found.seconds == pytest.approx(100 / 1.75 * (2 * 1 + 3))
    assert found.over_policy == pytest.approx(5 / 1.75 / 3)
    assert found.over_policy == pytest.approx(drafting.over_policy(0.5, 2, 1 / 3, 1.0))
    assert found.over_actor == pytest.approx(5 / 1.75)
    assert (found.z, found.length, found.tokens) == (0.5, 2, 1.75)
    fewer = drafting.drafted(
        POLICY, ACTOR, WORK, LAUNCHES, ROOMS._replace(both=20), z=0.5, length=2
    )
    assert fewer.seconds == pytest.approx(2 * found.seconds)  # 80 x 50 tokens in 20 places


def test_operations_and_bytes_of_a_round_are_counted_by_hand():
    """Blocks of 3, Z 0: one token for three of the actor and four of the policy."""
    found = drafting.drafted(POLICY, ACTOR, WORK, LAUNCHES, ROOMS, z=0.0, length=3)
    length, rows = 5 + 25, 80 * 50 / 100  # of a sequence at half its way; in a mean step

    def flops(x):
        return 2 * (x.body + x.head) + 4 * x.layers * 32 * length

    def read(x, new):
        cache = rows * 2 * x.layers * 16 * length
        return 2 * (x.body + x.head + cache) + 24 * rows * new * 100

    assert found.flops == pytest.approx((3 * flops(ACTOR) + 4 * flops(POLICY)) / flops(POLICY))
    assert found.bytes == pytest.approx((3 * read(ACTOR, 1) + read(POLICY, 4)) / read(POLICY, 1))


@pytest.mark.parametrize("z", [0.5, 0.9, 0.99])
def test_the_best_length_is_that_of_a_search(z):
    wanted = min(range(1, 17), key=lambda g: (g / 3 + 1) * (1 - z) / (1 - z ** (g + 1)))
    assert drafting.best(POLICY, ACTOR, WORK, LAUNCHES, ROOMS, z).length == wanted
    short = WORK._replace(longest=1, new_tokens=1)
    assert drafting.best(POLICY, ACTOR, short, LAUNCHES, ROOMS, z).length == 1


def test_it_pays_where_more_is_accepted_than_the_actor_costs():
    """With c_v = 1 blocks of one pay if and only if (rho + 1) / (1 + Z) < 1."""
    assert drafting.least_rate(POLICY, ACTOR, WORK, LAUNCHES, ROOMS) == 0.34  # rho = 1/3
    assert drafting.least_rate(POLICY, POLICY, WORK, LAUNCHES, ROOMS) is None


def test_the_time_of_a_step_is_that_of_drafting_where_the_settings_draft():
    drafted = ["--rollout.engine.type", "hf", "--rollout.mode.type", "drafted"]
    drafted += ["--correction.type", "none", "--accept-rate", "0.5"]
    place = []
    for flags in ([*drafted, "--rollout.mode.block.length", "2"], ["--rollout.engine.type", "hf"]):
        cfg, pair, choice, args = of_preset(*flags)
        times = estimate.times_of(cfg, pair, choice, 8, cost.Device(), args)
        found = estimate.drafting_of(cfg, pair, choice, 8, cost.Device(), args)
        assert found is not None
        rollouts = sum(s for name, s in times.parts.items() if name.startswith("rollouts"))
        place.append((times, rollouts, found[0]))
    (times, rollouts, rows), (plain, alone, others) = place
    (of_two,) = (x for x in rows if x.z == 0.5 and x.length == 2)
    assert rollouts == pytest.approx(of_two.seconds)
    assert times.rollout_cost == pytest.approx(of_two.over_policy)
    assert rollouts / alone == pytest.approx(of_two.over_actor)
    assert others == [x for x in rows if x.length != 2 or x in others]
    # p_ref is the verification's: a forward pass less
    assert times.parts["policy: scoring and update"] < plain.parts["policy: scoring and update"]


def test_an_early_exit_drafts_with_its_layers_and_a_quantised_actor_reads_fewer_bytes():
    shapes = {}
    for kind, flags in {"early_exit": ["--policy.layers", "3"], "quantized": []}.items():
        flags += ["--actor.exit_layers", "2"] if kind == "early_exit" else ["--actor.bits", "8"]
        cfg = settings.load([], ["--actor.type", kind, *flags])
        shapes[kind] = estimate._shapes(cfg, estimate.ModelPair(tiny(), None, {}))
    policy, short = shapes["early_exit"]
    assert (short.layers, short.body) == (2, policy.body * 2 // 3)
    policy, small = shapes["quantized"]
    assert policy.bytes_each == 4 and small.compressed == 0.25
    fewer = cost.decode_step(policy, 1, 0).read - cost.decode_step(small, 1, 0).read
    assert fewer == 3 * (policy.body + policy.head)


def test_the_policys_cache_and_the_distributions_of_a_block_are_in_memory():
    """16 x 8 sequences of 4 + 12 tokens; the actor has one layer, the policy three."""
    flags = ["--rollout.mode.type", "drafted", "--correction.type", "none"]
    cfg = settings.load([], [*flags, "--rollout.mode.block.length", "3"])
    _, phases = memory.by_phase(cfg, tiny(), tiny(num_hidden_layers=1), 4, memory.Layout())
    rows = cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt
    length = 4 + cfg.rollout.max_new_tokens
    sampling = phases["sampling"]
    assert sampling["key-value cache"] == rows * length * 1 * 2 * 16 * 4
    assert sampling["policy's key-value cache"] == rows * length * 3 * 2 * 16 * 4
    assert sampling["distributions of a block"] == 4 * rows * (3 + 3 + 1) * 100


def test_vllm_is_refused_where_the_settings_draft():
    flags = ["--rollout.engine.type", "hf", "--rollout.mode.type", "drafted"]
    flags += ["--correction.type", "none"]
    with pytest.raises(ConfigError, match="does not draft"):
        of_preset(*flags, "--engine", "vllm")
