"""The paper's claims again, by kept rows: effect and verdict against numbers worked out by hand."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import made_rows
import pytest

from paper_figures.claims import again, verdicts
from paper_figures.claims.words import CONTRADICTED, NOT_SETTLED, REPRODUCED
from paper_figures.experiments import evidence_lists, kept_rows

ROOT = Path(__file__).resolve().parents[3]
WORLD = "chain 48 falling"


@pytest.fixture
def rows():
    """By method: rows of three seeds with finals that differ from on-policy's by known numbers."""
    whole = made_rows.whole({}, 0.0, evidence_lists.STUDY)
    judged = [r for r in whole.values() if r.setting == WORLD and r.stage == "judged"]
    less = {400: 0.3, 401: 0.4, 402: 0.5}
    made = []
    for r in judged:
        if r.seed in less:
            final = 0.9 if r.method == "on-policy" else 0.9 - less[r.seed]
            made.append(r._replace(final=final, kl=((0.0, 0.2), (1.0, 0.6), (2.0, 0.1))))
    return made


def entry(claim: str) -> again.ClaimAgain:
    return next(e for e in again.load() if (e.claim.id, e.setting) == (claim, WORLD))


def test_a_difference_is_paired_by_seed(rows):
    own = entry("no-alignment-at-its-own-rate")
    assert own.seeds == 8  # of the setting
    own = own._replace(seeds=3)
    judged = again.judge(own, rows)
    assert judged.student is not None and judged.seeds == 3
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom; the spread of .3, .4, .5 is .1
    assert [*judged.student] == pytest.approx([0.4, 0.4 - half, 0.4 + half], abs=1e-6)
    assert judged.verdict == NOT_SETTLED  # .4 - .248 is below the wanted .2
    assert judged.effect is not None  # of three values the bootstrap's reaches no further than they
    assert 0.3 - 1e-9 <= judged.effect.low < judged.effect.high <= 0.5 + 1e-9
    one_more = [r._replace(seed=403, final=0.5) for r in rows if r.seed == 401]
    one_more = [r._replace(final=0.9) if r.method == "on-policy" else r for r in one_more]
    assert again.judge(own, rows + one_more).verdict == REPRODUCED
    judged = again.judge(own._replace(seeds=5), rows + one_more)  # a part of them settles nothing
    assert (judged.verdict, judged.detail) == (NOT_SETTLED, "4 of 5 seeds")
    lone = [r for r in one_more if r.method != "on-policy"]
    assert again.judge(own, rows + lone).seeds == 3


def test_a_level_and_the_highest_kl_are_of_the_curve(rows):
    assert entry("kl-of-jackpot-stays").b == ""
    steady = [r._replace(kl_last=0.2 + r.seed / 1e6) for r in rows]
    judged = again.judge(entry("kl-of-jackpot-stays")._replace(seeds=3), steady)
    assert judged.effect is not None and judged.effect.value == pytest.approx(0.200401)
    assert judged.verdict == CONTRADICTED  # wanted below .15
    risen = [r._replace(kl=((0.0, 0.9), (1.0, 0.5))) if "none" in r.method else r for r in rows]
    judged = again.judge(entry("kl-explodes"), risen)
    assert judged.effect is not None and judged.effect.value == pytest.approx(0.9 - 0.6)


def row(**changes):
    """A row whose curve is .5, .9, .7, .4, .6, .5 at steps 0 to 50."""
    rates = zip((0.0, 10.0, 20.0, 30.0, 40.0, 50.0), (0.5, 0.9, 0.7, 0.4, 0.6, 0.5), strict=True)
    first = next(iter(made_rows.whole({}, 0.0, evidence_lists.STUDY).values()))
    return first._replace(curve=tuple(rates), **changes)


def test_the_largest_fall_and_the_last_step_near_the_best_are_of_the_curve():
    """It falls from .9 to .4. 80 % of its best is .72, which it has last at step 10."""
    assert again.METRICS["drop"](row()) == pytest.approx(0.5)
    assert again.METRICS["lasts"](row()) == 10.0
    steady = row()._replace(curve=((0.0, 0.5), (10.0, 0.4)))  # just 80 %
    assert again.METRICS["lasts"](steady) == 10.0


def timed(method: str, rates: list[float], seconds: dict[int, float], setting="deep policy"):
    """By seed: a row with an evaluation every ten steps, which each take so many seconds. On-policy
    training samples in three quarters of them, the others in a quarter."""
    share = 0.75 if method == "on-policy" else 0.25
    own = {"study": "evidence", "stage": "judged", "setting": setting, "method": method}
    curve = tuple((10.0 * i, y) for i, y in enumerate(rates))
    made = []
    for seed, each in seconds.items():
        spent = {"seconds_rollout": share * each, "seconds_update": (1 - share) * each}
        made.append(row(**own, **spent, seed=seed, final=rates[-1])._replace(curve=curve))
    return made


def of_claim(claim: str) -> again.ClaimAgain:
    return next(e for e in again.load() if e.claim.id == claim)


def test_a_gain_is_the_time_of_on_policy_training_over_that_of_the_other():
    """On-policy goes from .2 to .7. 80 % of its way is .6, at step 16. The other has .6 at step 25.
    Its steps take 1 / 2, 1 / 4 and 1 / 8 of on-policy's: gains of 1.28, 2.56 and 5.12."""
    slow = timed("on-policy", [0.2, 0.45, 0.7, 0.7], {410: 8.0, 411: 8.0, 412: 8.0})
    fast = timed("jackpot", [0.2, 0.3, 0.5, 0.7], {410: 4.0, 411: 2.0, 412: 1.0})
    own = of_claim("cheaper-training")._replace(seeds=3)
    judged = again.judge(own, slow + fast)
    assert judged.student is not None and judged.student.value == pytest.approx(2.56)
    half = math.exp(4.302653 * math.log(2) / 3**0.5)  # the spread of the logarithms is log 2
    assert [*judged.student[1:]] == pytest.approx([2.56 / half, 2.56 * half], rel=1e-6)
    assert judged.verdict == NOT_SETTLED
    quick = timed("jackpot", [0.2, 0.3, 0.5, 0.7], {410: 0.5, 411: 0.4, 412: 0.6})
    assert again.judge(own, slow + quick).verdict == REPRODUCED
    for still in ([0.2, 0.2, 0.2, 0.2], [0.2, 0.3, 0.2, 0.1]):  # on-policy training learnt nothing
        flat = timed("on-policy", still, {410: 8.0, 411: 8.0, 412: 8.0})
        assert again.judge(own, flat + fast).detail.startswith("3 of 3 seeds have no time")
    there = timed("jackpot", [0.7, 0.7, 0.7, 0.7], {410: 4.0, 411: 2.0, 412: 1.0})  # at once
    assert again.judge(own, slow + there).detail.startswith("3 of 3 seeds have no time")
    never = timed("jackpot", [0.2, 0.3, 0.5, 0.5], {410: 4.0, 411: 2.0, 412: 1.0})
    judged = again.judge(of_claim("cheaper-training"), slow + never)
    assert judged.student is None
    assert judged.detail == "3 of 3 seeds have no time to 80% of the way"
    assert judged.detail in again.summary([judged])[0]
    assert judged.commit == made_rows.COMMIT[:7] and judged.commit in again.summary([judged])[0]


def test_equal_values_settle_nothing_and_a_seed_stands_once():
    same = timed("jackpot", [0.2, 0.9, 0.1], {410: 4.0, 411: 4.0, 412: 4.0})
    same = [r._replace(setting="480 steps") for r in same]
    (own,) = (e for e in again.load() if e.setting == "480 steps")
    judged = again.judge(own._replace(seeds=3), same)  # falls of .8, wanted above .2
    assert judged.seeds == 3 and math.isinf(judged.could_show)
    assert (judged.verdict, judged.detail) == (NOT_SETTLED, "no spread")
    assert "could show" not in again.summary([judged])[0]
    assert "+0.800] (3 of 5 seeds)" in again.summary([again.judge(own, same)])[0]
    with pytest.raises(kept_rows.Damaged, match="two kept rows of 480 steps, jackpot, seed 410"):
        again.judge(own, [*same, same[0]._replace(key="f" * 16)])


def test_a_ratio_of_seconds_is_a_geometric_mean_and_an_older_row_has_none():
    slow = timed("on-policy", [0.2, 0.7], {410: 8.0, 411: 8.0, 412: 8.0})
    fast = timed("jackpot", [0.2, 0.7], {410: 4.0, 411: 2.0, 412: 1.0})
    judged = again.judge(of_claim("cheap-rollouts"), slow + fast)
    assert judged.student is not None and judged.student.value == pytest.approx(0.25 / 3)
    older = [r._replace(seconds_rollout=None) for r in fast]
    with pytest.raises(kept_rows.Damaged, match="no seconds_rollout: train it again"):
        again.judge(of_claim("cheap-rollouts"), slow + older)


def test_runs_of_another_setting_are_those_that_the_entry_names():
    """On-policy training is of the world, and the runs without correction are of the other pair."""
    none = timed("none, frozen actor", [0.2, 0.3], {400: 1.0, 401: 1.0, 402: 1.0}, "small actor")
    alone = timed("on-policy", [0.2, 0.9], {400: 1.0, 401: 1.0, 402: 1.0}, WORLD)
    strange = timed("on-policy", [0.2, 0.4], {400: 1.0, 401: 1.0, 402: 1.0}, "small actor")
    judged = again.judge(of_claim("no-alignment-collapses-small"), none + alone + strange)
    assert judged.student is not None and judged.student.value == pytest.approx(0.6)
    assert judged.claim.test == (
        "small actor: on-policy less no correction, frozen actor "
        '(on-policy from "chain 48 falling")'
    )


def test_other_settings_stages_and_studies_do_not_count(rows):
    for change in ({"setting": "mask"}, {"stage": "sweep"}, {"study": "drafted"}):
        others = [r._replace(**change) for r in rows]
        judged = again.judge(entry("no-alignment-at-its-own-rate"), others)
        assert (judged.verdict, judged.detail) == (NOT_SETTLED, "no runs are kept")
    assert "no runs are kept" in again.summary([judged])[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('claim = "kl-explodes"', 'claim = "kl"', "of a known claim"),
        ('b = "none, frozen actor"', 'b = "nothing"', "is no setting with"),
        ('claim = "kl-explodes"', 'claim = "hardest-set"', "mean@4 of 8 digits is not kept"),
        ('a = "jackpot"\n\n', 'a = "jackpot"\nb = "tis"\n\n', "level of kl_last is not kept"),
        ('claim = "cheaper-training"', 'claim = "no-overhead"\nmetric = "time"', "is not kept"),
        ('{ on-policy = "8e-4" }', '{ on-policy = "chain final" }', "do not pair"),
        ("elsewhere = { jackpot", "elsewhere = { kl", "does not compare ['kl'] of elsewhere"),
        ('a = "on-policy"\nb =', 'a = "on-policy"\nc = "x"\nb =', "has not"),
    ],
)
def test_an_entry_of_nothing_is_refused(old, new, said, tmp_path):
    text = verdicts.FILE.read_text(encoding="utf-8")
    head, mark, tail = text.partition("[[again]]")
    assert old in tail
    file = tmp_path / "claims.toml"
    file.write_text(head + mark + tail.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)):
        again.load(file)


def test_the_table_of_the_document_is_that_of_the_kept_rows(tmp_path):
    """And every claim is in it, but for those that the document names."""
    rows = kept_rows.read(kept_rows.file_of(evidence_lists.STUDY)).values()
    entries = again.load()
    table = again.table(entries, [again.judge(e, rows) for e in entries])
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    _, _, after = text.partition("| claim | setting | compared |")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    found = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert found == list(table.rows)
    by_claim: dict[str, set[str]] = {}
    for row in table.rows:
        by_claim.setdefault(row[0], set()).add(row[-1])
    counts = Counter(map(frozenset, by_claim.values()))
    one = {claim for claim, found in by_claim.items() if found == {REPRODUCED}}
    assert Counter(row[0] for row in table.rows if row[0] in one).most_common(1)[0][1] == 1
    both = sum(n for found, n in counts.items() if {REPRODUCED, CONTRADICTED} <= found)
    wanted = [len(by_claim), counts[frozenset({REPRODUCED})]]
    wanted += [counts[frozenset({word, NOT_SETTLED})] for word in (REPRODUCED, CONTRADICTED)]
    wanted += [both, counts[frozenset({NOT_SETTLED})]]
    numbers = r"\*\*Of (\d+) claims, (\d+)\s.*?and (\d+)\s.*?\s(\d+)\s.*?\s(\d+)\s.*?\s(\d+)\s"
    said = re.search(numbers, text, re.S)
    assert said is not None and [int(x) for x in said.groups()] == wanted
    assert sum(wanted[1:]) == wanted[0]
    others = {c.id for c in verdicts.load()} - {e.claim.id for e in entries}
    section = after.partition("## What is fixed")[0]
    assert all(f"`{name}`" in section for name in others) and len(others) == 6
