"""The commands of docs/tutorial.md are run, in order and in one process, and print what it shows.

The slow tests run every command: once with fewer steps, once as the page stands. The fast ones
check that its settings exist, that its flags parse, and that its numbers are those of its outputs.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from optional import not_none

from llm import settings
from llm.__main__ import main
from llm.report import plots

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SMALLER = {  # of the file and the flags of the page, for the fast test
    "policy_steps = 250": "policy_steps = 3",
    "actor_steps = 400": "actor_steps = 3",
    "steps = 60": "steps = 6",
    "eval_every = 10": "eval_every = 1",
    "eval_prompts = 256": "eval_prompts = 8",
    "--prompts 200": "--prompts 4",
}


class Block(NamedTuple):
    """A code block of the page: its language, and what is in it."""

    language: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.S | re.M)]
COMMANDS = [
    line for b in BLOCKS if not b.language for line in b.text.splitlines() if "-m llm" in line
]


def printed(block: Block, names: dict) -> str:
    """What the commands or the code of a block print, on either stream."""
    seen = io.StringIO()
    with contextlib.redirect_stdout(seen), contextlib.redirect_stderr(seen):
        if block.language == "python":
            exec(compile(block.text, "tutorial.md", "exec"), names)
        for line in block.text.splitlines() if not block.language else []:
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "llm"], line
            assert main(words[3:]) == 0, seen.getvalue()
    return seen.getvalue()


def masked(line: str) -> str:
    """A line without its numbers, and without how it is filled up to a width."""
    line = re.sub(r"\d+:\d\d\b|\d[\d,]*(\.\d+)?(e-?\d+)?", "#", line)
    return re.sub(r"\s+", " ", line).strip()


def unseen(shown: str, seen: str) -> list[str]:
    """Shown lines that were not printed, in the order of the page, with any numbers."""
    lines = iter([masked(line) for line in re.split(r"[\r\n]+", seen)])
    return [x for x in shown.splitlines() if x != "..." and masked(x) not in lines]


def walk(changes: dict[str, str]) -> list[tuple[str, str]]:
    """Run the page with these changes of it; (shown, printed) of each block that shows output."""
    names: dict = {}
    pairs: list[tuple[str, str]] = []
    seen = ""
    for block in BLOCKS:
        text = block.text
        for before, after in changes.items():
            text = text.replace(before, after)
        if block.language == "toml":
            Path("tutorial.toml").write_text(text)
        elif block.language == "text":
            pairs.append((block.text, seen))
        elif "pip install" not in text:
            seen = printed(Block(block.language, text), names)
    return pairs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_every_command_runs_with_fewer_steps_and_prints_lines_as_shown(folder, monkeypatch):
    monkeypatch.setattr(plots, "curve", lambda *_: b"picture")  # each takes a tenth of a second
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    assert all(PAGE.count(before) >= 1 for before in SMALLER)
    pairs = walk(SMALLER)
    assert len(pairs) == 9
    *others, used = pairs
    for shown, seen in others:
        assert unseen(shown, seen) == []
    assert used[1].strip()  # a hardly trained model answers, but not the shown 3489


@pytest.mark.slow
def test_the_page_as_it_stands_trains_a_policy_that_answers(folder):
    """Early numbers within rounding, late ones as the text reads them."""
    pairs = walk({})
    for shown, seen in pairs:
        assert unseen(shown, seen) == []
    assert pairs[-1] == ("3489\n", "3489\n")
    shown, seen = next(pair for pair in pairs if pair[0].startswith("step pass_rate"))
    first, last = ([text.splitlines()[i].split() for text in (shown, seen)] for i in (1, -1))
    assert [float(x) for x in first[1]] == pytest.approx([float(x) for x in first[0]], abs=0.06)
    assert float(last[1][1]) > float(first[1][1]) + 0.15  # the pass rate rises


def test_the_installation_names_an_extra_and_a_file_that_exist():
    install = BLOCKS[0].text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = not_none(re.search(r"pip install -c (\S+) -e '\.\[(\w+)\]'", install))
    assert (ROOT / named[1]).is_file() and named[2] in extras["optional-dependencies"]
    assert "pip install jackpot" not in PAGE  # no name on an index is promised


def test_the_file_and_the_flags_of_its_commands_are_settings(folder):
    (file,) = (block.text for block in BLOCKS if block.language == "toml")
    Path("tutorial.toml").write_text(file)
    folders = []
    for line in COMMANDS:
        if " tutorial.toml" in line:
            config, *flags = shlex.split(line)[4:]
            folders.append(settings.load([Path(config)], flags).run.folder)
    assert folders == ["runs/tutorial", "runs/tutorial", "runs/none"]


def test_every_kind_of_command_a_first_run_needs_is_on_the_page():
    kinds = [shlex.split(line)[3] for line in COMMANDS]
    assert kinds == ["doctor", "train", "report", "train", "compare", "eval", "export"]


def test_numbers_in_the_prose_are_those_of_the_outputs():
    """A number with three or four decimals in a sentence stands in an output or in a table of what
    the report and the other seeds gave."""
    shown = "".join(b.text for b in BLOCKS if b.language == "text")
    prose = re.sub(r"^```.*?^```", "", PAGE, flags=re.S | re.M)
    rows = r"^\| (?:held-out|KL\(policy|reward of|accepted share|\d \|).*"
    tables = "".join(re.findall(rows, prose, re.M))
    found = set(re.findall(r"(?<![\d.])\d\.\d{3,4}\b", re.sub(rows, "", prose, flags=re.M)))
    assert len(found) > 6
    assert {x for x in found if x not in shown + tables} == set()
