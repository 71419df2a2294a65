"""One check for whoever has a GPU: are results right in bfloat16, and memory and time as promised.

    python benchmarks/gpu_check.py [--device cuda] [--quick] [--json FILE]

Against float64 on the same weights and inputs: the vocabulary head with its gradients
(llm/models/lm_head/chunked.py), the core (jackpot/) on arrays of the device, what each rollout
engine says of its samples (hf; vllm if it is installed), and a whole training step of two bfloat16
models. Then peak memory of such steps against llm/planning/memory.py, and a step of Jackpot over
one of TIS with the same actor losses.
The limits are in LIMITS; those of the bfloat16 step and engines are about three times what a CPU
showed. Exit status: 0, 1 where a limit is broken, 2 without a GPU. `--device cpu` runs the same
code, and judges neither memory nor time there (benchmarks/memory_model.py and overhead.py do), nor
does --quick.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu_scene import (
    PEAKED,
    PROMPT_TOKENS,
    QUICK,
    GpuWorkload,
    context,
    learner_of,
    pair,
    sampled,
    settings,
    stepped,
    wait,
)
from head import Inputs, chunked, lean_torch
from memory_model import resident
from torch import Tensor

import jackpot
from jackpot.torch.correction import TokenWeights
from jackpot.torch.logprobs import chosen, log_tail
from llm.models.lm_head.chunked import KLPair, chunked_logprobs
from llm.planning import memory
from llm.rollout.batch import Batch, positions
from llm.settings.paths import path_of
from llm.training.context import TrainContext

FLOAT = torch.float32
LIMITS = {
    "head float32: log-probability, nats": 1e-4,
    "head float32: KL, nats": 1e-4,
    "head float32: gradients, error over whole logits'": 1.5,
    "head bfloat16: log-probability, nats": 1e-4,
    "head bfloat16: KL, nats": 1e-4,
    "head bfloat16: gradients, relative": 4e-3,  # each is rounded once
    "core: acceptance rate, relative": 1e-5,
    "core: lam for a budget, relative": 1e-4,
    "core: weight, relative": 1e-4,
    "core: KL, relative": 1e-4,
    "core: Z from top k, relative": 1e-4,
    "core: tail bound, relative": 1e-3,  # of a tail mass that is 1 minus a sum
    "engine hf: log-probability, mean nats": 0.04,
    "engine vllm: log-probability, mean nats": 0.04,
    "memory: prediction over peak, less 1": 0.15,
    "time: step of Jackpot over TIS": 1.03,
}
LIMITS |= {
    f"step bfloat16 {head}: {name}": limit
    for head in ("chunked", "dense")
    for name, limit in {
        "log-probability, mean nats": 0.035,
        "weights, mean": 0.03,
        "losses, of their size": 0.03,
        "gradient of policy, relative": 0.06,
        "gradient of actor, relative": 0.06,
    }.items()
}
COSTS = ("memory", "time")


class CheckRow(NamedTuple):
    name: str
    value: float

    def ok(self, cost_judged: bool) -> bool | None:
        """None: not judged. cost_judged: whether memory and time are, on a GPU at full size."""
        limit = LIMITS.get(self.name)
        if limit is None or (not cost_judged and self.name.startswith(COSTS)):
            return None
        return math.isfinite(self.value) and abs(self.value) <= limit


def off(value: Tensor, exact: Tensor) -> float:
    """Largest relative error."""
    gap = (value.double() - exact).abs() / exact.abs().clamp(min=1e-30)
    return float(torch.where(value.double() == exact, 0.0, gap).max())


def head(device: torch.device, size: tuple[int, int, int], kind: str) -> list[CheckRow]:
    """HeadOutput in blocks and their gradients, against whole logits in float64."""
    x = Inputs(size, getattr(torch, kind))
    exact = copy.copy(x)
    for each, dtype in ((exact, torch.float64), (x, getattr(torch, kind))):
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        each.hidden = [y.detach().to(**place).requires_grad_() for y in x.hidden]
        each.weight = [y.detach().to(**place).requires_grad_() for y in x.weight]
        each.tokens, each.coef = x.tokens.to(device), x.coef.to(device)
    with torch.no_grad():
        sides = x.sides()
        (policy, _), (kl,) = chunked_logprobs(sides, [KLPair(0, 1)])
        logp, logq = (
            torch.log_softmax(torch.nn.functional.linear(hidden, weight), -1)
            for hidden, weight in zip(exact.hidden, exact.weight, strict=True)
        )
        errors = {
            "log-probability, nats": chosen(logp, x.tokens) - policy.logp.double(),
            "KL, nats": (logp.exp() * (logp - logq)).sum(-1) - kl.double(),
        }
    rows = [CheckRow(f"head {kind}: {name}", float(e.abs().max())) for name, e in errors.items()]
    lean_torch(exact).backward()
    worst, seconds = {}, {}
    for form, loss in (("whole", lean_torch), ("chunked", chunked)):
        taken = []
        for _ in range(3):  # the first fills caches
            for leaf in x.leaves():
                leaf.grad = None
            wait(device)
            clock = time.perf_counter()
            loss(x).backward()
            wait(device)
            taken.append(time.perf_counter() - clock)
        seconds[form] = min(taken)
        pairs = zip(x.gradients(), exact.gradients(), strict=True)
        worst[form] = max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)
    over = worst["chunked"] / worst["whole"]
    return [
        *rows,
        CheckRow(f"head {kind}: gradients, relative", worst["chunked"]),
        CheckRow(f"head {kind}: gradients, error over whole logits'", over),
        CheckRow(
            f"time: head {kind}, chunked over whole logits", seconds["chunked"] / seconds["whole"]
        ),
    ]


def core(device: torch.device, vocabulary: int) -> list[CheckRow]:
    """Float32 on the device against float64 on the CPU, from the same bfloat16 logits."""
    torch.manual_seed(0)
    p = (3 * torch.randn(64, vocabulary)).bfloat16()
    q = p + (0.5 * torch.randn(64, vocabulary)).bfloat16()
    # bfloat16 logits tie, and each device breaks ties its own way: all take the same top k
    ids = q.double().topk(20, dim=-1).indices
    here, exact = (
        _core(
            torch.log_softmax(p.to(where, dtype), -1),
            torch.log_softmax(q.to(where, dtype), -1),
            ids.to(where),
        )
        for where, dtype in ((device, torch.float32), (torch.device("cpu"), torch.float64))
    )
    return [
        CheckRow(f"core: {name}, relative", off(here[name].cpu(), exact[name])) for name in exact
    ]


def _core(log_p: Tensor, log_q: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """ids: q's likeliest tokens, (n, k)."""
    lam = 0.9
    top_p, top_q = log_p.gather(-1, ids), log_q.gather(-1, ids)
    known = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, ids, True)
    tails = log_tail(top_p), log_tail(top_q)
    z = jackpot.acceptance_rate(log_p, log_q, lam)
    ratio = (log_p - log_q)[:, 0]
    return {
        "acceptance rate": z,
        "lam for a budget": jackpot.lam_for_budget(log_p, log_q, 0.8),
        "weight": jackpot.obrs_weight(ratio, lam, z),
        "KL": jackpot.kl_p_q(log_p, log_q),
        "Z from top k": jackpot.z_topk(top_p, top_q, lam, *tails)[1],
        "tail bound": jackpot.tail_bound(log_p, known, *tails, top_q.min(-1).values, lam),
    }


def engines(device: torch.device, size: GpuWorkload) -> list[CheckRow]:
    """What an engine says of its samples, against the same weights in float64."""
    actor, rows = pair(size, device)[1], []
    exact = copy.deepcopy(actor).double()
    for name in ["hf", *(["vllm"] if importlib.util.find_spec("vllm") else [])]:
        cfg = settings(size, device, engine=name)
        batch, seconds = sampled(cfg, size, actor, device)
        real = batch.is_completion
        inputs = {"attention_mask": batch.is_real.long(), "position_ids": positions(batch.is_real)}
        with torch.no_grad():
            logits = exact(batch.ids, **inputs, logits_to_keep=real.shape[1] + 1).logits[:, :-1]
        gap = chosen(torch.log_softmax(logits[real], -1), batch.token_ids) - batch.logp_inf
        rows.append(CheckRow(f"engine {name}: log-probability, mean nats", float(gap.abs().mean())))
        rows.append(CheckRow(f"engine {name}: tokens/s", len(batch.token_ids) / seconds))
    return rows


def training_step(device: torch.device, size: GpuWorkload) -> list[CheckRow]:
    """With the head in blocks and with whole logits, both against whole logits in float64."""
    policy, actor = pair(size, device)
    cfg = settings(size, device)
    batch, _ = sampled(cfg, size, actor, device)
    wide = copy.deepcopy(policy).double(), copy.deepcopy(actor).double()
    as_wide = {k: v.double() for k, v in vars(batch).items() if getattr(v, "dtype", 0) is FLOAT}
    exact = _gradients(context(cfg, *wide, device), replace(batch, **as_wide))
    rows = []
    for head in ("chunked", "dense"):
        pairs = copy.deepcopy(policy), copy.deepcopy(actor)
        one_step = _gradients(context(cfg, *pairs, device, head), batch)
        errors = {
            f"{what}, mean{unit}": float(
                (getattr(one_step.weights, x) - getattr(exact.weights, x)).abs().mean()
            )
            for what, x, unit in (
                ("log-probability", "log_ratio", " nats"), ("weights", "weight", "")
            )
        }  # fmt: skip
        losses = {k: v for k, v in exact.metrics.items() if k.startswith("loss_")}
        gap = max(abs(one_step.metrics[k] - v) for k, v in losses.items())
        errors["losses, of their size"] = gap / max(map(abs, losses.values()))
        for role, right in exact.gradients.items():
            off_by = float((one_step.gradients[role] - right).norm() / right.norm())
            errors[f"gradient of {role}, relative"] = off_by
        rows += [CheckRow(f"step bfloat16 {head}: {name}", error) for name, error in errors.items()]
    return rows


class _Step(NamedTuple):
    """gradients: of each role, flat, in float64."""

    weights: TokenWeights
    metrics: dict[str, float]
    gradients: dict[str, Tensor]


def _gradients(ctx: TrainContext, batch: Batch) -> _Step:
    weights, metrics = stepped(ctx, learner_of(ctx), batch)
    gradients = {
        role: torch.cat([p.grad.double().flatten() for p in x.parameters()])
        for role, x in ctx.trained.items()
    }
    return _Step(weights, metrics, gradients)


def peak_memory(device: torch.device, size: GpuWorkload) -> list[CheckRow]:
    """Two steps, and what llm/planning/memory.py says of them."""
    gc.collect()
    before = _start_peak(device)
    policy, actor = pair(size, device)
    cfg = settings(size, device)
    layout = memory.Layout(gpu=device.type == "cuda", blocks=True)
    predicted = sum(memory.estimate(cfg, policy, actor, PROMPT_TOKENS, layout).values())
    ctx = context(cfg, policy, actor, device, "chunked")
    learner = learner_of(ctx)
    for _ in range(2):
        stepped(ctx, learner, sampled(cfg, size, actor, device)[0])
    peak = _peak(device) - before
    return [
        CheckRow("memory: peak, MB", peak / 1e6),
        CheckRow("memory: prediction over peak, less 1", predicted / peak - 1),
    ]


def _start_peak(device: torch.device) -> int:
    """Bytes in use; the peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return resident("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


def step_time(device: torch.device, size: GpuWorkload) -> list[CheckRow]:
    """Both kinds of step over the same models and batch, in turns; the median of the ratios."""
    policy, actor = pair(size, device, PEAKED)
    batch, _ = sampled(settings(size, device), size, actor, device)
    contexts = [
        context(settings(size, device, correction=name), policy, actor, device, "chunked")
        for name in ("jackpot", "tis")
    ]
    learner, ratios, seconds = learner_of(contexts[0]), [], []
    for turn in range(size.repeats + 1):
        taken = []
        for ctx in contexts:
            wait(device)
            clock = time.perf_counter()
            stepped(ctx, learner, batch)
            wait(device)
            taken.append(time.perf_counter() - clock)
        if turn:  # the first fills caches
            ratios.append(taken[0] / taken[1])
            seconds.append(taken[0])
    return [
        CheckRow("time: step of Jackpot, ms", 1e3 * statistics.median(seconds)),
        CheckRow("time: step of Jackpot over TIS", statistics.median(ratios)),
    ]


def check(device: torch.device, size: GpuWorkload) -> list[CheckRow]:
    rows = peak_memory(device, size)  # first, while nothing else was ever allocated
    for kind in ("float32", "bfloat16"):
        rows += head(device, size.head, kind)
    rows += core(device, size.vocabulary)
    return rows + engines(device, size) + training_step(device, size) + step_time(device, size)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of cuda, cuda:1, ..., cpu")
    return device


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", type=_device, default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--json", type=path_of)
    args = parser.parse_args(argv)
    device: torch.device = args.device
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        sys.stderr.write(
            f"error: no GPU {device}: torch {torch.__version__} finds {gpus} CUDA devices. Run "
            "this where there is one, or try it on the CPU: --device cpu --quick\n"
        )
        return 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}{', tiny sizes' if args.quick else ''}")
    rows = check(device, QUICK if args.quick else GpuWorkload())
    cost_judged = device.type == "cuda" and not args.quick
    entries = []
    for row in rows:
        ok, limit = row.ok(cost_judged), LIMITS.get(row.name)
        shown = "" if limit is None else f"{limit:g}"
        verdict = {True: "ok", False: "BROKEN", None: ""}[ok]
        print(f"{row.name:56}{row.value:12.3g}{shown:>9} {verdict}")
        entry = {"name": row.name, "ratio": row.value, "target": limit, "met": ok}
        entries.append(entry | {"spread": [row.value, row.value]})
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")
    return 1 if any(row.ok(cost_judged) is False for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
