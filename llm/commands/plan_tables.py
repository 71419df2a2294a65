"""What `python -m llm plan` prints: models, memory, the verdict with remedies, time."""

from __future__ import annotations

import argparse

from llm.planning import cost, drafting, memory
from llm.planning.estimate import (
    USABLE,
    Choice,
    Memory,
    ModelPair,
    Times,
    remedies,
    sequences_per_gpu,
)
from llm.settings.loading import Config
from llm.settings.rollout_rules import drafts

# Seconds over ideal in the table of docs/drafting.md, Measured
MEASURED_ABOVE = "1 to 35 %"


def heading(name: str, cfg: Config, choice: Choice) -> str:
    r = cfg.rollout
    on = "on" if choice.checkpointing else "off"
    return (
        f"{name}\n{choice.gpus} GPU{'s' * (choice.gpus > 1)}, sharding {choice.sharding}, engine "
        f"{choice.engine}, head {choice.head}, checkpointing {on}\n"
        f"a step: {r.prompts_per_step:,} prompts x {r.rollouts_per_prompt} completions of up to "
        f"{r.max_new_tokens:,} tokens, {cfg.loss.updates_per_rollout} update"
        f"{'s' * (cfg.loss.updates_per_rollout > 1)}"
    )


def models_table(pair: ModelPair, cfg: Config) -> str:
    lines = [
        f"{'model':<8}{'parameters':>12}{'layers':>8}{'hidden':>8}{'vocabulary':>12}  shape from"
    ]
    for role, model in (("policy", pair.policy), ("actor", pair.actor)):
        if model is None:
            lines.append(f"{role:<8}{'derived from the policy: ' + cfg.actor.type:>40}")
            continue
        count = sum(p.numel() for p in model.parameters())
        layers, width = memory.layers_and_width(model.config)
        lines.append(
            f"{role:<8}{_count(count):>12}{layers:>8}{width:>8}"
            f"{memory.vocabulary(model):>12,}  {pair.source[role]}"
        )
    return "\n".join(lines)


def memory_table(needed: Memory) -> str:
    total = {name: sum(parts.values()) for name, parts in needed.phases.items()}
    lines = [f"{'memory of a GPU, GB':<28}{'always':>8}" + "".join(f"{p:>16}" for p in total)]
    lines += [f"{name:<28}{n / 1e9:>8.2f}" for name, n in needed.held.items() if n]
    for i, parts in enumerate(needed.phases.values()):
        blank = " " * (8 + 16 * i)
        lines += [f"{k:<28}{blank}{n / 1e9:>16.2f}" for k, n in parts.items() if n]
    held = sum(needed.held.values())
    sums = "".join(f"{(held + n) / 1e9:>16.2f}" for n in total.values())
    return "\n".join([*lines, f"{'in all':<28}{held / 1e9:>8.2f}{sums}"])


def verdict(
    cfg: Config, pair: ModelPair, choice: Choice, needed: Memory, args: argparse.Namespace
) -> str:
    usable = int(args.gpu_memory * USABLE)
    of = f"{needed.peak / 1e9:.1f} GB of {usable / 1e9:.1f} ({USABLE:.0%} of a GPU's memory)"
    share = sequences_per_gpu(cfg, choice)
    if needed.peak <= usable and needed.at_once >= 1:
        waves = f"; samples {needed.at_once} of its {share} sequences at once"
        return f"FITS: {of}{waves if needed.at_once < share else ''}"
    lines = [f"DOES NOT FIT: {of}"]
    for change, _, fits in remedies(cfg, pair, choice, args):
        waves = f", {fits.at_once} sequences at once" if fits.at_once < share else ""
        lines.append(f"  {change}: {fits.peak / 1e9:.1f} GB{waves}, fits")
    if len(lines) == 1:
        lines.append(
            "  nothing here makes it fit: lower --rollout.max_new_tokens, train adapters "
            "(--policy.lora.rank), or use bfloat16 (--policy.dtype, --actor.dtype)"
        )
    return "\n".join(lines)


def time_table(times: Times) -> str:
    total = sum(times.parts.values())
    lines = [f"{'time of a step':<28}{'seconds':>10}{'share':>8}"]
    lines += [f"{k:<28}{s:>10.1f}{s / total:>8.0%}" for k, s in times.parts.items()]
    lines.append(f"{'in all':<28}{total:>10.1f}")
    lines.append(f"rollouts take {times.rollout_share:.0%} of a step")
    if times.g is not None:
        s = cost.gain(times.g, times.rollout_cost, times.update_cost)
        over = cost.break_even(times.rollout_cost, times.update_cost)
        lines.append(
            f"against the policy as its own actor: S = {s:.2f} (g = {times.g:.2f}, the actor's "
            f"rollouts cost {times.rollout_cost:.2f},\nits update adds {times.update_cost:.2f}; it "
            f"gains where g > {over:.2f})"
        )
    return "\n".join(lines)


def drafting_table(
    cfg: Config, choice: Choice, rows: list[drafting.Drafted], least: float | None
) -> str:
    asked = "as set" if drafts(cfg) else "with --rollout.mode.type drafted"
    lines = [
        f"drafted rollouts {asked}, best block length" + " and the one set" * drafts(cfg),
        f"{'':<11}{'':>7}{'tokens per':>13}{'seconds over':>15}{'seconds over':>15}"
        f"{'FLOPs over':>13}{'bytes over':>13}",
        f"{'accepted Z':<11}{'block':>7}{'policy pass':>13}"
        f"{'the policy':>15}{'the actor':>15}{'the policy':>13}{'the policy':>13}",
    ]
    lines += [
        f"{x.z:<11.2f}{x.length:>7}{x.tokens:>13.2f}{x.over_policy:>15.2f}{x.over_actor:>15.2f}"
        f"{x.flops:>13.2f}{x.bytes:>13.2f}"
        for x in rows
    ]
    pays = "at no Z" if least is None else f"from Z = {least:.2f} on"
    lines += [
        f"drafting is faster than decoding the policy {pays}. Assumed: acceptance is independent;",
        "no waiting for the slowest completion, no draws, no cuts of caches. Measured on a CPU,",
        f"drafting took {MEASURED_ABOVE} more than this model says (docs/drafting.md).",
    ]
    if choice.engine == "vllm":
        lines.append("vllm does not draft: this is drafting at its time of a layer.")
    return "\n".join(lines)


def assumed(cfg: Config, device: cost.Device, args: argparse.Namespace, choice: Choice) -> str:
    new = args.mean_new_tokens or cfg.rollout.max_new_tokens / 2
    lines = [
        f"Assumed, not measured: {device.flops / 1e12:g} TFLOP/s at {device.mfu:.0%}, "
        f"{device.bandwidth / 1e9:g} GB/s at {device.read_share:.0%}, {device.link / 1e9:g} GB/s "
        "between GPUs,",
        f"{device.layer_seconds * 1e6:g} us a layer at least ({choice.engine}); mean completion "
        f"{new:,.0f} tokens, mean prompt at most {args.mean_prompt_tokens}. Memory is",
        "for the longest. Not counted: scoring answers, evaluation, copying weights to the engine.",
    ]
    if drafts(cfg):
        lines.append(f"Of drafted tokens {args.accept_rate:.0%} are accepted (--accept-rate).")
    return "\n".join(lines)


def _count(n: int) -> str:
    return f"{n / 1e9:.2f}B" if n >= 1e9 else f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n:,}"
