"""Blocks of a head's logits and gradients against whole products."""

from __future__ import annotations

import pytest
import torch

from llm.models.lm_head import blocks as blocks_module
from llm.models.lm_head.blocks import (
    ROUNDED_FROM,
    Chunk,
    HeadBlocks,
    blocks,
    buffers,
    default_chunk,
    inside_block,
    operand_precision,
)

CHUNK = Chunk(tokens=3, vocab=4)
N, H, V = 7, 5, 10  # none a multiple of a block


def tensors(bias: bool):
    generator = torch.Generator().manual_seed(0)
    sizes = ((N, H), (V, H), (V,))
    hidden, weight, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in sizes)
    ids = torch.tensor([[1, 9, 4]] * N)
    return hidden, weight, b if bias else None, ids


def whole(hidden, weight, bias, softcap, temperature):
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    return (logits if softcap is None else softcap * (logits / softcap).tanh()) / temperature


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_blocks_hold_every_logit_once_and_gradients_are_those_of_whole_logits(bias, softcap):
    """The gradient of sum c * logits, for random c, by blocks and by torch's autograd."""
    hidden, weight, b, ids = tensors(bias)
    head = HeadBlocks((hidden, weight, b, ids), softcap, 0.7, torch.float64)
    (buffer,) = buffers(head, CHUNK, 1)
    if softcap is not None:
        head.tanh = torch.empty_like(buffer)
    head.start_gradients((True, True, bias))
    c = torch.randn(N, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.full((N, V), torch.nan, dtype=torch.float64)
    for cols, rows in blocks([head], CHUNK):
        assert bool(found[rows, cols].isnan().all())
        found[rows, cols] = head.logits(rows, buffer)
        head.add(rows, cols, c[rows, cols] / 0.7, None)
    leaves = [x.clone().requires_grad_() for x in (hidden, weight, b) if x is not None]
    expected = whole(leaves[0], leaves[1], leaves[2] if bias else None, softcap, 0.7)
    assert torch.allclose(found, expected, atol=1e-12)
    (expected * c).sum().backward()
    gradients = [g for g in head.gradients(hidden, None) if g is not None]
    for own, leaf in zip(gradients, leaves, strict=True):
        assert leaf.grad is not None and torch.allclose(own, leaf.grad, atol=1e-12)


def test_the_logit_of_given_ids_is_the_larger_of_the_first_two():
    hidden, weight, b, ids = tensors(True)
    head = HeadBlocks((hidden, weight, b, ids), 2.0, 0.7, torch.float64)
    expected = whole(hidden, weight, b, 2.0, 0.7)[:, [1, 9]].amax(1)
    assert torch.allclose(head.logit_of_given(ids, CHUNK), expected, atol=1e-12)


def test_ids_of_other_blocks_are_marked_and_clamped_into_the_block():
    places, inside = inside_block(torch.tensor([0, 4, 7, 9]), slice(4, 8))
    assert inside.tolist() == [False, True, True, False]
    assert places.tolist() == [0, 0, 3, 3]


BF16, F32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize("tiles", [False, True])
def test_a_gpu_rounds_operands_to_what_holds_bfloat16_and_has_larger_blocks(tiles, monkeypatch):
    """By the device's kind alone. TF32 keeps 11 bits, more than bfloat16's 8."""
    monkeypatch.setattr(blocks_module, "has_bf16_tiles", lambda: tiles)
    assert operand_precision(torch.device("cuda")) == "tf32"
    assert operand_precision(torch.device("cpu")) == ("bf16" if tiles else "")
    assert operand_precision(torch.device("meta")) == ""
    assert default_chunk("cuda").vocab > default_chunk("cpu").vocab == Chunk().vocab


@pytest.mark.parametrize(
    "hidden, weight, block, width, tiles, gradients",
    [
        (BF16, BF16, F32, ROUNDED_FROM, True, "bf16"),
        (BF16, BF16, F32, ROUNDED_FROM - 1, True, ""),
        (BF16, BF16, F32, ROUNDED_FROM, False, ""),
        (F32, BF16, F32, ROUNDED_FROM, True, ""),
        (BF16, F32, F32, ROUNDED_FROM, True, ""),
        (F32, F32, F32, ROUNDED_FROM, True, ""),
        (BF16, BF16, torch.float64, ROUNDED_FROM, True, ""),
    ],
)
def test_only_wide_bfloat16_heads_round_a_gradients_factor_and_only_in_tiles(
    hidden, weight, block, width, tiles, gradients, monkeypatch
):
    """By dtypes, width and processor alone: a resumed run must take the same way."""
    monkeypatch.setattr(blocks_module, "has_bf16_tiles", lambda: tiles)
    given = torch.zeros(2, width, dtype=hidden), torch.zeros(3, width, dtype=weight), None, None
    assert HeadBlocks(given, None, 1.0, block).gradient_precision == gradients
