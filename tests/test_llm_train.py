"""Runs as a whole: joint training, exact resume after SIGKILL, nothing non-finite ever trains."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm import checkpoint, config, models, run, train
from llm.checkpoint import CheckpointError, Diverged, Guard, latest, load_state, save_state
from llm.metrics import MetricsFile, ess, read

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    *("--policy.layers", "1", "--policy.width", "32", "--actor.layers", "1", "--actor.width", "16"),
    *("--task.digits-min", "1", "--task.digits-max", "2", "--rollout.max-new-tokens", "5"),
    *("--warmup.policy-steps", "120", "--warmup.actor-steps", "80", "--warmup.batch-size", "32"),
    *("--rollout.prompts-per-step", "4", "--rollout.rollouts-per-prompt", "4"),
    *("--run.steps", "12", "--run.eval-every", "4", "--run.eval-prompts", "16"),
    *("--run.checkpoint-every", "3"),
]


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("warm")


def settings(folder: Path, warm: Path, *extra: str) -> config.Config:
    flags = [*TINY, "--run.folder", str(folder), "--warmup.folder", str(warm), *extra]
    return config.load([], flags)


def start(folder: Path, warm: Path, *extra: str) -> dict:
    cfg = settings(folder, warm, *extra)
    return train.train(cfg, run.prepare(cfg))


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without the wall-clock columns, which no resume can repeat."""
    found = read(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("seconds_")} for r in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    kept = latest(folder / "checkpoints")
    return {
        f"{p.name}:{k}": v
        for p in sorted(kept.glob("*.safetensors"))
        for k, v in load_file(p).items()
    }


def test_policy_and_actor_train_jointly_and_the_actor_nears_the_policy(tmp_path, warm):
    """Both change; the distillation loss falls; every metric is finite and rows are complete."""
    cfg = settings(tmp_path, warm, "--run.steps", "40", "--optim.actor-lr", "3e-3")
    before = [
        {k: v.clone() for k, v in m.state_dict().items()}
        for m in models.policy_and_actor(cfg, tmp_path)
    ]
    start(tmp_path, warm, "--run.steps", "40", "--optim.actor-lr", "3e-3")
    kept = latest(tmp_path / "checkpoints")
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


def spawn(folder: Path, warm: Path) -> subprocess.Popen:
    flags = [*TINY, "--run.folder", str(folder), "--warmup.folder", str(warm)]
    return subprocess.Popen(
        [sys.executable, "-m", "llm", "train", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def test_a_run_killed_by_sigkill_and_resumed_repeats_the_uninterrupted_one(tmp_path, warm):
    """Same rows, none doubled or missing, and bit-equal weights and optimiser state at the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start(whole, warm)
    for wanted_rows in (2, 5, 10):  # after step 1, 4 and 9: none of them at a checkpoint
        process = spawn(killed, warm)
        file = killed / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if file.exists() and file.read_bytes().count(b"\n") >= wanted_rows:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert file.read_bytes().count(b"\n") >= wanted_rows
    with (killed / "metrics.jsonl").open("a") as f:
        f.write('{"step": 99, "half a ro')  # what a kill in the middle of a write leaves
    start(killed, warm)
    assert rows(killed) == rows(whole)
    assert [r["step"] for r in rows(killed)] == list(range(13))
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert len(json.loads((killed / "provenance.json").read_text())) == 4


def test_a_resume_at_every_step_repeats_the_uninterrupted_run(tmp_path, warm, monkeypatch):
    """The same in-process: stopped by an error after each step in turn, then resumed."""
    start(tmp_path / "whole", warm, "--run.steps", "5", "--run.checkpoint-every", "2")
    write = MetricsFile.write
    for stop_at in range(5):

        def stopping(self, row, stop_at=stop_at):
            write(self, row)
            if row["step"] == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(MetricsFile, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", warm, "--run.steps", "5", "--run.checkpoint-every", "2")
    monkeypatch.setattr(MetricsFile, "write", write)
    start(tmp_path / "cut", warm, "--run.steps", "5", "--run.checkpoint-every", "2")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize("updates", [1, 4])
def test_policy_forwards_per_step_are_one_per_update_and_one_for_p_ref(
    tmp_path, warm, monkeypatch, updates
):
    """Sec. 4.4.3: no extra log-prob evaluations. With one update p_ref needs no pass of its own."""
    calls = []
    forward = train.forward
    monkeypatch.setattr(
        train, "forward", lambda cfg, model, batch: calls.append(1) or forward(cfg, model, batch)
    )
    monkeypatch.setattr(train, "evaluation", lambda *a: {"pass_rate": 0.0})
    monkeypatch.setattr(train, "check_models", lambda *a: None)  # once a checkpoint, one sequence
    extra = ("--run.steps", "3", "--loss.updates-per-rollout", str(updates))
    start(tmp_path, warm, *extra)
    per_step = 2 if updates == 1 else 1 + 2 * updates  # policy and actor; p_ref once if it differs
    assert len(calls) == 3 * per_step


def test_p_ref_is_the_policy_before_the_updates_at_every_update_of_a_step(
    tmp_path, warm, monkeypatch
):
    """PPO's anchor: each of four updates gets the starting policy's log-probs of its own tokens."""
    original, before, moved, anchors = train.update, {}, [], []
    weigh = train.token_weights

    def weighing(cfg, **kw):
        assert torch.equal(kw["topk_logp_target"], anchors[-1])  # target = ref
        return weigh(cfg, **kw)

    def checking(cfg, policy, actor, optimizers, batch, ref, coin, guard, step):
        if step not in before:
            before[step] = copy.deepcopy(policy)
        expected = train.score(cfg, before[step], batch)
        assert torch.allclose(ref.logp, expected.logp, atol=1e-5)
        assert torch.allclose(ref.topk_logp, expected.topk_logp, atol=1e-5)
        real = batch.is_completion
        coins = train.data.stream(cfg.run.seed, "rejection", step).random((16, real.shape[1]))
        own = torch.from_numpy(coins)[batch.index][real]  # by sequence and position, not by place
        assert torch.equal(coin, own)
        anchors.append(ref.topk_logp)
        now = train.score(cfg, policy, batch).logp
        moved.append(float((now - expected.logp).abs().max()))
        return original(cfg, policy, actor, optimizers, batch, ref, coin, guard, step)

    monkeypatch.setattr(train, "update", checking)
    monkeypatch.setattr(train, "token_weights", weighing)
    monkeypatch.setattr(train.evaluate, "rewards", lambda b: torch.arange(len(b.answers)) % 2.0)
    extra = ("--loss.updates-per-rollout", "4", "--optim.policy-lr", "0.01", "--run.steps", "2")
    start(tmp_path, warm, *extra)
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
    tmp_path, warm, monkeypatch, name, wording
):
    """Nothing non-finite reaches the weights: those of the last checkpoint stay finite."""
    seen = []
    if name == "loss":
        original = train.distill_sum

        def poisoned(*args):
            seen.append(1)
            return original(*args) * (float("nan") if len(seen) == 5 else 1.0)

        monkeypatch.setattr(train, "distill_sum", poisoned)
    elif name == "gradient":
        original = train.entropy

        def poisoned(logp):
            seen.append(1)
            if len(seen) == 5:
                parameter = next(iter(policies[-1].parameters()))
                parameter.grad[0, 0] = float("inf")
            return original(logp)

        policies = []
        build = train.policy_and_actor
        monkeypatch.setattr(
            train, "policy_and_actor", lambda *a: policies.append((m := build(*a))[0]) or m
        )
        monkeypatch.setattr(train, "entropy", poisoned)
    elif name == "weight":
        original = train.token_weights

        def poisoned(cfg, **kw):
            seen.append(1)
            found = original(cfg, **kw)
            if len(seen) == 5:
                found.weight[0] = float("inf")
            return found

        monkeypatch.setattr(train, "token_weights", poisoned)
    else:
        original = train.tokens

        def poisoned(logp, batch):
            seen.append(1)
            return original(logp + (float("nan") if len(seen) == 5 else 0.0), batch)

        monkeypatch.setattr(train, "tokens", poisoned)
    with pytest.raises(Diverged, match=rf"step 4: ({wording}).*step_00000003"):
        start(tmp_path, warm)
    assert all(bool(torch.isfinite(v).all()) for v in weights(tmp_path).values())
    assert [r["step"] for r in rows(tmp_path)] == [0, 1, 2, 3]


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    model = models.build(config.ModelConfig(layers=1, width=16), seed=0)
    kept = save_state(tmp_path, 3, {"policy": model}, {"step": 3})
    file = kept / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step_00000003/policy\.safetensors"):
        load_state(kept, {"policy": model})


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    small = models.build(config.ModelConfig(layers=1, width=16), seed=0)
    large = models.build(config.ModelConfig(layers=1, width=32), seed=0)
    kept = save_state(tmp_path, 3, {"policy": small}, {"step": 3})
    with pytest.raises(CheckpointError, match=r"policy\.safetensors does not fit"):
        load_state(kept, {"policy": large})


def test_a_checkpoint_is_complete_or_absent_and_the_newest_two_are_kept(tmp_path, monkeypatch):
    model = models.build(config.ModelConfig(layers=1, width=16), seed=0)
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"policy": model}, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(tmp_path, 4, {"policy": model}, {"step": 4})
    assert latest(tmp_path).name == "step_00000003"
    monkeypatch.undo()
    save_state(tmp_path, 5, {"policy": model}, {"step": 5})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003", "step_00000005"]


def test_a_warm_up_is_reused_and_one_with_other_settings_is_refused(tmp_path, warm):
    cfg = settings(tmp_path, warm)
    a, b = (models.policy_and_actor(cfg, tmp_path)[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = settings(tmp_path, warm, "--warmup.policy-error", "0.3")
    with pytest.raises(ValueError, match=r"warmup\.policy_error"):
        models.policy_and_actor(other, tmp_path)


def test_a_model_folder_with_another_vocabulary_is_refused(tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=50, num_key_value_heads=1, **small)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"vocabulary of 50 ids"):
        models.load(tmp_path)
    with pytest.raises(ValueError, match=r"cannot load .*nowhere"):
        models.load(tmp_path / "nowhere")


def test_a_pretrained_folder_can_be_policy_and_actor(tmp_path, warm):
    cfg = settings(tmp_path / "first", warm)
    models.policy_and_actor(cfg, tmp_path)
    flags = ["--policy.path", str(warm / "policy/model"), "--actor.path", str(warm / "actor/model")]
    keep = TINY[8:14] + TINY[20:]
    cfg = config.load([], [*keep, *flags, "--run.steps", "1", "--run.folder", str(tmp_path / "r")])
    train.train(cfg, run.prepare(cfg))
    assert [r["step"] for r in rows(tmp_path / "r")] == [0, 1]


def test_guard_passes_finite_values_and_counts_the_others():
    guard = Guard(Path("nowhere"))
    guard.finite(7, x=torch.zeros(3))
    with pytest.raises(Diverged, match=r"step 7: x holds 2 NaN or inf of 3 values.*none yet"):
        guard.finite(7, x=torch.tensor([1.0, float("inf"), float("nan")]))


def test_ess_is_one_for_equal_weights_and_one_over_n_for_a_single_one():
    assert ess(torch.full((10,), 0.3)) == pytest.approx(1.0)
    assert ess(torch.tensor([0.0, 5.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert ess(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 20)
    assert ess(torch.zeros(4)) == 0.0


def test_nan_in_the_sampling_model_stops_the_run_by_name(tmp_path, warm, monkeypatch):
    """The actor's log-probabilities are checked before anything is sampled from them."""
    build = train.policy_and_actor

    def broken(*a):
        policy, actor = build(*a)
        with torch.no_grad():
            actor.lm_head.weight[0, 0] = float("nan")
        return policy, actor

    monkeypatch.setattr(train, "policy_and_actor", broken)
    with pytest.raises(Diverged, match="step 0: log-probability of the sampling actor"):
        start(tmp_path, warm)


def test_a_model_that_an_update_broke_is_never_made_a_checkpoint(tmp_path, warm):
    """Finite parameters, useless model: the last good checkpoint is the one before it."""
    extra = ("--run.checkpoint-every", "1", "--run.steps", "6")
    broke = train.torch.optim.AdamW.step

    def step(self, *a):
        broke(self, *a)
        if steps.append(1) or len(steps) == 5:  # two models a step: the policy's third update
            with torch.no_grad():
                self.param_groups[0]["params"][-1].fill_(3e38)  # the head

    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Diverged, match=r"policy after the update.*step_00000002"):
            start(tmp_path, warm, *extra)
    assert latest(tmp_path / "checkpoints").name == "step_00000002"


def test_metrics_shorter_than_the_checkpoint_counts_are_an_error_at_once(tmp_path, warm):
    start(tmp_path, warm)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds 0 bytes, fewer than the \d+"):
        start(tmp_path, warm)


def test_on_policy_runs_need_no_actor(tmp_path, warm):
    """rollout.source = policy: no actor is built, warmed up or saved."""
    extra = ("--rollout.source", "policy", "--correction.name", "none", "--run.steps", "2")
    keep = [*TINY[:4], *TINY[8:16], *TINY[18:]]
    assert "--warmup.actor-steps" not in keep and "--actor.width" not in keep
    flags = [*keep, *extra, "--loss.actor-ppo", "False", "--loss.distill-coef", "0"]
    cfg = config.load([], [*flags, "--run.folder", str(tmp_path)])
    train.train(cfg, run.prepare(cfg))
    kept = latest(tmp_path / "checkpoints")
    assert sorted(p.name for p in kept.iterdir()) == [
        "optimizer_policy.safetensors",
        "policy.safetensors",
        "state.json",
    ]
    assert not (tmp_path / "warmup" / "actor").exists()
    found = rows(tmp_path)
    assert found[0]["ess_raw"] == pytest.approx(1.0, abs=1e-4) and "kl_policy_actor" not in found[0]


def test_eval_reports_an_interval_and_trains_nothing(tmp_path, warm, capsys, monkeypatch):
    from llm.__main__ import main

    start(tmp_path / "r", warm, "--run.steps", "2")
    monkeypatch.setattr(models, "_warm_up", None)
    (tmp_path / "r" / "config.toml").write_text(
        (tmp_path / "r" / "config.toml").read_text().replace(str(warm), "elsewhere")
    )
    assert main(["eval", str(tmp_path / "r"), "--prompts", "50"]) == 0
    assert capsys.readouterr().out.count("95 % Wilson interval") == 2
    file = latest(tmp_path / "r" / "checkpoints") / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert main(["eval", str(tmp_path / "r")]) == 2
    assert "cannot read" in capsys.readouterr().err
