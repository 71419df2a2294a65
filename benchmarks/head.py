"""The chunked head against whole logits: workspace and time of a joint step's head, in ratios.

    python benchmarks/head.py [--short | --quick | --wide] [--repeats 3] [--dtypes float32]
                              [--json FILE]

A step is sum c logp(token) of the policy plus KL(SG(policy) || actor), forward and backward, at
2,048 tokens x 151,936 x hidden 1,024 in one thread. Targets are held against `torch`, whole logits
by the leanest code we could write (linear, log_softmax, gather, kl_div). In bfloat16 it rounds
logits and their gradients, and its gradients have 22 to 30 times the error of the chunked head's,
with and without matrix tiles. So time is also held against `widened`: the same code in float32, of
bfloat16 tensors, as accurate as the chunked head or slightly more. With --quick and --wide there is
`trainer`, too, with the KL of the core; it needs five times the memory.

Workspace: peak resident memory above the inputs less the gradients, each variant in a process of
its own. Time: processor seconds of the one thread, which other work on the machine disturbs less
than the clock; all variants in turns in one process, the median of the ratios and their range.
Accuracy: every gradient against float64, in relative norm, at 256 tokens x 8,192. What leaving out
tokens saves: at 1,024 tokens x 16,384, not with --short. The full
size needs 8 GB and some 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm.models.lm_head.chunked import Head, HeadInput, KLPair, chunked_logprobs, dense_logprobs
from llm.settings.paths import path_of

FULL = (2_048, 151_936, 1_024)
SHORT = (1_024, 151_936, 384)
QUICK = (512, 16_384, 256)
SMALL = (256, 8_192, 1_024)
MEDIUM = (1_024, 16_384, 1_024)
TARGETS = {"workspace": 1 / 25, "time float32": 1.1, "time bfloat16": 1.0, "gradient": 1e-5}


class Inputs:
    """Two models, the actor a perturbed policy: logits of spread 2, KL about 0.2 nats."""

    def __init__(self, size: tuple[int, int, int], dtype: torch.dtype) -> None:
        n, v, h = size
        torch.manual_seed(0)
        self.hidden = [torch.empty(n, h, dtype=dtype).normal_() for _ in range(2)]
        self.weight = [torch.empty(v, h, dtype=dtype) for _ in range(2)]
        for a in range(0, v, 4096):  # by blocks: inputs must not raise the peak themselves
            self.weight[0][a : a + 4096].normal_(0, 2 / h**0.5)
            self.weight[1][a : a + 4096].normal_(0, 0.3 / h**0.5).add_(self.weight[0][a : a + 4096])
        self.hidden[1].mul_(0.1).add_(self.hidden[0])
        self.tokens = torch.randint(v, (n,))
        self.coef = torch.randn(n)
        for x in self.leaves():
            x.requires_grad_()

    def leaves(self) -> list[torch.Tensor]:
        return [*self.hidden, *self.weight]

    def gradients(self) -> list[torch.Tensor]:
        return [x.grad for x in self.leaves() if x.grad is not None]

    def sides(self) -> list[HeadInput]:
        policy, actor = (Head(w) for w in self.weight)
        return [HeadInput(self.hidden[0], policy, self.tokens), HeadInput(self.hidden[1], actor)]


def loss_of(results, x: Inputs) -> torch.Tensor:
    (policy, _), (kl,) = results
    return (x.coef * policy.logp).sum() + kl.sum()


def chunked(x: Inputs) -> torch.Tensor:
    return loss_of(chunked_logprobs(x.sides(), [KLPair(0, 1, train_p=False)]), x)


def trainer(x: Inputs) -> torch.Tensor:
    return loss_of(dense_logprobs(x.sides(), [KLPair(0, 1, train_p=False)]), x)


def lean_torch(x: Inputs, dtype: torch.dtype | None = None) -> torch.Tensor:
    """dtype: of the logits, (n, v); None: that of the tensors."""
    f = torch.nn.functional
    dtype = dtype or x.hidden[0].dtype
    logp, logq = (
        torch.log_softmax(
            f.linear(h.to(dtype), w.to(dtype)), -1, dtype=torch.promote_types(dtype, torch.float32)
        )
        for h, w in zip(x.hidden, x.weight, strict=True)
    )
    new = logp.gather(-1, x.tokens[:, None])[:, 0]
    kl = f.kl_div(logq, logp.detach(), reduction="sum", log_target=True)
    return (x.coef * new).sum() + kl


def widened_torch(x: Inputs) -> torch.Tensor:
    return lean_torch(x, torch.float32)


def policy_only(x: Inputs) -> torch.Tensor:
    (policy,), _ = chunked_logprobs(x.sides()[:1])
    return (x.coef * policy.logp).sum()


VARIANTS = {
    "torch": lean_torch,
    "widened": widened_torch,
    "trainer": trainer,
    "chunked": chunked,
    "policy": policy_only,
}


def step(name: str, x: Inputs) -> float:
    """Processor seconds of one forward and backward pass from no gradients to all of them."""
    for leaf in x.leaves():
        leaf.grad = None
    start = time.process_time()
    VARIANTS[name](x).backward()
    return time.process_time() - start


def workspace(name: str, size: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Bytes, in this process, which must be fresh."""
    step(name, Inputs((4, 64, 16), dtype))  # what libraries allocate once is not the method's
    x = Inputs(size, dtype)
    with open("/proc/self/statm") as f:
        before = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    step(name, x)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the parent's peak
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    peak = int(match[1]) * 1024
    return peak - before - sum(g.nbytes for g in x.gradients())


def in_fresh_process(name: str, size: tuple[int, int, int], dtype: str) -> int:
    call = [sys.executable, __file__, "--child", name, dtype, *map(str, size)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def in_turns(names: list[str], x: Inputs, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            seconds[name].append(step(name, x))
    return seconds


def gradient_errors(name: str, dtype: torch.dtype) -> float:
    """Worst relative error in norm of any gradient, against float64 on the same inputs."""
    x = Inputs(SMALL, dtype)
    step(name, x)
    exact = Inputs(SMALL, dtype)
    for part in (exact.hidden, exact.weight):
        part[:] = [y.detach().double().requires_grad_() for y in part]
    step("torch", exact)
    pairs = zip(x.gradients(), exact.gradients(), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def row(name: str, ratios: list[float], target: float | None = None) -> dict:
    ratio = statistics.median(ratios)
    met = None if target is None else bool(ratio <= target)
    spread = [min(ratios), max(ratios)]
    return {"name": name, "ratio": ratio, "target": target, "met": met, "spread": spread}


def measure(
    size: tuple[int, int, int], repeats: int, judged: bool, dtypes: list[str]
) -> list[dict]:
    rows = []
    rivals = ("torch",) if judged else ("torch", "trainer")
    for kind in dtypes:
        dtype = getattr(torch, kind)
        used = {name: in_fresh_process(name, size, kind) for name in (*rivals, "chunked")}
        print(kind, {k: f"{b / 2**20:.0f} MiB" for k, b in used.items()}, flush=True)
        for rival in rivals:
            target = TARGETS["workspace"] if judged and rival == "torch" else None
            ratio = used["chunked"] / used[rival]
            rows.append(row(f"workspace, {kind}, chunked / {rival}", [ratio], target))
        x = Inputs(size, dtype)
        if dtype != torch.float32:
            rivals = (*rivals, "widened")
        seconds = in_turns([*rivals, "chunked"], x, repeats)
        print(kind, {k: [f"{s:.1f} s" for s in v] for k, v in seconds.items()}, flush=True)
        for rival in rivals:
            target = TARGETS[f"time {kind}"] if judged and rival == "torch" else None
            ratios = [a / b for a, b in zip(seconds["chunked"], seconds[rival], strict=True)]
            rows.append(row(f"time, {kind}, chunked / {rival}", ratios, target))
        for name in [x for x in ("torch", "widened", "chunked") if x in (*rivals, "chunked")]:
            target = TARGETS["gradient"] if name == "chunked" and kind == "float32" else None
            error = gradient_errors(name, dtype)
            rows.append(row(f"gradient error, {kind}, {name}", [error], target))
        if dtype is torch.float32 and size != SHORT:
            rows += skipped(repeats)
    return rows


def skipped(repeats: int) -> list[dict]:
    """Time with a quarter or none of the tokens in the policy loss, over all of them in it."""
    x, shares, rows = Inputs(MEDIUM, torch.float32), (1.0, 0.25, 0.0), []
    coef, keep = x.coef, torch.rand(MEDIUM[0])
    for name, text in (("policy", "policy loss alone"), ("chunked", "joint step")):
        seconds: dict[float, list[float]] = {s: [] for s in shares}
        for _ in range(repeats):
            for share in shares:
                x.coef = coef * (keep < share)
                seconds[share].append(step(name, x))
        for share in shares[1:]:
            ratios = [a / b for a, b in zip(seconds[share], seconds[1.0], strict=True)]
            rows.append(row(f"time, {text}, {share:.0%} of tokens kept / all", ratios))
    return rows


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    level = torch.backends.cpu.get_cpu_capability()
    return f"{cpu}, {level}, {torch.get_num_threads()} thread, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--short", action="store_true", help=f"at {SHORT}; the same targets")
    sizes.add_argument("--quick", action="store_true", help=f"at {QUICK}; no targets")
    sizes.add_argument("--wide", action="store_true", help=f"at {MEDIUM}; no targets")
    parser.add_argument("--repeats", type=int, default=3)
    kinds = ["float32", "bfloat16"]
    parser.add_argument("--dtypes", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--json", type=path_of, help="write the table as JSON, too")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        name, dtype, n, v, h = args.child
        print(workspace(name, (int(n), int(v), int(h)), getattr(torch, dtype)))
        return
    size = QUICK if args.quick else SHORT if args.short else MEDIUM if args.wide else FULL
    print(f"{machine()}\n{size[0]} tokens x {size[1]} x hidden {size[2]}, two models")
    rows = measure(size, args.repeats, not (args.quick or args.wide), args.dtypes)
    print(f"\n{'':58s} {'ratio':>9s} {'range':>19s} {'target':>8s}")
    for r in rows:
        low, high = r["spread"]
        target = (
            "" if r["target"] is None else f"{r['target']:8.3g} {'met' if r['met'] else 'MISSED'}"
        )
        print(f"{r['name']:58s} {r['ratio']:9.3g} {low:9.3g} {high:9.3g} {target}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
