"""Phase 2: one step's updates of the policy (Eq. 5) and of the actor (Eq. 6, 7)."""

from __future__ import annotations

import torch

from llm import distributed
from llm.algorithm import diagnostics
from llm.algorithm.control import Controls
from llm.algorithm.correction import CorrectionState, TokenWeights, actor_weights, token_weights
from llm.algorithm.losses import distill_sum, ppo_clip_sum, token_scale
from llm.distributed.dtensors import full
from llm.rollout.batch import Batch
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config
from llm.settings.schema import SeparateActor

from .context import TrainContext
from .forward import Joint, Weighing, joint
from .microbatches import in_order, microbatches
from .minibatches import Share
from .optimizer import Optimizers
from .scoring import score


def update(
    setup: TrainContext,
    optimizers: Optimizers,
    share: Share,
    controls: Controls,
    state: CorrectionState,
    guard: Guard,
    step: int,
) -> dict:
    """One optimiser step of the policy, and of the actor if it is trained, on the joint loss.

    Weights, their statistics, denominators and metrics are of the tokens of all ranks; losses and
    gradients of this rank's, and then summed.

    Raises:
        NonFinite: NaN or inf; no optimiser was stepped.
    """
    cfg, batch, ref = setup.cfg, share.batch, share.ref
    real = batch.is_completion
    micro = microbatches(cfg, batch)
    every = share.tokens()
    # Weights need statistics of the whole update: one forward pass serves if it is one microbatch
    is_target = ref is None or cfg.correction.target == "new"
    single = len(micro) == 1
    only = joint(setup, micro[0].batch, controls, Weighing(state, is_target)) if single else None
    if ref is not None and not (single or is_target):
        now = ref  # the weights are of p_ref alone: no pass over all microbatches before the first
    else:
        now = score(setup, batch, state, is_target=is_target, only=only and only.tokens)
    guard.finite(step, logp_new=now.logp, logp_inf=batch.logp_inf[real])
    if ref is not None:
        guard.finite(step, logp_ref=ref.logp)
    ref = ref or now  # a single update per rollout: p_ref is p_new, without its gradient
    target = now if is_target else ref
    in_topk = (batch.topk_ids[real] == batch.completion_ids[real][:, None]).any(dim=-1)
    weights = token_weights(
        cfg.correction,
        state=state,
        logp_inf=every.whole(batch.logp_inf[real]),
        logp_ref=every.whole(ref.logp),
        logp_new=every.whole(now.logp),
        topk_logp_inf=every.whole(batch.topk_logp_inf[real]),
        topk_logp_target=every.whole(target.topk_logp),
        uniform=every.whole(share.coin),
        in_topk=every.whole(in_topk),
        sequence=every.sequence,
        tail_bound=None if target.tail_bound is None else every.whole(target.tail_bound),
    )
    guard.finite(step, ratio=weights.log_ratio.double().exp(), weight=weights.weight)
    n_proposed = len(weights.weight)
    scale = token_scale(cfg.loss.denominator, weights.accepted, every.sequence, every.sequences)
    weight, scale = every.mine(weights.weight), every.mine(scale)

    losses: dict[str, float] = {}
    entropies, clips = [], []
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    for mb, piece in micro:
        found = only or joint(setup, mb, controls, None)
        advantage = mb.advantage[:, None].expand(mb.is_completion.shape)[mb.is_completion]
        new, clip = found.policy, (cfg.loss.clip_low, cfg.loss.clip_high)
        terms = {
            "loss_policy": ppo_clip_sum(
                new, ref.logp[piece], advantage, weight[piece], *clip, scale[piece]
            )
        }
        if "anchor" in found.kl:
            terms["loss_anchor"] = found.kl["anchor"].sum() / n_proposed
        if setup.actor.trained:
            of_actor = None if share.ref_actor is None else share.ref_actor[piece]
            terms |= actor_terms(setup, mb, found, of_actor, advantage, n_proposed)
        # L_Jackpot (Eq. 8): policy and actor share no parameters, one backward serves both
        coefs = {"loss_anchor": cfg.loss.anchor_coef, "loss_distill": controls.distill_coef}
        trained = {k: v for k, v in terms.items() if k.startswith("loss_")}
        total = sum(coefs.get(name, 1.0) * term for name, term in trained.items())
        assert isinstance(total, torch.Tensor)
        guard.finite(step, loss=total)
        total.backward()
        for name, term in terms.items():
            losses[name] = losses.get(name, 0.0) + float(term.detach())
        entropies.append(found.entropy)
        clips.append(diagnostics.clip_fraction(new, ref.logp[piece], advantage, *clip))

    losses = dict(
        zip(losses, distributed.all_reduce_sum(list(losses.values()), real.device), strict=True)
    )
    norms = {}
    for name in optimizers:
        model = setup.trained[name]
        if name not in setup.shards:  # those are summed already
            distributed.all_reduce_gradients(model.parameters())
        guard.gradients(step, **{name: model})
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.grad_clip)
        norms[f"grad_norm_{name}"] = float(full(norm))
    for optimizer in optimizers.values():
        optimizer.step()
    return {
        "weights": weights,
        **losses,
        **norms,
        "entropy_policy": float(every.whole(in_order(entropies, micro)).mean()),
        "clip_fraction": float(every.whole(in_order(clips, micro)).mean()),
    }


def actor_terms(
    setup: TrainContext,
    batch: Batch,
    found: Joint,
    ref_actor: torch.Tensor | None,
    advantage: torch.Tensor,
    n_proposed: int,
) -> dict[str, torch.Tensor]:
    """Eq. 6 and 7, those of them that are on, each per proposed token of the update.

    With closed-loop control also what it measures: the exact KL(policy || actor).
    """
    own, loss = setup.cfg.actor, setup.cfg.loss
    q, act = batch.logp_inf[batch.is_completion], found.actor
    terms = {}
    if isinstance(own, SeparateActor) and own.ppo and act is not None:
        anchor = q  # Eq. 6: q is the actor before these updates, so F(p_actor_ref / q) = 1
        if own.correction.type != "none":
            anchor = act.detach() if ref_actor is None else ref_actor
        weight = actor_weights(own.correction, anchor, q)
        clip = (loss.clip_low, loss.clip_high)
        terms["loss_actor_ppo"] = ppo_clip_sum(act, anchor, advantage, weight, *clip) / n_proposed
    if "distill" in found.kl and isinstance(own, SeparateActor):
        distill = distill_sum(found.kl["distill"], own.distill_temperature)
        terms["loss_distill"] = distill / n_proposed
    if "control" in found.kl:
        terms["kl_policy_actor_now"] = found.kl["control"].sum() / n_proposed
    return terms


def merge(seen: list[dict], weights: list[TokenWeights], cfg: Config) -> dict[str, float]:
    """Metrics of a step from those of its updates: token metrics pooled, the others averaged."""
    if not seen:
        return {}
    found = {k: sum(s[k] for s in seen) / len(seen) for k in seen[0]}
    return diagnostics.correction_metrics(weights, cfg.correction.type) | found
