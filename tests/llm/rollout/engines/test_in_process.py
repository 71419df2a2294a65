"""The engine of this process: what the sampler gives."""

from __future__ import annotations

import copy
import math

import torch
from engine_cases import equal, opened
from tiny_context import PROBLEMS, TOKENIZER, random_pair

from llm import randomness
from llm.rollout.engines import subprocess_engine
from llm.rollout.engines.base import FIELDS
from llm.rollout.sampling import sample


def test_hf_gives_what_the_sampler_gives():
    """The engine adds nothing but the version: same stream, same settings."""
    model = random_pair()[1]
    engine = opened("hf", model, "--rollout.temperature", "0.7")
    other = random_pair()[0].eval()
    for version, sampling in enumerate((model, other)):
        engine.update(sampling, version)
        plain = sample(
            *(sampling, TOKENIZER, PROBLEMS, randomness.stream(0, "sampling", 2)),
            max_new_tokens=9,
            temperature=0.7,
            top_k=4,
            group=3,
            version=version,
        )
        assert equal(engine.generate(2, PROBLEMS), plain)


def masked(model, value: float):
    """A copy of the model in whose distribution ids from 12 on have the logit `value`."""
    model = copy.deepcopy(model)
    bias = torch.zeros(48)
    bias[12:] = value
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def test_ids_of_probability_0_are_legal_in_every_engine():
    """Fewer ids are left than the likeliest ones that are noted."""
    model = random_pair()[1]
    hf = opened("hf", model, "--rollout.top_k", "20", "--rollout.temperature", "0.7")
    hf.update(masked(model, -math.inf))
    samples = hf.generate(0, PROBLEMS)
    batch = samples.flat()
    assert int(batch.token_ids.max()) < 12 and bool(batch.logp_inf.isfinite().all())
    assert bool(torch.isneginf(batch.topk_logp_inf[:, 12:]).all())
    hf.update(masked(model, torch.finfo(torch.float32).min))  # / 0.7 is -inf
    assert torch.equal(hf.generate(0, PROBLEMS).ids, samples.ids)
    request = hf._request("sampling", 0, PROBLEMS, 3, 9, 20, None)
    result = {name: getattr(samples, name) for name in FIELDS} | {
        "version": torch.ones_like(samples.version)
    }
    waiting = subprocess_engine._Pending(0, request, 1)
    assert subprocess_engine._result_error(result, waiting, 48) == ""
    result["logp_inf"] = result["logp_inf"].masked_fill(samples.is_completion, -math.inf)
    assert "no log-probabilities" in subprocess_engine._result_error(result, waiting, 48)
