"""The pages of the adapters: one for each, with a configuration whose names and options exist."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peer_batches import peer_batch, plain_losses, plain_weights

from jackpot.adapters.hook import Hook
from llm.runs.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
OVERVIEW = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
PAGES = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "docs/adapters").glob("*.md")}
MODULES = {p.stem: p for p in (ROOT / "jackpot/adapters").glob("*.py")}
ADAPTERS = sorted(MODULES.keys() - {"__init__", "hook"})
NO_ADAPTER = {"openrlhf", "areal"}
OWN = re.findall(r"^\| `([a-z_]+)` \|", OVERVIEW.split("are of adapters alone")[1], re.M)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.S | re.M)


def test_every_adapter_and_every_documented_no_has_a_page_and_a_row():
    assert PAGES.keys() == set(ADAPTERS) | NO_ADAPTER
    table = next(part for part in OVERVIEW.split("\n\n") if part.startswith("| trainer | target p"))
    for subject in ("target p", "Z", "mask", "trains the actor", "who divides", "processes"):
        assert subject in table.splitlines()[0]
    for name in PAGES:
        assert f"(adapters/{name}.md)" in table


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_page_says_what_can_and_cannot_be_done_how_and_what_to_watch(name):
    headings = re.findall(r"^## (.+)$", PAGES[name], re.M)
    assert headings[:2] == ["What it can do", "What it cannot do"]
    assert headings[2:-1] and all(h.startswith("Configuration") for h in headings[2:-1])
    assert headings[-1] == "What to watch"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_code_of_a_page_is_code_and_the_names_in_it_exist(name):
    page = PAGES[name]
    for source in blocks(page, "python"):
        compile(source, name, "exec")
    used = re.findall(r"jackpot\.adapters\.([a-z_]+)\.(\w+)", page)
    for module, names in re.findall(r"from jackpot\.adapters\.([a-z_]+) import (.+)", page):
        used += [(module, one.strip()) for one in names.split(",")]
    for module, attribute in used:
        if attribute == "JackpotActorWorker":  # made when it is first asked for
            assert f'"{attribute}"' in MODULES[module].read_text()
            continue
        tree = ast.parse(MODULES[module].read_text())
        defined = {getattr(node, "name", None) for node in tree.body}
        assert attribute in defined, f"{module}.{attribute}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_options_of_a_page_are_options(name):
    """Those in dictionaries, in JACKPOT_OPTIONS, and in the files of slime and prime-rl."""
    found = [json.loads(text) for text in re.findall(r'\{"lam"[^}]*\}', PAGES[name])]
    for source in blocks(PAGES[name], "toml"):
        found.append(tomllib.loads(source)["trainer"]["loss"]["kwargs"])
    for source in blocks(PAGES[name], "yaml"):
        written = yaml.safe_load(source)
        found += [written["jackpot"]] if "jackpot" in written else []
    if name != "areal":
        assert found
    for options in found:
        Hook("peer", options)


def test_every_metric_that_is_named_is_defined_and_every_own_one_is_listed():
    defined = METRICS.keys() | set(OWN)
    for page in (OVERVIEW, *PAGES.values()):
        assert set(re.findall(r"`jackpot[/_]([a-z_0-9]+)`", page)) <= defined | {"adapters"}
    given = set()
    for path in MODULES.values():
        given |= set(re.findall(r'"jackpot/([a-z_]+)"', path.read_text()))
    assert given >= {"hook_calls", "ratio_clamped_by_verl"}
    assert given - METRICS.keys() == set(OWN)


def test_the_function_of_openrlhfs_page_gives_the_weighted_losses_of_plain_loops():
    (source,) = blocks(PAGES["openrlhf"], "python")
    names: dict[str, Any] = {}
    exec(compile(source, "openrlhf.md", "exec"), names)
    batch = peer_batch()
    losses, metrics = names["weighted_losses"](
        batch.new, batch.ref, batch.inf, batch.advantage, batch.mask.long()
    )
    want = plain_losses(batch, plain_weights(batch, 1.0, 3.0), (0.2, 0.2))
    assert torch.allclose(losses, torch.tensor(want), rtol=1e-5)
    assert metrics["jackpot/hook_calls"] == names["hook"].calls == 1
