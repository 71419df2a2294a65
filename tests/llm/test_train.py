"""Runs as a whole: joint training, exact resume after SIGKILL, nothing non-finite ever trains."""

from __future__ import annotations

import copy
import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import llm_process
import pytest
import torch
from optional import not_none
from safetensors.torch import load_file
from tiny_context import PROBLEMS, full_logprobs, learner, rollout, world
from training_runs import COMMON, TINY, rows, settings, start, weights
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model
from update_cases import SETTINGS, assert_same, scored_update, whole
from update_cases import config as update_config

import llm
from jackpot.torch import diagnostics
from jackpot.torch.control import Controls
from llm import randomness, train
from llm import settings as config
from llm.checkpoints.checkpoint import latest
from llm.errors import CheckpointError, ConfigError, Diverged
from llm.models import pretraining
from llm.models.lm_head.chunked import HeadInput, HeadOutput
from llm.runs import run_folder
from llm.runs.metrics_files import MetricsFile
from llm.settings.schema import (
    Distillation,
    IcePopWeight,
    ImportanceWeight,
    KLControl,
    OptimConfig,
    SeparateActor,
    SequenceMicrobatches,
    TisWeight,
)
from llm.train import update
from llm.training import (
    context,
    evaluation,
    passes,
    rollout_phase,
    run,
    scoring,
)
from llm.training import (
    weights as weighing,
)
from llm.training.microbatches import microbatches

NOTHING_WRONG = HeadOutput(lse=torch.zeros(1), entropy=torch.zeros(1))


def train_in(cfg: config.Config) -> None:
    folder = run_folder.prepare(cfg)
    train.train(cfg, folder)
    run_folder.release(folder)


def test_rewards_may_be_a_python_functions_and_another_function_is_another_run(
    tmp_path, pretrained
):
    """Rewards outside [0, 1] train, are evaluated, written and resumed; each completion once."""
    seen: list[tuple] = []
    call = cast(Callable[..., dict[str, Any]], llm.train)

    def short(prompt, completion, answer, finished, **columns):
        seen.append((prompt, completion, answer))
        return -float(len(completion)) - 10 * (not finished)

    def other(completion, **columns):
        return 1.0

    sizes = ("--run.steps", "2", "--run.eval-every", "2", "--run.eval-prompts", "4")
    cfg = settings(tmp_path / "run", pretrained, *sizes)
    summary = call(cfg, reward=short)
    found = rows(tmp_path / "run")
    assert len(seen) == 2 * 16 + 2 * 2 * 4, "two steps; two evaluations of policy and actor"
    assert all(row["reward_mean"] < 0 and row["score_errors"] == 0 for row in found[:2])
    assert summary["pass_rate_last"] == found[2]["pass_rate"] < 0
    assert rows(tmp_path / "run", "samples")[0]["reward"] < 0
    there = config.load([str(tmp_path / "run" / "config.toml")], [])
    assert there.reward.type == "python" and there.reward.callable.endswith("short")
    assert call(cfg, reward=short) == summary, "a complete run is not run again"
    longer = settings(tmp_path / "run", pretrained, *sizes, "--run.steps", "3")
    with pytest.raises(ConfigError, match=r"other settings: reward.callable"):
        call(longer, reward=other)

    def short(completion, **columns):  # type: ignore[no-redef]  # the same name
        return 1.0

    with pytest.raises(CheckpointError, match=r"reward.function .SHA-256 of its source. .* there"):
        call(longer, reward=short)
    with pytest.raises(
        ConfigError, match=r"other settings: reward.type .'python' there, 'auto' now"
    ):
        call(longer)


def opened(cfg: config.Config, folder: Path) -> tuple:
    """Policy and actor as a run starts with them."""
    found = context.open_context(cfg, folder)
    return found.policy, found.actor.model


def test_policy_and_actor_train_jointly_and_the_actor_nears_the_policy(tmp_path, pretrained):
    """Both change; the distillation loss falls; every metric is finite and rows are complete."""
    cfg = settings(tmp_path, pretrained, "--run.steps", "40", "--actor.lr", "3e-3")
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in opened(cfg, tmp_path)]
    start(tmp_path, pretrained, "--run.steps", "40", "--actor.lr", "3e-3")
    kept = not_none(latest(tmp_path / "checkpoints"))
    for name, old in zip(("policy", "actor"), before, strict=True):
        new = load_file(kept / f"{name}.safetensors")
        assert all(
            not torch.equal(new[k], old[k]) for k in ("model.embed_tokens.weight", "lm_head.weight")
        )
    found = rows(tmp_path)
    assert [r["step"] for r in found] == list(range(41))
    first, last = (sum(r["loss_distill"] for r in part) / 5 for part in (found[:5], found[35:40]))
    assert last < 0.6 * first
    assert found[-1]["kl_policy_actor"] < found[0]["kl_policy_actor"]
    for r in found[:-1]:
        assert 0 < r["accept_rate"] <= 1 and 0 < r["ess_applied"] <= 1 and r["grad_norm_actor"] > 0


def test_a_run_killed_by_sigkill_and_resumed_repeats_the_uninterrupted_one(tmp_path, pretrained):
    """Same rows, none doubled or missing, and bit-equal weights and optimiser state at the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [*TINY, "--run.folder", str(killed), "--pretrain.folder", str(pretrained)]
    start(whole, pretrained)
    for wanted_rows in (2, 5, 10):  # after step 1, 4 and 9: none of them at a checkpoint
        process = llm_process.started("train", *flags)
        file = killed / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.is_alive():
            if file.exists() and file.read_bytes().count(b"\n") >= wanted_rows:
                break
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert file.read_bytes().count(b"\n") >= wanted_rows
    with (killed / "metrics.jsonl").open("a") as f:
        f.write('{"step": 99, "half a ro')  # what a kill in the middle of a write leaves
    start(killed, pretrained)
    assert rows(killed) == rows(whole)
    assert [r["step"] for r in rows(killed)] == list(range(13))
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert len(json.loads((killed / "provenance.json").read_text())) == 4


def test_a_resume_at_every_step_repeats_the_uninterrupted_run(tmp_path, pretrained, monkeypatch):
    """The same in-process: stopped by an error after each step in turn, then resumed."""
    start(tmp_path / "whole", pretrained, "--run.steps", "5", "--run.checkpoint-every", "2")
    write = MetricsFile.write
    for stop_at in range(5):

        def stopping(self, *rows, stop_at=stop_at):
            write(self, *rows)
            if self.path.name == "metrics.jsonl" and rows[0]["step"] == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(MetricsFile, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, "--run.steps", "5", "--run.checkpoint-every", "2")
    monkeypatch.setattr(MetricsFile, "write", write)
    start(tmp_path / "cut", pretrained, "--run.steps", "5", "--run.checkpoint-every", "2")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_finished_run_that_goes_on_equals_a_longer_one(tmp_path, pretrained, capsys):
    """Rows, samples, weights and optimiser; the row of its former end gives way to a step."""
    often = ("--run.eval-every", "2", "--run.checkpoint-every", "5")
    start(tmp_path / "whole", pretrained, "--run.steps", "5", *often)
    start(tmp_path / "more", pretrained, "--run.steps", "3", *often)
    assert [r["step"] for r in rows(tmp_path / "more")] == [0, 1, 2, 3]
    capsys.readouterr()
    summary = start(tmp_path / "more", pretrained, "--run.steps", "5", *often)
    assert "more: goes on after 3 steps with other settings: run.steps (3 there, 5 now)" in (
        capsys.readouterr().err
    )
    assert (
        summary["steps"] == 5
        and config.load([str(tmp_path / "more/config.toml")], []).run.steps == 5
    )
    for name in ("metrics", "samples", "histograms", "decisions"):
        assert rows(tmp_path / "more", name) == rows(tmp_path / "whole", name)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "more")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_start_that_fails_after_opening_leaves_a_finished_run_as_it_was(
    tmp_path, pretrained, monkeypatch
):
    """A longer run whose self-test fails has taken nothing from the shorter one."""
    start(tmp_path, pretrained, "--run.steps", "1")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix in (".toml", ".jsonl")}

    def fails(ctx):
        raise config.ConfigError("no")

    monkeypatch.setattr(train, "self_test", fails)
    with pytest.raises(config.ConfigError, match="no"):
        start(tmp_path, pretrained, "--run.steps", "2")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("updates", "micro", "target", "head", "passes", "objective"),
    [
        (1, 0, "ref", "auto", 2, "ppo"),  # policy and actor: p_ref is p_new
        (
            1,
            6,
            "ref",
            "chunked",
            3,
            "ppo",
        ),  # statistics of the whole step before its first microbatch
        (4, 0, "ref", "auto", 3, "ppo"),  # PPO's own pass for p_ref
        (4, 0, "new", "chunked", 3, "ppo"),
        (4, 3, "ref", "auto", 3, "ppo"),
        (4, 3, "new", "auto", 4, "ppo"),
        (4, 3, "ref", "auto", 3.75, "bapo"),  # p_new of all tokens in all updates but the first
    ],
)
def test_passes_over_a_batch_are_one_of_each_model_and_one_for_p_ref(
    tmp_path, pretrained, monkeypatch, updates, micro, target, head, passes, objective
):
    """Sec. 4.4.3: no extra log-prob evaluations; more only as DEVIATIONS 12 says. Sequences that go
    through a model without a cache, that is not for sampling, over those of the batch."""
    sequences = []
    forward = Qwen3Model.forward

    def counted(self, *args, **kwargs):
        if not kwargs["use_cache"]:
            sequences.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    def from_here(*args):
        found = opened(*args)
        sequences.clear()  # before training: the pretraining, and a look at the heads
        return found

    opened = run.open_learner
    monkeypatch.setattr(run, "open_learner", from_here)
    monkeypatch.setattr(Qwen3Model, "forward", counted)
    monkeypatch.setattr(run, "evaluate", lambda *a: {"pass_rate": 0.0, "kl_policy_actor": 0.0})
    monkeypatch.setattr(
        run, "forward", lambda *a: HeadInput(torch.zeros(1, 2))
    )  # once a checkpoint, one sequence
    monkeypatch.setattr(run, "logprobs_and_kls", lambda *a: ([NOTHING_WRONG], []))
    monkeypatch.setattr(train, "self_test", lambda *a: None)  # once a run
    extra = ["--run.steps", "3", "--loss.updates-per-rollout", str(updates), "--optim.head", head]
    extra += ["--optim.microbatch.sequences", str(micro), "--correction.target.type", target]
    start(tmp_path, pretrained, *extra, "--objective.type", objective)
    assert sum(sequences) == 3 * 16 * passes


@pytest.mark.parametrize("kind", ["none", "tis"])
def test_p_ref_is_each_model_before_the_updates_at_every_update_of_a_step(
    tmp_path, pretrained, monkeypatch, kind
):
    """PPO's p_old: each of four updates gets the starting models' log-probs of its own tokens."""
    original, before, moved = train.update, {}, []
    logps: list[torch.Tensor] = []
    weigh = weighing.token_weights

    def checking_target(inputs, state, **settings):
        assert torch.equal(inputs.topk_logp_target, logps[-1])  # target = ref
        return weigh(inputs, state, **settings)

    def checking(world, learner, minibatch, step):
        if step not in before:
            before[step] = copy.deepcopy(world.policy), copy.deepcopy(world.actor.model)
        old = world._replace(policy=before[step][0])
        batch, ref, state = minibatch.batch, minibatch.p_ref, learner.correction
        micro = microbatches(world.cfg, batch)
        expected = scoring.score(old, micro, state, is_target=True)
        assert torch.allclose(ref.logp, expected.logp, atol=1e-5)
        assert torch.allclose(ref.topk_logp, expected.topk_logp, atol=1e-5)
        assert torch.allclose(ref.tail_bound, not_none(expected.tail_bound), atol=1e-5)
        real = batch.is_completion
        if kind == "tis":
            full = full_logprobs(before[step][1], batch.ids, batch.is_real, real.shape[1], 1.0)
            taken = full[real].gather(1, batch.token_ids[:, None])[:, 0].detach()
            assert torch.allclose(minibatch.logp_actor_ref, taken, atol=1e-5)
        else:
            assert minibatch.logp_actor_ref is None
        coins = randomness.stream(world.cfg.run.seed, "rejection", step).random((16, real.shape[1]))
        own = torch.from_numpy(coins)[batch.index][real]  # by sequence and position, not by place
        assert torch.equal(minibatch.uniform, own)
        logps.append(ref.topk_logp)
        now = scoring.score(world, micro, state, is_target=True).logp
        moved.append(float((now - expected.logp).abs().max()))
        return original(world, learner, minibatch, step)

    monkeypatch.setattr(train, "update", checking)
    monkeypatch.setattr(weighing, "token_weights", checking_target)
    for module in (rollout_phase, evaluation):
        monkeypatch.setattr(module, "rewards", lambda b, s: torch.arange(len(b.answers)) % 2.0)
    extra = ("--loss.updates-per-rollout", "4", "--optim.policy-lr", "0.01", "--run.steps", "2")
    stale = ("--rollout.max-staleness", "1")  # else the actor has nothing to correct
    start(tmp_path, pretrained, *extra, *stale, "--actor.correction.type", kind)
    assert len(moved) == 8 and moved[0] == 0.0 and max(moved) > 0.01


@pytest.mark.parametrize(
    "name, wording",
    [
        ("loss", "loss"),
        ("gradient", r"gradient of policy\."),
        ("weight", "weight"),
        ("logits", "logp_new"),
    ],
)
def test_a_non_finite_value_stops_the_run_naming_step_tensor_and_checkpoint(
    tmp_path, pretrained, monkeypatch, name, wording
):
    """Nothing non-finite reaches the weights: those of the last checkpoint stay finite."""
    seen: list[int] = []
    original: Any
    if name == "loss":
        original = train.distill_sum

        def poisoned_loss(*args):
            seen.append(1)
            return original(*args) * (float("nan") if len(seen) == 5 else 1.0)

        monkeypatch.setattr(train, "distill_sum", poisoned_loss)
    elif name == "gradient":
        original = train.UpdateMetrics.add

        def poisoned_gradient(*args):
            seen.append(1)
            if len(seen) == 5:
                parameter = next(iter(policies[-1].parameters()))
                parameter.grad[0, 0] = float("inf")
            return original(*args)

        policies = []
        build = train.open_context

        def opening(*args):
            made = build(*args)
            policies.append(made.policy)
            return made

        monkeypatch.setattr(train, "open_context", opening)
        monkeypatch.setattr(train.UpdateMetrics, "add", poisoned_gradient)
    elif name == "weight":
        original = weighing.token_weights

        def poisoned_weight(*args, **settings):
            seen.append(1)
            found = original(*args, **settings)
            if len(seen) == 5:
                found.weight[0] = float("inf")
            return found

        monkeypatch.setattr(weighing, "token_weights", poisoned_weight)
    else:
        original = passes.forward_all

        def poisoned_logp(*args, **settings):
            seen.append(1)
            found = original(*args, **settings)
            bad = found.for_weights.logp + (float("nan") if len(seen) == 5 else 0.0)
            return found._replace(for_weights=found.for_weights._replace(logp=bad))

        monkeypatch.setattr(passes, "forward_all", poisoned_logp)
    with pytest.raises(Diverged, match=rf"step 4: ({wording}).*step_00000003"):
        start(tmp_path, pretrained)
    assert all(bool(torch.isfinite(v).all()) for v in weights(tmp_path).values())
    found = rows(tmp_path)
    assert [r["step"] for r in found] == [0, 1, 2, 3, 4]
    assert [r["alarms"] for r in found] == [[], [], [], [], ["non_finite"]]


def test_a_pretraining_is_reused_and_other_settings_get_one_of_their_own(tmp_path, pretrained):
    cfg = settings(tmp_path, pretrained)
    a, b = (opened(cfg, tmp_path)[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = settings(tmp_path, pretrained, "--pretrain.policy-error", "0.3")
    c = opened(other, tmp_path)[0].state_dict()
    assert not all(torch.equal(a[k], c[k]) for k in a)
    d = opened(cfg, tmp_path)[0].state_dict()
    assert all(torch.equal(a[k], d[k]) for k in a)


def test_a_pretrained_folder_can_be_policy_and_actor(tmp_path, pretrained):
    cfg = settings(tmp_path / "first", pretrained)
    opened(cfg, tmp_path)
    kept = {
        role: pretraining.kept_in(cfg, role, tmp_path) / "model" for role in ("policy", "actor")
    }
    flags = [f"--{role}.path={path}" for role, path in kept.items()]
    keep = [*COMMON[:6], *COMMON[10:]]
    cfg = config.load([], [*keep, *flags, "--run.steps", "1", "--run.folder", str(tmp_path / "r")])
    train_in(cfg)
    assert [r["step"] for r in rows(tmp_path / "r")] == [0, 1]


def test_nan_in_the_sampling_model_stops_the_run_by_name(tmp_path, pretrained, monkeypatch):
    """The actor's log-probabilities are checked before anything is sampled from them."""
    build = train.open_context

    def broken(*a):
        found = build(*a)
        with torch.no_grad():
            found.actor.model.lm_head.weight[0, 0] = float("nan")
        return found

    monkeypatch.setattr(train, "open_context", broken)
    with pytest.raises(Diverged, match="step 0: log-probability of the sampling model"):
        start(tmp_path, pretrained)


def test_a_model_that_an_update_broke_is_never_made_a_checkpoint(tmp_path, pretrained):
    """Finite parameters, useless model: the last good checkpoint is the one before it."""
    extra = ("--run.checkpoint-every", "1", "--run.steps", "6")
    broke = torch.optim.AdamW.step

    def step(self, *a):
        broke(self, *a)
        steps.append(1)
        if len(steps) == 5:  # two models a step: the policy's third update
            with torch.no_grad():
                self.param_groups[0]["params"][-1].fill_(3e38)  # the head

    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Diverged, match=r"policy after the update.*step_00000002"):
            start(tmp_path, pretrained, *extra)
    assert not_none(latest(tmp_path / "checkpoints")).name == "step_00000002"


def test_metrics_shorter_than_the_checkpoint_counts_are_an_error_at_once(tmp_path, pretrained):
    start(tmp_path, pretrained)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds 0 bytes, fewer than the \d+"):
        start(tmp_path, pretrained)


def test_on_policy_runs_need_no_actor(tmp_path, pretrained):
    """actor.type = self: no actor is built, pretrained or saved."""
    extra = ("--actor.type", "self", "--correction.type", "none", "--run.steps", "2")
    cfg = config.load([], [*COMMON, *extra, "--run.folder", str(tmp_path)])
    train_in(cfg)
    kept = not_none(latest(tmp_path / "checkpoints"))
    assert sorted(p.stem for p in kept.glob("*.safetensors")) == ["optimizer_policy", "policy"]
    assert [p.name[:6] for p in (tmp_path / "pretrained").iterdir()] == ["policy"]
    found = rows(tmp_path)
    assert (
        found[0]["ess_raw"] == pytest.approx(1.0, abs=1e-4) and found[0]["kl_policy_actor"] == 0.0
    )


def test_eval_reports_an_interval_and_trains_nothing(tmp_path, pretrained, capsys, monkeypatch):
    from llm.__main__ import main

    start(tmp_path / "r", pretrained, "--run.steps", "2")
    monkeypatch.setattr(pretraining, "_train", None)
    (tmp_path / "r" / "config.toml").write_text(
        (tmp_path / "r" / "config.toml").read_text().replace(str(pretrained), "elsewhere")
    )
    assert main(["eval", str(tmp_path / "r"), "--prompts", "50"]) == 0
    said = capsys.readouterr().out
    assert "policy" in said and "actor" in said and "pass@4" in said
    file = not_none(latest(tmp_path / "r" / "checkpoints")) / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert main(["eval", str(tmp_path / "r")]) == 2
    assert "policy.safetensors" in capsys.readouterr().err


def test_control_drives_the_gradient_of_the_distillation(pair, scene):
    """The coefficient in force is the controller's, not the configured one."""
    cfg = update_config(type="none")
    cfg = dataclasses.replace(cfg, actor=SeparateActor(ppo=False))
    one, three = (
        scored_update(pair, cfg, *scene, controls=Controls(distill_coef=c))[0] for c in (1.0, 3.0)
    )
    assert three["loss_distill"] == pytest.approx(one["loss_distill"])
    assert three["grad_norm_actor"] == pytest.approx(3 * one["grad_norm_actor"], rel=1e-4)


def test_control_measures_the_exact_forward_kl_whatever_is_distilled(pair, scene):
    cfg = update_config(type="none")
    cfg = dataclasses.replace(cfg, control=KLControl(kl_target=0.1))
    distill = Distillation("reverse", top_k=3, temperature=2.0)
    other = dataclasses.replace(cfg, actor=SeparateActor(distill=distill))
    a, b = (scored_update(pair, c, *scene)[0] for c in (cfg, other))
    assert a["kl_policy_actor_now"] == pytest.approx(a["loss_distill"], rel=1e-6)
    assert b["kl_policy_actor_now"] == pytest.approx(a["kl_policy_actor_now"], rel=1e-6)
    assert b["loss_distill"] != pytest.approx(a["loss_distill"], rel=0.005)


def test_the_actors_ratio_is_to_the_actor_before_the_updates(pair, scene):
    """actor.correction on, second update of a step: p_actor_ref is given, not the present actor."""
    batch, coin = scene
    cfg = update_config(type="none")
    stale = dataclasses.replace(cfg.rollout, max_staleness=1)
    cfg = dataclasses.replace(cfg, rollout=stale, actor=SeparateActor(correction=TisWeight()))
    real = batch.is_completion
    now = full_logprobs(pair[1], batch.ids, batch.is_real, real.shape[1], 1.0)[real].detach()
    act, q = now.gather(1, batch.token_ids[:, None])[:, 0], batch.logp_inf
    before = act - 0.3  # as if the actor had since moved by 0.3 nats at every token
    advantage = batch.advantage[:, None].expand(batch.is_completion.shape)[batch.is_completion]
    ratio, weight = (act - before).exp(), (before - q).exp().clamp(max=2.0)
    clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    found = scored_update(pair, cfg, batch, coin, ref_actor=before)[0]
    assert found["loss_actor_ppo"] == pytest.approx(-float((weight * clipped).mean()), rel=1e-4)


@pytest.mark.parametrize("own", [ImportanceWeight(), TisWeight(), IcePopWeight()])
def test_a_correction_of_the_actor_is_nothing_where_it_samples_for_itself(pair, scene, own):
    """p_actor_ref = p_inf but for rounding: why such a setting is refused, also of several updates.
    Second update of a step: the actor has moved by some tenths of a nat."""
    batch, coin = scene
    plain = update_config(type="none")
    stale = dataclasses.replace(plain.rollout, max_staleness=1)  # so that it is accepted
    other = dataclasses.replace(plain, rollout=stale, actor=SeparateActor(correction=own))
    moved = copy.deepcopy(pair[1])
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.02)
    real = batch.is_completion
    logp = full_logprobs(pair[1], batch.ids, batch.is_real, real.shape[1], 1.0)[real].detach()
    before = logp.gather(1, batch.token_ids[:, None])[:, 0]
    assert (before - batch.logp_inf).abs().max() < 1e-4
    ours = scored_update((pair[0], moved), other, batch, coin, ref_actor=before)
    assert_same(ours, scored_update((pair[0], moved), plain, batch, coin))
    assert ours[0]["loss_actor_ppo"] != 0.0


@pytest.fixture(scope="module")
def near(pair):
    """A policy and an actor of which it accepts most tokens, and a batch of that actor's."""
    actor = copy.deepcopy(pair[0])
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in actor.parameters():
            p.add_(0.02 * p.std() * torch.randn(p.shape, generator=generator))
    batch = rollout(actor, problems=PROBLEMS * 4, seed=3)
    batch = dataclasses.replace(batch, advantage=torch.linspace(-1.5, 2.0, 20))
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return (pair[0], actor), batch, coin


@pytest.mark.parametrize("mask", ["bernoulli", "expected"])
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("order", [None, torch.arange(20).flip(0)], ids=["as is", "reversed"])
def test_a_prefix_is_of_one_sequence(near, mask, size, order):
    """With scope prefix each sequence's tokens count as far as those before them in it do,
    whatever the microbatches and the order of the sequences."""
    models, batch, coin = near
    found = {}
    for scope in ("token", "prefix"):
        cfg = update_config(type="jackpot", mask=mask, scope=scope)
        cfg = dataclasses.replace(
            cfg, optim=OptimConfig(microbatch=SequenceMicrobatches("sequences", size))
        )
        found[scope] = scored_update(models, cfg, batch, coin, order=order)[0]["weights"]
    real = batch.is_completion if order is None else batch.is_completion[order]
    alone = torch.ones(real.shape)
    alone[real] = found["token"].accepted
    before = torch.cat([torch.ones(len(real), 1), alone.cumprod(dim=1)[:, :-1]], dim=1)[real]
    assert 0.2 < float(before.mean()) < 0.95
    assert torch.allclose(found["prefix"].weight, found["token"].weight * before, atol=1e-6)
    assert torch.allclose(found["prefix"].accepted, found["token"].accepted * before, atol=1e-6)


def widened(padded, batch, coin, *, left, right):
    """The same sequences with more padding on both sides, with poison in it."""
    b = len(padded.answers)

    def pad(x, value, n_left, n_right):
        shape = list(x.shape)
        shape[1] = n_left
        before = torch.full(shape, value, dtype=x.dtype)
        shape[1] = n_right
        return torch.cat([before, x, torch.full(shape, value, dtype=x.dtype)], dim=1)

    nan, t = float("nan"), padded.is_completion.shape[1]
    poisoned = torch.where(padded.is_completion, padded.logp_inf, torch.tensor(nan))
    topk = torch.where(padded.is_completion[..., None], padded.topk_logp_inf, torch.tensor(nan))
    assert b and t
    wide = dataclasses.replace(
        padded,
        ids=pad(padded.ids, 7, left, right),
        is_real=pad(padded.is_real, False, left, right),
        is_completion=pad(padded.is_completion, False, 0, right),
        logp_inf=pad(poisoned, nan, 0, right),
        topk_ids=pad(padded.topk_ids, 3, 0, right),
        topk_logp_inf=pad(topk, nan, 0, right),
        version=pad(padded.version, -9, 0, right),
    )
    flat = dataclasses.replace(wide.flat(), advantage=batch.advantage)
    return flat, pad(coin, nan, 0, right)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("left, right", [(0, 4), (3, 0), (2, 5)])
def test_padding_and_poison_in_it_change_nothing(pair, padded, scene, setting, left, right):
    """NaN at every padded position leaves loss, gradient and metrics finite and unchanged."""
    cfg = update_config(**setting)
    wide = widened(padded, *scene, left=left, right=right)
    assert_same(scored_update(pair, cfg, *scene), scored_update(pair, cfg, *wide))


def test_the_actors_ppo_carries_none_of_the_policys_weights(pair, scene):
    """Eq. 6: the actor sampled the tokens itself, so F = 1 whatever the policy's correction is."""
    plain, _ = scored_update(pair, update_config(type="none"), *scene)
    for setting in ({"lam": 5.0}, {"mask": "expected", "target": "new"}):
        found, _ = scored_update(pair, update_config(type="jackpot", **setting), *scene)
        assert found["loss_actor_ppo"] == pytest.approx(plain["loss_actor_ppo"], rel=1e-6)
        assert found["loss_policy"] != pytest.approx(plain["loss_policy"], rel=1e-3)


def test_the_actors_gradient_is_proportional_to_the_distillation_coefficient(pair, scene):
    """Eq. 8: lambda_distill L_distill, with nothing else training the actor."""
    grads = []
    for coef in (0.5, 2.0):
        cfg = update_config(type="none")
        own = SeparateActor(ppo=False, distill=Distillation(coef=coef))
        found, _ = scored_update(pair, dataclasses.replace(cfg, actor=own), *scene)
        grads.append(found["grad_norm_actor"])
    assert grads[1] == pytest.approx(4 * grads[0], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(pair, scene):
    """SGD with learning rate 1 moves each model by exactly its clipped gradient."""
    cfg = dataclasses.replace(update_config(type="none"), optim=OptimConfig(grad_clip=0.01))
    moved = [copy.deepcopy(m) for m in pair]
    optimizers = {
        name: torch.optim.SGD(m.parameters(), lr=1.0)
        for name, m in zip(("policy", "actor"), moved, strict=True)
    }
    batch, coin = scene
    coin = coin[batch.is_completion]
    update(world(cfg, moved), learner(cfg, optimizers), whole(batch, coin), 0)
    for old, new in zip(pair, moved, strict=True):
        steps = [(a - b).flatten() for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert float(torch.cat(steps).norm().detach()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("setting", [*SETTINGS, {"type": "none"}], ids=str)
def test_tokens_that_the_policy_cannot_sample_are_legal_and_move_nothing(pair, scene, setting):
    """p = 0 at a third of the batch's tokens: the loss and every gradient are finite, and those of
    the policy are as if its distribution at these tokens did not matter."""
    policy, actor = (copy.deepcopy(m) for m in pair)
    batch = scene[0]
    masked = batch.token_ids.mode().values
    bias = torch.zeros(48)
    bias[masked] = -torch.inf
    policy.lm_head.bias = torch.nn.Parameter(bias)
    cfg = update_config(**setting)
    found, gradients = scored_update((policy, actor), cfg, *scene)
    weights = found["weights"]
    impossible = batch.token_ids == masked
    assert bool(impossible.any())
    assert bool(torch.isneginf(weights.log_ratio[impossible]).all())
    assert all(bool(g.isfinite().all()) for g in gradients)
    if setting["type"] != "none":
        assert float(weights.weight[impossible].abs().max()) == 0.0
    assert all(torch.isfinite(torch.tensor(v)) for k, v in found.items() if isinstance(v, float))
    metrics = diagnostics.correction_metrics([weights], setting["type"])
    assert all(torch.isfinite(torch.tensor(v)) for v in metrics.values())
