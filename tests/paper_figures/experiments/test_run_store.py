"""Runs of the figures: what names them, what is kept, and the numbers taken from them."""

import ast
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import figure_runs
import numpy as np
import pytest
from scipy import stats

from paper_figures.analysis import run_statistics
from paper_figures.experiments import configurations, run_lists, run_store, runner
from paper_figures.experiments.configurations import Run, run
from paper_figures.experiments.run_lists import FULL
from paper_figures.extras import cost, prefix_rejection, smollm2, tuning
from paper_figures.report import contents

TINY = {
    "policy.layers": 1,
    "policy.width": 16,
    "task.digits_min": 1,
    "task.digits_max": 2,
    "rollout.max_new_tokens": 4,
    "warmup.policy_steps": 20,
    "rollout.prompts_per_step": 2,
    "run.steps": 4,
    "run.eval_every": 2,
    "run.eval_prompts": 8,
}
SEED = 900  # of no figure


def tiny(method: str = "on-policy", **extra) -> Run:
    more = {k.replace("__", "."): v for k, v in extra.items()}
    return Run("chain", method, SEED, tuple(sorted((TINY | more).items())))


@pytest.fixture
def in_threads(monkeypatch):
    """The pool's work in this process."""
    monkeypatch.setattr(
        runner, "ProcessPoolExecutor", lambda n, context, **_: ThreadPoolExecutor(1)
    )


@pytest.fixture
def code(monkeypatch, tmp_path):
    """A function: the version of the code if a module had this appended."""
    found = run_store._file

    def version(module: str, appended: str) -> str:
        changed = tmp_path / "changed.py"
        changed.write_text(found(module).read_text() + appended)
        monkeypatch.setattr(run_store, "_file", lambda m: changed if m == module else found(m))
        return run_store.code_version.__wrapped__()

    return version


def test_any_setting_gives_a_run_another_name():
    base = run("chain", "jackpot", SEED)
    others = [
        base._replace(seed=SEED + 1),
        base._replace(method="tis"),
        base._replace(world="chain weak"),
        run("chain", "jackpot", SEED, correction__lam=0.99),
        run("chain", "jackpot", SEED, run__eval_every=15),
    ]
    names = {run_store.folder(r).name for r in (base, *others)}
    assert len(names) == 1 + len(others)


def test_where_it_lies_is_no_part_of_a_name(tmp_path):
    base = run("chain", "jackpot", SEED)
    assert run_store.folder(base, tmp_path).name == run_store.folder(base).name
    assert run_store.folder(base, tmp_path).parent == tmp_path


@pytest.mark.parametrize("module", ["llm.training.evaluation", "jackpot.weights"])
def test_a_change_of_code_changes_the_version_and_words_do_not(code, module):
    assert run_store._file(module) is not None
    same = code(module, "\n# a remark\n\n")
    assert same == run_store.code_version()
    assert code(module, "\nADDED = 1\n") != same


def test_a_docstring_is_no_code():
    one, other = (ast.parse(f'def f(x):\n    "{text}"\n    return x\n') for text in ("a", "b"))
    assert ast.dump(run_store._without_docstrings(one)) == ast.dump(
        run_store._without_docstrings(other)
    )


def test_two_runs_really_train_once_and_one_that_diverged_is_kept(tmp_path, capfd, monkeypatch):
    """Through worker processes; the second is stopped by an alarm, as NaN would stop it."""
    good, bad = tiny(), tiny(alarm__entropy_min=100.0, run__steps=6)
    runner.train([good, bad, good], 1, tmp_path)
    said = capfd.readouterr().err
    assert "[2/2]" in said
    assert "diverged" in said
    assert run_store.outcome(good, tmp_path)["exit"] == 0
    assert run_store.outcome(bad, tmp_path)["exit"] == 3
    assert "alarm entropy" in run_store.outcome(bad, tmp_path)["message"]
    assert not run_statistics.diverged(good, tmp_path)
    assert run_statistics.diverged(bad, tmp_path)
    steps, rates = run_statistics.pass_rates(bad, tmp_path)
    assert list(steps) == [0, 2, 4, 6]
    assert list(rates[-3:]) == [0, 0, 0]
    assert list(run_statistics.pass_rates(good, tmp_path)[0]) == [0, 2, 4]
    monkeypatch.setattr(runner, "_train_one", lambda r, home: pytest.fail("trained again"))
    runner.train([good, bad], 1, tmp_path)


def test_a_run_that_failed_is_told_and_not_kept(tmp_path, in_threads):
    (tmp_path / "warmup").write_text("a file where a folder should be")
    failing = tiny()
    with pytest.raises(runner.Failed, match=r"seed 900: error: .*warmup"):
        runner.train([failing], 1, tmp_path)
    assert not run_store.finished(failing, tmp_path)


def test_what_a_worker_dies_of_is_told_with_the_run(tmp_path, in_threads, monkeypatch):
    def broken(r, home):
        raise MemoryError("no room")

    monkeypatch.setattr(runner, "_train_one", broken)
    with pytest.raises(runner.Failed, match=r"chain on-policy .*seed 900: MemoryError: no room"):
        runner.train([tiny()], 1, tmp_path)


LONG_RUN = """
import sys
from pathlib import Path
from paper_figures.experiments import runner
sys.path[:0] = ["tests/support", "tests/paper_figures/experiments"]
from test_run_store import tiny

if __name__ == "__main__":
    try:
        runner.train([tiny(run__steps=100_000)], 1, Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_command_that_is_ended_leaves_no_worker_and_a_run_to_go_on_with(tmp_path, number):
    """SIGTERM is a Ctrl-C; after SIGKILL the workers see that they are alone."""
    script = tmp_path / "long_run.py"
    script.write_text(LONG_RUN)
    home = tmp_path / "home"
    command = [sys.executable, str(script), str(home)]
    parent = subprocess.Popen(command, cwd=run_store.ROOT, env=os.environ | {"PYTHONPATH": "."})
    own = run_store.folder(tiny(run__steps=100_000), home)
    wait_for(lambda: (own / "metrics.jsonl").exists() and (own / "metrics.jsonl").stat().st_size)
    workers = children(parent.pid)
    assert workers
    parent.send_signal(number)
    assert parent.wait(60) == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: not [p for p in workers if alive(p)])
    assert list(own.glob("checkpoints/step_*"))
    assert not (own / "outcome.json").exists()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(x) for x in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_nothing_more_is_started_after_a_fault(tmp_path, in_threads, monkeypatch):
    started = []
    monkeypatch.setattr(runner, "_train_one", lambda r, home: (started.append(r), 0.0, True))
    with pytest.raises(runner.Failed):
        runner.train([tiny(run__steps=n) for n in (4, 5, 6)], 1, tmp_path)
    assert len(started) == 1


def test_an_evaluation_is_found_by_its_flags_and_numbers(tmp_path):
    own = tiny()
    figure_runs.write(own, tmp_path, [0.1, 0.2, 0.3])
    wanted = runner.Evaluation(own, ("--task.digits-max", "2"))
    assert runner.entry(wanted, tmp_path) is None
    figure_runs.write_eval(wanted, tmp_path, 0.25, 0.5)
    assert runner.entry(wanted, tmp_path)["models"]["policy"]["mean_at_k"]["value"] == 0.25
    assert runner.entry(wanted._replace(prompts=64), tmp_path) is None
    assert runner.entry(wanted._replace(flags=()), tmp_path) is None


def metrics(home, rates, **keywords) -> dict[str, float]:
    """All metrics of a run of 240 steps, evaluated every 48."""
    own = run("chain", "jackpot", SEED, run__eval_every=48, run__steps=240)
    figure_runs.write(own, home, rates, **keywords)
    run_statistics.rows.cache_clear()
    return {name: f(own, home) for name, f in run_statistics.METRICS.items()}


def test_metrics_of_a_curve_by_hand(tmp_path):
    """Trapezoids of width 48: (.2 + .6)/2, (.6 + .8)/2, (.8 + .5)/2, (.5 + .7)/2, (.7 + .9)/2."""
    rates, kl = [0.2, 0.6, 0.8, 0.5, 0.7, 0.9], [0.3, 0.1, 0.6, 0.1, 0.2, 0.3]
    found = metrics(tmp_path, rates, kl=kl, seconds=2.5)
    assert found["final"] == pytest.approx(0.7)
    assert found["area"] == pytest.approx((0.4 + 0.7 + 0.65 + 0.6 + 0.8) / 5)
    assert found["lowest_late"] == pytest.approx(0.5)  # from step 80 on
    assert found["drop"] == pytest.approx(0.3)
    assert found["kl_last"] == pytest.approx(0.2)
    assert found["kl_highest"] == pytest.approx(0.6)
    assert found["lasts"] == 240
    assert found["seconds_rollout"] == found["seconds_update"] == 2.5


@pytest.mark.parametrize(
    ("rates", "step"),
    [
        ([0.2, 0.4, 0.6, 0.8, 0.9, 1.0], 240),
        ([0.2, 1.0, 0.7, 0.7, 0.7, 0.7], 48),  # below 80 % of 1 for good
        ([0.2, 1.0, 0.7, 0.85, 0.7, 0.1], 144),  # once back
        ([0.2, 1.0, 0.8, 0.8, 0.8, 0.8], 240),  # at 80 % is not below
        ([0.5, 0.3, 0.3, 0.3, 0.3, 0.3], 0),
    ],
)
def test_a_run_lasts_until_it_falls_below_for_good(tmp_path, rates, step):
    assert metrics(tmp_path, rates)["lasts"] == step


def test_a_run_that_diverged_counts_as_zero_from_there_on(tmp_path):
    found = metrics(tmp_path, [0.3, 0.6, 0.9, 0.9], code=3)  # none at 192, 240
    assert found["final"] == 0
    assert found["area"] == pytest.approx((0.45 + 0.75 + 0.9 + 0.45) / 5)
    assert found["drop"] == pytest.approx(0.9)
    assert found["lasts"] == 144


def cost_of(home, rates: dict[str, list[float]], seconds: dict[str, float]):
    """The gain of Jackpot at 80 % of the way, from runs whose steps all take as long."""
    own = [run("chain", m, SEED, run__steps=40, run__eval_every=10) for m in rates]
    for r in own:
        folder = figure_runs.write(r, home, rates[r.method], seconds=seconds[r.method] / 2)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(x) | {"tokens": 1} for x in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in found))
    run_statistics.rows.cache_clear()
    return cost.gain(own, "jackpot", 0.8, "seconds", home)


def test_the_gain_is_the_cost_of_the_same_pass_rate_by_hand(tmp_path):
    """On-policy goes from .2 to .7 (mean of its last three), so 80 % is at .6; it gets there after
    2 rows of 3 seconds, Jackpot, half way between rows 2 and 3, after 2.5 of 1 second."""
    both = {"on-policy": [0.2, 0.4, 0.6, 0.75, 0.75], "jackpot": [0.2, 0.3, 0.5, 0.7, 0.7]}
    found = cost_of(tmp_path, both, {"on-policy": 3.0, "jackpot": 1.0})
    assert found.value == pytest.approx(6.0 / 2.5)


@pytest.mark.parametrize(
    ("base", "other"),
    [
        ([0.2, 0.4, 0.6, 0.75, 0.75], [0.2, 0.3, 0.5, 0.59, 0.59]),  # never reached
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]),  # nothing learnt
        ([0.5, 0.4, 0.3, 0.3, 0.3], [0.5, 0.6, 0.6, 0.6, 0.6]),
    ],
)
def test_there_is_no_gain_where_a_level_is_not_reached_or_nothing_learnt(tmp_path, base, other):
    rates = {"on-policy": base, "jackpot": other}
    assert cost_of(tmp_path, rates, {"on-policy": 1.0, "jackpot": 1.0}) is None


def test_pass_rates_within_a_step_stand_at_fractions_of_it(tmp_path):
    own = run("chain", "clipped", SEED, run__steps=1, loss__updates_per_rollout=4)
    folder = figure_runs.write(own, tmp_path, [0.1, 0.5])
    first, last = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    first["pass_rate_updates"] = [[1, 0.2], [3, 0.4]]
    (folder / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")
    run_statistics.rows.cache_clear()
    steps, values = run_statistics.curve(own, "pass_rate", tmp_path)
    assert list(steps) == [0, 0.25, 0.75, 1]
    assert list(values) == [0.1, 0.2, 0.4, 0.5]


def test_the_interval_of_a_mean_is_that_of_theory_where_theory_holds():
    """400 normal values: Student's interval, within 5 % of its width."""
    x = np.random.default_rng(3).normal(0.3, 0.2, 400)
    found = run_statistics.mean(x)
    low, high = stats.t.interval(0.95, 399, x.mean(), stats.sem(x))
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_students_interval_by_hand():
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), 97.5 % quantile of t with 2 degrees 4.302653."""
    half = 4.302653 / math.sqrt(3)
    assert run_statistics.student([1.0, 2.0, 3.0]) == pytest.approx(
        (2, 2 - half, 2 + half), abs=1e-6
    )
    assert run_statistics.student([0.2, 0.4]) == run_statistics.mean([0.2, 0.4])


def test_few_or_equal_values_have_their_range_for_an_interval():
    assert run_statistics.mean([0.2, 0.4]) == pytest.approx((0.3, 0.2, 0.4))
    assert run_statistics.mean([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25)


def test_runs_are_paired_by_seed(tmp_path):
    """What differs between seeds cancels: a constant difference has an interval of no width."""
    a, b = ([run("chain", m, s) for s in (901, 902, 903)] for m in ("jackpot", "tis"))
    n = len(figure_runs.evaluated_steps(a[0]))
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        figure_runs.write(one, tmp_path, [0.25 * i + 0.125] * n)
        figure_runs.write(other, tmp_path, [0.25 * i] * n)
    assert run_statistics.paired(a, b[::-1], "final", tmp_path) == (0.125, 0.125, 0.125)
    with pytest.raises(ValueError, match="cannot be paired"):
        run_statistics.paired(a, b[:2], "final", tmp_path)


@pytest.mark.parametrize("scale", [run_lists.FULL, run_lists.QUICK], ids=["full", "quick"])
def test_no_figure_uses_a_seed_that_choices_were_made_on(scale):
    drawn = [*run_lists.fig1(scale), *run_lists.without_kl(scale), *run_lists.long_runs(scale)]
    drawn += [*run_lists.table1(scale), *run_lists.own_rates(scale)]
    for groups in (
        run_lists.fig4,
        run_lists.fig5,
        run_lists.table2,
        run_lists.ablation,
        run_lists.cost,
    ):
        drawn += [r for own in groups(scale).values() for r in own]
    drawn += [r for own in run_lists.steadier(scale).values() for r in own]
    chosen = {*configurations.TUNING_SEEDS, *run_lists.CANDIDATE_SEEDS}
    own = {*run_lists.JUDGED_SEEDS} if scale is run_lists.FULL else {*run_lists.QUICK.seeds}
    assert {r.seed for r in drawn} == own
    assert not chosen & {*run_lists.JUDGED_SEEDS, *run_lists.QUICK.seeds}
    assert not {*run_lists.JUDGED_SEEDS} & {*run_lists.QUICK.seeds}


def test_methods_are_what_their_names_say():
    """Which correction, which actor losses: what the figures' comparisons rest on."""
    wanted = {
        "none": ("none", "token", False, False),
        "kl": ("none", "token", False, True),
        "tis": ("tis", "token", False, False),
        "tis+kl": ("tis", "token", False, True),
        "tis+ppo+kl": ("tis", "token", True, True),
        "tis+ppo": ("tis", "token", True, False),
        "jackpot": ("jackpot", "token", True, True),
        "jackpot+ppo": ("jackpot", "token", True, False),
        "jackpot prefixes": ("jackpot", "prefix", False, True),
        "tis prefixes": ("jackpot", "prefix", False, True),
    }
    for method, (name, scope, ppo, kl) in wanted.items():
        cfg = run_store.resolved(run("chain", method, SEED))
        assert (cfg.correction.name, cfg.correction.scope) == (name, scope), method
        assert (cfg.loss.actor_ppo, cfg.loss.distill_coef > 0) == (ppo, kl), method
    same = run_store.resolved(run("chain", "tis prefixes", SEED)).correction
    tis = run_store.resolved(run("chain", "tis+ppo+kl", SEED)).correction
    assert (same.z, same.lam, same.mask, same.c1) == ("none", 1.0, "expected", tis.tis_cap)


def test_what_was_chosen_is_what_the_kept_sweeps_say():
    """The highest lowest late pass rate of the candidates (or a tie); the best rates by area."""

    def best(name: str, column: str) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        with (tuning.DATA / f"tuning_{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["name"], []).append(float(row[column]))
        return {k: sum(v) / len(v) for k, v in found.items()}

    late = best("candidates", "lowest_late")
    assert late[run_lists.CHOSEN] == max(late.values())
    assert run_lists.CHOSEN in run_lists.SHOWN and run_lists.BASE in run_lists.SHOWN
    area: dict[str, dict[float, float]] = {}
    for name, value in best("rates", "area").items():
        method, rate = name.rsplit(", ", 1)
        area.setdefault(method, {})[float(rate)] = value
    for method, by_rate in area.items():
        own = run_lists.OWN_RATE if method in run_lists.OWN_RATES else 4e-4
        assert max(by_rate, key=by_rate.__getitem__) == own, method


def test_the_headline_is_the_chosen_setting_less_the_base(tmp_path, monkeypatch):
    """Its sign: a better chosen setting is a positive difference."""
    rates = {run_lists.CHOSEN: 0.75, run_lists.BASE: 0.5}
    own = {name: run_lists.candidates((901, 902, 903))[name] for name in rates}
    for name, mine in own.items():
        for r in mine:
            figure_runs.write(r, tmp_path, [rates[name]] * len(figure_runs.evaluated_steps(r)))
    monkeypatch.setattr(run_lists, "steadier", lambda scale: own)
    paired = run_statistics.paired
    monkeypatch.setattr(run_statistics, "paired", lambda a, b, m: paired(a, b, m, tmp_path))
    found = prefix_rejection.effects(FULL)
    assert set(found) == {run_lists.CHOSEN}
    assert found[run_lists.CHOSEN]["lowest_late"] == (0.25, 0.25, 0.25)


def test_flops_are_two_per_weight_sampled_and_six_per_weight_trained(tmp_path, monkeypatch):
    """By hand: 8 prompts of 9 tokens and 100 tokens sampled; 64 sequences trained with prompts."""
    monkeypatch.setattr(cost, "weights", lambda r, role, home: {"policy": 1000, "actor": 10}[role])
    for method, sampler, trained in (("on-policy", 1000, 1000), ("jackpot", 10, 1010)):
        own = run("chain", method, SEED, run__steps=10, run__eval_every=10)
        folder = figure_runs.write(own, tmp_path, [0.2, 0.4])
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(x) | {"tokens": 100} for x in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in found))
        run_statistics.rows.cache_clear()
        flops, _ = cost.spent(own, "FLOPs", tmp_path)
        assert flops[1] == 2 * sampler * (100 + 8 * 9) + 6 * (100 + 64 * 9) * trained


@pytest.mark.parametrize(("n", "low", "high"), [(3, 0.6, 0.85), (5, 0.7, 0.9), (8, 0.82, 0.96)])
def test_intervals_of_few_seeds_cover_less_than_they_say(n, low, high):
    """What claims.FEW says: of 150 samples of n normal values, whose interval holds the mean."""
    rng = np.random.default_rng(n)
    found = [run_statistics.mean(rng.normal(size=n)) for _ in range(150)]
    assert low < np.mean([f.low < 0 < f.high for f in found]) < high


def test_a_worker_that_imports_no_figure_knows_every_world():
    text = (
        "from paper_figures.experiments.configurations import WORLDS; print(*WORLDS, sep=chr(10))"
    )
    found = subprocess.run(
        [sys.executable, "-c", text], cwd=run_store.ROOT, capture_output=True, text=True, check=True
    )
    wanted = {r.world for own in contents.figures().values() for f in own for r in f.runs(FULL)}
    assert wanted | {configurations.SMOLLM2} <= set(found.stdout.split("\n"))


def test_the_real_model_has_a_run_where_it_was_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "MODEL", tmp_path)
    (own,) = smollm2.runs(FULL)
    cfg = run_store.resolved(own)
    assert (cfg.actor.kind, cfg.actor.bits, cfg.run.steps) == ("quantized", 8, 8)
    assert smollm2.runs(run_lists.QUICK) == []


def test_table_2_has_settings_that_the_trainer_takes():
    """Two updates of as many prompts as elsewhere, sampled by an int8 copy; the clip kept."""
    for own in run_lists.table2(run_lists.FULL).values():
        for r in own:
            cfg = run_store.resolved(r)
            updates = cfg.loss.updates_per_rollout
            each = 8 if updates == 2 else run_lists.STALE_PROMPTS
            assert cfg.rollout.prompts_per_step == each * updates
            assert math.isfinite(cfg.loss.clip_high)
            kind = "quantized" if r.method.startswith("int8") else "self"
            assert (cfg.actor.kind, updates) == (kind, 2 if kind == "quantized" else 64)
