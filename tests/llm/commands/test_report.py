"""The report shows what the files hold, runs nothing of it, and copes with half a run."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from llm.commands import report
from llm.report import html, plots, token_view
from llm.report.run_files import read_run
from llm.settings.loading import ConfigError
from llm.training import sample_records

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
CONFIG = '[task]\nname = "chain"\n[policy]\npath = {path}\n[run]\nsteps = 40\nseed = 0\n'


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would read them."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def token_row(step, tokens, accepted, prompt="1+1=", **more):
    n = len(tokens)
    return {
        "step": step,
        "prompt": prompt,
        "answer": "2",
        "reward": 1.0,
        "advantage": 0.5,
        "tokens": tokens,
        "logp_inf": [-0.5] * n,
        "log_ratio": [0.1 * i - 0.2 for i in range(n)],
        "accept_prob": [0.8] * n,
        "accepted": accepted,
        "weight": [1.25 * a for a in accepted],
        **more,
    }


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def make_run(tmp_path):
    """A small complete run."""
    edges = {
        k: getattr(sample_records, f"{k}_EDGES").tolist() for k in ("LOG_RATIO", "WEIGHT", "ACCEPT")
    }
    rows = []
    for step in range(41):
        row = {"step": step, "reward_mean": step / 80, "tokens": 100, "accept_rate": 0.9}
        row |= {"seconds_rollout": 1.0, "seconds_update": 3.0, "entropy_policy": 1.0, "odd": step}
        if step % 10 == 0:
            row |= {"pass_rate": step / 50, "kl_policy_actor": 0.5 - step / 100}
        rows.append(row)
    write_rows(tmp_path / "metrics.jsonl", rows)
    (tmp_path / "config.toml").write_text(CONFIG.format(path='""'))
    (tmp_path / "summary.json").write_text('{"steps": 40}')
    (tmp_path / "provenance.json").write_text('[{"commit": "abc123", "python": "3.11"}]')
    write_rows(tmp_path / "samples.jsonl", [token_row(s, ["2", "x"], [1, 0]) for s in (0, 10, 20)])
    decision = {"setting": "loss.distill_coef", "before": 1.0, "after": 1.1, "limited": False}
    write_rows(tmp_path / "decisions.jsonl", [{"step": 4, **decision, "because": "KL is high"}])
    bins = {
        "log_ratio": {"edges": edges["LOG_RATIO"], "counts": [1] * 37},
        "weight": {"edges": edges["WEIGHT"], "counts": [1] * 50, "zeros": 50},
        "accept_prob": {"edges": edges["ACCEPT"], "counts": [5] * 20},
    }
    write_rows(
        tmp_path / "histograms.jsonl", [{"step": s, "tokens": 100, **bins} for s in (0, 10, 20)]
    )
    return tmp_path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small complete run, whose pictures are not drawn: that takes seconds."""
    monkeypatch.setattr(plots, "curve", lambda rows, panel: b"picture")
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The page of that run with its pictures, and the same parsed."""
    return page_of(make_run(tmp_path_factory.mktemp("drawn")))


def page_of(folder):
    content = report.document(read_run(folder))
    return content, Page(content)


def test_the_page_needs_nothing_from_elsewhere(drawn):
    """No script, no address that is not data or an anchor, and a policy that forbids the rest."""
    content, page = drawn
    assert "script" not in page.tags
    addresses = [v for _, k, v in page.attributes if k in ("src", "href")]
    assert addresses
    assert all(v.startswith(("#", "data:image/png;base64,")) for v in addresses)
    assert not re.search(r"url\(|@import|https?://", content)
    assert ("meta", "content", html.POLICY) in page.attributes
    assert html.POLICY.startswith("default-src 'none'")


def test_every_picture_is_a_png_with_words(drawn):
    _, page = drawn
    pictures = [v for tag, k, v in page.attributes if tag == "img" and k == "src"]
    assert len(pictures) >= 8
    for v in pictures:
        assert base64.b64decode(v.split(",", 1)[1]).startswith(b"\x89PNG")
    alts = [v for tag, k, v in page.attributes if tag == "img" and k == "alt"]
    assert len(alts) == len(pictures)
    assert any(a.startswith("Held-out pass rate against the step: policy 0 to 0.8") for a in alts)


def test_nothing_that_a_run_holds_becomes_markup(run):
    """Prompts, completions, settings, reasons and metric names are text, whatever they say."""
    (run / "config.toml").write_text(CONFIG.format(path=json.dumps(EVIL)))
    (run / "provenance.json").write_text(json.dumps([{EVIL: EVIL, "list": [EVIL]}]))
    row = token_row(0, [EVIL, "x"], [1, 0], prompt=EVIL, answer=EVIL)
    write_rows(run / "samples.jsonl", [row])
    write_rows(run / "decisions.jsonl", [{"step": 1, "setting": EVIL, "because": EVIL}])
    write_rows(run / "metrics.jsonl", [{"step": s, EVIL: s, "pass_rate": 0.5} for s in (0, 1)])
    content, page = page_of(run)
    assert "script" not in page.tags
    assert not [k for _, k, _ in page.attributes if k.startswith("on")]
    assert [v for t, k, v in page.attributes if t == "img" and k == "src" and v == "x"] == []
    assert sum(EVIL in t for t in page.texts) >= 8
    assert "<script" not in content.lower()


def test_rejected_tokens_are_struck_and_no_others(run):
    tokens, accepted = ["a", "b", "c", "d"], [1, 0, 0.4, 0]
    write_rows(run / "samples.jsonl", [token_row(0, tokens, accepted)])
    content, _ = page_of(run)
    found = re.findall(r'<span class="(t [^"]*)" title="([^"]*)">(.)</span>', content)
    assert [piece for _, _, piece in found] == tokens
    assert [piece for marks, _, piece in found if " x" in marks] == ["b", "d"]
    words = [title.split(", ")[3] for _, title, _ in found]
    assert words == ["accepted", "rejected", "in expectation", "rejected"]
    assert "p/q 0.819 (log -0.2), acceptance 0.8" in found[0][1]


def test_colours_follow_the_numbers():
    """More of a number is never a lower shade; the middle is p = q and weight 1."""
    ratios = [token_view._two_sided(x) for x in (-9, -2, -1, 0, 0.9, 2, 9)]
    assert ratios == [0, 0, 2, 5, 7, 10, 10]
    weights = [token_view._weight(w) for w in (0, 0.25, 0.5, 1, 2, 4, 99)]
    assert weights == [0, 0, 2, 5, 8, 10, 10]
    assert [token_view._one_sided(a) for a in (0, 0.5, 1)] == [0, 5, 10]


def test_marks_that_turn_or_hide_text_are_spelt_out():
    assert token_view.visible("a\u202eb\x07\u200b\n é漢") == "a\\u202eb\\x07\\u200b↵ é漢"


def test_long_completions_and_many_evaluations_are_cut_and_it_says_so(run):
    many = [token_row(s, ["y"], [1]) for s in range(100)]
    long = token_row(100, ["z"] * 5000, [1] * 5000)
    write_rows(run / "samples.jsonl", [*many, long])
    content, page = page_of(run)
    words = " ".join(page.texts)
    assert "24 of 101 evaluations are shown" in words
    assert "4400 more tokens" in words
    assert len(content) < 3_000_000
    assert "step 0: 1 of 1 right" in words
    assert "step 100: 1 of 1 right" in words


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


def test_a_run_that_was_killed_while_writing_has_a_report(run):
    """Half a last line is left out and noted."""
    for name in ("metrics", "samples"):
        path = run / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
    (run / "summary.json").unlink()
    _, page = page_of(run)
    words = " ".join(page.texts)
    assert "metrics.jsonl: left out, since they are no complete rows: line 41 (not JSON" in words
    assert "step 39 of 40" in words


HISTOGRAM = {"edges": [0, 1], "counts": [1, 2, 3]}
HISTOGRAMS = {"tokens": 6, "log_ratio": HISTOGRAM, "weight": HISTOGRAM, "accept_prob": HISTOGRAM}
NO_EDGES = {"edges": [], "counts": [1]}


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("samples", {"tokens": ["a"], "logp_inf": [1, 2]}, "logp_inf holds 2 values for 1 tokens"),
        ("samples", {"tokens": 5}, "tokens is 5, not a list"),
        ("samples", {"tokens": [5]}, "tokens is a list, not a list of texts"),
        ("samples", {"tokens": ["a"], "accept_prob": ["x"]}, "accept_prob is a list, not a list"),
        ("samples", {"tokens": ["a"], "weight": [10**400]}, "weight is a list, not a list of"),
        ("samples", {"tokens": ["a"], "weight": None}, "weight is missing or null"),
        ("samples", {"tokens": ["a"], "reward": "good"}, "reward is 'good', not a number"),
        ("histograms", {"log_ratio": 1, "weight": 2, "accept_prob": 3}, "tokens is missing"),
        ("histograms", {**HISTOGRAMS, "log_ratio": 1}, "log_ratio is 1, not a histogram"),
        ("histograms", {**HISTOGRAMS, "weight": NO_EDGES}, "weight.edges is a list, not a"),
        (
            "histograms",
            {**HISTOGRAMS, "weight": HISTOGRAM | {"counts": [1]}},
            "weight holds 1 counts",
        ),
        ("histograms", {**HISTOGRAMS, "weight": HISTOGRAM | {"zeros": "x"}}, "weight.zeros is 'x'"),
        ("metrics", {"tokens": "x"}, "tokens is 'x', not a number"),
        ("metrics", {"seconds_eval": []}, "seconds_eval is a list, not a number"),
        ("metrics", {"other": 10**400}, "other is a huge integer"),
        ("metrics", {"step": 10**400}, "step is a huge integer"),
        ("decisions", {"step": True}, "step is True"),
        ("decisions", [1], "not a JSON object"),
    ],
)
def test_a_row_of_another_shape_is_left_out_and_said(run, name, row, why):
    """Its file and its line are named; the other rows are shown."""
    before = read_run(run)
    path = run / f"{name}.jsonl"
    lines = len(path.read_text().splitlines())
    added = {"step": 50, **row} if isinstance(row, dict) else row
    with path.open("a") as file:
        file.write(json.dumps(added) + "\n")
    files = read_run(run)
    (note,) = files.notes
    assert note.startswith(f"{path.name}: left out") and f"line {lines + 1} ({why}" in note
    assert files._replace(notes=[]) == before
    assert why in " ".join(Page(report.document(files)).texts)


def test_rows_that_the_trainer_writes_of_a_diverging_run_are_kept(run):
    """null and NaN stand for what is not finite, and names of one's own may hold anything."""
    row = {"step": 41, "tokens": None, "seconds_eval": None, "kl_policy_actor": float("nan")}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "alarms": ["kl"], "mine": {"a": "b"}}) + "\n\n")
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(token_row(41, ["a"], [1], weight=[None], reward=None)) + "\n")
    files = read_run(run)
    assert files.notes == []
    assert (files.rows[-1]["step"], files.samples[-1]["step"]) == (41, 41)
    assert "step 41" in report.document(files)


def test_many_bad_rows_are_counted_not_listed(run):
    write_rows(run / "samples.jsonl", [{"step": s, "tokens": 5} for s in range(50)])
    (note,) = read_run(run).notes
    assert "line 1 (" in note and "line 3 (" in note
    assert note.endswith("and 47 more")


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


def test_a_single_row_and_a_single_evaluation_are_drawn(tmp_path):
    files = read_run(make_run(tmp_path))
    for panel in plots.panels_for(files.rows[:1])[:2]:
        assert plots.curve(files.rows[:1], panel).startswith(b"\x89PNG")
    png = plots.histograms(files.histograms[:1], "weight", "title", "label")
    assert png.startswith(b"\x89PNG")


def test_a_step_written_twice_counts_once(run):
    """A resume cuts the file; should a step stand there twice, the later row is the truth."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "pass_rate": 0.99}\n')
    rows = read_run(run).rows
    assert [r["step"] for r in rows] == list(range(41))
    assert rows[10]["pass_rate"] == 0.99


def test_a_metric_that_no_panel_names_is_drawn_by_itself(run):
    panels = plots.panels_for(read_run(run).rows)
    assert [p.title for p in panels][-1] == "odd"
    drawn = [k for p in panels for k in p.series]
    assert len(drawn) == len(set(drawn))
    assert {"pass_rate", "accept_rate", "tokens_per_second"} <= set(drawn)


def test_tokens_per_second_are_those_of_rollout_and_update(run):
    assert read_run(run).rows[0]["tokens_per_second"] == 25.0


def test_windows_keep_the_mean_and_bound_the_points():
    steps = list(range(10_000))
    x, y = plots.windows(steps, [float(s % 7) for s in steps], points=100)
    assert len(x) == 100
    assert y.mean() == pytest.approx(3.0, abs=0.01)
    assert (x[0], x[-1]) == (pytest.approx(49.5, abs=1), pytest.approx(9949.5, abs=1))
    few = plots.windows([0, 5], [1.0, 2.0])
    assert few[1].tolist() == [1.0, 2.0]


def test_the_command_writes_the_page_and_refuses_other_folders(run, tmp_path_factory, capsys):
    assert report.main([str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is not a run folder"):
        report.main([str(tmp_path_factory.mktemp("empty"))])
    with pytest.raises(ConfigError, match="cannot write"):
        report.main([str(run), "--out", str(run / "config.toml" / "x.html")])


def test_text_that_is_no_unicode_still_gives_a_page(run):
    """A lone surrogate, which JSON may carry, and bytes that are not UTF-8."""
    path = run / "samples.jsonl"
    path.write_bytes(
        json.dumps(token_row(0, ["\ud800"], [1], prompt="\ud800")).encode() + b"\n\xff\n"
    )
    assert report.main([str(run)]) == 0
