"""Random streams: one for each seed, purpose and index."""

from __future__ import annotations

import itertools

from llm.randomness import stream


def test_a_stream_is_its_own_for_each_seed_purpose_and_index_and_the_same_again():
    keys = list(itertools.product((0, 1), ("sampling", "rejection"), (0, 1)))
    drawn = {key: stream(*key).random(3).tolist() for key in keys}
    assert len({tuple(numbers) for numbers in drawn.values()}) == 8
    assert all(stream(*key).random(3).tolist() == drawn[key] for key in keys)
