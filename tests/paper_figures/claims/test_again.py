"""The paper's claims again, by kept rows: effect and verdict against numbers worked out by hand."""

from __future__ import annotations

import made_rows
import pytest

from paper_figures.claims import again, verdicts
from paper_figures.claims.words import CONTRADICTED, NOT_SETTLED, REPRODUCED
from paper_figures.experiments import evidence_lists

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
    judged = again.judge(entry("no-alignment-collapses"), rows)
    assert judged.student is not None and judged.seeds == 3
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom; the spread of .3, .4, .5 is .1
    assert [*judged.student] == pytest.approx([0.4, 0.4 - half, 0.4 + half], abs=1e-6)
    assert judged.verdict == NOT_SETTLED  # .4 - .248 is below the wanted .2
    one_more = [r._replace(seed=403, final=0.5) for r in rows if r.seed == 401]
    one_more = [r._replace(final=0.9) if r.method == "on-policy" else r for r in one_more]
    assert again.judge(entry("no-alignment-collapses"), rows + one_more).verdict == REPRODUCED
    lone = [r for r in one_more if r.method != "on-policy"]
    assert again.judge(entry("no-alignment-collapses"), rows + lone).seeds == 3


def test_a_level_and_the_highest_kl_are_of_the_curve(rows):
    assert entry("kl-of-jackpot-stays").b == ""
    steady = [r._replace(kl_last=0.2 + r.seed / 1e6) for r in rows]
    judged = again.judge(entry("kl-of-jackpot-stays"), steady)
    assert judged.effect is not None and judged.effect.value == pytest.approx(0.200401)
    assert judged.verdict == CONTRADICTED  # wanted below .15
    risen = [r._replace(kl=((0.0, 0.9), (1.0, 0.5))) if "none" in r.method else r for r in rows]
    judged = again.judge(entry("kl-explodes"), risen)
    assert judged.effect is not None and judged.effect.value == pytest.approx(0.9 - 0.6)


def test_other_settings_stages_and_studies_do_not_count(rows):
    for change in ({"setting": "mask"}, {"stage": "sweep"}, {"study": "drafted"}):
        others = [r._replace(**change) for r in rows]
        judged = again.judge(entry("no-alignment-collapses"), others)
        assert (judged.verdict, judged.detail) == (NOT_SETTLED, "no runs are kept")
    assert "no runs are kept" in again.summary([judged])[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('claim = "kl-explodes"', 'claim = "kl"', "of a known claim"),
        ('b = "none, frozen actor"', 'b = "nothing"', "is no setting with"),
        ('claim = "kl-explodes"', 'claim = "no-overhead"', "ratio of seconds_update is not kept"),
        ('a = "on-policy"\nb =', 'a = "on-policy"\nc = "x"\nb =', "has not"),
    ],
)
def test_an_entry_of_nothing_is_refused(old, new, said, tmp_path):
    text = verdicts.FILE.read_text(encoding="utf-8")
    head, mark, tail = text.partition("[[again]]")
    assert old in tail
    file = tmp_path / "claims.toml"
    file.write_text(head + mark + tail.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        again.load(file)
