"""The first screen of a run's report: what the run was made of, and how it ended."""

import json

import pytest
from report_runs import make_run, page_of

from llm import settings
from llm.commands import report_facts
from llm.report import plots
from llm.report.run_files import read_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small complete run, whose pictures are not drawn: that takes seconds."""
    monkeypatch.setattr(plots, "curve", lambda rows, panel: b"picture")
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    return make_run(tmp_path)


def test_the_first_screen_names_seed_digests_commit_and_command(run):
    cfg = settings.load([], ["--run.folder", "x", "--run.seed", "17", "--correction.type", "tis"])
    (run / "config.toml").write_text(settings.dump(cfg))
    marks = {
        "data": "d" * 64,
        "policy: model.safetensors": "e" * 64,
        "actor: config.json": "f" * 64,
    }
    (run / "inputs.json").write_text(json.dumps(marks))
    start = {"commit": "abc123", "dirty": True, "command": ["__main__.py", "train", "a b.toml"]}
    (run / "provenance.json").write_text(json.dumps([start | {"commit": "old"}, start]))
    facts = dict(report_facts.identity(read_run(run)))
    assert facts["seed"] == "17"
    assert facts["data"] == "chain, SHA-256 dddddddddddddddd"
    assert facts["models"] == "policy: model.safetensors SHA-256 eeeeeeeeeeeeeeee"
    assert facts["commit"] == "abc123, with changes that are not committed; 2 starts, 2 commits"
    assert facts["command"] == "<code>python -m llm train &#x27;a b.toml&#x27;</code>"
    assert facts["settings that are not the defaults"] == "<code>correction.type = tis</code>"
    assert facts["held-out pass rate, policy"].startswith("0.8 at step 40 (at step 0: 0")
    _, page = page_of(run)
    words = " ".join(page.texts)
    assert words.index("abc123") < words.index("The reward is that of")
    assert "f" * 64 in words, "the whole digests stand under provenance"


def test_what_a_run_did_not_keep_is_not_recorded(run):
    for name in ("provenance.json", "config.toml"):
        (run / name).unlink()
    facts = dict(report_facts.identity(read_run(run)))
    for name in (
        "seed",
        "data",
        "models",
        "commit",
        "command",
        "settings that are not the defaults",
    ):
        assert report_facts.NOT_RECORDED in facts[name], name


def test_facts_of_any_shape_are_text(run):
    """Digests, commits and commands that are no text; settings that this version refuses."""
    (run / "inputs.json").write_text(
        '{"data": {"x": 1}, "policy: a.safetensors": "%s"}' % ("9" * 10_000)
    )
    (run / "provenance.json").write_text('[{"commit": {"a": [1]}, "command": [1, 2]}]')
    (run / "config.toml").write_text(
        "[task]\nsource = 5\n[run]\nseed = [1]\n" + "[" + "a." * 300 + "b]\n"
    )
    files = read_run(run)
    facts = dict(report_facts.identity(files))
    assert report_facts.NOT_RECORDED in facts["data"] and facts["command"] == "not recorded"
    assert len(facts["models"]) < 500
    assert any("inputs.json" in n for n in files.notes) and any("deep" in n for n in files.notes)
    page_of(run)
