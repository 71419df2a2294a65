"""Runs as a whole with each kind of actor, alarm, controller and setting."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import llm_process
import pytest
import torch
from optional import not_none
from training_runs import COMMON, POLICY, TINY, derived, rows, settings, start, weights

from llm import settings as config
from llm import train
from llm.checkpoints import checkpoint
from llm.commands import train as train_command
from llm.errors import Diverged
from llm.models import actors
from llm.models.lm_head import chunked
from llm.runs import run_folder
from llm.runs.metrics_files import RunFiles
from llm.training import context, evaluation, rollout_phase, run

ROOT = Path(__file__).resolve().parents[3]
KINDS = {
    "separate": TINY,
    "frozen": (*TINY, "--actor.type", "frozen"),
    "stale": derived("stale", *POLICY, "--actor.lag", "2"),
    "quantized": derived("quantized", *POLICY),
    "early_exit": derived("early_exit", "--policy.layers", "2", "--policy.width", "32"),
    "noisy": derived("noisy", *POLICY),
    "self": derived("self", *POLICY, "--correction.type", "none"),
}


def test_a_quantised_run_with_its_head_in_blocks_never_holds_whole_logits(
    pretrained, tmp_path, monkeypatch
):
    """Nor at its evaluation and the check of its models; both KLs are those of whole logits."""
    flags = ("--run.steps", "1", "--run.eval-every", "1")
    base, found = (*KINDS["quantized"], "--actor.bits", "4"), {}
    for way in ("dense", "chunked"):
        if way == "chunked":
            monkeypatch.setattr(chunked, "dense_logprobs", None)
        start(tmp_path / way, pretrained, *flags, "--optim.head", way, base=base)
        found[way] = rows(tmp_path / way)
    assert len(found["dense"]) == 2  # a step, and the end
    for whole, ours in zip(found["dense"], found["chunked"], strict=True):
        for name in ("kl_policy_actor", "kl_actor_policy"):
            assert whole[name] > 0
            assert ours[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-6)


@pytest.fixture
def mixed_rewards(monkeypatch):
    """Every group has right and wrong completions, whatever these small models say."""
    for module in (rollout_phase, evaluation):
        monkeypatch.setattr(
            module, "rewards", lambda b, scorer: torch.arange(len(b.answers)) % 4 / 3.0
        )


def cut_after(monkeypatch, step: int) -> None:
    """End the next run by an error once the row of this step is written."""
    write = RunFiles.write

    def stopping(self, name, *found):
        write(self, name, *found)
        if name == "metrics" and found[0]["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFiles, "write", stopping)


@pytest.mark.parametrize("kind", KINDS)
def test_each_actor_runs_reports_its_kl_and_resumes_exactly(
    tmp_path, tmp_path_factory, monkeypatch, kind, capfd
):
    """Cut after step 4, between checkpoints, a run repeats the uninterrupted one."""
    pretrained = (
        tmp_path_factory.getbasetemp() / f"pretrained-{'two' if kind == 'early_exit' else 'one'}"
    )
    extra = ("--run.steps", "6", "--run.checkpoint-every", "3", "--optim.policy-lr", "1e-3")
    start(tmp_path / "whole", pretrained, *extra, base=KINDS[kind])
    assert f"actor: {kind}, KL(policy, actor)" in capfd.readouterr().err
    found = rows(tmp_path / "whole")
    kl = found[0]["kl_policy_actor"]
    assert kl == 0.0 if kind in ("self", "stale") else kl > 1e-7
    if kind == "stale":
        assert found[4]["kl_policy_actor"] > 0.0
    with monkeypatch.context() as patch:
        cut_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, *extra, base=KINDS[kind])
    start(tmp_path / "cut", pretrained, *extra, base=KINDS[kind])
    for name in ("metrics", "samples", "histograms", "decisions"):
        assert rows(tmp_path / "cut", name) == rows(tmp_path / "whole", name)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_alarm_lowers_the_learning_rates_is_in_the_metrics_and_stops_in_the_end(
    tmp_path, pretrained
):
    limits = ("--alarm.kl-max", "1e-6", "--alarm.patience", "2", "--alarm.action.type", "lower")
    with pytest.raises(Diverged, match=r"alarm kl: kl_inf_target_k3 .* is above --alarm.kl_max"):
        start(tmp_path, pretrained, *limits, "--alarm.action.lowerings_max", "2")
    found = rows(tmp_path)
    assert [r["alarms"] for r in found] == [[], ["kl"]] * 3
    factor = [r["lr_policy"] / found[0]["lr_policy"] for r in found]
    assert factor == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    decisions = rows(tmp_path, "decisions")
    assert [(d["before"], d["after"], d["limited"]) for d in decisions] == [
        (1.0, 0.5, False),
        (0.5, 0.25, False),
        (0.25, 0.25, True),
    ]


def test_an_update_with_nan_is_skipped_alarmed_and_training_goes_on(
    tmp_path, pretrained, monkeypatch, mixed_rewards
):
    """alarm.action.type = lower: the broken update changes no weight; the next steps train."""
    original, calls, states = train.distill_sum, [], []

    def poisoned(*args):
        calls.append(1)
        return original(*args) * (math.nan if len(calls) == 3 else 1.0)

    split = train.split_minibatches

    def watching(world, *args):
        states.append({k: v.clone() for k, v in world.policy.state_dict().items()})
        return split(world, *args)

    monkeypatch.setattr(train, "distill_sum", poisoned)
    monkeypatch.setattr(train, "split_minibatches", watching)
    start(tmp_path, pretrained, "--alarm.action.type", "lower", "--run.steps", "6")
    found = rows(tmp_path)
    assert [r["updates_skipped"] for r in found[:6]] == [0, 0, 1, 0, 0, 0]
    assert [r["alarms"] for r in found[:6]] == [[], [], ["non_finite"], [], [], []]
    pairs = itertools.pairwise(states)
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs]
    assert same == [False, False, True, False, False]
    assert found[3]["lr_policy"] == 0.5 * found[2]["lr_policy"] and "loss_policy" not in found[2]


@pytest.mark.parametrize("where", ["evaluation", "rollout", "checkpoint"])
def test_nan_outside_an_update_is_an_alarm_in_the_metrics_and_stops(
    tmp_path, pretrained, monkeypatch, where
):
    """Even with alarm.action lower: where no update can be left out there is nothing to go on."""
    follow = actors.Actor.refresh

    def breaking(self, policy, step):
        follow(self, policy, step)
        if step == 2:
            with torch.no_grad():
                broken = self.model if where == "rollout" else policy
                broken.lm_head.weight[0, 0] = math.nan

    monkeypatch.setattr(actors.Actor, "refresh", breaking)
    every = ("--run.checkpoint-every", "3" if where == "checkpoint" else "50")
    evals = ("--run.eval-every", "3" if where == "evaluation" else "50")
    with pytest.raises(Diverged):
        start(tmp_path, pretrained, *every, *evals, "--alarm.action.type", "lower")
    last = rows(tmp_path)[-1]
    assert last["alarms"] == ["non_finite"] and last["step"] == (2 if where == "checkpoint" else 3)
    assert rows(tmp_path, "decisions")[-1]["limited"] is True


def test_two_runs_share_a_pretraining_at_once(tmp_path):
    """The second waits for the first one's models instead of getting in its way."""
    flags = (*TINY, "--pretrain.folder", str(tmp_path / "pretrained"), "--run.steps", "1")
    running = {
        name: llm_process.started(
            "train", *flags, "--run.folder", str(tmp_path / name), stderr=tmp_path / f"{name}.txt"
        )
        for name in "ab"
    }
    for process in running.values():
        process.join(200)
    said = {name: (tmp_path / f"{name}.txt").read_text() for name in running}
    assert [process.exitcode for process in running.values()] == [0, 0], said
    assert sum("pretraining policy: 120/120" in text for text in said.values()) == 1, said
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_the_controller_moves_what_it_drives_within_limits_and_logs_it(tmp_path, pretrained):
    """KL far above target: distillation and the actor's rate rise to their limit, no further."""
    flags = (
        "--control.type",
        "kl",
        "--control.kl-target",
        "1e-4",
        "--control.actor-lr",
        "True",
        "--control.gain",
        "0.3",
    )
    start(tmp_path, pretrained, *flags, "--control.factor-max", "2", "--run.steps", "5")
    found, decisions = rows(tmp_path)[:5], rows(tmp_path, "decisions")
    expected = [1.0, math.exp(0.3), math.exp(0.6), 2.0, 2.0]
    assert [r["distill_coef"] for r in found] == pytest.approx(expected)
    assert [r["lr_actor"] / 6e-4 for r in found] == pytest.approx(expected)
    assert {d["setting"] for d in decisions} == {"actor.distill.coef", "actor.lr factor"}
    assert [d["limited"] for d in decisions[::2]] == [False, False, True, True, True]
    assert "target 0.0001" in decisions[0]["reason"]


def test_a_tracked_lam_moves_towards_its_budget_and_resumes_exactly(
    tmp_path, pretrained, monkeypatch
):
    tracked = ("--correction.lam.type", "tracked", "--correction.lam.budget", "0.5")
    flags = (*tracked, "--run.steps", "9")
    start(tmp_path / "whole", pretrained, *flags)
    found = rows(tmp_path / "whole")[:9]
    lams = [r["lam_mean"] for r in found]  # the first step's own tokens give it and the second
    assert lams[0] == pytest.approx(lams[1]) and len(set(lams[1:])) == 8
    assert sum(r["accept_prob_mean"] for r in found) / 9 == pytest.approx(0.5, abs=0.08)
    with monkeypatch.context() as patch:
        cut_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, *flags)
    start(tmp_path / "cut", pretrained, *flags)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    decisions = rows(tmp_path / "whole", "decisions")
    assert [d["setting"] for d in decisions] == ["correction.lam"] * 9
    assert rows(tmp_path / "cut", "decisions") == decisions


def repeated_by_a_resume(tmp_path, pretrained, monkeypatch, flags, step):
    """What the checkpoint of the run `whole` holds, which one cut after a step and resumed has too;
    so are its rows."""
    with monkeypatch.context() as patch:
        cut_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, *flags)
    start(tmp_path / "cut", pretrained, *flags)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(x, cut[name]) for name, x in whole.items())
    return whole


def test_a_run_whose_prompts_have_a_history_resumes_exactly(tmp_path, pretrained, monkeypatch):
    """The pool of 8 is seen again from the third step on; pruned completions go by chance."""
    flags = (
        *("--task.pool", "8", "--run.steps", "7", "--loss.denominator", "sequence"),
        *("--rollout.allocation.type", "coba", "--rollout.allocation.prompt-weight", "equal"),
        *("--rollout.pruning.type", "horvitz_thompson"),
    )
    start(tmp_path / "whole", pretrained, *flags)
    steps = rows(tmp_path / "whole")[:7]
    assert len({r["tokens"] for r in steps}) > 1
    whole = repeated_by_a_resume(tmp_path, pretrained, monkeypatch, flags, 5)
    (counts,) = (x for name, x in whole.items() if name.endswith(":rollouts"))  # (8, 1)
    assert len(set(counts[:, 0].tolist())) > 1


def test_a_price_that_follows_earlier_steps_is_resumed_exactly(tmp_path, pretrained, monkeypatch):
    """The checkpoint holds it, and every move is a decision."""
    flags = (
        *("--rollout.mode.type", "drafted", "--rollout.mode.lam.type", "tracked_price"),
        *("--rollout.mode.block.length", "2", "--correction.type", "none", "--run.steps", "2"),
        *("--run.eval-every", "5", "--run.checkpoint-every", "1", "--run.eval-prompts", "4"),
    )
    start(tmp_path / "whole", pretrained, *flags)
    whole = repeated_by_a_resume(tmp_path, pretrained, monkeypatch, flags, 1)
    moves = rows(tmp_path / "whole", "decisions")
    assert [d["setting"] for d in moves] == ["rollout.mode.lam.price"] * 2
    assert moves[0]["after"] == moves[1]["before"]
    assert moves[0]["before"] == 0.1 != moves[0]["after"]
    (value,) = (x for name, x in whole.items() if name.endswith(":value"))
    assert float(value) == moves[-1]["after"]


@pytest.mark.parametrize("objective", ["a_star_po", "dmpo", "alpha_dpo"])
def test_objectives_of_whole_completions_train_and_resume_exactly(
    objective, tmp_path, pretrained, monkeypatch
):
    """V* of a prompt and the statistics of pairs are part of the checkpoint."""
    flags = (
        *("--objective.type", objective, "--correction.type", "none", "--run.steps", "5"),
        *("--task.pool", "8", "--run.eval-every", "5", "--actor.ppo", "False"),
    )
    start(tmp_path / "whole", pretrained, *flags)
    whole = repeated_by_a_resume(tmp_path, pretrained, monkeypatch, flags, 3)
    state = {"a_star_po": ":known", "alpha_dpo": ":gaps"}.get(objective)
    assert state is None or any(name.endswith(state) and x.any() for name, x in whole.items())


def test_a_kl_to_the_initial_policy_holds_it_near_where_it_started(tmp_path, pretrained):
    far = ("--optim.policy-lr", "5e-3", "--run.steps", "8")
    start(tmp_path / "with", pretrained, *far, "--loss.initial-kl-coef", "3.0")
    start(tmp_path / "light", pretrained, *far, "--loss.initial-kl-coef", "1e-6")
    held, light = rows(tmp_path / "with"), rows(tmp_path / "light")
    assert held[0]["loss_initial_kl"] == pytest.approx(0.0, abs=1e-6)
    assert held[7]["loss_initial_kl"] < 0.5 * light[7]["loss_initial_kl"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--policy.lora.rank", "4", "--actor.lora.rank", "2"),
        ("--policy.dtype", "bfloat16", "--actor.dtype", "bfloat16"),
    ],
    ids=["lora", "bfloat16"],
)
def test_lora_and_bfloat16_train_and_resume_exactly(tmp_path, pretrained, monkeypatch, flags):
    extra = (*flags, "--run.steps", "4", "--run.checkpoint-every", "2", "--optim.policy-lr", "1e-3")
    start(tmp_path / "whole", pretrained, *extra)
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, *extra)
    start(tmp_path / "cut", pretrained, *extra)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    found = weights(tmp_path / "whole")
    names = [n for n in found if n.startswith("policy")]
    assert all(("lora" in n) == ("--policy.lora.rank" in flags) for n in names)


def test_the_best_evaluation_is_kept_as_a_checkpoint(tmp_path, pretrained, monkeypatch):
    rates = iter([0.2, 0.1, 0.6, 0.5, 0.6])
    found = {"pass_rate_actor": 0.0, "kl_policy_actor": 0.1, "kl_actor_policy": 0.1}
    monkeypatch.setattr(
        run, "evaluate", lambda *a: {"pass_rate": next(rates), "seconds_eval": 0.0} | found
    )
    summary = start(tmp_path, pretrained, "--run.eval-every", "3")
    cfg = settings(tmp_path, pretrained, "--run.eval-every", "3")
    parts = {"policy": context.open_context(cfg, tmp_path).policy}
    state = checkpoint.load_state(not_none(checkpoint.best(tmp_path / "checkpoints")), parts)
    assert state["step"] == 6 == summary["step_best"] and state["best"] == 0.6


@pytest.mark.parametrize("overlay", sorted((ROOT / "llm/configs/controls").glob("*.toml")))
def test_every_control_of_a_fair_comparison_trains(tmp_path, pretrained, overlay):
    tiny = (
        (*POLICY, *COMMON) if overlay.stem == "on_policy" else TINY
    )  # without an actor's settings
    flags = [*tiny, "--run.folder", str(tmp_path), "--pretrain.folder", str(pretrained)]
    flags += ["--run.steps", "1", "--loss.updates-per-rollout", "2"]
    cfg = config.load([str(overlay)], flags)
    train.train(cfg, tmp_path)
    assert [r["step"] for r in rows(tmp_path)] == [0, 1]


def test_loss_settings_run_and_leave_rollouts_alone(tmp_path, pretrained, mixed_rewards):
    """Advantage, denominator, distillation: the first step's samples and rewards are the same."""
    variants = {
        "plain": (),
        "rloo": ("--loss.advantage", "rloo"),
        "dr_grpo": ("--loss.advantage", "dr_grpo"),
        "sequence": ("--loss.denominator", "sequence"),
        "reverse": ("--actor.distill.type", "reverse"),
        "top_k": ("--actor.distill.top_k", "3"),
        "temperature": ("--actor.distill.temperature", "2"),
        "none": ("--correction.z.type", "none"),
    }
    first = {}
    for name, flags in variants.items():
        start(tmp_path / name, pretrained, *flags, "--run.steps", "1")
        first[name] = rows(tmp_path / name)[0]
    rollout = ("reward_mean", "length_mean", "tokens", "pass_rate", "kl_policy_actor")
    for name, row in first.items():
        assert {k: row[k] for k in rollout} == {k: first["plain"][k] for k in rollout}
        same = {k for k in row if row[k] == first["plain"][k]}
        changed = {
            "reverse": "loss_distill",
            "top_k": "loss_distill",
            "temperature": "loss_distill",
        }
        if name != "plain":
            assert changed.get(name, "loss_policy") not in same, name
            untouched = "loss_policy" if name in changed else "loss_distill"
            assert untouched in same, name


def test_evaluations_within_a_step_see_the_updates_so_far_and_change_nothing(
    tmp_path, pretrained, monkeypatch, mixed_rewards
):
    """Four updates a step, looked at after every second: between the step's own evaluations."""
    flags = ("--loss.updates-per-rollout", "4", "--run.steps", "2", "--run.eval-every", "1")
    start(tmp_path / "without", pretrained, *flags)
    looked: list[float] = []
    plain = evaluation.held_out_scores

    def seen(model, of):
        if model is of.policy:
            looked.append(float(next(model.parameters()).detach().double().abs().sum()))
        return plain(model, of)

    monkeypatch.setattr(evaluation, "held_out_scores", seen)
    start(tmp_path / "with", pretrained, *flags, "--run.eval-updates", "2")
    found = rows(tmp_path / "with")
    within = [r.pop("pass_rate_updates", None) for r in found]
    assert found == rows(tmp_path / "without")
    assert [[n for n, _ in w] for w in within[:2]] == [[2], [2]]
    assert within[2] is None
    assert len(set(looked)) == len(looked) == 5


@pytest.mark.parametrize("gone", ["metrics.jsonl", "checkpoints", "."])
def test_what_is_deleted_while_a_run_goes_on_ends_it_with_nothing_else_lost(
    tmp_path, pretrained, monkeypatch, capsys, gone
):
    """Exit code 2, no summary, and what was known is told or saved."""
    folder, show = tmp_path / "run", run.progress_text
    flags = [*TINY, "--run.folder", str(folder), "--pretrain.folder", str(pretrained)]
    cfg = config.load([], [*flags, "--run.steps", "4", "--run.checkpoint-every", "2"])

    def deleting(row):
        if row["step"] == 2:
            path = folder / gone
            path.unlink() if path.is_file() else shutil.rmtree(path)
        return show(row)

    monkeypatch.setattr(run, "progress_text", deleting)
    assert train_command.run_config(cfg) == 2
    said = capsys.readouterr().err
    run_folder.release(folder)
    assert "by something else while the run went on" in said
    assert not (folder / "summary.json").exists()
    if gone == "checkpoints":
        assert latest_step(folder) == 4 and len(rows(folder)) == 4
    else:
        assert '"step": 2' in said and not (folder / "metrics.jsonl").exists()
        assert folder.exists() == (gone != ".")


def latest_step(folder: Path) -> int:
    kept = checkpoint.latest(folder / "checkpoints")
    return int(kept.name[-8:]) if kept else 0


def test_the_best_checkpoint_gives_way_to_no_worse_one_when_a_finished_run_goes_on(
    tmp_path, pretrained, monkeypatch
):
    """The best was the evaluation after the last step, which is no row of the longer run."""
    rates = iter([0.2, 0.6, 0.5])
    found = {"pass_rate_actor": 0.0, "kl_policy_actor": 0.1, "kl_actor_policy": 0.1}
    monkeypatch.setattr(
        run, "evaluate", lambda *a: {"pass_rate": next(rates), "seconds_eval": 0.0} | found
    )
    rarely = ("--run.eval-every", "9", "--run.checkpoint-every", "1")
    start(tmp_path, pretrained, "--run.steps", "2", *rarely)
    start(tmp_path, pretrained, "--run.steps", "3", *rarely)
    kept = checkpoint.load_state(not_none(checkpoint.best(tmp_path / "checkpoints")), {})
    assert (kept["step"], kept["best"]) == (2, 0.6)
