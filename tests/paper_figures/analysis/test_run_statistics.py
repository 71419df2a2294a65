"""Numbers taken from a figure's runs: means, intervals and what they cover."""

import json
import math

import figure_runs
import numpy as np
import pytest
from figure_runs import SEED
from scipy import stats

from paper_figures.analysis import run_statistics
from paper_figures.experiments.configurations import run


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
    found = run_statistics.mean(x.tolist())
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


@pytest.mark.parametrize(("n", "low", "high"), [(3, 0.6, 0.85), (5, 0.7, 0.9), (8, 0.82, 0.96)])
def test_intervals_of_few_seeds_cover_less_than_they_say(n, low, high):
    """What claims.FEW says: of 150 samples of n normal values, whose interval holds the mean."""
    rng = np.random.default_rng(n)
    found = [run_statistics.mean(rng.normal(size=n)) for _ in range(150)]
    assert low < np.mean([f.low < 0 < f.high for f in found]) < high
