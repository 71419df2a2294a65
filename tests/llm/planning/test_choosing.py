"""The line of the decision page that fits a configuration, and the evidence that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm import settings
from llm.planning import choosing

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "llm" / "configs"
PAGE = (ROOT / choosing.PAGE).read_text(encoding="utf-8")
BY_ID = {c.id: c for c in choosing.SITUATIONS}
DRAFTED = ["--rollout.mode.type", "drafted", "--correction.type"]
FROZEN = ["--actor.type", "frozen"]
FLAGS = {  # flags of a configuration in each
    "drafted-lossless": [*FROZEN, *DRAFTED, "none"],
    "drafted-lenient": [*FROZEN, *DRAFTED, "importance", "--rollout.mode.lam.value", "0.5"],
    "stale": [
        "--actor.type",
        "self",
        "--loss.updates_per_rollout",
        "2",
        "--correction.type",
        "none",
    ],
    "on-policy": ["--actor.type", "self", "--correction.type", "none"],
    "far-copy": ["--actor.type", "quantized", "--actor.bits", "4"],
    "near-copy": ["--actor.type", "quantized"],
    "frozen-actor": FROZEN,
    "trained-short": ["--rollout.max_new_tokens", str(choosing.SHORT)],
    "trained-middle": ["--rollout.max_new_tokens", str(choosing.MIDDLE)],
    "trained-long": ["--rollout.max_new_tokens", str(choosing.MIDDLE + 1)],
}
# the presets that are read after a configuration with a trained actor
PRESETS = [(c.id, p) for c in choosing.SITUATIONS for p in c.presets]


def test_every_situation_has_its_line_and_every_line_its_situation():
    found = {i: choosing.fitting(settings.load([], flags)).id for i, flags in FLAGS.items()}
    assert found == {i: i for i in BY_ID}
    assert len(BY_ID) == len(choosing.SITUATIONS)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rollout.max_new_tokens", str(choosing.SHORT + 1)], "trained-middle"),
        (["--loss.updates_per_rollout", "2"], "trained-short"),
        ([*FROZEN, *DRAFTED, "importance", "--rollout.mode.lam.type", "state"], "drafted-lenient"),
        (["--actor.type", "stale"], "near-copy"),
    ],
)
def test_the_first_line_that_fits_is_taken(flags, expected):
    base = ["--rollout.max_new_tokens", "12"]
    assert choosing.fitting(settings.load([], [*base, *flags])).id == expected


@pytest.mark.parametrize("file", sorted(p.name for p in CONFIGS.glob("qwen3_*_8b_*.toml")))
def test_long_completions_are_said_to_have_no_run(file):
    situation = choosing.fitting(settings.load([CONFIGS / file], []))
    assert situation.id == "trained-long" and situation.evidence.startswith("No run.")


@pytest.mark.parametrize(("name", "preset"), PRESETS, ids=lambda x: str(x))
def test_a_preset_leads_to_a_line_that_names_it(tmp_path, name, preset):
    """Read after a configuration of the situation, it loads, and its own line recommends it."""
    files = [*_as_file(tmp_path, name), CONFIGS / preset]
    assert preset in choosing.fitting(settings.load(files, [])).presets


def _as_file(folder, name):
    """The flags of a situation as a configuration file, which a preset may be read after."""
    base = folder / "base.toml"
    flags = FLAGS[name]
    lines = []
    for key, value in zip(flags[::2], flags[1::2], strict=True):
        quoted = value if re.fullmatch(r"[\d.]+", value) else f'"{value}"'
        lines.append(f"{key[2:]} = {quoted}")
    base.write_text("\n".join(lines) + "\n")
    return [base]


def test_the_page_has_the_tables_of_the_list():
    assert choosing.tables() in PAGE


def _text(link: str) -> str:
    file, _, anchor = link.partition("#")
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    titles = {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-")
              for t in re.findall(r"^#+ (.+)$", text, re.M)}  # fmt: skip
    assert not anchor or anchor in titles, link
    return text


@pytest.mark.parametrize("line", [*choosing.SITUATIONS, *choosing.ADVICE], ids=lambda x: x[0])
def test_every_interval_stands_in_a_source_of_its_line(line):
    texts = [_text(link) for _, link in line.sources]
    for interval in re.findall(r"\S+ \[[^\]]*\d[^\]]*\]", line.evidence):
        assert any(interval in text for text in texts), interval


def test_the_sentence_names_presets_evidence_limits_and_the_page():
    said = choosing.sentence(BY_ID["trained-short"])
    for words in ("llm/configs/prefixes.toml", "-0.003 [-0.013, +0.008]", "Limits: Nine tokens"):
        assert words in said
    assert said.endswith(choosing.PAGE) and "`" not in said
