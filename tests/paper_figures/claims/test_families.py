"""Families of comparisons: what claims.toml may say, and verdicts of rows that are made up."""

from __future__ import annotations

import made_rows
import pytest

from paper_figures.claims import families
from paper_figures.claims.families import BETTER, OPEN, WORSE
from paper_figures.claims.verdicts import BadClaims
from paper_figures.experiments import evidence_lists
from paper_figures.experiments.kept_rows import Damaged
from paper_figures.experiments.studies import JUDGED


def of(name, rows):
    (family,) = (f for f in families.load() if f.id == name)
    return family, {c.method: c for c in families.judge(family, rows)}


def test_a_clear_gain_is_better_a_clear_loss_worse_and_noise_is_not_settled():
    rows = made_rows.whole({"jackpot": 0.4, "gspo": -0.4}, noise=0.01).values()
    family, found = of("rivals-separate", rows)
    assert (found["jackpot"].verdict, found["gspo"].verdict) == (BETTER, WORSE)
    others = [c.verdict for m, c in found.items() if m not in ("jackpot", "gspo")]
    assert others == [OPEN] * (len(family.methods) - 2)
    effect = found["jackpot"].effect
    assert effect is not None and effect.value == pytest.approx(0.2, abs=0.02)
    assert found["jackpot"].adjusted >= found["jackpot"].p


def test_the_baseline_may_be_of_another_setting():
    """TIS of the world is the baseline of the rivals, which have no TIS of their own."""
    rows = made_rows.whole({"dppo": 0.4, "tis": 0.2}, 0.0, evidence_lists.STUDY).values()
    family, found = of("evidence-rivals", rows)
    assert len(found["dppo"].differences) == family.seeds == 5
    effect, other = found["dppo"].effect, found["importance"].effect
    assert effect is not None and other is not None
    assert (effect.value, other.value) == pytest.approx((0.1, -0.1), abs=0.001)
    strange = [r._replace(setting="mask") if r.method == "tis" else r for r in rows]
    assert not families.judge(family, strange)[0].differences


def test_a_method_without_all_its_seeds_is_not_settled_and_counts_in_the_family():
    rows = [
        row
        for row in made_rows.whole({"jackpot": 0.4}, noise=0.01).values()
        if not (row.method == "jackpot" and row.stage == JUDGED and row.seed == 102)
    ]
    family, found = of("rivals-separate", rows)
    assert found["jackpot"].verdict == OPEN and found["jackpot"].p == 1.0
    assert len(found["jackpot"].differences) == family.seeds - 1


def test_the_summary_says_what_is_settled():
    rows = made_rows.whole({"jackpot": 0.4}, noise=0.01).values()
    judged = [(f, families.judge(f, rows)) for f in families.load() if f.id == "rivals-separate"]
    (line,) = families.summary(judged)
    assert "5 of 5 seeds" in line and "jackpot better" in line and "11 of 12 not settled" in line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('metric = "area"', 'metric = "mean"', "its metric mean"),
        ('"cispo"', '"cispa"', "cispa"),
        ('_setting = "chain 48 falling"', '_setting = "mask, causes"', "no setting"),
        ('_setting = "chain 48 falling"', '_setting = "causes"', "'tis'.* not in causes"),
        ('_setting = "chain 48 falling"', '_setting = "48 sums"', "0 in common"),
        ("seeds = 5", 'seeds = "5"', "seeds = '5'"),
        ("seeds = 5", "seeds = 6", "5 in common"),
        ('"none", "jackpot expected"', '"jackpot", "jackpot expected"', "stands twice"),
        ('"none", "jackpot expected"', '"tis", "jackpot expected"', "is the baseline"),
        ('metric = "area"', "metric = 5", "metric = 5 of family rivals-separate"),
        (
            'methods = ["jackpot"',
            'methods = "jackpot" # ["jackpot"',
            "methods = 'jackpot' of family",
        ),
        ("[[family]]", "[[familly]]", "familly.* none of claim, family, again"),
        ('metric = "area"', "metric = area", "Invalid value"),
        ("seeds = 5\n", "", "fields"),
        ('id = "rivals-stale"', 'id = "rivals-separate"', "twice"),
    ],
)
def test_a_family_that_cannot_be_judged_is_an_error(tmp_path, old, new, said):
    text = families.FILE.read_text()
    text = text[text.index("[[family]]") :]
    assert old in text
    file = tmp_path / "claims.toml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BadClaims, match=said):
        families.load(file)


def test_an_entry_in_single_brackets_is_refused(tmp_path):
    file = tmp_path / "claims.toml"
    file.write_text('[family]\nid = "x"\n')
    with pytest.raises(BadClaims, match="with two brackets"):
        families.load(file)


def test_two_judged_rows_of_a_method_and_seed_are_refused():
    rows = [*made_rows.whole({"jackpot": 0.4}, noise=0.01).values()]
    (one, *_) = (r for r in rows if r.stage == JUDGED and r.method == "jackpot")
    with pytest.raises(Damaged, match=rf"{one.setting}, jackpot, seed {one.seed}"):
        of("rivals-separate", [*rows, one._replace(rate=8e-4, area=0.1)])
