"""Lines of the doctor on weights that are computed twice, each with verdict, sight and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm import settings
from llm.commands.doctor_arithmetic import OK, PROBLEM, WARNING, arithmetic, tied_weights
from llm.models import roles
from llm.models.actors import Actor
from llm.training.adapter_check import AdapterCheck
from llm.training.context import TrainContext

SELF = ["--actor.type", "self"]


def setup(*flags: str, path: Path | None = None) -> TrainContext:
    """A context with what these lines read."""
    given = ["--policy.path", str(path)] if path else []
    cfg = settings.load([], [*given, *flags])
    policy = roles.open_policy(cfg, path) if path else torch.nn.Linear(1, 1)
    nothing: Any = None
    rest = (nothing, nothing, nothing, policy, Actor(cfg.actor.type, policy), None)
    return TrainContext(cfg, *rest, torch.device("cpu"))


def model_in(folder: Path, tied: bool, said: bool) -> Path:
    shape: dict[str, Any] = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 16}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=tied))
    model.save_pretrained(folder)
    config = folder / "config.json"
    old, new = (f'"tie_word_embeddings": {str(x).lower()}' for x in (tied, said))
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("tied", "said", "status"),
    [(True, True, OK), (False, False, OK), (False, True, WARNING)],
)
def test_a_config_that_ties_what_its_file_does_not_is_told(tmp_path, tied, said, status):
    """Kind 11. The fourth case is refused when the model is loaded."""
    path = model_in(tmp_path, tied, said)
    line = tied_weights(setup(*SELF, "--correction.type", "none", path=path))
    assert (line.check, line.status) == ("tied weights", status)
    assert ("one tensor" if tied else "two tensors") in line.seen
    assert ("set tie_word_embeddings in config.json of the policy" in line.remedy) == (tied != said)


FOUND = {"mean": 1e-7, "max": 2e-6, "adapters": None}
NEAR = {**FOUND, "engine": {"mean": 0.01, "max": 0.3}}
VLLM = ["--rollout.engine.type", "vllm"]
PLAIN = [*SELF, "--correction.type", "none"]


@pytest.mark.parametrize(
    ("flags", "found", "status", "seen"),
    [
        (PLAIN, FOUND, OK, "2e-06 at most, which is rounding"),
        ([*PLAIN, *VLLM], NEAR, WARNING, "0.01 nats on average and 0.3 at most, and no corr"),
        ([*SELF, "--correction.type", "tis", *VLLM], NEAR, OK, "--correction.type tis corrects"),
        ([*PLAIN, "--policy.dtype", "bfloat16"], FOUND, WARNING, "scores in bfloat16"),
        (
            [*PLAIN, *VLLM, "--policy.lora.rank", "4", "--policy.dtype", "bfloat16"],
            {**NEAR, "adapters": AdapterCheck("engine vllm", 0.001, 0.5)},
            WARNING,
            "vllm in float32, adapters merged into its weights; training scores in bfloat16",
        ),
        (
            [*PLAIN, *VLLM, "--policy.lora.rank", "4"],
            {**NEAR, "adapters": AdapterCheck("engine vllm", 0.001, 0.5)},
            WARNING,
            "adapters lose 0.001 of their 0.5 nats (engine vllm)",
        ),
        ([*PLAIN, *VLLM], None, PROBLEM, "the two disagree"),
    ],
)
def test_another_arithmetic_is_told_with_its_size_and_whether_it_is_corrected(
    flags, found, status, seen
):
    """Kind 10."""
    line = arithmetic(setup(*flags), found)
    assert (line.check, line.status) == ("arithmetic", status) and seen in line.seen
    assert bool(line.remedy) == (status != OK)
