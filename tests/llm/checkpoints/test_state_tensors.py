"""Tensors of models and optimizers come back as they were, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from checkpoint_cases import MINE, linear, save, trained
from optional import not_none
from safetensors.torch import load_file

from llm.checkpoints import state_tensors
from llm.checkpoints.checkpoint import latest, load_state, save_state
from llm.errors import CheckpointError
from llm.training.optimizer import adamw


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


class Buffered(torch.nn.Module):
    """A bias of -inf, which is a probability of 0, and a buffer that is kept."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scale", torch.ones(2))


def test_an_id_of_probability_0_is_resumed_and_one_that_the_model_does_not_have_is_refused(
    tmp_path,
):
    path = save_state(tmp_path, 1, {"policy": Buffered()}, {})
    load_state(path, {"policy": Buffered()})
    other = Buffered()
    other.bias.data.zero_()
    with pytest.raises(CheckpointError, match="bias holds NaN or inf"):
        load_state(path, {"policy": other})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_buffer_of_a_checkpoint_that_is_not_finite_is_refused(tmp_path, value):
    model = Buffered()
    model.scale[1] = value
    path = save_state(tmp_path, 1, {"policy": model}, {})
    with pytest.raises(CheckpointError, match="scale holds NaN or inf"):
        load_state(path, {"policy": Buffered()})


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
        load_state(not_none(latest(tmp_path)), {"policy": other}, MINE)


def test_an_optimizer_that_does_not_fit_and_a_part_that_is_absent_are_refused(tmp_path):
    model, optimizer = trained()
    save_state(tmp_path, 1, {"optimizer": optimizer}, {})
    other = torch.optim.AdamW(linear(n=5).parameters())
    with pytest.raises(CheckpointError, match="optimiser state 0 has another shape"):
        load_state(not_none(latest(tmp_path)), {"optimizer": other})
    with pytest.raises(CheckpointError, match="holds no part 'policy'"):
        load_state(not_none(latest(tmp_path)), {"policy": model})


def with_optimizer_state(tmp_path, change):
    """A checkpoint whose optimiser state was changed before it was saved, and a fresh pair."""
    model, optimizer = trained()
    change(optimizer.state[model.weight])
    path = save_state(tmp_path, 1, {"policy": model, "optimizer": optimizer}, {})
    other = linear()
    return path, {"policy": other, "optimizer": adamw(other, 0.1, 0.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["exp_avg"].fill_(float("nan")), "optimiser state 0.exp_avg holds NaN or inf"),
        (lambda s: s["exp_avg_sq"].fill_(float("inf")), "state 0.exp_avg_sq holds NaN or inf"),
        (lambda s: s["exp_avg_sq"].fill_(-1.0), "optimiser state 0.exp_avg_sq is negative"),
        (lambda s: s["step"].fill_(-1.0), "optimiser state 0.step is negative"),
        (lambda s: s.pop("exp_avg_sq"), "it lacks the optimiser state 0.exp_avg_sq"),
    ],
)
def test_an_optimiser_state_that_cannot_be_right_is_refused_by_name(tmp_path, change, message):
    path, parts = with_optimizer_state(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"optimizer.safetensors .*{message}"):
        load_state(path, parts)


def test_an_optimiser_that_lacks_a_parameter_is_refused(tmp_path):
    """AdamW would start it anew without a word."""
    path, parts = with_optimizer_state(tmp_path, lambda s: None)
    file = path / "optimizer.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("1.")}
    with pytest.raises(ValueError, match=r"lacks the optimiser state 1.step, 1.exp_avg, 1.exp_avg"):
        state_tensors.load_state_dict(parts["optimizer"], kept)


def test_a_parameter_that_never_had_a_gradient_comes_back_as_it_was(tmp_path):
    """Its state is saved as the zeros that AdamW would start from; the next step is the same."""
    models = [torch.nn.ModuleList([linear(1.0), linear(2.0)]) for _ in range(2)]
    optimizers = [adamw(model, 0.1, 0.0) for model in models]

    def step(model, optimizer, used):
        optimizer.zero_grad()
        sum(model[i](torch.ones(1, 3)).square().sum() for i in used).backward()
        optimizer.step()

    step(models[0], optimizers[0], [0])
    path = save_state(tmp_path, 1, {"policy": models[0], "optimizer": optimizers[0]}, {})
    load_state(path, {"policy": models[1], "optimizer": optimizers[1]})
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, [0, 1])
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[k], other[k]) for k in one)
