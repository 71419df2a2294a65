"""What a cheap actor gains in wall-clock time, predicted and measured, on the CPU in bfloat16.

    python benchmarks/actor_speedup.py [--repeats 3] [--json FILE]

A step on-policy (the policy samples, one update, no correction) against a step with a smaller actor
(it samples, Jackpot and PPO and distillation train both): S is the ratio of their times. Predicted
is `llm.planning.cost.gain` from unit costs measured apart: seconds of one decoding step of each
model, and seconds per sequence of the policy's update and of what the actor adds. Unit costs are
taken at other lengths than the steps that are predicted. Everything is timed in turns; medians,
with the smallest and largest S over the turns. Times are processor seconds of the one thread, its
wall-clock time on an idle machine. Random models: times do not depend on what they say.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from llm import settings
from llm.models import loading
from llm.models.actors import Actor
from llm.models.lm_head import support
from llm.planning import cost
from llm.rewards import scorers
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.runs.nonfinite_guard import Guard
from llm.settings.paths import path_of
from llm.tasks import factory
from llm.tokenizers.character import CharTokenizer
from llm.train import update
from llm.training.context import TrainContext
from llm.training.minibatches import split_minibatches
from llm.training.optimizer import Learner, open_learner, set_learning_rates

with loading.quiet():
    from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 4096
POLICY, ACTOR = (8, 512), (2, 256)  # layers, hidden


class SpeedupCase(NamedTuple):
    """digits of a prompt; sequences at once, tokens of each; whether an actor is to be worth it."""

    name: str
    digits: int
    sequences: int
    tokens: int
    pays: bool


CASES = [
    SpeedupCase("decoding dominates", 8, 4, 128, True),
    SpeedupCase("large batch, short completions", 16, 32, 4, False),
]


def model(shape: tuple[int, int], seed: int) -> Any:
    torch.manual_seed(seed)
    layers, hidden = shape
    built: Any = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, head_dim=64, max_position_embeddings=512,
        pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    ))  # fmt: skip
    return built.to(torch.bfloat16).eval()


class NoEnd(CharTokenizer):
    """Nothing ends a completion: every one has its whole length."""

    eos = frozenset({VOCABULARY + 1})


class ComparedSteps:
    """Both kinds of step over the same policy."""

    def __init__(self, digits: int) -> None:
        self.policy, self.actor = model(POLICY, 0), model(ACTOR, 1)
        tiny = ["--rollout.max_new_tokens", "64", "--policy.dtype", "bfloat16"]
        tiny += ["--task.digits_min", str(digits), "--task.digits_max", str(digits)]
        self.joint = self._context([*tiny, "--actor.dtype", "bfloat16"], "separate", self.actor)
        own = [*tiny, "--actor.type", "self", "--correction.type", "none"]
        self.own = self._context(own, "self", self.policy)
        self._learners = {id(c): open_learner(c, Guard(Path("."))) for c in (self.joint, self.own)}

    def _context(self, flags: list[str], kind: str, sampler: Any) -> TrainContext:
        cfg, tokenizer = settings.load([], flags), NoEnd()
        task = factory.open_task(cfg.task, tokenizer)
        scorer = scorers.open_scorer(cfg.task, tokenizer)
        actor, device = Actor(kind, sampler), torch.device("cpu")
        chunked = support.in_blocks(cfg, self.policy.config.vocab_size)
        parts = (cfg, tokenizer, task, scorer, self.policy, actor, None, device)
        return TrainContext(*parts, chunked=chunked)

    def rollout(self, ctx: TrainContext, sequences: int, tokens: int) -> Batch:
        problems = ctx.task.batch(0, 0, sequences // 4)
        batch = sample(
            ctx.actor.model, ctx.tokenizer, problems, np.random.default_rng(0),
            max_new_tokens=tokens, temperature=1.0, top_k=20, group=4,
        ).flat()  # fmt: skip
        batch.advantage.copy_(torch.linspace(-1, 1, sequences))
        return batch

    def train(self, ctx: TrainContext, batch: Batch) -> None:
        learner: Learner = self._learners[id(ctx)]
        set_learning_rates(ctx.cfg, learner, 0.0, 0)
        for minibatch in split_minibatches(ctx, batch, learner, 0):
            update(ctx, learner, minibatch, 0)

    def step(self, ctx: TrainContext, case: SpeedupCase) -> None:
        self.train(ctx, self.rollout(ctx, case.sequences, case.tokens))


def seconds(body: Callable[[], object]) -> float:
    start = time.process_time()
    body()
    return time.process_time() - start


class Turn(NamedTuple):
    """Seconds of one turn. Of each model: sampling `short` and `long` tokens; of each kind of step:
    updates on the batches of `small` and `large` tokens; and both whole steps."""

    sampling: dict[str, tuple[float, float]]
    training: dict[str, tuple[float, float]]
    steps: dict[str, float]


def lengths(case: SpeedupCase) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tokens at which unit costs are taken: of sampling, of updates; none is the case's own."""
    long = case.tokens >= 32
    return ((4, 28) if long else (2, 6)), ((32, 80) if long else (2, 6))


def one_turn(world: ComparedSteps, case: SpeedupCase) -> Turn:
    kinds = {"policy": world.own, "actor": world.joint}
    short_long, small_large = lengths(case)
    sampling, training, steps = {}, {}, {}
    for name, ctx in kinds.items():
        first, second = (
            seconds(partial(world.rollout, ctx, case.sequences, n)) for n in short_long
        )
        sampling[name] = first, second
    batches = [world.rollout(world.joint, case.sequences, n) for n in small_large]
    for name, ctx in kinds.items():
        first, second = (seconds(partial(world.train, ctx, b)) for b in batches)
        training[name] = first, second
    for name, ctx in kinds.items():
        steps[name] = seconds(partial(world.step, ctx, case))
    return Turn(sampling, training, steps)


def median(values: list[float]) -> float:
    return statistics.median(values)


def predicted(case: SpeedupCase, turns: list[Turn]) -> tuple[float, float, float, float]:
    """S, g and the relative costs: both kinds of work are lines in the number of tokens."""
    fitted = {}
    for work, at in zip(("sampling", "training"), lengths(case), strict=True):
        for name in ("policy", "actor"):
            ends = [getattr(turn, work)[name] for turn in turns]
            low, high = median([e[0] for e in ends]), median([e[1] for e in ends])
            fitted[work, name] = low + (high - low) * (case.tokens - at[0]) / (at[1] - at[0])
    g = fitted["sampling", "policy"] / fitted["training", "policy"]
    rollout_cost = fitted["sampling", "actor"] / fitted["sampling", "policy"]
    update_cost = max(0.0, fitted["training", "actor"] / fitted["training", "policy"] - 1)
    return cost.gain(g, rollout_cost, update_cost), g, rollout_cost, update_cost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns per case (default 3)")
    parser.add_argument(
        "--json", type=path_of, help="write {name, ratio, target, met, spread} there"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    both = f"policy {POLICY[0]} layers x {POLICY[1]}, actor {ACTOR[0]} x {ACTOR[1]}"
    print(f"{both}, vocabulary {VOCABULARY:,}, bfloat16, 1 thread\n")
    print(f"{'case':<32}{'at once':>8}{'tokens':>8}{'g':>7}{'actor':>7}{'adds':>7}"
          f"{'predicted S':>13}{'measured S':>12}{'error':>7}  over turns")  # fmt: skip
    entries, verdict = [], ""
    for case in CASES:
        world = ComparedSteps(case.digits)
        for ctx in (world.own, world.joint):  # first calls load and plan things
            world.step(ctx, case._replace(sequences=4, tokens=2))
        turns = [one_turn(world, case) for _ in range(args.repeats)]
        expected, g, rollout_cost, update_cost = predicted(case, turns)
        single = [t.steps["policy"] / t.steps["actor"] for t in turns]
        measured = median([t.steps["policy"] for t in turns]) / median(
            [t.steps["actor"] for t in turns]
        )
        error = expected / measured - 1
        print(f"{case.name:<32}{case.sequences:>8}{case.tokens:>8}{g:>7.2f}{rollout_cost:>7.2f}"
              f"{update_cost:>7.2f}{expected:>13.2f}{measured:>12.2f}{error:>+7.0%}  "
              f"{min(single):.2f} to {max(single):.2f}", flush=True)  # fmt: skip
        if case.pays:
            entries.append({
                "name": "cheap actor: S where decoding dominates", "ratio": measured,
                "target": 1.4, "met": measured >= 1.4, "spread": [min(single), max(single)],
            })  # fmt: skip
            over_turns = [expected / s - 1 for s in single]
            entries.append({
                "name": "cheap actor: predicted over measured S, less 1 (aim: either way)",
                "ratio": error, "target": 0.15, "met": abs(error) <= 0.15,
                "spread": [min(over_turns), max(over_turns)],
            })  # fmt: skip
        else:
            over = cost.break_even(rollout_cost, update_cost)
            verdict = (
                "\nIn the last case a cheap actor buys "
                f"{'nothing' if measured < 1 + g / 2 else 'little'}: even a free one would give at "
                f"most 1 + g = {1 + g:.2f},\nand this one's own training takes its share: it gains "
                f"only where g > {over:.2f}."
            )
            entries.append({
                "name": "cheap actor: S with a large batch and short completions",
                "ratio": measured, "target": None, "met": None,
                "spread": [min(single), max(single)],
            })  # fmt: skip
    print(verdict)
    print(
        "g: rollout over training time of the policy; actor: cost of its rollouts; adds: of what"
        "\nits losses add to an update; both in units of the policy's."
    )
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
