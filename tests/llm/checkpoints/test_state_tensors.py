"""Tensors of models and optimizers come back as they were, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from checkpoint_cases import MINE, linear, save, trained
from safetensors.torch import load_file

from llm.checkpoints.checkpoint import latest, load_state, save_state
from llm.errors import CheckpointError


class Tied(torch.nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(4, 3)
        self.head = torch.nn.Linear(3, 4, bias=False)
        if tie:
            self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    model, other = Tied(), Tied()
    path = save_state(tmp_path, 1, {"policy": model}, {})
    assert list(load_file(path / "policy.safetensors")) == ["embed.weight"]
    load_state(path, {"policy": other})
    assert torch.equal(other.head.weight, model.embed.weight)
    assert other.head.weight.data_ptr() == other.embed.weight.data_ptr()
    with pytest.raises(CheckpointError, match=r"it lacks head.weight"):
        load_state(path, {"policy": Tied(tie=False)})


class Adapted(torch.nn.Module):
    """A frozen base with a trained adapter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = torch.nn.Linear(3, 3).requires_grad_(False)
        self.adapter = torch.nn.Linear(3, 3)


def test_of_adapters_only_what_is_trained_is_stored_and_the_base_is_recognised(tmp_path):
    model = Adapted(seed=0)
    with torch.no_grad():
        model.adapter.weight.fill_(7.0)
    path = save_state(tmp_path, 1, {"policy": model}, {})
    assert sorted(load_file(path / "policy.safetensors")) == ["adapter.bias", "adapter.weight"]
    same_base = Adapted(seed=0)
    load_state(path, {"policy": same_base})
    assert torch.equal(same_base.adapter.weight, model.adapter.weight)
    with pytest.raises(CheckpointError, match=r"policy.safetensors was trained on top of other"):
        load_state(path, {"policy": Adapted(seed=1)})


def test_a_frozen_model_is_stored_whole(tmp_path):
    path = save_state(tmp_path, 1, {"actor": linear(2.0).requires_grad_(False)}, {})
    assert sorted(load_file(path / "actor.safetensors")) == ["bias", "weight"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (linear(n=4), r"policy.safetensors does not fit this run: weight is \(2, 3\)"),
        (linear().to(torch.bfloat16), r"torch.float32 there, .*torch.bfloat16 in the model"),
        (torch.nn.Linear(3, 2, bias=False), r"it holds bias, which the model lacks"),
        (Tied(), r"it lacks embed.weight, head.weight and it holds"),
    ],
    ids=["shape", "dtype", "more", "names"],
)
def test_a_model_that_does_not_fit_is_refused_by_name(tmp_path, other, message):
    save(tmp_path, 1, 1.0)
    with pytest.raises(CheckpointError, match=message):
        load_state(latest(tmp_path), {"policy": other}, MINE)


def test_an_optimizer_that_does_not_fit_and_a_part_that_is_absent_are_refused(tmp_path):
    model, optimizer = trained()
    save_state(tmp_path, 1, {"optimizer": optimizer}, {})
    other = torch.optim.AdamW(linear(n=5).parameters())
    with pytest.raises(CheckpointError, match="optimiser state 0 has another shape"):
        load_state(latest(tmp_path), {"optimizer": other})
    with pytest.raises(CheckpointError, match="holds no part 'policy'"):
        load_state(latest(tmp_path), {"policy": model})
