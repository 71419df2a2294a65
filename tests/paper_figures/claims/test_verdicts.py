"""The registry of the paper's claims: verdicts at their edges, and where its numbers come from."""

import math

import figure_runs
import pytest
from figure_runs import CLAIM, SCALE, A
from optional import not_none

from paper_figures.analysis import run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.claims import verdicts
from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.claims.words import CANNOT, CONTRADICTED, NOT_SETTLED, REPRODUCED, word
from paper_figures.experiments.configurations import run
from paper_figures.experiments.run_lists import FULL, QUICK
from sim.studies import sweep


@pytest.mark.parametrize(
    ("wanted", "low", "high", "verdict"),
    [
        ({"above": 0.2}, 0.2001, 0.5, REPRODUCED),
        ({"above": 0.2}, 0.2, 0.5, NOT_SETTLED),
        ({"above": 0.2}, 0.1, 0.2, NOT_SETTLED),
        ({"above": 0.2}, 0.1, 0.1999, CONTRADICTED),
        ({"above": 0.0}, 0.0, 0.0, NOT_SETTLED),
        ({"below": 0.2}, -1.0, 0.1999, REPRODUCED),
        ({"below": 0.2}, -1.0, 0.2, NOT_SETTLED),
        ({"below": 0.2}, 0.2001, 0.3, CONTRADICTED),
        ({"within": 0.25}, -0.249, 0.249, REPRODUCED),
        ({"within": 0.25}, -0.25, 0.1, NOT_SETTLED),
        ({"within": 0.25}, -0.1, 0.3, NOT_SETTLED),
        ({"within": 0.25}, -0.5, 0.5, NOT_SETTLED),
        ({"within": 0.25}, 0.251, 0.5, CONTRADICTED),
        ({"within": 0.25}, -0.5, -0.251, CONTRADICTED),
        ({"within": 0.01, "of": 0.955}, 0.946, 0.964, REPRODUCED),
        ({"within": 0.01, "of": 0.955}, 0.0, 0.009, CONTRADICTED),
        ({"above": 0.2}, math.nan, math.nan, NOT_SETTLED),
    ],
)
def test_a_claim_holds_only_if_its_whole_interval_lies_beyond(wanted, low, high, verdict):
    interval = Interval((low + high) / 2, low, high)
    assert word((interval,), CLAIM._replace(**wanted).range, 3) == verdict
    assert verdicts.of_intervals(CLAIM._replace(**wanted), interval, interval, 3).verdict == verdict


@pytest.fixture
def home(tmp_path):
    """Jackpot ends at .75, .80, .85 and TIS at .55, .60, .65 on the three seeds."""
    for i, seed in enumerate(SCALE.seeds):
        for method, end in (("jackpot", 0.75), ("tis", 0.55)):
            own = run("chain", method, seed)
            n = len(figure_runs.evaluated_steps(own))
            rates = [0.25] * (n - 3) + [end + 0.05 * i] * 3
            figure_runs.write(own, tmp_path / "home", rates, kl=0.0625, seconds=2.0**i)
    run_statistics.rows.cache_clear()
    return tmp_path / "home"


def test_a_difference_is_judged_within_seeds(home):
    found = verdicts.judge(CLAIM._replace(above=0.1), SCALE, home)
    assert found.effect == pytest.approx((0.2, 0.2, 0.2))
    assert (found.verdict, found.seeds, len(found.runs)) == (REPRODUCED, 3, 6)
    assert all((home / name / "metrics.jsonl").exists() for name in found.runs)


def test_a_ratio_is_judged_within_seeds(home):
    claim = CLAIM._replace(kind="ratio", metric="seconds_update", below=1.1)
    found = verdicts.judge(claim, SCALE, home)
    assert found.effect == pytest.approx((1, 1, 1))
    assert found.verdict == REPRODUCED


def test_a_level_is_judged_alone(home):
    claim = CLAIM._replace(kind="level", metric="kl_last", b=None, below=0.05)
    found = verdicts.judge(claim, SCALE, home)
    assert found.effect == (0.0625, 0.0625, 0.0625)
    assert (found.verdict, found.detail) == (CONTRADICTED, "")


def test_too_few_seeds_give_no_verdict(home):
    two = SCALE._replace(seeds=SCALE.seeds[:2])
    found = verdicts.judge(CLAIM._replace(above=0.1, seeds=2), two, home)
    assert (found.verdict, found.detail) == (NOT_SETTLED, "2 seeds")


def test_a_claim_that_cannot_be_tested_says_why():
    claim = EmpiricalClaim("x", "Sec. 8", "w", "none", reason="no such machine")
    found = verdicts.judge(claim, FULL)
    assert (found.verdict, found.detail) == (CANNOT, "no such machine")
    assert (found.effect, found.runs) == (None, ())


def test_a_claim_about_figure_2_reads_its_numbers():
    """The same rows as the whole sweep gives, at the KL asked for."""
    claim = CLAIM._replace(kind="sweep", metric="z", family="noise in q", kl=0.009, seeds=1)
    rows = sweep.sweep(0, families=("noise in q",))
    near = sorted(rows, key=lambda row: abs(math.log(row["kl_before"] / 0.009)))[:2]
    found = not_none(verdicts.judge(claim._replace(above=0.5), FULL).effect)
    assert min(row["z"] for row in near) <= found.value <= max(row["z"] for row in near)
    few = [{**row} for row in sweep.sweep(4, quick=True) if row["family"] == "temperature"]
    assert few == sweep.sweep(4, quick=True, families=("temperature",))


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_every_claim_finds_its_runs_one_per_seed(scale):
    found = verdicts.load()
    for claim in found:
        sides = [verdicts.side(claim, s, scale) for s in "ab" if getattr(claim, s)]
        assert all({r.seed for r in s} == {r.seed for r in sides[0]} for s in sides)
        others = ("", "z", "kl_ratio", "mean@4 of 8 digits", "seconds")
        assert claim.metric in (*run_statistics.METRICS, *others)
    assert len({r.text() for r in verdicts.runs(found, scale)}) > 20


def test_the_claims_cover_what_the_paper_shows():
    places = " ".join(c.section for c in verdicts.load())
    for place in ("Fig. 1", "Fig. 2", "Fig. 4", "Fig. 5", "Table 1", "Table 2", "Table 3"):
        assert place in places
    for place in ("Sec. 4.4.3", "Sec. 8", "project page", "Sec. 1"):
        assert place in places


ENTRY = """
[[claim]]
id = "x"
section = "Fig. 1"
paper = "w"
test = "t"
kind = "level"
metric = "final"
a = { study = "fig1", world = "chain", method = "jackpot" }
seeds = 5
above = 0.1
"""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ENTRY.replace("above = 0.1", ""), "must have one of above, below, within"),
        (ENTRY + "below = 3.0\n", r"\['above', 'below'\]"),
        (ENTRY + "colour = 1\n", "colour"),
        (ENTRY.replace("seeds = 5", ""), r"lacks \['seeds'\]"),
        (ENTRY.replace('"level"', '"guess"'), "kind 'guess' is none of"),
        (ENTRY + ENTRY, "stands twice"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path, entry, message):
    (tmp_path / "claims.toml").write_text(entry)
    with pytest.raises(ValueError, match=message):
        verdicts.load(tmp_path / "claims.toml")


def test_a_side_without_runs_is_refused():
    with pytest.raises(ValueError, match="side a has 0 runs"):
        verdicts.side(CLAIM._replace(a={**A, "method": "icepop"}), "a", FULL)
    with pytest.raises(ValueError, match="has 9 runs of 3 seeds"):
        verdicts.side(CLAIM._replace(a={**A, "study": "fig5", "method": "no clip"}), "a", FULL)
