"""The report command writes one page, even of half a run, and says what is wrong."""

import json

import pytest
from report_runs import make_run, page_of, token_row

from llm.commands import report
from llm.report import plots
from llm.settings.loading import ConfigError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small complete run, whose pictures are not drawn: that takes seconds."""
    monkeypatch.setattr(plots, "curve", lambda rows, panel: b"picture")
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    return make_run(tmp_path)


@pytest.mark.parametrize(
    "missing",
    [
        ["summary.json"],
        ["samples.jsonl"],
        ["histograms.jsonl"],
        ["decisions.jsonl"],
        ["provenance.json"],
        ["config.toml"],
        ["metrics.jsonl"],
        "summary.json samples.jsonl histograms.jsonl decisions.jsonl provenance.json".split(),
    ],
    ids=lambda names: names[0] if len(names) == 1 else "all but two",
)
def test_a_run_without_some_files_has_a_report_that_says_so(run, missing):
    for name in missing:
        (run / name).unlink()
    _, page = page_of(run)
    words = " ".join(page.texts)
    for name in missing:
        assert ("not complete" if name == "summary.json" else name) in words


def test_provenance_and_settings_of_another_shape_have_a_report(run):
    (run / "provenance.json").write_text('[1, {"commit": "abc"}]')
    (run / "config.toml").write_text("actor = {kind = [1]}\ntask = 3\n")
    content, page = page_of(run)
    assert "provenance.json holds something else" in " ".join(page.texts)
    assert "abc" in content


def test_no_row_at_all_is_a_report_too(run):
    for name in ("metrics", "samples", "histograms", "decisions"):
        (run / f"{name}.jsonl").write_text("")
    _, page = page_of(run)
    assert "metrics.jsonl holds no rows yet." in " ".join(page.texts)


def test_the_command_writes_the_page_and_refuses_other_folders(run, tmp_path_factory, capsys):
    assert report.main([str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is not a run folder"):
        report.main([str(tmp_path_factory.mktemp("empty"))])
    with pytest.raises(ConfigError, match="cannot write"):
        report.main([str(run), "--out", str(run / "config.toml" / "x.html")])


def test_a_page_that_is_a_link_in_the_run_folder_is_refused(run, tmp_path_factory):
    """Whoever made the folder chose its target; a link that the user names is followed."""
    target = tmp_path_factory.mktemp("elsewhere") / "mine.html"
    target.write_text("mine")
    (run / "report.html").symlink_to(target)
    with pytest.raises(ConfigError, match=r"cannot write .*report.html: .*symbolic link"):
        report.main([str(run)])
    assert target.read_text() == "mine"
    (run / "config.toml").unlink()
    (run / "config.toml").symlink_to(target)
    assert report.main([str(run), "--out", str(run / "report.html")]) == 0
    page = target.read_text()
    assert page.startswith("<!DOCTYPE html>") and "mine" not in page


def test_text_that_is_no_unicode_still_gives_a_page(run):
    """A lone surrogate, which JSON may carry, and bytes that are not UTF-8."""
    path = run / "samples.jsonl"
    path.write_bytes(
        json.dumps(token_row(0, ["\ud800"], [1], prompt="\ud800")).encode() + b"\n\xff\n"
    )
    assert report.main([str(run)]) == 0
