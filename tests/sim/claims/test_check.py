"""The claim ledger: its verdicts, and that it notices a wrong core, oracle or declaration."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from fractions import Fraction as F

import numpy as np
import pytest

import jackpot
from sim.claims import check, registry
from sim.commands import main as sim_main
from sim.oracle import exact, intervals, rules

check.load_claims()


def finding(id, cases=40, seed=0):
    """One claim examined, together with the claim it corrects."""
    claim = registry.CLAIMS[id]
    found = {id: registry.examine(claim, cases, seed)}
    if claim.corrects:
        found[claim.corrects] = registry.examine(registry.CLAIMS[claim.corrects], cases, seed)
    found[id].verdict = registry.verdict(found[id], found)
    return found[id]


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


def test_theorem_3_3_is_not_strict_below_the_largest_ratio():
    """r = (3/2, 3/4): at lam = 1/2 < 3/2 both tokens are accepted for certain, so q~ = q."""
    p, q = (F(1, 2), F(1, 2)), (F(1, 3), F(2, 3))
    assert registry.CLAIMS["Thm3.3-if"].example == {"p": p, "q": q, "lam": F(1, 2)}
    assert exact.accept_prob(p, q, F(1, 2)) == [1, 1]
    assert exact.post_rejection(p, q, F(1, 2)) == [F(1, 3), F(2, 3)]


def test_theorem_3_3_is_strict_above_the_largest_ratio():
    """lam = 2 > 3/2: a = (3/4, 3/8), q a = (1/4, 1/4), so q~ = p, closer than q."""
    p, q = (F(1, 2), F(1, 2)), (F(1, 3), F(2, 3))
    assert registry.CLAIMS["Thm3.3-only-if"].example == {"p": p, "q": q, "lam": F(2)}
    assert exact.accept_prob(p, q, F(2)) == [F(3, 4), F(3, 8)]
    assert exact.post_rejection(p, q, F(2)) == [F(1, 2), F(1, 2)]


def test_theorem_3_4_has_no_lam_above_the_shared_mass():
    """p = (1, 0), q = (1/2, 1/2): Z <= 1/2 for every lam, so nothing accepts 3/4."""
    p, q = (F(1), F(0)), (F(1, 2), F(1, 2))
    assert registry.CLAIMS["Thm3.4-exists"].example == {"p": p, "q": q, "budget": F(3, 4)}
    assert exact.acceptance_rate(p, q, F(1, 10**9)) == F(1, 2)
    with pytest.raises(ValueError, match=r"3/4 is not in \(0, 1/2\]"):
        exact.lam_for_budget(p, q, F(3, 4))


def test_algorithm_1_without_mask_gives_9_16_instead_of_3_8():
    """p = (1/2, 1/2), q = (1/4, 3/4), lam = 1: Z = 3/4; token 2 has w = 3/4, a = 2/3. E_q over
    token 2: without the mask 3/4 * 3/4, with it 3/4 * 2/3 * 3/4 = Z * 1/2."""
    found = finding("Alg1-no-mask", cases=1)
    assert found.largest_violation == pytest.approx(9 / 16 - 3 / 8, rel=1e-15)


def test_two_laws_share_the_least_tv():
    """q / b = (1/3, 1/2, 1/2): OBRS (1/3, 1/3, 1/3) and (1/3, 1/4, 5/12) both miss p by 1/6."""
    example = registry.CLAIMS["A2-tv-unique"].example
    p, q, budget, rival = (example[k] for k in ("p", "q", "budget", "rival"))
    lam = exact.lam_for_budget(p, q, budget)
    assert exact.post_rejection(p, q, lam) == [F(1, 3)] * 3
    assert sum(rival) == 1
    assert all(a <= b / budget for a, b in zip(rival, q, strict=True))
    assert sum(abs(a - b) for a, b in zip(p, rival, strict=True)) / 2 == F(1, 6)
    assert exact.tv(p, [F(1, 3)] * 3) == F(1, 6)


def test_kl_is_not_cut_tenfold_at_95_percent():
    """p = (.9, .1), q = (.5, .5): q a = (.5, .45), so KL goes from .368 to .327 nats."""
    found = finding("Fig2-tenfold", cases=1)
    before = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    after = 0.9 * math.log(0.9 * 0.95 / 0.5) + 0.1 * math.log(0.1 * 0.95 / 0.45)
    assert (before, after) == pytest.approx((0.3681, 0.3273), abs=1e-4)
    assert found.largest_violation == pytest.approx(after - before / 10, rel=1e-12)


# Faults: each is planted in one function; the ledger must say so.


def core_faults():
    """(function, what to put in its place, the claim that must notice)."""
    j = {name: getattr(jackpot, name) for name in jackpot.__all__}
    flat = lambda *a: j["accept_prob"](*a) ** 1.001  # noqa: E731
    return [
        ("accept_prob", flat, "core-law"),
        ("acceptance_rate", lambda p, q, lam: j["acceptance_rate"](p, q, 1.0), "core-law"),
        ("post_rejection", lambda p, q, lam: q, "core-law"),
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


def law_faults():
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


@pytest.mark.parametrize(("module", "name", "wrong", "id"), law_faults())
def test_a_wrong_law_is_noticed(monkeypatch, module, name, wrong, id):
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
    code, out = run_subset(monkeypatch, capsys, ("core-law",))
    assert code == 1 and "core-law: declared 'holds', found 'fails'" in out


def test_check_writes_the_ledger_as_json(monkeypatch, capsys, tmp_path):
    file = tmp_path / "ledger.json"
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
        "import sys, sim.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: sys.exit(bool({'numpy', 'mpmath', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# The machinery.


def tiny(statement, checks, **keywords):
    """A claim outside the ledger that yields the given checks."""

    def body(draw):
        yield from checks

    body.__doc__ = statement
    return registry.Claim("x", "here", statement, registry.HOLDS, body, None, 1.0, {}, **keywords)


def verdict_of(*checks):
    found = registry.examine(tiny("s", checks), 3, 0)
    return registry.verdict(found, {})


def test_verdicts_follow_the_checks():
    assert verdict_of(registry.at_most(1, 1), registry.below(1, 2)) == registry.HOLDS
    assert verdict_of(registry.at_most(1, 1), registry.below(1, 1)) == registry.FAILS
    assert verdict_of() == registry.UNDECIDED  # nothing was checked, so nothing holds
    undecided = registry.certainly_below(lambda: intervals.log(F(2)), lambda: intervals.log(F(2)))
    assert verdict_of(undecided) == registry.UNDECIDED


def test_a_conditional_claim_draws_on_until_its_condition_is_met():
    """Asked for 2 cases: the first check comes at draw 150 of the 202 allowed, and ends it."""
    draws = []

    def body(draw, first):
        draws.append(draw)
        if len(draws) >= first:
            yield registry.equal(1, 1)

    for first, made, verdict in (
        (1, 2, registry.HOLDS),
        (150, 150, registry.HOLDS),
        (203, 202, registry.UNDECIDED),
    ):
        draws.clear()
        claim = dataclasses.replace(tiny("s", []), check=functools.partial(body, first=first))
        assert registry.verdict(registry.examine(claim, 2, 0), {}) == verdict
        assert len(draws) == made


def test_a_correction_of_a_true_statement_is_not_a_correction():
    printed = registry.examine(tiny("s", [registry.equal(1, 1)]), 1, 0)
    corrected = dataclasses.replace(tiny("t", [registry.equal(1, 1)]), corrects="x")
    found = registry.examine(corrected, 1, 0)
    assert registry.verdict(found, {"x": printed}) == registry.HOLDS


def test_an_exception_is_reported_not_hidden():
    def boom(draw):
        raise ZeroDivisionError("nothing accepted")
        yield

    claim = dataclasses.replace(tiny("s", []), check=boom)
    found = registry.examine(claim, 3, 0)
    assert registry.verdict(found, {}) == registry.ERROR
    assert found.worst_case["error"] == "ZeroDivisionError: nothing accepted"


def test_a_claim_must_state_something_and_have_its_own_name():
    with pytest.raises(ValueError, match="states nothing"):
        registry.claim("new", "here")(lambda draw: iter(()))
    with pytest.raises(ValueError, match="two claims are called A0-tv"):
        registry.claim("A0-tv", "here")(test_verdicts_follow_the_checks)


def test_intervals_know_a_sign_that_float64_does_not():
    """log(1 + 1e-30) > 0, and two equal logarithms stay undecided."""
    assert intervals.excess(lambda: intervals.log(1 + F(1, 10**30)), lambda: F(0)) > 0
    assert intervals.excess(lambda: F(0), lambda: intervals.log(1 + F(1, 10**30))) < 0
    assert math.isnan(
        intervals.excess(lambda: intervals.log(F(4)), lambda: 2 * intervals.log(F(2)))
    )
    broken, _ = intervals.differ(lambda: intervals.log(F(4)), lambda: 2 * intervals.log(F(2)))
    assert not broken
    broken, size = intervals.differ(lambda: intervals.log(F(4)), lambda: intervals.log(F(5)))
    assert broken and size == pytest.approx(math.log(5 / 4))


def test_infinite_divergences_compare_as_infinity():
    inf = lambda: intervals.kl_p_q((F(1, 2), F(1, 2)), (F(1), F(0)))  # noqa: E731
    assert inf() == math.inf
    assert not registry.certainly_at_most(inf, inf).broken
    assert registry.certainly_below(inf, inf).broken
    assert registry.certainly_at_most(inf, lambda: F(3)).broken


def test_close_demands_zeros_and_infinities_exactly():
    assert not registry.close([0.0, 1 / 3, math.inf], [F(0), F(1, 3), math.inf]).broken
    for wrong in ([1e-300, 1 / 3, math.inf], [0.0, 0.3333333333, math.inf], [0.0, 1 / 3, 1e300]):
        assert registry.close(wrong, [F(0), F(1, 3), math.inf]).broken
    assert registry.close([math.nan], [F(1)]).broken
