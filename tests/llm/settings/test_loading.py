"""Settings: one parser, nothing unknown or without effect, and a file that reads back equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm import settings
from llm.settings.loading import ConfigError

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "llm/configs").glob("*.toml"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return str(path)


def test_files_are_read_in_order_and_flags_come_last(tmp_path):
    one = write(tmp_path, "[correction]\nlam = 2.0\nc1 = 5\n[run]\nseed = 1\n")
    two = tmp_path / "d.toml"
    two.write_text("[correction]\nlam = 3.0\n[loss]\nactor_ppo = false\n")
    cfg = settings.load([one, str(two)], ["--run.seed", "7"])
    assert (cfg.correction.lam, cfg.correction.c1, cfg.run.seed) == (3.0, 5.0, 7)
    assert cfg.loss.actor_ppo is False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_preset_loads_and_its_dump_reads_back_equal(path, tmp_path):
    base = [str(ROOT / "llm/configs/demo.toml")] if path.stem.startswith("demo_") else []
    cfg = settings.load([*base, str(path)], [])
    again = settings.load([write(tmp_path, settings.dump(cfg))], [])
    assert again == cfg


def test_infinite_caps_survive_the_round_trip(tmp_path):
    cfg = settings.load([], ["--correction.c1", "inf", "--loss.clip-low", "inf"])
    assert settings.load([write(tmp_path, settings.dump(cfg))], []).correction.c1 == float("inf")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[correction]\nlmb = 1.0\n", r"unknown key correction\.lmb; perhaps .*correction\.lam"),
        ("[correctoin]\nlam = 1.0\n", r"unknown key correctoin\.lam; perhaps .*correction\.lam"),
        ("lam = 1.0\n", r"unknown key lam; perhaps .*correction\.lam"),
        ("[loss]\nlam = 1.0\n", r"unknown key loss\.lam; perhaps .*correction\.lam"),
        ("[actor]\nbits = '8'\n", r"actor\.bits must be a int, got '8'"),
        ("[correction]\nlam = '1.0'\n", r"correction\.lam must be a float, got '1.0'"),
        ("[run]\nsteps = 2.5\n", r"run\.steps must be a int, got 2\.5"),
        ("[run]\nsteps = true\n", r"run\.steps must be a int, got True"),
        ("[loss]\nactor_ppo = 1\n", r"loss\.actor_ppo must be a bool, got 1"),
        ("[correction\n", r"is not TOML"),
    ],
)
def test_a_fault_in_a_file_is_an_error_that_names_key_and_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        settings.load([write(tmp_path, text)], [])


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"cannot read config file nope\.toml"):
        settings.load(["nope.toml"], [])
