"""Tokens of sampled completions as a report shows them."""

import re

from report_runs import page_of, token_row, write_rows

from llm.report import token_view


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


def test_spaces_of_tokens_are_marked(run):
    """A stroke through a blank would look like a minus sign."""
    write_rows(run / "samples.jsonl", [token_row(0, [" 7", "  ", "8"], [0, 0, 1])])
    content, _ = page_of(run)
    found = re.findall(r'<span class="t [^"]*" title="[^"]*">(.*?)</span>(?:<wbr>|</div>)', content)
    words = [re.sub("<[^>]*>", "", piece) for piece in found]
    assert words == ["␣7", "␣␣", "8"]


def test_an_evaluation_and_a_prompt_are_cut_and_it_says_so(run):
    rows = [token_row(0, ["y"], [1], prompt="p" * 100_000) for _ in range(100)]
    write_rows(run / "samples.jsonl", rows)
    content, page = page_of(run)
    assert "step 0: 100 of 100 right, 32 shown" in " ".join(page.texts)
    assert len(content) < 250_000
