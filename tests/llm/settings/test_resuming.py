"""Every setting is of one kind: identity, continuation or place; and the page says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.checkpoints import checkpoint
from llm.settings import loading, resuming
from llm.settings.schema import Settings
from llm.settings.sections import all_keys

ROOT = Path(__file__).resolve().parents[3]
KINDS = (resuming.IDENTITY, resuming.CONTINUATION, resuming.PLACE)


def test_every_setting_is_of_exactly_one_kind():
    """A new setting is put into llm/settings/resuming.py; a removed one is taken out."""
    declared = set(all_keys(Settings))
    classified = set().union(*KINDS)
    assert declared - classified == set(), "settings without a kind"
    assert classified - declared == set(), "no settings any more"
    assert sum(map(len, KINDS)) == len(classified), "settings of two kinds"


def test_the_page_holds_the_table():
    """Written by `python -m llm.settings.resuming`."""
    page = (ROOT / "docs/resuming.md").read_text(encoding="utf-8")
    assert resuming.table() in page


def test_an_unknown_setting_belongs_to_the_identity():
    """Of a run of other code, say: what it did is not known."""
    assert resuming.is_identity("optim.unknown")
    there = {"run.steps": 3, "optim.unknown": 1, "run.folder": "a"}
    assert resuming.identity_of(there) == {"optim.unknown": 1}
    assert resuming.changed(there, {"run.steps": 4, "run.folder": "a"}) == {
        "run.steps": (3, 4),
        "optim.unknown": (1, "absent"),
    }


def test_many_or_long_differences_are_shown_in_a_sentence_that_can_be_read():
    """A damaged file may have thousands, and hexadecimal numbers that Python does not write."""
    assert resuming.shown({"run.seed": (0, 3)}) == "run.seed (0 there, 3 now)"
    many = {f"{'x' * 9000}.{i}": ("y" * 9000, 16**5000) for i in range(9000)}
    text = resuming.shown(many)
    assert len(text) < 10_000 and text.endswith("and 8980 more")
    assert "y... (9002 characters) there, a number of thousands of digits now" in text


@pytest.mark.parametrize("key", ["run.steps", "run.device", "run.eval_every", "alarm.kl_max"])
def test_identity_holds_no_setting_that_may_change(key):
    assert key not in checkpoint.identity(loading.load([], []))
