"""Rows of finished runs: written whole, read back equal, and refused where they are damaged."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import made_rows
import pytest

from paper_figures.experiments import kept_rows, rival_lists, studies
from paper_figures.experiments.kept_rows import Damaged

ENTRIES = studies.judged(
    rival_lists.STUDY.settings[0], dict.fromkeys(rival_lists.STUDY.settings[0].methods, 4e-4)
)[:3]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "kept" / "rows.csv"
    for e in ENTRIES:
        kept_rows.append(file, made_rows.made(e))
    return file


def test_rows_are_read_as_they_were_written_and_matched_to_their_runs(file):
    rows = kept_rows.read(file)
    assert list(rows.values()) == [made_rows.made(e) for e in ENTRIES]
    assert kept_rows.matching(rows, ENTRIES) == {e: rows[kept_rows.key(e)] for e in ENTRIES}
    kept_rows.append(file, made_rows.made(ENTRIES[0], gain=0.1))  # trained again: one row
    again = kept_rows.read(file)
    assert len(again) == 3 and again[kept_rows.key(ENTRIES[0])] != made_rows.made(ENTRIES[0])
    assert not list(file.parent.glob("*.draft"))
    assert kept_rows.read(file.with_name("none.csv")) == {}


def test_seconds_of_a_step_are_kept_or_missing_and_never_nothing(file):
    row = made_rows.made(ENTRIES[0])
    assert (row.seconds_rollout, row.seconds_update) == (None, None)
    kept_rows.append(file, row._replace(seconds_rollout=0.25, seconds_update=1.5))
    read = kept_rows.read(file)
    assert read[row.key][-2:] == (0.25, 1.5) and read[kept_rows.key(ENTRIES[1])][-2:] == (
        None,
        None,
    )
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(Damaged, match="the seconds of a step are"):
            kept_rows.append(file, row._replace(seconds_update=wrong))


def test_a_row_that_could_not_be_read_again_is_not_written(file):
    """As of a run in a copy without git, which has no commit."""
    before = file.read_text()
    with pytest.raises(Damaged, match="cannot be kept: its commit is ''"):
        kept_rows.append(file, made_rows.made(ENTRIES[0])._replace(commit=""))
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("key,study", "key,studies", "its columns are"),
        (",0.03,", ",nan,", "not finite"),
        (made_rows.COMMIT, "b95358a", "40 hexadecimal"),
        ("10:0.", "10:1.", "not between 0 and 1"),
        ("10:0.", "0:0.", "do not rise"),
        ("judged,tis,0.0004,", "judged,tis,", "cells, not"),
        (",0,0.", ",1,0.", "no result"),
        ("30:0.", "30:0.9", "by its curve"),
        ("0:0.", "a:0.", "could not convert"),
        ("0:0.03 10:0.03", "0:0.03 10:-0.03", "below 0"),
        ("0:0.03 10:0.03", "0:0.03 10:nan", "not finite"),
        ("60:0.03 70:0.03", "60:0.03 70:0.06", "by its KLs 0.0400"),
        ("0:0.03 10:0.03", "10:0.03 0:0.03", "steps do not rise"),
        (" ".join(f"{x}:0.03" for x in range(0, 80, 10)), "", "no KL"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line_and_a_remedy(file, old, new, said):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(Damaged, match=said) as e:
        kept_rows.read(file)
    assert "line" in str(e.value) and "git checkout" in str(e.value)


def test_a_small_last_kl_is_compared_with_its_curve_too(tmp_path):
    row = made_rows.made(ENTRIES[0])
    small = row._replace(kl=tuple((x, 1e-6) for x, _ in row.kl), kl_last=1e-6)
    kept_rows.append(tmp_path / "rows.csv", small)
    with pytest.raises(Damaged, match="by its KLs"):
        kept_rows.append(tmp_path / "rows.csv", small._replace(kl_last=2e-6))


def test_a_row_twice_a_foreign_encoding_and_a_file_too_large_are_refused(file, monkeypatch):
    text = file.read_text()
    file.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(Damaged, match="twice"):
        kept_rows.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Damaged, match="not UTF-8"):
        kept_rows.read(file)
    monkeypatch.setattr(kept_rows, "_SIZE_MAX", 1)
    with pytest.raises(Damaged, match="more than 1 bytes"):
        kept_rows.read(file)


def test_a_row_under_the_key_of_another_run_is_refused(file):
    rows = kept_rows.read(file)
    first = kept_rows.key(ENTRIES[0])
    rows[first] = rows[first]._replace(method="nobody")
    with pytest.raises(Damaged, match="nobody"):
        kept_rows.matching(rows, ENTRIES)


def test_the_summary_of_a_curve():
    """final: the last three; lowest_late: after a third of the run; area: the mean height."""
    curve = [(0, 0.1), (10, 0.9), (20, 0.3), (30, 0.6)]
    got = kept_rows.summary(curve, 0)
    want = {"final": (0.9 + 0.3 + 0.6) / 3, "lowest_late": 0.3}
    want["area"] = (10 * 0.5 + 10 * 0.6 + 10 * 0.45) / 30
    assert got == pytest.approx(want)
    assert kept_rows.summary(curve, 3)["final"] == 0


def test_the_commits_that_trained_kept_rows_are_in_the_history():
    """A rebase would leave rows of commits that nobody can look at."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or (root / ".git" / "shallow").exists():
        pytest.skip("no whole history here")
    listed = subprocess.run(
        ["git", "rev-list", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    )
    text = "".join(f.read_text("utf-8") for f in sorted(kept_rows.HERE.glob("*.csv")))
    commits = set(re.findall(r"\b[0-9a-f]{40}\b", text))
    assert len(commits) > 5
    assert commits <= set(listed.stdout.split())
