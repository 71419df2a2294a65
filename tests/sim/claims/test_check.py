"""The registry of claims: its verdicts, and that it notices a wrong core, oracle or declaration."""

import dataclasses
import json
import subprocess
import sys
from fractions import Fraction as F

import numpy as np
import pytest
from claim_cases import examined, finding

import jackpot
from sim.claims import check, registry
from sim.claims import estimators as est
from sim.claims import many_states as many
from sim.claims import solvers as solver
from sim.claims import top_k as few
from sim.claims import trajectories as paths
from sim.commands import main as sim_main
from sim.oracle import exact, rules
from sim.studies import subsampling

check.load_claims()


@pytest.mark.parametrize("id", registry.CLAIMS)
def test_every_claim_has_its_declared_verdict(id):
    found = finding(id, cases=100, seed=1)
    assert found.verdict == registry.CLAIMS[id].declared, check.explain(found)
    assert found.cases >= 5


@pytest.mark.parametrize(
    "id", [c.id for c in registry.CLAIMS.values() if c.declared == registry.FAILS]
)
def test_one_case_is_enough_to_refute_a_printed_statement(id):
    """The example by hand alone must do, whatever the seed."""
    assert finding(id, cases=1, seed=123).verdict == registry.FAILS


# Counterexamples, by hand: no value below comes from the code under test.


# Faults: each is planted in one function; the registry must say so.


def core_faults():
    """(function, what to put in its place, the claim that must notice)."""
    j = {name: getattr(jackpot, name) for name in jackpot.__all__}
    flat = lambda *a: j["accept_prob"](*a) ** 1.001  # noqa: E731
    return [
        ("accept_prob", flat, "core-distribution"),
        ("acceptance_rate", lambda p, q, lam: j["acceptance_rate"](p, q, 1.0), "core-distribution"),
        ("post_rejection", lambda p, q, lam: q, "core-distribution"),
        ("post_rejection", lambda p, q, lam: q, "core-families"),
        ("lam_for_budget", lambda *a: j["lam_for_budget"](*a) * (1 + 1e-9), "core-lam"),
        ("lam_for_budget", lambda p, q, b: 1.0, "core-lam"),
        ("common_lam_for_budget", lambda p, q, b, d: j["common_lam_for_budget"](p, q, b),
         "core-common-lam"),
        ("lam_from_samples", lambda r, b: j["lam_from_samples"](r, b) / b, "core-common-lam"),
        ("obrs_weight", lambda r, lam, z: np.maximum(np.exp(r), lam), "core-weights"),
        ("expected_weight", lambda r, lam, z, c: np.minimum(z * np.exp(r), c), "core-weights"),
        ("tis", lambda r, cap: np.exp(r), "core-weights"),
        ("icepop", lambda r, low, high: np.clip(np.exp(r), low, high), "core-weights"),
        ("z_topk", lambda *a: (j["z_topk"](*a)[1],) * 2, "core-topk"),
        ("kappa", lambda kept, z: 1 / j["kappa"](kept, z) if kept.any() else 0.0, "core-topk"),
        ("tv", lambda p, q: 2 * j["tv"](p, q), "core-rational-divergences"),
        ("chi2_p_q", j["chi2_q_p"], "core-rational-divergences"),
        ("kl_p_q", lambda p, q: np.sum(np.exp(p) * np.nan_to_num(p - q)), "core-log-divergences"),
        ("js", lambda p, q: j["js"](p, q) * (1 + 1e-11), "core-log-divergences"),
        ("kl_p_q", j["kl_q_p"], "core-log-divergences"),
        ("hellinger2", j["tv"], "core-log-divergences"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "id"), core_faults())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fault_in_the_core_is_noticed(monkeypatch, name, wrong, id):
    monkeypatch.setattr(jackpot, name, wrong)
    assert finding(id).verdict == registry.FAILS


def squared(p, q, lam):
    """A wrong rule: it rejects too much of what q has too much of."""
    return [min(F(1), a / (lam * b)) ** 2 if b else F(a > 0) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize(
    "id",
    ["A0-ratio", "A0-tv", "A3-lam", "Thm3.4-optimal", "A1-rational", "A1-certified", "A1-tv-value",
     "A4-after", "A5-formula", "A6-floor-kl", "C1-mean", "C2-coin", "E1-joint"],
)  # fmt: skip
def test_a_wrong_acceptance_rule_is_noticed(monkeypatch, id):
    monkeypatch.setattr(exact, "accept_prob", squared)
    assert finding(id).verdict == registry.FAILS


def test_a_wrong_threshold_is_not_optimal(monkeypatch):
    """Equal budgets in place of the common lam: E1 must object."""

    def first_state_only(ps, qs, budget, d):
        return exact.lam_for_budget(ps[0], qs[0], budget)

    monkeypatch.setattr(exact, "common_lam_for_budget", first_state_only)
    assert finding("E1-joint").verdict == registry.FAILS


def distribution_faults():
    """(module, function, what to put in its place, the claim that must notice).

    Each breaks one comparison of two divergences and leaves the claim's other checks true.
    """
    after, contest = exact.post_rejection, rules.contest
    return [
        (exact, "post_rejection", lambda p, q, lam: after(p, q, 1 / lam), "A4-before"),
        (exact, "post_rejection", lambda p, q, lam: q, "A2-at-least"),  # nothing is rejected
        # a rival that the budget does not allow, closer to p than it can be
        (rules, "contest", lambda draw, p, q: (contest(draw, p, q)[0], [p]), "A6-floor-kl"),
    ]


@pytest.mark.parametrize(("module", "name", "wrong", "id"), distribution_faults())
def test_a_wrong_distribution_is_noticed(monkeypatch, module, name, wrong, id):
    monkeypatch.setattr(module, name, wrong)
    assert finding(id).verdict == registry.FAILS


# The command.


def run_subset(monkeypatch, capsys, ids, *arguments, **declared):
    """Exit code and text of `check` on some claims, some with another declared verdict."""
    claims = {i: registry.CLAIMS[i] for i in ids}
    for i, verdict in declared.items():
        key = i.replace("_", "-")
        claims[key] = dataclasses.replace(claims[key], declared=verdict)
    monkeypatch.setattr(registry, "CLAIMS", claims)
    code = sim_main(["check", "--cases", "20", *arguments])
    return code, capsys.readouterr().out


IDS = ("Thm3.3-if", "A5-strict", "A0-tv")


def test_check_exits_0_when_all_verdicts_are_as_declared(monkeypatch, capsys):
    code, out = run_subset(monkeypatch, capsys, IDS)
    assert code == 0 and "3 claims" in out and "as declared" in out


@pytest.mark.parametrize(("cases", "seed"), [(1, 0), (3, 99), (5, 1)])
def test_check_exits_0_however_few_cases_are_asked_for(capsys, cases, seed):
    """A conditional claim draws on until its condition is met."""
    assert sim_main(["check", "--cases", str(cases), "--seed", str(seed)]) == 0
    assert "every verdict is as declared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flipped", "verdict", "found"),
    [("A0_tv", registry.FAILS, "holds"), ("A5_strict", registry.HOLDS, "holds as corrected")],
)
def test_check_exits_1_when_a_declared_verdict_is_wrong(
    monkeypatch, capsys, flipped, verdict, found
):
    code, out = run_subset(monkeypatch, capsys, IDS, **{flipped: verdict})
    name = flipped.replace("_", "-")
    assert code == 1 and f"{name}: declared {verdict!r}, found {found!r}" in out


def test_check_exits_1_when_the_core_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(jackpot, "acceptance_rate", lambda p, q, lam: np.exp(q).sum(-1))
    code, out = run_subset(monkeypatch, capsys, ("core-distribution",))
    assert code == 1 and "core-distribution: declared 'holds', found 'fails'" in out


def test_check_writes_the_registry_as_json(monkeypatch, capsys, tmp_path):
    file = tmp_path / "claims.json"
    run_subset(monkeypatch, capsys, IDS, "--json", str(file))
    rows = json.loads(file.read_text())
    assert [row["id"] for row in rows] == list(IDS)
    assert rows[0] | {"worst_case": 0, "violations": 0} == {
        "id": "Thm3.3-if",
        "source": "paper, Theorem 3.3",
        "statement": registry.CLAIMS["Thm3.3-if"].statement,
        "declared": "fails",
        "verdict": "fails",
        "cases": rows[0]["cases"],
        "violations": 0,
        "largest_violation": 0.0,  # equality where < is claimed
        "worst_case": 0,
    }
    assert rows[0]["statement"].endswith("if lam < max p/q then KL(p||q~) < KL(p||q).")
    assert rows[0]["worst_case"]["p"] == ["1/2", "1/2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--cases", "0"], "0 is too small; give a whole number of at least 1"),
        (["check", "--cases", "2.5"], "'2.5' is not a whole number"),
        (["check", "--seed", "-1"], "'-1' is not a seed; give a whole number >= 0"),
        (["check", "--json", "/no/such/folder/x"], "there is no folder /no/such/folder"),
        (["check", "--json", "/"], "is a folder; give the name of a file in it"),
        (["chekc"], "invalid choice: 'chekc'"),
    ],
)
def test_bad_input_is_refused_before_any_work(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(registry, "run", lambda *a: pytest.fail("work had started"))
    with pytest.raises(SystemExit, match="2"):
        sim_main(arguments)
    assert message in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['sim', '--help']\n"
        "try: runpy.run_module('sim', run_name='__main__')\n"
        "except SystemExit as e:\n"
        "    sys.exit(e.code or bool({'numpy', 'mpmath', 'scipy'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# The machinery.


HALVES = (F(1, 2), F(1, 2))


@pytest.mark.parametrize(
    "id",
    ["A1-dual", "A1-first-order", "A1-linprog", "A1-slsqp", "A7-top-p", "Zapprox-below",
     "D1-bounds", "D3-means", "C3-limits", "C3-weight", "C5-cost", "E1-grid", "E2-slope",
     "E3-forgiving", "E4-resample-gain", "E4-mask", "E4-sequence"],
)  # fmt: skip
def test_a_wrong_acceptance_rule_is_noticed_by_our_claims(monkeypatch, id):
    monkeypatch.setattr(exact, "accept_prob", squared)
    found = examined(id)
    assert found.violations and not found.error


def faults_beyond_the_core():
    """(module, function, what to put in its place, the claim that must notice)."""
    samples, track, ratios = jackpot.lam_from_samples, jackpot.track_lam, exact.lam_from_ratios
    return [
        (jackpot, "lam_from_samples", lambda r, b: samples(r, b) * (1 + 1e-9), "E3-sample"),
        (jackpot, "lam_from_samples", lambda r, b: samples(np.maximum(r, -9), b), "E3-sample"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x, r, b, 1 - d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(None, r, b, d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x or 0.0, r, b, d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x, np.maximum(r, -9), b, d), "E3-track"),
        (exact, "lam_from_ratios", lambda r, b: ratios(r, b / 2), "E3-sample"),
        (exact, "kappa", lambda a, z: sum(z) / len(z), "kappa-mean"),
        (exact, "expected_weight", lambda r, lam, z, c1: min(z * r, c1), "C4-multiplier"),
        (exact, "hockey_stick", lambda p, q, g: exact.tv(p, q), "A1-dual"),
        (subsampling, "cost_optimal_lam", lambda m, r, c: float(max(r)), "C5-cost"),
        (solver, "dual_bound", lambda p, caps, g, y, mu: sum(y) + mu, "A1-linprog"),
        (few, "top_k", lambda row, k: sorted(range(len(row)), key=lambda i: row[i])[:k],
         "D2-known"),
        (paths, "resampled", lambda p1, q1, p2, q2, lam: paths.joint(
            exact.post_rejection(p1, q1, lam), q2), "E4-resample-gain"),
        (many, "accepted", lambda d, ps, qs, lams, b: paths.joint(d, qs), "E1-grid-kl"),
        (est, "second_moment", lambda q, size, a: sum(a), "C5-neyman"),
    ]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "wrong", "id"), faults_beyond_the_core())
def test_a_fault_in_the_oracle_or_a_solver_is_noticed(monkeypatch, module, name, wrong, id):
    monkeypatch.setattr(module, name, wrong)
    assert examined(id).violations
