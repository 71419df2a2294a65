"""Studies of the estimators: their tables, their command, and what they refuse."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from sim.studies import estimator_studies, estimators, token_cost_studies
from sim.worlds.trees import make_tree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab", "50", "--horizon", "4"], r"make 6,250,000 trajectories, more than the 20,000"),
        (["--vocab", "9", "--horizon", "999"], r"about 1e953 trajectories"),
        (["--vocab", "2"], r"--vocab must be at least 3, got 2"),
        (["--horizon", "0"], r"at least 2 tokens and 1 position, got vocab 5, horizon 0"),
        (["--out", "/dev/null/x"], r"cannot write to --out /dev/null/x"),
        (["--seeds", "0"], r"--seeds must be at least 1, got 0"),
    ],
)
def test_impossible_requests_are_refused_with_what_to_do(arguments, message, capsys):
    """Exit status 2 and one line that names the number of trajectories."""
    assert estimators.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_writes_every_table_and_the_picture(tmp_path, capsys, monkeypatch):
    """A small quick run: files on disk, the same numbers as the studies, the answer on stdout."""
    monkeypatch.setattr(Figure, "get_layout_engine", lambda self: None)  # not looked at here
    status = estimators.main(
        ["--vocab", "3", "--horizon", "2", "--quick", "--out", str(tmp_path / "out")]
    )
    assert status == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"mismatch.csv", "cost.csv", "estimators.png", "estimators.pdf"} <= names
    assert {"objectives_summary.csv", "objectives.png", "objectives.pdf"} <= names
    assert all(path.stat().st_size > 100 for path in (tmp_path / "out").iterdir())
    out = capsys.readouterr().out
    assert "TIS under another name" in out and "gspo (inf), no clip" in out


def test_the_studies_say_what_the_report_says():
    """The closing lines of the report, on 4 worlds: no gain per trajectory, some for money."""
    tree = make_tree(5, 3)
    tuned = estimator_studies.equal_tuning(tree, range(4), (0.3,))
    assert all(r["Jackpot (coin, batch Z)_true"] >= 0.99 for r in tuned)
    money = token_cost_studies.equal_money(tree, range(4), (0.3,))
    cheap = [r["batch_true"] for r in money if r["cost_ratio"] < 0.02]
    assert max(cheap) < 0.985


def test_rows_name_the_target_they_measure():
    """Importance sampling: cosine 1 with the token target, the floor's cosine with the true one."""
    rows = estimator_studies.by_mismatch(make_tree(4, 2), [0], (0.3,))
    by_name = {row["estimator"]: row for row in rows}
    assert by_name["importance"]["cos_token"] == pytest.approx(1, abs=1e-12)
    assert by_name["importance"]["bias_token"] < 1e-12
    floor = by_name["token target"]["cos_true"]
    assert by_name["importance"]["cos_true"] == pytest.approx(floor, rel=1e-12)
    assert floor < 0.99
    assert by_name["sequence importance"]["bias_true"] < 1e-12


def test_the_ratio_table_agrees_within_its_standard_errors():
    """Seeded: 4 standard errors, at 32 and 128 paths with c1, where the sampled error is light."""
    rows = estimator_studies.ratio_check(make_tree(5, 3), 0, repeats=1500)
    some = [
        r for r in rows if r["estimator"] == "Jackpot (coin, per accepted)" and r["n_paths"] > 8
    ]
    assert len(some) == 2
    for row in some:
        assert row["standard_error"] < 0.02 * row["mse_sampled"]
        assert abs(row["mse_delta"] - row["mse_sampled"]) < 4 * row["standard_error"]


def test_equal_tuning_looks_at_both_spreads_of_the_mismatch():
    """The same seed with unequal states is another world."""
    rows = estimator_studies.equal_tuning(make_tree(3, 2), [0], (0.3,))
    even, uneven = ([r["TIS_true"] for r in rows if r["spread"] == s] for s in (0.0, 1.0))
    assert len(even) == len(uneven) == len(estimator_studies.N_PATHS)
    assert all(abs(a - b) > 1e-6 for a, b in zip(even, uneven, strict=True))
