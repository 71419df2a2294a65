"""The engine of this process: what the sampler gives."""

from __future__ import annotations

from engine_cases import equal, opened
from tiny_context import PROBLEMS, TOKENIZER, random_pair

from llm import randomness
from llm.rollout.sampling import sample


def test_hf_gives_what_the_sampler_gives():
    """The engine adds nothing but the version: same stream, same settings."""
    model = random_pair()[1]
    engine = opened("hf", model, "--rollout.temperature", "0.7")
    other = random_pair()[0].eval()
    for version, sampling in enumerate((model, other)):
        engine.update(sampling, version)
        rng, how = randomness.stream(0, "sampling", 2), {"temperature": 0.7, "top_k": 4, "group": 3}
        plain = sample(sampling, TOKENIZER, PROBLEMS, rng, max_new_tokens=9, version=version, **how)
        assert equal(engine.generate(2, PROBLEMS), plain)
