"""Kept effects of the claims: what is believed of a file, and the verdicts it gives."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from figure_runs import CLAIM

from paper_figures.analysis.run_statistics import Interval
from paper_figures.claims import kept_claims, page, verdicts
from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.claims.words import CANNOT, CONTRADICTED, NOT_SETTLED, REPRODUCED
from paper_figures.experiments.kept_rows import Damaged

ROOT = Path(__file__).resolve().parents[3]
HEAD = ",".join(kept_claims.KeptEffect._fields)
COMMIT = "ab" * 20
GOOD = f"x,0.3,0.2,0.4,0.15,0.45,,5,{COMMIT}"


def kept(tmp_path, *rows, head=HEAD):
    file = tmp_path / "claims.csv"
    file.write_text("\n".join([head, *rows, ""]))
    return kept_claims.read(file)


def test_the_kept_effects_of_the_repository_give_every_claim_a_verdict():
    found = kept_claims.judgements(verdicts.load(), kept_claims.read(kept_claims.file()))
    assert len(found) == len(verdicts.load())
    for j in found:
        assert (j.effect is None) == (j.claim.kind == "none") == (j.verdict == CANNOT)
        assert j.effect is None or (j.commit and math.isfinite(j.could_show))
        seeds = j.claim.seeds
        assert j.seeds == seeds


def test_the_table_of_the_documents_is_that_of_the_kept_effects():
    found = kept_claims.judgements(verdicts.load(), kept_claims.read(kept_claims.file()))
    text = (ROOT / "paper_figures" / "README.md").read_text(encoding="utf-8")
    assert f"Of {len(found)} claims, {said(found)} cannot be tested here." in text.replace(
        "\n", " "
    )
    table = text[text.index("| the paper says | our test |") :].split("\n\n")[0].splitlines()[2:]
    for line, j in zip(table, found, strict=True):
        cells = [c.strip().strip("*") for c in line.strip("|").split("|")]
        effect = j.effect.text() if j.effect else ""
        assert cells[0] == f"{j.claim.paper} ({j.claim.section})"
        assert cells[3:] == [effect, page.ends(j), page.shown(j), j.verdict]
    main = (ROOT / "README.md").read_text(encoding="utf-8")
    counted = said(found).replace("not settled", "**not settled**")
    assert f"{counted} cannot be tested here" in main.replace("empirical claims", "claims")


def said(found):
    """The counts as the documents write them."""
    n = {w: sum(j.verdict == w for j in found) for w in (REPRODUCED, CONTRADICTED, NOT_SETTLED)}
    return (
        f"{n[REPRODUCED]} are reproduced at our scale, {n[CONTRADICTED]} are contradicted, "
        f"{n[NOT_SETTLED]} are not settled, and {len(found) - sum(n.values())}"
    )


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "run").mkdir()
    start = {"time": "2026-01-01", "commit": COMMIT}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps([start]))
    effect, student = Interval(0.3, 0.2, 0.4), Interval(0.3, 0.15, 0.45)
    judged = verdicts.of_intervals(CLAIM._replace(above=0.1), effect, student, 5, ("run",))
    file = tmp_path / "claims.csv"
    kept_claims.write([judged], file, tmp_path)
    assert file.read_text().splitlines() == [HEAD, GOOD]
    (again,) = kept_claims.judgements([judged.claim], kept_claims.read(file))
    assert again == judged._replace(runs=(), commit=COMMIT)
    with pytest.raises(ValueError, match="no commit"):
        kept_claims.write([judged._replace(runs=())], file, tmp_path)


def test_students_interval_is_wider_by_what_so_few_seeds_require(tmp_path):
    """1.68 of the bootstrap's half width of 0.1, so from 0.132; of a ratio on its logarithm."""
    rows = kept(tmp_path, f"x,0.3,0.2,0.4,,,,5,{COMMIT}")
    (found,) = kept_claims.judgements([CLAIM._replace(above=0.131)], rows)
    assert found.student == pytest.approx((0.3, 0.132, 0.468))
    assert found.verdict == REPRODUCED
    (found,) = kept_claims.judgements([CLAIM._replace(above=0.133)], rows)
    assert found.verdict == NOT_SETTLED
    ratio = kept(tmp_path, f"x,1.0,0.5,2.0,,,,5,{COMMIT}")
    (found,) = kept_claims.judgements([CLAIM._replace(kind="ratio", above=4.0)], ratio)
    assert found.student == pytest.approx((1.0, 2**-1.68, 2**1.68))
    assert found.verdict == CONTRADICTED


def test_a_verdict_that_was_printed_before_rounding_holds(tmp_path):
    rows = kept(tmp_path, f"x,0.068,0.04,0.15,,,reproduced,5,{COMMIT}")
    (found,) = kept_claims.judgements([CLAIM._replace(below=0.15)], rows)
    assert (found.verdict, bool(found.detail)) == (REPRODUCED, True)


def test_a_claim_without_a_kept_effect_is_not_settled():
    none = EmpiricalClaim("y", "Sec. 8", "w", "none", reason="no such machine")
    found = kept_claims.judgements([CLAIM._replace(above=0.1), none], {})
    assert [j.verdict for j in found] == [NOT_SETTLED, CANNOT]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x,0.3,0.2", "it has 3 cells"),
        (GOOD.replace("0.3,", "nan,"), "the interval of x"),
        (GOOD.replace("0.3,", "0.5,"), "the interval of x"),
        (GOOD.replace("0.15,", ","), "Student's interval"),
        (GOOD.replace(",,5", ",maybe,5"), "the verdict 'maybe'"),
        (GOOD.replace(COMMIT, "abc"), "its commit is 'abc'"),
        (f"{GOOD}\n{GOOD}", "stands there twice"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line(tmp_path, row, said):
    with pytest.raises(Damaged, match=f"line [23].*{said}"):
        kept(tmp_path, row)


def test_effects_of_no_claim_are_refused(tmp_path):
    with pytest.raises(Damaged, match="of no testable claim: x"):
        kept_claims.judgements([CLAIM._replace(id="z", above=0.1)], kept(tmp_path, GOOD))
    with pytest.raises(Damaged, match="its columns are"):
        kept(tmp_path, head="id,value")
