"""Time and operations of a step, by hand."""

from __future__ import annotations

import pytest
from plan_cases import LEAN, of_preset, tiny

from llm.planning import cost, estimate


def test_the_weights_that_multiply_are_counted_by_hand():
    """3 layers: q and o 32 x 32, k and v 32 x 16, three 32 x 48; a head, tied or not."""
    body = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    for tied in (False, True):
        shape = cost.shape_of(tiny(tie_word_embeddings=tied))
        assert shape == cost.Shape(3, 32, 32, 16, 100, body, 100 * 32, 2)


def test_operations_are_two_per_weight_and_token_and_four_widths_per_pair_in_attention():
    """One sequence of 6 tokens, causal: 6 x 6 / 2 pairs, of which each layer makes two products."""
    shape = cost.shape_of(tiny())
    pairs = 6 * 6 / 2
    wanted = 2 * 6 * shape.body + 2 * 2 * pairs * 32 * 3 + 2 * 5 * shape.head
    assert cost.forward_flops(shape, 6, 6, 5) == wanted


def test_decoding_few_sequences_costs_one_reading_of_the_weights():
    _, pair, _, _ = of_preset()
    shape = cost.shape_of(pair.policy)
    device = cost.Device(flops=1e15, bandwidth=1e12, read_share=1.0, mfu=1.0, layer_seconds=0.0)
    one = cost.decode_step_seconds(shape, 1, 0, device)
    assert one == pytest.approx(2 * (shape.body + shape.head) / 1e12, rel=1e-3)
    assert cost.decode_step_seconds(shape, 8, 0, device) == pytest.approx(one, rel=0.01)
    many = cost.decode_step_seconds(shape, 100_000, 0, device)
    assert many == pytest.approx(100_000 * 2 * (shape.body + shape.head) / 1e15)


def test_a_longer_cache_is_read_and_launches_bound_small_models_from_below():
    shape, device = cost.shape_of(tiny()), cost.Device(layer_seconds=1.0)
    assert cost.decode_step_seconds(shape, 4, 10, device) == 3.0
    fast = cost.Device(bandwidth=1.0, read_share=1.0, layer_seconds=0.0)
    more = cost.decode_step_seconds(shape, 4, 20, fast) - cost.decode_step_seconds(
        shape, 4, 10, fast
    )
    assert more == pytest.approx(4 * 10 * 2 * 3 * 16 * 2)


def test_places_are_refilled_and_the_longest_completion_bounds_the_steps():
    shape, device = cost.shape_of(tiny()), cost.Device(layer_seconds=1.0)
    work = cost.Work(10, 8, 5, 50, 100, at_once=20)
    assert cost.decode_seconds(shape, work, device) == 3.0 * 80 * 50 / 20
    assert cost.decode_seconds(shape, work._replace(at_once=1000), device) == 3.0 * 100


def test_a_backward_pass_costs_two_forward_passes_and_recomputing_one_more():
    shape, device, work = cost.shape_of(tiny()), cost.Device(), cost.Work(2, 4, 5, 5, 10, 8)

    def seconds(forwards, recompute, backward):
        return cost.training_seconds(
            shape, work, device, forwards=forwards, recompute=recompute, backward=backward
        )

    one = seconds(1, False, False)
    assert seconds(0, False, True) == pytest.approx(3 * one)
    assert seconds(2, True, True) == pytest.approx(6 * one)


def test_gain_is_the_ratio_of_two_steps_written_out():
    """R = 6 s, T = 2 s; the actor samples in 1.5 s and adds 1 s: 8 s against 4.5 s."""
    assert cost.gain(3.0, 0.25, 0.5) == pytest.approx(8 / 4.5)
    assert cost.gain(1e9, 0.25, 0.5) == pytest.approx(4.0)
    assert cost.gain(1e-9, 0.25, 0.5) == pytest.approx(1 / 1.5)
    over = cost.break_even(0.25, 0.5)
    assert cost.gain(over, 0.25, 0.5) == pytest.approx(1.0)
    assert cost.break_even(1.0, 0.5) == float("inf")
    with pytest.raises(ValueError, match="gain needs g > 0"):
        cost.gain(0.0, 0.5, 0.5)


def test_rollouts_dominate_where_completions_are_long_and_few():
    long = ["--mean-new-tokens", "8192"]
    short = ["--rollout.max_new_tokens", "64", "--rollout.rollouts_per_prompt", "64"]
    shares = []
    for flags in (long, short):
        cfg, pair, choice, args = of_preset(*LEAN, *flags)
        at_once = estimate.memory_of(cfg, pair, choice, 72 * 10**9).at_once
        shares.append(
            estimate.times_of(cfg, pair, choice, at_once, cost.Device(), args).rollout_share
        )
    assert shares[0] > 3 * shares[1]
