"""The cost of a run in floating-point operations, and the gain in cost, by hand."""

import json

import figure_runs
import pytest
from figure_runs import SEED

from paper_figures.analysis import run_statistics
from paper_figures.experiments.configurations import run
from paper_figures.extras import cost


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
