"""The page of settings has every setting with its type, default, bounds and meaning."""

import re
import sys
from pathlib import Path

import pytest

from llm.settings import sections
from llm.settings.schema import Settings
from llm.settings.sources import SOURCES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import settings_page  # noqa: E402

PAGE = settings_page.page()
ENTRIES = dict(re.findall(r"^````\{confval\} (\S+)\n(.*?)^````$", PAGE, re.M | re.S))


def test_every_setting_of_every_type_is_there_once():
    named = re.findall(r"^````\{confval\} (\S+)$", PAGE, re.M)
    assert len(named) == len(set(named))
    assert set(named) == set(sections.all_keys(Settings))


def test_every_type_is_there_with_its_settings():
    for key, names in settings_page.unions().items():
        body = ENTRIES[key]
        assert all(f"`{name}`" in body.splitlines()[0] for name in names), key


def test_every_setting_has_a_type_a_default_and_a_meaning():
    for key, body in ENTRIES.items():
        assert re.match(r":type: \S.*\n:default: \S.*\n\n\S", body), key


def test_the_defaults_are_those_of_a_run():
    for key, value in sections.flatten(Settings()).items():
        assert settings_page.shown(value) in ENTRIES[key].split("\n\n")[0], key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("correction.lam.budget", "Bounds: greater than 0; at most 1"),
        ("actor.clip_low", "may be inf"),
        ("task.digits_max", "at least {confval}`task.digits_min`"),
        ("objective.type", "`a_star_po`"),
        ("actor.ppo", "- Source: [the paper, Eq. 6]"),
        ("rollout.allocation.window", "- Source of its type: [arXiv 2602.01601]"),
        ("task.pad_prompt_to", "With {confval}`task.type` = `chain` or `sort` or `reverse`."),
        ("rollout.mode.block.length", "Default `2`. Tokens of a sequence's first block."),
    ],
)
def test_bounds_sources_and_conditions_are_named(key, said):
    assert said in ENTRIES[key]


def test_a_section_inside_a_type_says_which():
    (head,) = re.findall(r"^#### `rollout\.mode\.lam`\n\n(.*)$", PAGE, re.M)
    assert head == "With {confval}`rollout.mode.type` = `drafted`."


def test_text_that_markdown_would_read_as_markup_is_escaped_outside_code():
    assert settings_page.prose("A*-PO of `a*b` <x> run.steps") == (
        r"A\*-PO of `a*b` \<x> {confval}`run.steps`"
    )


def declared(key):
    return [e for e in settings_page.entries(Settings, Settings()) if e.key == key]


def test_every_setting_has_a_source_and_says_who_reads_it():
    for key, body in ENTRIES.items():
        assert re.search(r"^- Source(?: of its type)?: \S", body, re.M), key
        assert re.search(r"^- Read by: `llm/\S+\.py`", body, re.M), key


def test_no_source_is_declared_twice_or_of_nothing():
    assert set(SOURCES) <= set(ENTRIES)
    assert "" not in SOURCES.values()
    for key in SOURCES:
        assert settings_page.sources_of([e.doc for e in declared(key)]) == "", key


def test_a_setting_without_any_source_is_seen():
    """The page would say "Source of its type: " and nothing."""
    found = [e._replace(doc="", owner="") for e in declared("correction.c1")]
    assert settings_page.source("correction.c1", found) == " of its type: "


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("run.folder", "- Source: ours\n"),
        (
            "policy.lora.rank",
            "- Source: LoRA, [arXiv 2106.09685](https://arxiv.org/abs/2106.09685)",
        ),
        ("correction.scope", "- Source: token: [the paper, Eq. 5](https://arxiv.org/abs/2602."),
        ("rollout.mode.lam.price", "ours, [docs/theory_drafting.md](../theory_drafting.md)"),
        ("optim.grad_clip", "- Read by: `llm/training/optimizer.py`\n"),
    ],
)
def test_a_source_and_the_readers_are_as_they_are_declared(key, said):
    assert said in ENTRIES[key]
