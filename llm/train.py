"""Algorithm 1: sample from p_inf, weigh by OBRS, update the policy and the actor together."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from . import data, evaluate, metrics
from .advantages import group_advantage
from .checkpoint import Guard, latest, load_state, save_state, write_json
from .config import Config
from .logprobs import chosen, completion_logprobs, entropy
from .losses import TokenWeights, distill_sum, ppo_clip_sum, token_weights
from .metrics import MetricsFile
from .models import Model, policy_and_actor
from .progress import Progress
from .rollout import Batch, sample


class Tokens(NamedTuple):
    """The policy's log-probabilities of the real tokens of a batch, flat, without gradient."""

    logp: torch.Tensor  # (n,) of the sampled token
    topk_logp: torch.Tensor  # (n, k) of q's k likeliest tokens


def train(cfg: Config, folder: Path) -> dict:
    """Run or resume Algorithm 1 in `folder`; returns the summary that it also writes there.

    Raises:
        Diverged: NaN or inf in a loss, weight or gradient; nothing was trained on it.
        ValueError: models or checkpoints that do not fit the configuration.
    """
    policy, actor = policy_and_actor(cfg, folder)
    optimizers: dict[str, torch.optim.Optimizer] = {"policy": _adamw(policy, cfg.optim.policy_lr)}
    if cfg.actor_is_trained:
        optimizers["actor"] = _adamw(actor, cfg.optim.actor_lr)
    parts: dict = {"policy": policy} if actor is None else {"policy": policy, "actor": actor}
    parts |= {f"optimizer_{name}": o for name, o in optimizers.items()}
    checkpoints = folder / "checkpoints"
    kept = latest(checkpoints)
    state = load_state(kept, parts) if kept else {"step": 0, "metrics_bytes": 0}
    rows = MetricsFile(folder / "metrics.jsonl", keep_bytes=state["metrics_bytes"])
    guard = Guard(checkpoints)
    progress = Progress(folder.name, cfg.run.steps, state["step"])

    for step in range(state["step"], cfg.run.steps):
        # Phase 1. Rollout: sample from p_inf, keep its log-probabilities and top k (l. 3-10)
        clock = time.perf_counter()
        batch = rollout(cfg, policy, actor, step, guard)
        reward = evaluate.rewards(batch)
        advantage = group_advantage(reward, cfg.rollout.rollouts_per_prompt)
        batch = replace(batch, reward=reward, advantage=advantage)
        coins = data.stream(cfg.run.seed, "rejection", step).random(batch.is_completion.shape)
        row = {"step": step, **rollout_metrics(batch, cfg)}
        row["seconds_rollout"] = time.perf_counter() - clock
        if step % cfg.run.eval_every == 0:
            row |= evaluation(cfg, policy, actor, batch)

        # Phase 2. Update policy (Eq. 5) and actor (Eq. 6, 7), minibatch by minibatch (l. 11-28)
        clock = time.perf_counter()
        ref = None
        if cfg.loss.updates_per_rollout > 1:
            ref = score(cfg, policy, batch)  # p_ref: the policy before any of these updates
        seen = []
        for share in shares(cfg, batch, step):
            part = batch.rows(share)
            part_ref = _pick(ref, batch, share) if ref else None
            coin = torch.from_numpy(coins)[share][part.is_completion]  # float64: below 1
            seen.append(update(cfg, policy, actor, optimizers, part, part_ref, coin, guard, step))
        row |= merge(seen, cfg)
        row["seconds_update"] = time.perf_counter() - clock

        rows.write(row)
        done = step + 1
        if done % cfg.run.checkpoint_every == 0 or done == cfg.run.steps:
            check_models(cfg, {"policy": policy, "actor": actor}, batch, guard, step)
            save_state(checkpoints, done, parts, {"step": done, "metrics_bytes": rows.size()})
        progress.show(done, progress_text(row))

    progress.close()
    batch = rollout(cfg, policy, actor, cfg.run.steps, guard)
    last = {"step": cfg.run.steps, **evaluation(cfg, policy, actor, batch)}
    rows.write(last)
    return summarise(folder, cfg)


def rollout(cfg: Config, policy: Model, actor: Model, step: int, guard: Guard) -> Batch:
    """This step's prompts, each repeated for its group, completed by the sampling model."""
    r, seed = cfg.rollout, cfg.run.seed
    problems = data.problems(cfg.task, data.stream(seed, "prompts", step), r.prompts_per_step)
    return sample(
        policy if r.source == "policy" else actor,
        [p for p in problems for _ in range(r.rollouts_per_prompt)],
        data.stream(seed, "sampling", step),
        max_new_tokens=r.max_new_tokens,
        temperature=r.temperature,
        top_k=r.top_k,
        check=lambda logq: guard.finite(
            step, **{f"log-probability of the sampling {r.source}": logq}
        ),
    )


@torch.no_grad()
def check_models(
    cfg: Config, models: dict[str, Model], batch: Batch, guard: Guard, step: int
) -> None:
    """Only models that still give finite log-probabilities are worth a checkpoint."""
    for name, model in models.items():
        if model is not None:
            logp = forward(cfg, model, batch.rows(torch.arange(1)))
            guard.finite(step, **{f"log-probability of {name} after the update": logp})


def shares(cfg: Config, batch: Batch, step: int) -> list[torch.Tensor]:
    """The sequences of each optimiser step: all of them, or random equal shares."""
    n, updates = len(batch.answers), cfg.loss.updates_per_rollout
    if updates == 1:
        return [torch.arange(n)]
    order = data.stream(cfg.run.seed, "shares", step).permutation(n)
    return list(torch.from_numpy(order).reshape(updates, -1))


def microbatches(cfg: Config, batch: Batch) -> list[Batch]:
    n = len(batch.answers)
    size = cfg.optim.sequences_per_microbatch or n
    return [batch.rows(torch.arange(i, min(i + size, n))) for i in range(0, n, size)]


def forward(cfg: Config, model: Model, batch: Batch) -> torch.Tensor:
    """Full log-probabilities of the real completion tokens, flat: (n, v)."""
    width = batch.is_completion.shape[1]
    logp = completion_logprobs(
        model, batch.ids, batch.is_real, width, temperature=cfg.rollout.temperature
    )
    return logp[batch.is_completion]


@torch.no_grad()
def score(cfg: Config, model: Model, batch: Batch) -> Tokens:
    """`tokens` of a whole batch, one microbatch after the other."""
    found = [tokens(forward(cfg, model, mb), mb) for mb in microbatches(cfg, batch)]
    return Tokens(*(torch.cat(x) for x in zip(*found, strict=True)))


def tokens(logp: torch.Tensor, batch: Batch) -> Tokens:
    """From full log-probabilities (n, v) to those that the weights need, without gradient."""
    logp = logp.detach()
    real = batch.is_completion
    return Tokens(chosen(logp, batch.completion_ids[real]), logp.gather(-1, batch.topk_ids[real]))


def update(
    cfg: Config,
    policy: Model,
    actor: Model,
    optimizers: dict[str, torch.optim.Optimizer],
    batch: Batch,
    ref: Tokens | None,
    coin: torch.Tensor,
    guard: Guard,
    step: int,
) -> dict:
    """One optimiser step of the policy, and of the actor if it is trained, on the joint loss."""
    micro = microbatches(cfg, batch)
    # Weights need statistics of the whole update: one forward pass serves if it is one microbatch
    logp = forward(cfg, policy, batch) if len(micro) == 1 else None
    now = tokens(logp, batch) if logp is not None else score(cfg, policy, batch)
    guard.finite(step, logp_new=now.logp, logp_inf=batch.logp_inf[batch.is_completion])
    ref = ref or now  # a single update per rollout: p_ref is p_new, without its gradient
    weights = token_weights(
        cfg.correction,
        logp_inf=batch.logp_inf[batch.is_completion],
        logp_ref=ref.logp,
        logp_new=now.logp,
        topk_logp_inf=batch.topk_logp_inf[batch.is_completion],
        topk_logp_target=(now if cfg.correction.target == "new" else ref).topk_logp,
        uniform=coin,
    )
    guard.finite(step, ratio=weights.log_ratio.double().exp(), weight=weights.weight)
    n_proposed = len(weights.weight)
    n_policy: float = n_proposed
    if cfg.loss.denominator == "accepted":
        n_policy = float(weights.accepted.sum()) or 1.0  # nothing accepted: the sum is 0 anyway

    losses = dict.fromkeys(("loss_policy", "loss_actor_ppo", "loss_distill"), 0.0)
    ents, clips, start = [], [], 0
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    for mb in micro:
        full = logp if logp is not None else forward(cfg, policy, mb)
        real = mb.is_completion
        piece = slice(start, start + len(full))
        start += len(full)
        advantage = mb.advantage[:, None].expand(real.shape)[real]
        new = chosen(full, mb.completion_ids[real])
        clip = (cfg.loss.clip_low, cfg.loss.clip_high)
        term = (
            ppo_clip_sum(new, ref.logp[piece], advantage, weights.weight[piece], *clip) / n_policy
        )
        losses["loss_policy"] += float(term.detach())
        joint = term  # L_Jackpot (Eq. 8): policy and actor share no parameters, one backward serves
        if cfg.actor_is_trained:
            full_actor = forward(cfg, actor, mb)
            if cfg.loss.actor_ppo:  # Eq. 6: q is the actor before this phase, so F(p_ref/q) = 1
                act, q = chosen(full_actor, mb.completion_ids[real]), mb.logp_inf[real]
                term = ppo_clip_sum(act, q, advantage, torch.ones_like(q), *clip) / n_proposed
                losses["loss_actor_ppo"] += float(term.detach())
                joint = joint + term
            if cfg.loss.distill_coef > 0:  # Eq. 7
                term = distill_sum(full, full_actor) / n_proposed
                losses["loss_distill"] += float(term.detach())
                joint = joint + cfg.loss.distill_coef * term
        guard.finite(step, loss=joint)
        joint.backward()
        ents.append(entropy(full.detach()))
        clips.append(metrics.clip_fraction(new, ref.logp[piece], advantage, *clip))

    norms = {}
    for name, model in {"policy": policy, "actor": actor}.items():
        if name in optimizers:
            guard.gradients(step, **{name: model})
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.grad_clip)
            norms[f"grad_norm_{name}"] = float(norm)
    for optimizer in optimizers.values():
        optimizer.step()
    return {
        "weights": weights,
        **losses,
        **norms,
        "entropy_policy": float(torch.cat(ents).mean()),
        "clip_fraction": float(torch.cat(clips).mean()),
    }


def merge(seen: list[dict], cfg: Config) -> dict[str, float]:
    """Metrics of a step from those of its updates: token metrics pooled, the others averaged."""
    weights: list[TokenWeights] = [s.pop("weights") for s in seen]
    found = {k: sum(s[k] for s in seen) / len(seen) for k in seen[0]}
    trained = {"loss_actor_ppo": cfg.loss.actor_ppo, "loss_distill": cfg.loss.distill_coef > 0}
    found = {k: v for k, v in found.items() if trained.get(k, True)}
    return metrics.correction_metrics(weights, cfg.correction.name) | found


def rollout_metrics(batch: Batch, cfg: Config) -> dict[str, float]:
    groups = batch.reward.reshape(-1, cfg.rollout.rollouts_per_prompt)
    lengths = batch.is_completion.sum(dim=1)
    ended = [c[-1] == data.EOS for c in batch.completions()]
    return {
        "reward_mean": float(batch.reward.mean()),
        "groups_informative": float((groups != groups[:, :1]).any(dim=1).float().mean()),
        "length_mean": float(lengths.float().mean()),
        "finished": sum(ended) / len(ended),
        "tokens": int(lengths.sum()),
    }


@torch.no_grad()
def evaluation(cfg: Config, policy: Model, actor: Model, batch: Batch) -> dict[str, float]:
    """Held-out pass rates, and both exact KLs on the states of this batch."""
    clock = time.perf_counter()
    found = {"pass_rate": evaluate.pass_rate(policy, cfg)}
    if cfg.rollout.source == "actor":
        found["pass_rate_actor"] = evaluate.pass_rate(actor, cfg)
        pairs = [
            (forward(cfg, policy, mb), forward(cfg, actor, mb)) for mb in microbatches(cfg, batch)
        ]
        found |= metrics.exact_kls(*(torch.cat(x) for x in zip(*pairs, strict=True)))
    found["seconds_eval"] = time.perf_counter() - clock
    return found


def progress_text(row: dict) -> str:
    rate = row["tokens"] / (row["seconds_rollout"] + row["seconds_update"])
    accept = f"  accept {row['accept_rate']:.3f}" if "accept_rate" in row else ""
    return (
        f"reward {row['reward_mean']:.3f}  KL(q,p) {row['kl_inf_target_k3']:.4f}{accept}  "
        f"{rate:.0f} tokens/s"
    )


def summarise(folder: Path, cfg: Config) -> dict:
    """Write summary.json, whose presence says that the run is complete."""
    found = metrics.read(folder / "metrics.jsonl")
    evals = [r for r in found if "pass_rate" in r]
    summary = {
        "steps": cfg.run.steps,
        "pass_rate_first": evals[0]["pass_rate"],
        "pass_rate_last": evals[-1]["pass_rate"],
        "pass_rate_lowest": min(r["pass_rate"] for r in evals),
        "kl_policy_actor_first": evals[0].get("kl_policy_actor"),
        "kl_policy_actor_last": evals[-1].get("kl_policy_actor"),
        "rows": len(found),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _adamw(model: Model, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def _pick(ref: Tokens, batch: Batch, share: torch.Tensor) -> Tokens:
    """The part of `ref` that belongs to some sequences, in their order."""
    real = batch.is_completion
    picked = []
    for flat in ref:
        grid = flat.new_zeros((*real.shape, *flat.shape[1:]))
        grid[real] = flat
        picked.append(grid[share][real[share]])
    return Tokens(*picked)
