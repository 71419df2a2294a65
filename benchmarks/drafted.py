"""Does drafting pay? A rollout by drafting over one by plain decoding, beside what is predicted.

    python benchmarks/drafted.py [--quick] [--turns 3] [--seed 0] [--json FILE]

The policy has 8 or 16 layers with random weights, and the actor is its first layers. What the
other layers add is scaled down, and by how much sets the mismatch: an actor of any size with any
acceptance rate, and no training. No token ends a completion, so all have their full length.

Seconds: processor seconds of the one thread, which other work disturbs less than the clock. All
variants and all parts of the prediction are measured in every turn, in one process. Each turn has
random numbers of its own, because a batch of one sequence has too few rounds to show their mean.
The table has medians over the turns. FLOPs: two for each weight of a layer or head and each token
that goes through it (attention itself left out).

Predicted, each part measured by itself and none fitted to a drafted rollout: passes of both models
at half the completion's length, for 1 row and for all, with the rounds that the measured Z lets
expect of the slowest sequence (llm/planning/drafting.py); the cuts of both caches; the reading of
the prompts; and the rest, which is a whole rollout with models that cost nothing. Decoding with the
policy is predicted from the same parts, and the ratio is that of the two. `ideal` is the ratio
without the rest, cuts, prompts and waiting: (gamma rho + c_v) / E[N]. `floor` is the time of the
matrix products alone (which read all weights), over the measured time of the policy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm.models.actors import early_exit
from llm.models.loading import quiet
from llm.planning import drafting as model
from llm.rollout.drafted import Drafting, sample_drafted
from llm.rollout.row_cache import RowCache
from llm.rollout.sampling import sample
from llm.settings.paths import path_of
from llm.tasks.problem import Problem

PROMPT = 16  # tokens
FULL: dict[str, Any] = {"width": 512, "vocabulary": 4096, "tokens": 48}
QUICK: dict[str, Any] = {"width": 256, "vocabulary": 1024, "tokens": 16}


class Prompts:
    """Random prompts of one length; no token ends a completion."""

    pad = 0

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary, self.eos = vocabulary, frozenset({vocabulary})

    def prompt(self, number: str) -> list[int]:
        rng = np.random.default_rng(int(number))
        return rng.integers(0, self._vocabulary, PROMPT).tolist()


def policy_of(
    size: dict[str, Any], layers: int, mismatch: float, exit_layers: int, seed: int = 0
) -> Any:
    """What the layers from `exit_layers` on add is scaled by `mismatch`. seed: of all weights."""
    with quiet():
        from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    width = size["width"]
    config = Qwen3Config(
        vocab_size=size["vocabulary"], hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=width // 64, head_dim=64, initializer_range=1 / width**0.5,
        tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)  # logits of spread 2
        for layer in model.model.layers[exit_layers:]:
            layer.self_attn.o_proj.weight.mul_(mismatch)
            layer.mlp.down_proj.weight.mul_(mismatch)
    return model


class Counted:
    """FLOPs since the last look, of a policy and of actors that are made of it afterwards.

    `early_exit` copies modules with their hooks, so those of the policy see the actor's passes too.
    """

    def __init__(self, policy: Any) -> None:
        self._flops = 0.0
        policy.model.register_forward_pre_hook(self._read, with_kwargs=True)
        policy.lm_head.register_forward_pre_hook(self._scored)

    def _read(self, decoder: Any, _args: Any, words: Any) -> None:
        weights = sum(p.numel() for p in decoder.layers.parameters())
        self._flops += 2.0 * weights * words["input_ids"].numel()

    def _scored(self, head: Any, args: Any) -> None:
        self._flops += 2.0 * head.weight.numel() * args[0][..., 0].numel()

    def flops(self) -> float:
        flops, self._flops = self._flops, 0.0
        return flops


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


@torch.no_grad()
def pass_seconds(model: Any, rows: int, f: int, held: int) -> tuple[float, float, float]:
    """Of one pass over f tokens of each row, after `held` tokens; of a ragged cut of it; of the
    prompts. Medians of five."""
    cache = RowCache(model, torch.full((rows,), 10 * held))
    prompt = torch.ones((rows, held), dtype=torch.long)
    cache.read_prompts(prompt, prompt.bool(), group=1)
    new, times = torch.ones((rows, f), dtype=torch.long), []
    shorter = torch.full((rows,), held)
    shorter[::4] -= int(f > 1)  # a quarter of the rows loses more than the others
    for _ in range(6):
        read = timed(lambda: cache.read(new, f))[0]
        cut = timed(lambda: cache.cut(torch.arange(rows), shorter))[0]
        fresh = RowCache(model, torch.full((rows,), PROMPT))
        first = prompt[:, :PROMPT]
        times.append((read, cut, timed(lambda: fresh.read_prompts(first, first.bool(), 1))[0]))  # noqa: B023
    read, cut, prompts = (statistics.median(x) for x in zip(*times[1:], strict=True))  # 1 warms up
    return read, cut, prompts


class Free:
    """A model that costs nothing: in every state it has the same logits, (v,)."""

    device = torch.device("cpu")

    def __init__(self, model: Any) -> None:
        self.config = model.config
        ids = torch.arange(PROMPT)[None]
        with torch.no_grad():
            self._logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1]

    def __call__(self, input_ids: torch.Tensor, logits_to_keep: int, **_: Any) -> Any:
        shape = (len(input_ids), logits_to_keep, len(self._logits))
        return SimpleNamespace(logits=self._logits.expand(shape))


def product_seconds(model: Any, tokens: int) -> float:
    """Of the products of `tokens` hidden states with every weight of a layer and the head."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = [torch.ones(tokens, m.in_features) for m in layers]

    @torch.no_grad()
    def products() -> None:
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)

    return min(timed(products)[0] for _ in range(5))


class Parts(NamedTuple):
    """Seconds of what rollouts are made of, measured one by one.

    passes: of a pass over one token of the policy, over one of the actor, over a block and one more
    of the policy, each for one row and for all. cuts: of both caches, of a round. prompts: of the
    policy's and of the actor's. rest: of a rollout with models that cost nothing, decoding the
    policy and drafting. products: those of a round.
    """

    passes: tuple[tuple[float, float], ...]
    cuts: float
    prompts: tuple[float, float]
    rest: tuple[float, float]
    products: float


def parts_of(
    actor: Any, policy: Any, batch: int, t: int, gamma: int,
    runs: dict[str, Callable[[Any, Any], Any]],
) -> Parts:  # fmt: skip
    held, passes, cuts, prompts = PROMPT + t // 2, [], 0.0, []
    for m, f in ((policy, 1), (actor, 1), (policy, gamma + 1), (actor, 2)):
        (few, _, _), (many, cut, prompt) = (pass_seconds(m, n, f, held) for n in (1, batch))
        passes.append((few, many))
        if f > 1:
            cuts += cut
            prompts.append(prompt)
    free = Free(actor), Free(policy)
    plain, drafted = (timed(lambda: runs[name](*free))[0] for name in ("policy", "drafted"))  # noqa: B023
    products = gamma * product_seconds(actor, batch) + product_seconds(policy, batch * (gamma + 1))
    return Parts(tuple(passes[:3]), cuts, (prompts[0], prompts[1]), (plain, drafted), products)


def predictions(
    parts: Parts, batch: int, t: int, gamma: int, z: float, seconds: float
) -> dict[str, float]:
    """What drafting costs over decoding the policy. seconds: of the latter, measured."""
    costs = []
    for few, many in parts.passes:
        row = max(0.0, many - few) / (batch - 1) if batch > 1 else 0.0
        costs.append(model.PassSeconds(few - row, row))
    one, of_actor, verifying = (many for _, many in parts.passes)
    rounds = sum(1 - (1 - share) ** batch for share in model.shares_left(z, gamma, t))
    passes = model.closed_batch_seconds(z, gamma, t, batch, costs[1], costs[2])
    drafted = passes + rounds * parts.cuts + sum(parts.prompts) + parts.rest[1]
    plain = (t - 1) * one + parts.prompts[0] + parts.rest[0]
    return {
        "rho": of_actor / one,
        "c_v": verifying / one,
        "predicted": drafted / plain,
        "ideal": model.over_policy(z, gamma, of_actor / one, verifying / one),
        "rest": (parts.rest[1] - parts.rest[0]) / plain,
        "floor": parts.products * rounds / seconds,
    }


def measured(
    size: dict[str, Any], layers: int, mismatch: float, exit_layers: int, batch: int,
    drafting: Drafting, turns: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One row of the table."""
    policy = policy_of(size, layers, mismatch, exit_layers)
    counted = Counted(policy)
    actor = early_exit(policy, exit_layers)
    tokenizer: Any = Prompts(size["vocabulary"])
    t = size["tokens"]
    how: dict[str, Any] = {"max_new_tokens": t, "temperature": 1.0, "top_k": 20}
    problems = [Problem(str(i), "") for i in range(batch)]
    at = [seed]  # of this turn

    def rng() -> np.random.Generator:
        return np.random.default_rng(at[0])

    variants: dict[str, Callable[[Any, Any], Any]] = {
        "policy": lambda _, p: sample(p, tokenizer, problems, rng(), **how),
        "actor": lambda q, _: sample(q, tokenizer, problems, rng(), **how),
        "drafted": lambda q, p: sample_drafted(
            q, p, tokenizer, problems, rng(), drafting=drafting, **how
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    flops: dict[str, float] = dict.fromkeys(variants, 0.0)
    parts, verified = [], []
    for turn in range(turns + 1):
        at[0] = seed + turn
        for name, run in variants.items():
            spent, out = timed(lambda: run(actor, policy))  # noqa: B023
            done = counted.flops()
            if turn:  # the first warms up
                seconds[name].append(spent)
                flops[name] += done
        if turn:
            assert out.verification is not None
            verified.append(out.verification)
            parts.append(parts_of(actor, policy, batch, t, drafting.length, variants))
            counted.flops()

    def mean(name: str, drafted: bool) -> float:
        return float(
            torch.cat([getattr(v, name)[~v.is_bonus | (not drafted)] for v in verified]).mean()
        )

    z = min(mean("accept_rate", True), 1.0)
    rounds = torch.stack([v.starts_round.sum(dim=1) for v in verified])  # (turns, batch)
    share = [d / p for d, p in zip(seconds["drafted"], seconds["policy"], strict=True)]
    of_actor = [d / a for d, a in zip(seconds["drafted"], seconds["actor"], strict=True)]
    predicted = [
        predictions(x, batch, t, drafting.length, z, s)
        for x, s in zip(parts, seconds["policy"], strict=True)
    ]
    return {
        "layers": layers, "actor_layers": exit_layers, "mismatch": mismatch, "batch": batch,
        "gamma": drafting.length,
        "lam": drafting.lam, "z": z, "kl_policy_actor": mean("kl_actor", True),
        "kl_policy_sampled": mean("kl_sampled", False),
        **{name: statistics.median(x[name] for x in predicted) for name in predicted[0]},
        "tokens_per_pass": t * batch * turns / int(rounds.sum()),
        "rounds_max": float(rounds.max(dim=1).values.float().mean()),
        "seconds_over_policy": statistics.median(share), "range": [min(share), max(share)],
        "seconds_over_actor": statistics.median(of_actor),
        "flops_over_policy": flops["drafted"] / flops["policy"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| layers | actor layers | mismatch | batch | gamma | lam | Z | KL(p, q) | KL(p, s) | "
        "rho | c_v | tokens/pass | seconds / policy's | range | predicted | ideal | rest | "
        "floor | FLOPs / policy's | seconds / actor's |\n" + "| --- " * 20 + "|"
    )
    lines = [
        f"| {r['layers']} | {r['actor_layers']} | {r['mismatch']:g} | {r['batch']} | "
        f"{r['gamma']} | {r['lam']:g} | {r['z']:.3f} | {r['kl_policy_actor']:.3f} | "
        f"{r['kl_policy_sampled']:.4f} | {r['rho']:.2f} | {r['c_v']:.2f} | "
        f"{r['tokens_per_pass']:.2f} | {r['seconds_over_policy']:.2f} | "
        f"{r['range'][0]:.2f} to {r['range'][1]:.2f} | "
        f"{r['predicted']:.2f} | {r['ideal']:.2f} | {r['rest']:.2f} | {r['floor']:.2f} | "
        f"{r['flops_over_policy']:.2f} | {r['seconds_over_actor']:.2f} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def entry(row: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    """For benchmarks/all.py: seconds over the policy's, with everything measured. The target of 0.6
    is for a near actor of one layer at full size, where decoding dominates."""
    has_target = size == FULL and (row["actor_layers"], row["batch"]) == (1, 8) and row["z"] > 0.9
    return {
        "name": f"drafted / decoding the policy, batch {row['batch']}, Z {row['z']:.2f}, "
        f"gamma {row['gamma']}, lam {row['lam']:g}, "
        f"{row['actor_layers']} of {row['layers']} layers",
        "ratio": row["seconds_over_policy"],
        "target": 0.6 if has_target else None,
        "met": row["seconds_over_policy"] <= 0.6 if has_target else None,
        "spread": row["range"],
        "size": size,
        **row,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, seconds")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=path_of)
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if args.quick else FULL
    # layers, actor layers, mismatch, batch, gamma, lam: one is varied at a time
    base = (8, 1, 0.1, 8, 4, 1.0)
    varied = [
        *((8, 1, 0.1, batch, 4, 1.0) for batch in ((1, 8) if args.quick else (1, 4, 8, 16, 64))),
        *((8, 1, mismatch, 8, 4, 1.0) for mismatch in (0.03, 0.3)),
        *((8, 1, 0.3, 8, 4, lam) for lam in (0.5, 0.25)),
        *(() if args.quick else [(8, 1, 0.1, 8, gamma, 1.0) for gamma in (2, 8)]),
        *(() if args.quick else [(8, n, 0.1, 8, 4, 1.0) for n in (2, 4)]),
        # where decoding dominates more: a nearer actor with longer blocks, and a deeper policy
        *(() if args.quick else [(8, 1, 0.01, 8, 8, 1.0), (16, 1, 0.03, 8, 4, 1.0)]),
    ]
    assert base in varied
    rows = []
    for layers, exit_layers, mismatch, batch, gamma, lam in varied:
        drafting = Drafting(gamma, gamma, lam)
        row = measured(size, layers, mismatch, exit_layers, batch, drafting, args.turns, args.seed)
        print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
        rows.append(row)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([entry(row, size) for row in rows], indent=1))


if __name__ == "__main__":
    main()
