"""What Jackpot's weights, and objectives, add to an optimiser step, at a vocabulary of 151,936.

    python benchmarks/overhead.py [--vocab 151936] [--head dense] [--repeats 5] [--quick]

One rollout of a small random policy and actor; then the same optimiser step on the same batch, in
turns: with OBRS, with TIS and the same actor losses, and with PPO of the policy alone; with every
other objective in the place of PPO (no correction, ratios to p_inf); with those of whole
completions also over PPO's step and one pass of the policy at the start, which they need as a
reference, as a KL to it would; and what the head saves where three quarters of the sequences have
no advantage. Prints the median of the turns' ratios of processor seconds (one thread) and their
range. Of an objective also what its loss takes by itself, without the models, which is free of the
noise of whole steps. OBRS costs the same for each token and id whatever the width, so models wider
than these pay a smaller share for it.
Model passes per step are counted in tests/llm/test_train.py.
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from jackpot.torch.correction import TokenWeights
from jackpot.torch.objectives import policy_loss_sum
from llm.models.actors import Actor
from llm.models.loading import quiet
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config, load
from llm.settings.paths import path_of
from llm.tasks.problem import Problem
from llm.train import update
from llm.training.context import TrainContext
from llm.training.forward import ModelOutputs, PolicyLogprobs
from llm.training.minibatches import split_minibatches
from llm.training.objective import objective_tokens, policy_factors
from llm.training.optimizer import Learner, open_learner
from llm.training.scoring import score_initial

MODES: dict[str, tuple[str, ...]] = {
    "jackpot": (),
    "tis": ("--correction.type", "tis"),
    "ppo": ("--correction.type", "none", "--actor.type", "frozen"),
}
OF_INF = ("--objective.ratio", "inf")
OBJECTIVES = {  # in the place of PPO, of the policy alone
    "cispo": OF_INF,
    "gspo": (*OF_INF, "--loss.denominator", "sequence"),
    "dppo": (),
    "dppo top_k_kl": ("--objective.divergence.type", "top_k_kl"),
    "minpro": (),
    "bapo": OF_INF,
    "m2po": (),
    "m2po opsm": ("--objective.sequence_mask.type", "opsm"),
}
WHOLE = ("a_star_po", "dmpo", "alpha_dpo")  # of whole completions, with the policy at the start
OBJECTIVES |= {"a_star_po": ("--task.pool", "64"), "dmpo": (), "alpha_dpo": ()}
MODES |= {
    name: (*MODES["ppo"], "--objective.type", name.split()[0], *extra)
    for name, extra in OBJECTIVES.items()
}
WITH_REFERENCE = "PPO and a pass of the policy at the start"
OWN = ("jackpot", "ppo", "tis")
# ppo a b ppo c d ppo: each objective's step has one of PPO beside it, as the processor's speed
# changes within a turn where other work shares it
_NAMES = tuple(OBJECTIVES)
BESIDE_PPO = (*(m for i in range(0, len(_NAMES), 2) for m in ("ppo", *_NAMES[i : i + 2])), "ppo")
SPARSE = {"sparse jackpot": "jackpot", "sparse ppo": "ppo"}  # most advantages 0, as of equal groups


class IdPrompts:
    """Prompts are numbers of ids; nothing ends a completion."""

    pad, eos = 0, frozenset[int]()

    def prompt(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def model(vocab: int, width: int, layers: int, seed: int) -> Any:
    with quiet():
        from transformers import Qwen3Config, Qwen3ForCausalLM
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=width // 4,
    )
    return Qwen3ForCausalLM(config)


def scene(vocab: int, sequences: int, tokens: int) -> tuple[Any, Any, Batch]:
    """A policy, an actor that differs from it moderately, and a batch with random advantages."""
    policy = model(vocab, 256, 4, seed=0)
    actor = copy.deepcopy(policy)
    torch.manual_seed(2)
    with torch.no_grad():
        policy.lm_head.weight.mul_(20.0)  # a peaked distribution, as language models have
        for theirs, ours in zip(actor.parameters(), policy.parameters(), strict=True):
            theirs.copy_(ours + 0.05 * ours.square().mean().sqrt() * torch.randn_like(ours))
    rng = np.random.default_rng(0)
    problems = [Problem(" ".join(map(str, rng.integers(vocab, size=16))), "") for _ in range(4)]
    batch = sample(
        actor,
        IdPrompts(),  # type: ignore[arg-type]
        problems,
        rng,
        max_new_tokens=tokens,
        temperature=1.0,
        top_k=20,
        group=sequences // 4,
    ).flat()
    batch.advantage.copy_(torch.from_numpy(rng.standard_normal(sequences)))
    group = torch.arange(sequences) // (sequences // 4)
    reward = (torch.arange(sequences) % 2).float()  # a right and a wrong one of each prompt
    batch = dataclasses.replace(
        batch, group=group, reward=reward, value=torch.full_like(reward, 0.5)
    )
    return policy, actor, batch


def context(cfg: Config, policy: Any, actor: Any, initial: Any) -> TrainContext:
    """What an optimiser step of these models works with. initial: the policy at the start."""
    models = policy, Actor(cfg.actor.type, actor), initial
    parts = cfg, IdPrompts(), None, None, *models, torch.device("cpu")
    return TrainContext(*parts, chunked=cfg.optim.head == "chunked")  # type: ignore[arg-type]


def step(ctx: TrainContext, learner: Learner, batch: Batch) -> float:
    """Processor seconds of one optimiser step."""
    start = time.process_time()
    (minibatch,) = split_minibatches(ctx, batch, learner, 0)
    update(ctx, learner, minibatch, 0)
    return time.process_time() - start


def loss_seconds(ctx: TrainContext, learner: Learner, batch: Batch) -> float:
    """Processor seconds of an objective alone: its bounds or what it computes of whole completions,
    its loss and its gradient; a median."""
    (minibatch,) = split_minibatches(ctx, batch, learner, 0)
    n, random = len(batch.sequence), torch.Generator().manual_seed(3)
    ref, new = (batch.logp_inf + torch.randn(n, generator=random) / 10 for _ in range(2))
    p_ref, p_new = (PolicyLogprobs(logp, batch.topk_logp_inf, None) for logp in (ref, new))
    one = torch.ones(n)
    weights = TokenWeights(*[one] * 8)  # type: ignore[arg-type]
    inputs = ctx, learner, minibatch, p_ref, p_new, weights
    topk = batch.topk_logp_inf if ctx.cfg.objective.needs_topk else None
    taken = []
    for _ in range(30):
        leaf = new.clone().requires_grad_()
        out = ModelOutputs(leaf, None, one, {}, None, topk)
        start = time.process_time()
        weight, scale, objective, _ = policy_factors(*inputs, 0)
        tokens = objective_tokens(minibatch, p_ref, out, torch.arange(n))
        policy_loss_sum(tokens, weight, scale, **objective).loss.backward()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def measured(
    contexts: dict[str, TrainContext], learners: dict[str, Learner], batch: Batch, repeats: int
) -> dict[Any, list[float]]:
    """Seconds of each mode's steps, in turns. (name, "ppo"): of the PPO step beside that of an
    objective; (name, WITH_REFERENCE): the same and a pass of the policy at the start."""
    useless = batch.advantage * (torch.arange(len(batch.advantage)) % 4 == 0)
    sparse = dataclasses.replace(batch, advantage=useless)
    seconds: dict[Any, list[float]] = collections.defaultdict(list)
    for turn in range(repeats + 1):
        if turn == 1:  # the first turn filled caches and Adam's state
            seconds.clear()
        order = -1 if turn % 2 else 1
        modes = BESIDE_PPO[::order]
        taken = [step(contexts[mode], learners[mode], batch) for mode in modes]
        start = time.process_time()
        score_initial(contexts[WHOLE[0]], batch)
        reference = time.process_time() - start
        for i, mode in enumerate(modes):
            if mode != "ppo":
                ppo = taken[i - 1 if modes[i - 1] == "ppo" else i + 1]
                seconds[mode].append(taken[i])
                seconds[mode, "ppo"].append(ppo)
                seconds[mode, WITH_REFERENCE].append(ppo + reference)
        for mode in OWN[::order]:
            seconds[mode].append(step(contexts[mode], learners[mode], batch))
        for name, mode in SPARSE.items():
            seconds[name].append(step(contexts[mode], learners[mode], sparse))
    return seconds


def compared(seconds: dict[Any, list[float]], repeats: int) -> list[dict[str, Any]]:
    """Ratios of steps."""
    quarter = "with advantages in a quarter of the sequences over all"
    entries = []
    for ours, rival, what, target in (
        ("jackpot", "tis", "step with OBRS over TIS with the same actor losses", 1.03),
        ("jackpot", "ppo", "step with OBRS and actor losses over PPO of the policy alone", None),
        ("sparse jackpot", "jackpot", f"step with OBRS and actor losses, {quarter}", None),
        ("sparse ppo", "ppo", f"step of PPO alone, {quarter}", None),
        *((o, (o, "ppo"), f"step of {o} over PPO of the policy", None) for o in OBJECTIVES),
        *((o, (o, WITH_REFERENCE), f"step of {o} over {WITH_REFERENCE}", None) for o in WHOLE),
    ):
        pairs = [a / b for a, b in zip(seconds[ours], seconds[rival], strict=True)]
        ratio = statistics.median(pairs)
        spread = [round(min(pairs), 3), round(max(pairs), 3)]
        print(f"{what}: {ratio:.3f} ({spread[0]} to {spread[1]} over {repeats} turns)")
        met = None if target is None else ratio <= target
        entries.append(
            {"name": what, "ratio": ratio, "target": target, "met": met, "spread": spread}
        )
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--head", choices=["chunked", "dense"], default="chunked")
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it runs")
    parser.add_argument("--json", type=path_of)
    args = parser.parse_args()
    if args.quick:
        args.vocab, args.tokens, args.repeats = 5000, 8, 3
    torch.set_num_threads(1)
    policy, actor, batch = scene(args.vocab, args.sequences, args.tokens)
    flags = ["--optim.policy-lr", "1e-9", "--actor.lr", "1e-9"]
    contexts, start = {}, copy.deepcopy(policy).requires_grad_(False)
    for name, extra in MODES.items():
        rates = flags if "frozen" not in extra else flags[:2]
        cfg = load([], [*rates, *extra, "--optim.head", args.head])
        contexts[name] = context(cfg, policy, actor, start if name in WHOLE else None)
    learners = {name: open_learner(contexts[name], Guard(Path("nowhere"))) for name in OWN}
    learners |= dict.fromkeys(OBJECTIVES, learners["ppo"])  # of the policy alone, as PPO's
    seconds = measured(contexts, learners, batch, args.repeats)
    print(
        f"{int(batch.is_completion.sum())} tokens, {args.vocab:,} ids, policy and actor of "
        f"{policy.num_parameters():,} parameters each, {policy.config.num_hidden_layers} layers of "
        f"width {policy.config.hidden_size}, {args.head} head; "
        f"TIS step {statistics.median(seconds['tis']):.2f} s"
    )
    entries = compared(seconds, args.repeats)
    ppo_step = statistics.median(seconds["ppo"])
    ppo_loss = loss_seconds(contexts["ppo"], learners["ppo"], batch)
    for name in OBJECTIVES:
        loss = loss_seconds(contexts[name], learners[name], batch)
        ratio, what = 1 + (loss - ppo_loss) / ppo_step, f"loss of {name} for PPO's, over PPO's step"
        print(f"{what}: {ratio:.4f} ({1e3 * loss:.2f} ms for {1e3 * ppo_loss:.2f} ms)")
        entries.append({"name": what, "ratio": ratio, "target": 1.03, "met": ratio <= 1.03})
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
