"""`python -m sim budgets`: its numbers by hand, its orderings, its files, its refusals."""

import csv
import math

import numpy as np
import pytest

import jackpot
from sim.commands import main as sim_main
from sim.studies import budgets


@pytest.fixture(scope="module")
def results():
    return budgets.run(seed=1, quick=True)


def by_way(rows, way):
    return [row for row in rows if row["way"] == way]


def two_states():
    """State 1: p = q = (1/2, 1/2). State 2: p = (1/2, 1/2), q = (1/4, 3/4)."""
    return budgets.States(np.log(np.full((2, 2), 0.5)), np.log([[0.5, 0.5], [0.25, 0.75]]))


def test_both_criteria_by_hand():
    """lam = 4/3: Z = (3/4, 5/8), q~ = (1/2, 1/2) and (2/5, 3/5). The accepted pairs are
    (3/8, 3/8, 1/4, 3/8) / (11/8)."""
    row = budgets.measure(two_states(), 4 / 3)
    assert row["acceptance"] == pytest.approx(11 / 16)
    assert row["kl_states"] == pytest.approx((math.log(5 / 4) + math.log(5 / 6)) / 4)
    accepted = np.array([3 / 11, 3 / 11, 2 / 11, 3 / 11])
    assert row["kl_pairs"] == pytest.approx(float(np.sum(0.25 * np.log(0.25 / accepted))))
    assert row["least_z"] == pytest.approx(5 / 8)


def test_sampled_ratios_come_from_the_states_and_from_q():
    """Half of the tokens have log-ratio 0; of the others 1/4 log 2, 3/4 log(2/3)."""
    found = budgets.sampled_log_ratios(np.random.default_rng(0), two_states(), 40_000)
    for value, share in ((0.0, 1 / 2), (math.log(2), 1 / 8), (math.log(2 / 3), 3 / 8)):
        got = np.mean(np.isclose(found, value))
        assert got == pytest.approx(share, abs=5 * math.sqrt(share / 40_000))


def test_a_common_lam_wins_in_both_criteria_at_every_budget(results):
    """E1: mean KL(common) <= pairs KL(common) <= KL(equal budgets), the same in both criteria."""
    rows = results["budgets"]
    for each, common in zip(
        by_way(rows, budgets.PER_STATE), by_way(rows, budgets.COMMON), strict=True
    ):
        assert each["acceptance"] == pytest.approx(each["budget"], rel=1e-12)
        assert common["acceptance"] == pytest.approx(common["budget"], rel=1e-12)
        assert common["kl_states"] < common["kl_pairs"] < each["kl_pairs"] - 1e-4
        assert each["kl_pairs"] == pytest.approx(each["kl_states"], rel=1e-12)
        assert each["least_z"] == pytest.approx(each["budget"], rel=1e-12)


def test_no_way_falls_below_the_floor(results):
    """A6 on pairs: KL before - log(1 / acceptance)."""
    for row in results["budgets"]:
        assert row["floor"] == pytest.approx(
            max(0.0, row["kl_before"] + math.log(row["acceptance"])), rel=1e-12
        )
        assert row["kl_pairs"] >= row["floor"]


def test_sampled_ratios_meet_the_budget_up_to_their_noise(results):
    """E3: sd(a) / sqrt(n) <= sqrt(b (1 - b) / n); the mean of 5, within 5 standard errors."""
    for row in by_way(results["budgets"], budgets.SAMPLED):
        b = row["budget"]
        most = math.sqrt(b * (1 - b) / budgets.TOKENS)
        assert abs(row["acceptance"] - b) < 5 * most / math.sqrt(5)
        assert 0 < row["acceptance_sd"] < 2.5 * most


def misses(results, way):
    rows = by_way(results["drift"], way)
    away = [row for row in rows if not row["step"] % budgets.PERIOD < budgets.SETTLE <= row["step"]]
    return np.array([row["acceptance"] - budgets.DRIFT_BUDGET for row in away])


def test_a_fixed_lam_loses_the_budget_and_a_tracked_one_keeps_it(results):
    rms = {
        w: np.sqrt(np.mean(misses(results, w) ** 2))
        for w in (budgets.FIXED, budgets.FRESH, budgets.TRACKED)
    }
    assert rms[budgets.FIXED] > 5 * rms[budgets.TRACKED]
    assert rms[budgets.TRACKED] < rms[budgets.FRESH]  # few tokens a step: averaging pays


def test_every_lam_comes_from_earlier_steps(results):
    """The tracked lam's news at step t is the lam of step t's tokens, used at t + 1."""
    fixed = {row["lam"] for row in by_way(results["drift"], budgets.FIXED)}
    assert len(fixed) == 1
    last = [math.log(row["lam"]) for row in by_way(results["drift"], budgets.FRESH)]
    tracked = [math.log(row["lam"]) for row in by_way(results["drift"], budgets.TRACKED)]
    assert tracked[0] == tracked[1] == last[0]
    for t in range(1, len(last) - 1):
        want = budgets.DECAY * tracked[t] + (1 - budgets.DECAY) * last[t + 1]
        assert tracked[t + 1] == pytest.approx(want, abs=1e-9)


def test_the_same_seed_gives_the_same_numbers(results):
    assert budgets.run(seed=1, quick=True) == results
    assert budgets.run(seed=2, quick=True) != results


def test_the_command_writes_tables_and_a_picture(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert sim_main(["budgets", "--quick", "--out", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "common lam, sampled" in out and "tracked lam" in out
    with (folder / "budgets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(budgets.BUDGETS)
    first = rows[0]
    assert first["way"] == budgets.PER_STATE and float(first["acceptance"]) == 0.5
    with (folder / "drift.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * budgets.PERIOD
    assert (folder / "budgets.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "budgets.pdf").read_bytes()[:4] == b"%PDF"


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budgets, "run", lambda *a: pytest.fail("work had started"))
    file = tmp_path / "file"
    file.write_text("")
    assert sim_main(["budgets", "--out", str(file)]) == 2
    assert f"cannot write to --out {file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "'-1' is not a seed"),
        (["--seed", "x"], "'x' is not a seed"),
        (["--budget", "2"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(budgets, "run", lambda *a: pytest.fail("work had started"))
    with pytest.raises(SystemExit, match="2"):
        sim_main(["budgets", *arguments])
    assert message in capsys.readouterr().err


def test_the_states_of_the_study_need_different_thresholds():
    """States differ in mismatch, else the three ways would be one."""
    world = budgets.make_world(np.random.default_rng(0), 20, 50)
    lam = jackpot.lam_for_budget(*world.states(1.0), 0.8)
    assert lam.shape == (20,) and np.std(np.log(lam)) > 0.1
