"""The page of a report holds everything, escapes what it shows and runs nothing."""

import base64
import json
import re

import pytest
from report_runs import CONFIG, make_run, page_of, token_row, write_rows

from llm.report import html

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The page of that run with its pictures, and the same parsed."""
    return page_of(make_run(tmp_path_factory.mktemp("drawn")))


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
    write_rows(run / "decisions.jsonl", [{"step": 1, "setting": EVIL, "reason": EVIL}])
    write_rows(run / "metrics.jsonl", [{"step": s, EVIL: s, "pass_rate": 0.5} for s in (0, 1)])
    content, page = page_of(run)
    assert "script" not in page.tags
    assert not [k for _, k, _ in page.attributes if k.startswith("on")]
    assert [v for t, k, v in page.attributes if t == "img" and k == "src" and v == "x"] == []
    assert sum(EVIL in t for t in page.texts) >= 8
    assert "<script" not in content.lower()


def test_every_colour_of_the_page_has_a_dark_one():
    """Nothing but the white on red of an alarm is the same in both; pictures are inverted."""
    light, dark = re.findall(r":root \{(.*?)\}", html.STYLE, re.DOTALL)
    names = re.findall(r"(--[a-z-]+):", light)
    assert names and names == re.findall(r"(--[a-z-]+):", dark)
    rest = html.STYLE.replace(light, "").replace(dark, "")
    assert re.findall("#[0-9a-f]{3,6}", rest) == ["#b3261e", "#fff"]
    assert re.search(r"figure img.*filter: invert", rest)


def test_one_is_said_in_the_singular():
    assert (html.counted(1, "run"), html.counted(2, "run")) == ("1 run", "2 runs")
