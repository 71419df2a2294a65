"""`python -m sim drafting`: its rules against rational ones, its orderings, files and refusals."""

import csv
from fractions import Fraction as F

import numpy as np
import pytest

import jackpot
from sim.commands import main as sim_main
from sim.oracle import draft_rules, exact
from sim.report import sections
from sim.studies import drafting
from sim.studies.budgets import States
from sim.worlds import pairs

P = ((F(1, 2), F(1, 4), F(1, 4)), (F(2, 3), F(1, 6), F(1, 6)))
Q = ((F(1, 4), F(1, 4), F(1, 2)), (F(1, 6), F(1, 2), F(1, 3)))
STATES = States(pairs.log_probs(P), pairs.log_probs(Q))
LAM = F(3, 4)
TAU = sum((exact.draft_tau(p, q, LAM) for p, q in zip(P, Q, strict=True)), F(0)) / 2
EXACT = {  # the distributions of both states, at the mean rejection rate of lam = 3/4
    drafting.LAM: lambda p, q: exact.draft_law(p, q, LAM)[0],
    drafting.LENIENT: lambda p, q: draft_rules.lenient(p, q, LAM),
    drafting.ACCEPTS: lambda p, q: draft_rules.lenient_acceptance(p, q, LAM),
    drafting.REGENERATED: lambda p, q: draft_rules.regenerated(p, q, LAM),
    drafting.MASKED: lambda p, q: exact.post_rejection(p, q, LAM),
    drafting.MIXTURE: lambda p, q: draft_rules.mixture(p, q, share() * exact.tv(p, q)),
    drafting.SHARE: lambda p, q: at_rate(p, q, share() * exact.tv(p, q)),
    drafting.RATE: lambda p, q: at_rate(p, q, min(exact.tv(p, q), max(TAU, 2 * TAU - F(1, 4)))),
}


def share() -> F:
    return 2 * TAU / sum((exact.tv(p, q) for p, q in zip(P, Q, strict=True)), F(0))


def at_rate(p, q, tau):
    return exact.draft_law(p, q, exact.draft_lam(p, q, 1 - tau))[0]


@pytest.fixture(scope="module")
def rows():
    return drafting.run(seed=1, quick=True)


@pytest.mark.parametrize("name", EXACT)
def test_a_rule_has_the_distributions_of_rational_arithmetic(name):
    """Two states of three tokens."""
    got = np.exp(drafting.RULES[name](STATES, float(TAU)))
    want = [EXACT[name](p, q) for p, q in zip(P, Q, strict=True)]
    np.testing.assert_allclose(got, np.array(want, dtype=float), atol=1e-9)


def test_no_rule_spends_more_rejections_than_it_says():
    """F1: mean TV(q, s) is the rate for the clipped rule and the mixture, and at most it else."""
    states = drafting.states_at(drafting.peaked_world(np.random.default_rng(2), 20, 40), 0.1)
    tau = 0.5 * float(jackpot.tv(*states).mean())
    for name, rule in drafting.RULES.items():
        spent = float(jackpot.tv(states.log_q, rule(states, tau)).mean())
        assert spent <= tau + 1e-9, name
        if name.startswith("clip") or name == drafting.MIXTURE:
            assert spent == pytest.approx(tau, rel=1e-9), name


def test_the_states_have_the_mismatch_asked_for(rows):
    """In every world, before anything is rejected."""
    before = {(row["world"], round(row["kl_before"], 9)) for row in rows}
    assert before == set(drafting.WORLDS)


def test_no_rule_is_nearer_than_a_common_price(rows):
    """F6: the excess is at least 1, and 1 for the common price alone."""
    for row in rows:
        assert (row["excess"] > 1 + 1e-6) == (row["rule"] != drafting.BEST), row


def test_at_one_lam_the_clipped_distribution_is_the_nearest(rows):
    """F2: lenient acceptance with any other residual, and masking, leave more."""
    at = {(r["world"], r["kl_before"], r["spared"], r["rule"]): r["kl"] for r in rows}
    for (*where, name), kl in at.items():
        if name in (drafting.ACCEPTS, drafting.LENIENT, drafting.REGENERATED, drafting.MASKED):
            assert kl > at[*where, drafting.LAM]


def test_every_state_has_the_cap_or_less():
    """Mentored decoding: the KL of the states that reject is one number, to the table's digits."""
    states = drafting.states_at(drafting.peaked_world(np.random.default_rng(3), 20, 40), 0.1)
    tau = 0.5 * float(jackpot.tv(*states).mean())
    log_s = drafting.RULES[drafting.CAP](states, tau)
    kl, before = jackpot.kl_p_q(states.log_p, log_s), jackpot.kl_p_q(*states)
    cap = kl[kl < 0.99 * before]
    assert len(cap) > 5 and np.ptp(cap) < 0.02 * cap.mean()
    assert (kl < cap.max() * 1.001).all()


def test_the_command_writes_rows_and_pictures(tmp_path, capsys, monkeypatch, rows):
    """drafting.csv holds the rows to 6 digits; the table and the report have every rule."""
    some = [row for row in rows if row["world"] == drafting.FLAT]
    monkeypatch.setattr(drafting, "run", lambda seed, quick: some)
    assert sim_main(["drafting", "--out", str(tmp_path), "--quick"]) == 0
    text = capsys.readouterr().out
    (table,) = sections.drafting_tables(tmp_path)
    for name in drafting.RULES:
        assert text.count(f"\n{name} ") == 1 and f"{name}<" in str(table)
    with (tmp_path / "drafting.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(some)
    assert float(read[5]["kl"]) == pytest.approx(some[5]["kl"], rel=1e-5)
    assert (tmp_path / "drafting.png").stat().st_size > 20_000
    assert (tmp_path / "drafting.pdf").exists()


def test_an_output_folder_that_cannot_be_is_refused(tmp_path, capsys):
    """Exit status 2, and the name of the option."""
    (tmp_path / "file").touch()
    assert sim_main(["drafting", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write to --out" in capsys.readouterr().err
