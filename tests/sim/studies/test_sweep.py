"""Figure 2's numbers."""

import csv
import math

import numpy as np
import pytest

from sim.commands import main as sim_main
from sim.studies import sweep


@pytest.fixture(scope="module")
def rows():
    return sweep.sweep(seed=3)


def test_the_toy_moves_every_token_toward_the_target():
    """By hand: Z = .24 + .21 + .20 + .10 = 3/4, and q~ = (.24, .21, .20, .10) / Z."""
    found = sweep.toy()
    after = [row["post_rejection"] for row in found]
    assert after == pytest.approx([0.32, 0.28, 4 / 15, 2 / 15], rel=1e-12)
    assert [row["accept"] for row in found] == pytest.approx([1, 1, 2 / 3, 2 / 5], rel=1e-12)
    for row in found:
        assert abs(row["post_rejection"] - row["target"]) < abs(row["behaviour"] - row["target"])


def test_measure_agrees_with_two_tokens_by_hand():
    """p = (.6, .4), q = (.4, .6): at lam = 1, q a = (.4, .4); at Z = .95, q a = (.4, .55)."""
    log_p, log_q = np.log([[0.6, 0.4]]), np.log([[0.4, 0.6]])
    row = sweep.measure(log_p, log_q)
    before = 0.6 * math.log(1.5) + 0.4 * math.log(2 / 3)
    after = 0.6 * math.log(1.2) + 0.4 * math.log(0.8)
    at_95 = 0.6 * math.log(0.6 * 0.95 / 0.4) + 0.4 * math.log(0.4 * 0.95 / 0.55)
    assert row["z"] == pytest.approx(0.8)
    assert row["kl_before"] == pytest.approx(before)
    assert row["kl_after"] == pytest.approx(after)
    assert row["kl_ratio"] == pytest.approx(after / before)
    assert row["kl_after_95"] == pytest.approx(at_95)
    assert row["kl_ratio_95"] == pytest.approx(at_95 / before)
    assert row["floor_95"] == pytest.approx(before + math.log(0.95))
    assert row["floor_at_z"] == 0.0  # before + log(.8) < 0


def test_measure_gives_means_and_percentiles_over_states():
    log_p = np.log([[0.6, 0.4], [0.7, 0.3], [0.5, 0.5]])
    log_q = np.log([[0.4, 0.6], [0.4, 0.6], [0.4, 0.6]])
    row = sweep.measure(log_p, log_q)
    z = 1 - np.array([0.2, 0.3, 0.1])
    assert row["states"] == 3
    assert (row["z"], row["z_p10"], row["z_p90"]) == pytest.approx((0.8, 0.72, 0.88))
    assert row["z"] == pytest.approx(z.mean())


def test_every_row_obeys_the_budget_floor(rows):
    """A6: KL before - log(1/Z) <= KL after <= KL before, at lam = 1 and at Z = .95."""
    assert len(rows) == 21 * len(sweep.FAMILIES)
    for row in rows:
        assert row["floor_at_z"] <= row["kl_after"] < row["kl_before"]
        assert row["floor_95"] <= row["kl_after_95"] < row["kl_before"]
        assert 0 < row["z"] <= 1
    assert sum(row["floor_at_z"] > 0 for row in rows) > 5  # so the floor was tested
    assert sum(row["floor_95"] > 0 for row in rows) > 30


def test_the_sweep_covers_the_paper_and_a_nat(rows):
    for name in sweep.FAMILIES:
        kl = [row["kl_before"] for row in rows if row["family"] == name]
        assert min(kl) < 3e-4
        assert max(kl) > (0.3 if name == "temperature" else 0.5)


@pytest.mark.parametrize("name", ["Gaussian logits", "Zipf, v = 20,000"])
def test_gaussian_noise_cuts_a_small_kl_to_about_a_third(rows, name):
    """A6: Var max(h, 0) / Var h = 1/2 - 1/(2 pi) = .341 for Gaussian h; acceptance
    1 - sqrt(KL / pi)."""
    first = next(row for row in rows if row["family"] == name)
    assert first["kl_ratio"] == pytest.approx(0.5 - 0.5 / math.pi, abs=0.02)
    assert 1 - first["z"] == pytest.approx(math.sqrt(first["kl_before"] / math.pi), rel=0.05)


def test_a_tenfold_cut_depends_on_where_the_noise_is(rows):
    """At the paper's KL of .009: under a tenth for noise in q, over four fifths for noise in p."""

    def ratio(name):
        return sweep.interpolate(rows, name, 0.009, lambda row: row["kl_ratio"])

    assert ratio("noise in q") < 0.06
    assert ratio("noise in p") > 0.8


def test_the_papers_points_fit_one_family(rows):
    """Figure 2 and the project page: Z .955, .92 and KL after .0007, .0024 at KL .009, .024."""
    for kl, z, after in ((0.009, 0.955, 0.0007), (0.024, 0.92, 0.0024)):
        fit = [
            sweep.interpolate(rows, "noise in q, Dirichlet(1.5)", kl, value)
            for value in (lambda row: row["z"], lambda row: row["kl_ratio"] * row["kl_before"])
        ]
        assert fit[0] == pytest.approx(z, abs=0.006)
        assert fit[1] == pytest.approx(after, rel=0.15)


def test_no_family_is_cut_tenfold_at_95_percent_above_the_bound(rows):
    """A6: impossible beyond -log(.95) / .9 = .057 nats."""
    tenfold = [row["kl_before"] for row in rows if row["kl_ratio_95"] <= 0.1]
    assert tenfold and max(tenfold) < 0.057


def test_interpolation_refuses_to_extrapolate(rows):
    assert math.isnan(sweep.interpolate(rows, "temperature", 5.0, lambda row: row["z"]))
    row = rows[4]
    found = sweep.interpolate(rows, row["family"], row["kl_before"], lambda row: row["z"])
    assert found == pytest.approx(row["z"])


def test_the_command_writes_what_it_computed(tmp_path, capsys):
    file = tmp_path / "sweep.csv"
    assert sim_main(["sweep", "--quick", "--seed", "5", "--out", str(file)]) == 0
    with file.open(newline="") as text:
        found = list(csv.DictReader(text))
    expected = sweep.sweep(seed=5, quick=True)
    assert tuple(found[0]) == sweep.COLUMNS
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a["family"] == b["family"]
        assert float(a["kl_after"]) == pytest.approx(b["kl_after"], rel=1e-5)
    assert "noise in q, Dirichlet(1.5)" in capsys.readouterr().out


def test_the_seed_decides_the_numbers():
    first, again, other = (sweep.sweep(seed=s, quick=True) for s in (0, 0, 1))
    assert first == again
    assert first[0]["kl_before"] != other[0]["kl_before"]


def test_an_unwritable_file_is_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "sweep", lambda *a: pytest.fail("work had started"))
    with pytest.raises(SystemExit, match="2"):
        sim_main(["sweep", "--out", "/no/such/folder/sweep.csv"])
    assert "there is no folder /no/such/folder; make it first" in capsys.readouterr().err
