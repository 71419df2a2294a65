"""mean@k, pass@k and their intervals, against enumeration and simulation; the eval command."""

import json
import shutil
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm import errors, settings
from llm.checkpoints import checkpoint
from llm.commands import evaluate as evaluate_command
from llm.models import loading, roles
from llm.report import pass_at_k
from llm.settings.loading import ConfigError
from llm.tasks.problem import Problem
from llm.tokenizers import character
from llm.training import evaluation


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    """1 - C(n - c, k) / C(n, k), against all subsets of size k."""
    for c in range(n + 1):
        samples = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            share = sum(any(s) for s in subsets) / len(subsets)
            assert pass_at_k.pass_at_k(np.array([c]), n, k)[0] == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_unbiased():
    """Its exact expectation over Binomial(n, p) is 1 - (1 - p)^k; the plug-in estimate's is not."""
    n, k, p = 6, 3, 0.3
    from math import comb

    law = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    counts = np.arange(n + 1)
    assert law @ pass_at_k.pass_at_k(counts, n, k) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert law @ (1 - (1 - counts / n) ** k) < 1 - (1 - p) ** k - 0.02


def test_pass_at_k_survives_numbers_whose_binomials_overflow():
    """n = 5000: C(n, k) exceeds float64. pass@1 is c / n, pass@n is 1 from one right sample on."""
    c = np.array([0, 1, 2500, 5000])
    assert pass_at_k.pass_at_k(c, 5000, 1) == pytest.approx(c / 5000, abs=1e-12)
    assert pass_at_k.pass_at_k(c, 5000, 5000).tolist() == [0, 1, 1, 1]
    assert np.isfinite(pass_at_k.pass_at_k(c, 5000, 2500)).all()


def test_k_beyond_the_samples_is_refused():
    with pytest.raises(ValueError, match="between 1 and the 4 samples"):
        pass_at_k.pass_at_k(np.array([1]), 4, 5)


def test_the_ks_are_powers_of_two_and_all_samples():
    assert [pass_at_k.ks(n) for n in (1, 4, 6)] == [[1], [1, 2, 4], [1, 2, 4, 6]]


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say():
    """300 simulated evaluations, each prompt with its own chance: 95 % intervals of pass@1 and
    pass@4 cover the truth within three standard errors (3.8 %) of 95 %."""
    rng = np.random.default_rng(5)
    prompts, n, trials, alpha, beta = 80, 8, 300, 0.3, 0.9
    truth = {1: alpha / (alpha + beta)}
    grid = rng.beta(alpha, beta, 2_000_000)
    truth[4] = float((1 - (1 - grid) ** 4).mean())  # to 0.0003
    hits = dict.fromkeys(truth, 0)
    for trial in range(trials):
        chance = rng.beta(alpha, beta, prompts)[:, None]
        found = pass_at_k.summary(rng.random((prompts, n)) < chance, seed=trial)["pass_at_k"]
        for entry in found:
            if entry["k"] in truth:
                hits[entry["k"]] += entry["low"] <= truth[entry["k"]] <= entry["high"]
    for k, hit in hits.items():
        assert 0.912 <= hit / trials <= 0.988, f"pass@{k}: {hit} of {trials}"


def test_samples_of_one_prompt_are_not_counted_as_independent():
    """Prompts that are always or never right: 8 samples each say no more than one."""
    correct = np.repeat(np.arange(60) % 2 == 0, 8).reshape(60, 8)
    found = pass_at_k.summary(correct, seed=0)
    wide = found["mean_at_1"]["high"] - found["mean_at_1"]["low"]
    assert found["mean_at_k"]["high"] - found["mean_at_k"]["low"] == pytest.approx(wide, rel=0.12)


def test_wilson_covers_and_never_leaves_the_unit_interval():
    """Exact coverage over Binomial(40, p), averaged over p, is within 1 % of 95 %."""
    from math import comb

    n, grid = 40, np.linspace(0.02, 0.98, 97)
    bounds = [pass_at_k.wilson(c / n, n) for c in range(n + 1)]
    assert all(0 <= low <= c / n <= high <= 1 for c, (low, high) in enumerate(bounds))
    covered = [
        sum(
            comb(n, c) * p**c * (1 - p) ** (n - c)
            for c, (low, high) in enumerate(bounds)
            if low <= p <= high
        )
        for p in grid
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("value", [False, True])
def test_an_interval_is_no_point_where_all_prompts_agree(value):
    """The bootstrap has no spread there, and ignorance remains."""
    found = pass_at_k.summary(np.full((20, 4), value), seed=0)
    for entry in (found["mean_at_k"], *found["pass_at_k"]):
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["high"] - entry["low"] > 0.1


def test_the_same_seed_gives_the_same_intervals():
    correct = np.random.default_rng(0).random((30, 4)) < 0.4
    assert pass_at_k.summary(correct, 3) == pass_at_k.summary(correct, 3)
    assert pass_at_k.summary(correct, 3) != pass_at_k.summary(correct, 4)


class EvenSums:
    """Scores 1 where the ids add up to an even number; remembers how many it saw at a time."""

    def __init__(self):
        self.sizes = []

    def score(self, completions, answers):
        self.sizes.append(len(completions))
        return [float(sum(c) % 2 == 0) for c in completions]


def small_setup(prompts_per_step):
    cfg = settings.load(
        [],
        ["--rollout.prompts_per_step", str(prompts_per_step), "--rollout.rollouts_per_prompt", "2"],
    )
    task = SimpleNamespace(held_out=lambda seed, n: [Problem(f"{i}=", "1") for i in range(n)])
    return SimpleNamespace(
        cfg=cfg, tokenizer=character.CharTokenizer(), task=task, scorer=EvenSums()
    )


@torch.no_grad()
def test_chunks_do_not_change_what_is_sampled():
    """Correctness of every sample is that of one large batch, and no chunk exceeds a training
    step's sequences."""
    model = loading.build(settings.ModelConfig(layers=1, width=32), seed=0)
    problems = [Problem(f"{i}{i}=", "1") for i in range(9)]
    large, small = small_setup(64), small_setup(3)
    whole = evaluation.evaluate_many(model, large, problems, 3, seed=7)
    parts = evaluation.evaluate_many(model, small, problems, 3, seed=7)
    assert whole.shape == (9, 3)
    assert 0 < whole.mean() < 1
    assert (whole == parts).all()
    assert large.scorer.sizes == [27]
    assert max(small.scorer.sizes) == 6
    assert (evaluation.evaluate_many(model, large, problems, 3, seed=8) != whole).any()


@torch.no_grad()
def test_a_training_evaluation_is_the_same_at_every_call():
    model = loading.build(settings.ModelConfig(layers=1, width=32), seed=0)
    setup = small_setup(64)
    assert evaluation.pass_rate(model, setup) == evaluation.pass_rate(model, setup)
    assert sum(setup.scorer.sizes) == 2 * setup.cfg.run.eval_prompts


def test_only_settings_that_an_evaluation_reads_can_be_replaced():
    found = evaluate_command.split_overrides(
        ["RUN", "--task.digits-max", "10", "--samples", "3", "--rollout.max-new-tokens=20"]
    )
    assert found == (
        ["--task.digits-max", "10", "--rollout.max-new-tokens=20"],
        ["RUN", "--samples", "3"],
    )
    with pytest.raises(ConfigError, match=r"--optim\.policy_lr does nothing in an evaluation"):
        evaluate_command.split_overrides(["RUN", "--optim.policy_lr", "1"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a checkpoint of two small models, never warmed up."""
    from llm.checkpoints.checkpoint import save_state

    folder = tmp_path_factory.mktemp("run")
    flags = "--warmup.policy_steps 0 --warmup.actor_steps 0 --policy.layers 1 --policy.width 32"
    cfg = settings.load([], flags.split())
    (folder / "config.toml").write_text(settings.dump(cfg))
    parts = {
        "policy": roles.open_policy(cfg, folder),
        "actor": roles.open_model(cfg, "actor", folder),
    }
    save_state(folder / "checkpoints", 5, parts, {"step": 5})
    return folder


def test_eval_prints_a_table_and_adds_to_eval_json(run, capsys):
    """On its own task, then on another one: two entries, each with policy and actor."""
    common = [str(run), "--prompts", "6", "--samples", "3"]
    assert evaluate_command.main(common) == 0
    other = ["--task.name", "sort", "--task.digits_min", "2", "--task.digits_max", "3"]
    assert evaluate_command.main([*common, *other]) == 0
    out = capsys.readouterr().out
    assert "pass@3" in out
    first, second = json.loads((run / "eval.json").read_text())
    assert (first["task"]["task.name"], second["task"]["task.name"]) == ("chain", "sort")
    assert first["step"] == 5
    assert set(first["models"]) == {"policy", "actor"}
    assert first["models"]["policy"]["samples"] == 3
    assert (run / "eval.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompts", "0"], "--prompts must be at least 1"),
        (["--checkpoint", "best"], "holds no complete best checkpoint"),
    ],
)
def test_eval_says_what_is_wrong(run, argv, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_command.main([str(run), *argv])


def test_eval_wants_a_run_folder(tmp_path):
    with pytest.raises(ConfigError, match="is not a run folder"):
        evaluate_command.main([str(tmp_path)])


def test_eval_adds_to_no_damaged_file(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "eval.json").write_text("{")
    with pytest.raises(ConfigError, match="move it away"):
        evaluate_command.main([str(copy)])
    assert (copy / "eval.json").read_text() == "{"


def run_in_progress(run, tmp_path, monkeypatch, replaced):
    """A copy of the run whose newest checkpoint gives way to the next one `replaced` times, each
    time just before its digest is taken; returns the folder and the digests' checkpoints."""
    copy, seen, real = tmp_path / "copy", [], checkpoint.digest
    shutil.copytree(run, copy)
    (copy / "eval.json").unlink(missing_ok=True)

    def digest(path):
        step = int(path.parent.name.removeprefix("step_"))
        if path.name == "state.json":
            seen.append(step)
            if step < 5 + replaced:
                path.parent.rename(path.parent.with_name(f"step_{step + 1:08d}"))
        return real(path)

    monkeypatch.setattr(checkpoint, "digest", digest)
    return copy, seen


def test_eval_takes_the_newer_checkpoint_where_a_run_drops_the_one_being_read(
    run, tmp_path, monkeypatch
):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=2)
    assert evaluate_command.main([str(copy), "--prompts", "2", "--samples", "1"]) == 0
    assert seen == [5, 6, 7]
    (entry,) = json.loads((copy / "eval.json").read_text())
    assert entry["checkpoint"] == "step_00000007"


def test_eval_gives_up_with_a_clear_error(run, tmp_path, monkeypatch):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=9)
    with pytest.raises(errors.CheckpointError, match="step_00000007 was removed meanwhile"):
        evaluate_command.main([str(copy), "--prompts", "2", "--samples", "1"])
    assert seen == [5, 6, 7]


def test_eval_does_not_read_a_damaged_checkpoint_again(run, tmp_path, monkeypatch):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=0)
    (copy / "checkpoints" / "step_00000005" / "state.json").write_text("x" * 20)
    real, calls = evaluate_command.open_evaluation, []

    def opened(*args):
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(evaluate_command, "open_evaluation", opened)
    with pytest.raises(errors.CheckpointError, match=r"state\.json"):
        evaluate_command.main([str(copy)])
    assert (calls, seen) == ([1], [])
