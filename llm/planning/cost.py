"""What a step costs in time: floating-point operations and bytes, from shapes alone.

A roofline: a piece of work takes the longer of its operations over what the device really reaches
(peak times a share) and its bytes over the memory's bandwidth. Decoding reads all weights for every
new token of however many sequences, so at small batches bandwidth bounds it; prefill and training
are bound by operations. Nothing here was measured on a GPU. `gain` is exact arithmetic; the rest is
an estimate, good for ratios and orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from .memory import attention_widths, layers_and_width, vocabulary


class Shape(NamedTuple):
    """Of a model. body: weights of all matrices in its layers; head: of its head; q, kv: widths of
    queries and of keys. bytes_each: of a weight, a key or a value; those of a weight times
    `compressed`."""

    layers: int
    hidden: int
    q: int
    kv: int
    vocabulary: int
    body: int
    head: int
    bytes_each: int = 2
    compressed: float = 1.0


@dataclass(frozen=True)
class Device:
    """One GPU and what is reached of it. Defaults: the data sheet of an H100 SXM, shares assumed.

    flops, bandwidth, link: peak operations per second in bfloat16 (dense), bytes per second of its
    memory, and to another GPU. mfu: share of `flops` in training and prefill; read_share: of
    `bandwidth` in decoding. layer_seconds: least time of a layer for one token, which launching
    its kernels takes.
    """

    flops: float = 989e12
    bandwidth: float = 3.35e12
    link: float = 450e9
    mfu: float = 0.4
    read_share: float = 0.7
    layer_seconds: float = 30e-6


class Work(NamedTuple):
    """A rank's share of a step: groups of completions of prompts; lengths in tokens, means but for
    `longest`. at_once: sequences decoded together."""

    prompts: float
    group: int
    prompt_tokens: float
    new_tokens: float
    longest: int
    at_once: int

    @property
    def sequences(self) -> float:
        return self.prompts * self.group


def shape_of(model: Any, bytes_each: int = 2) -> Shape:
    """From a transformers model, weightless (`memory.shape`) or not."""
    q, kv = attention_widths(model.config)
    head = model.get_output_embeddings().weight
    outer = {id(head), id(model.get_input_embeddings().weight)}
    body = sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in outer)
    of_model = (*layers_and_width(model.config), q, kv, vocabulary(model))
    return Shape(*of_model, body, head.numel(), bytes_each)


def forward_flops(shape: Shape, tokens: float, length: float, scored: float) -> float:
    """Of `tokens` tokens in causal sequences of `length`, the head applied to `scored` of them.

    Two operations per weight and token; a token attends to length / 2 others on average, with two
    products of width q in each layer.
    """
    attention = 2 * shape.layers * shape.q * length  # 2 products x 2 operations x length / 2
    return tokens * (2 * shape.body + attention) + 2 * scored * shape.head


class Pass(NamedTuple):
    """Of one pass of a model: floating-point operations, and bytes that it reads."""

    flops: float
    read: float


def decode_step(shape: Shape, rows: float, length: float, new: int = 1) -> Pass:
    """`new` tokens of each of `rows` sequences that are `length` tokens long, cache included."""
    weights, cache = shape.body + shape.head, 2 * shape.layers * shape.kv * length
    read = shape.bytes_each * (shape.compressed * weights + rows * cache)
    read += 4 * 6 * rows * new * shape.vocabulary  # logits and what is computed from them
    attention = 4 * shape.layers * shape.q * length
    return Pass(rows * new * (2 * weights + attention), read)


def step_seconds(step: Pass, shape: Shape, device: Device) -> float:
    """The roofline of one pass of decoding."""
    return max(
        step.read / (device.bandwidth * device.read_share),
        step.flops / (device.flops * device.mfu),
        shape.layers * device.layer_seconds,
    )


def decode_step_seconds(shape: Shape, rows: float, length: float, device: Device) -> float:
    """One token for each of `rows` sequences that are `length` tokens long, cache included."""
    return step_seconds(decode_step(shape, rows, length), shape, device)


def prefill_seconds(shape: Shape, work: Work, device: Device) -> float:
    """Each prompt once for its group."""
    tokens = work.prompts * work.prompt_tokens
    flops = forward_flops(shape, tokens, work.prompt_tokens, work.prompts)
    return flops / (device.flops * device.mfu)


def decode_steps(work: Work) -> tuple[float, float, float]:
    """Steps of decoding all new tokens one by one, sequences of a step, and their mean length.

    `at_once` sequences are decoded at a time until none is left. While more wait than fit, every
    place is taken; the last ones run `longest` steps in all. So there are (tokens / at_once) full
    steps, but at least `longest`, at the mean of rows they have.
    """
    tokens = work.sequences * work.new_tokens
    rows_most = min(work.at_once, work.sequences)
    steps = max(tokens / rows_most, float(work.longest))
    return steps, tokens / steps, work.prompt_tokens + work.new_tokens / 2


def decode_seconds(shape: Shape, work: Work, device: Device) -> float:
    """All new tokens, decoded `at_once` sequences at a time until none is left."""
    steps, rows, middle = decode_steps(work)
    return steps * decode_step_seconds(shape, rows, middle, device)


def plain_seconds(shape: Shape, work: Work, device: Device) -> float:
    """All rollouts of a step by one model: each prompt once, then the new tokens."""
    return prefill_seconds(shape, work, device) + decode_seconds(shape, work, device)


def training_seconds(
    shape: Shape, work: Work, device: Device, *, forwards: int, recompute: bool, backward: bool
) -> float:
    """`forwards` passes without gradient; if `backward`, one with it: three times a forward pass,
    four with layers computed again."""
    length = work.prompt_tokens + work.new_tokens
    tokens = work.sequences * length
    forward = forward_flops(shape, tokens, length, work.sequences * work.new_tokens)
    passes = forwards + (3 + recompute) * backward
    return passes * forward / (device.flops * device.mfu)


def sharding_seconds(
    weight_bytes: float, microbatches: float, gathers: int, device: Device
) -> float:
    """Gathering weights `gathers` times per micro-batch, and reducing gradients as large once."""
    return microbatches * (gathers + 1) * weight_bytes / device.link


def gain(g: float, rollout_cost: float, update_cost: float) -> float:
    """How many times faster a step is with a cheap actor in the policy's place: S.

    On-policy a step takes R + T, R to sample with the policy and T to train it. An actor samples
    the same tokens in rollout_cost R and adds update_cost T to the training: its own losses and
    distillation, and what the correction needs. With g = R / T

        S = (R + T) / (rollout_cost R + T + update_cost T)
          = (g + 1) / (rollout_cost g + 1 + update_cost).

    S > 1 exactly if g (1 - rollout_cost) > update_cost; S < 1 / rollout_cost for any g. Per step,
    not per progress: tokens of another model teach less.

    Args:
        g: rollout time over training time of the policy, > 0.
        rollout_cost: of the actor's rollouts, in units of the policy's, > 0.
        update_cost: of what the actor adds to training, in units of the policy's training, >= 0.

    Raises:
        ValueError: any of them out of bounds.
    """
    if not (g > 0 and rollout_cost > 0 and update_cost >= 0):
        raise ValueError(
            "gain needs g > 0, rollout_cost > 0 and update_cost >= 0, got "
            f"{g:g}, {rollout_cost:g}, {update_cost:g}"
        )
    return (g + 1) / (rollout_cost * g + 1 + update_cost)


def break_even(rollout_cost: float, update_cost: float) -> float:
    """The g above which a cheap actor gains anything; inf if it is no cheaper to sample from."""
    return update_cost / (1 - rollout_cost) if rollout_cost < 1 else float("inf")
