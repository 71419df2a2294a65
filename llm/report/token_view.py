"""Completions shown token by token: the colour is a number, a stroke is a rejection."""

from __future__ import annotations

import math
import unicodedata
from itertools import groupby
from typing import Any

from .html import Html, badge, counted, facts, folded, paragraph, text

TOKENS_SHOWN = 600  # of one completion
SAMPLES_SHOWN = 32  # of one evaluation
CHARACTERS_SHOWN = 4000  # of a prompt or an answer
INTERVALS_SHOWN = 24  # evaluations, evenly spread; the first and the last are among them

# low to high, light enough for black text: the actor's orange, neutral, the policy's blue
_TWO_SIDED = (
    "#f2a154 #f6b97f #f9cfa6 #fbe2ca #fdf1e4 #f6f6f6 #e3eef8 #c8dff2 #a6cbea #82b6e0 #5c9fd6"
).split()
_ONE_SIDED = (
    "#f08a7a #f39b8b #f6ac9d #f8bbae #f9c9bf #fad5cd #fbe0da #fce9e5 #fdf1ef #fef8f7 #ffffff"
).split()
STEPS = len(_TWO_SIDED)

VIEWS = (  # letter, name, what the colours say, palette
    (
        "r",
        "ratio p/q",
        "blue: the policy likes the token more than the actor did; orange: less",
        _TWO_SIDED,
    ),
    ("a", "acceptance", "no colour: certain to be kept; red: hardly ever", _ONE_SIDED),
    (
        "w",
        "weight",
        "no colour: 1; blue: counts for more; orange: for less, or not at all",
        _TWO_SIDED,
    ),
)
_SCALES = {"r": ("1/7.4", "7.4"), "a": ("0", "1"), "w": ("0 to 1/4", "4")}


def style() -> str:
    """CSS of the token view: which number colours a token is chosen by radio buttons."""
    rules = []
    for letter, _, _, palette in VIEWS:
        rules += [
            f"#by-{letter}:checked ~ .samples .{letter}{i}, .key .{letter}{i} "
            f"{{ background: {colour}; }}"
            for i, colour in enumerate(palette)
        ]
        rules.append(f"#by-{letter}:checked ~ .key.{letter} {{ display: block; }}")
    return _STYLE + "\n".join(rules) + "\n"


_STYLE = """
.samples { margin: 8px 0; }
.sample { border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; 
  min-width: 0; }
.group { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr));
  gap: 10px; margin: 8px 0 14px; }
.sample dl { margin: 6px 0; }
.sample dd { white-space: pre-wrap; }
.view { margin: 0 4px 0 0; } .view + label { margin-right: 14px; cursor: pointer; }
.key { display: none; font-size: 0.92rem; margin: 6px 0; }
.key span { display: inline-block; min-width: 1.1em; text-align: center; color: #1c2128; }
.space { color: #8b93a0; }
.tokens { font: 0.95rem/2 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 8px 0; }
.t { color: #1c2128; padding: 2px 1px; margin-right: 1px; border-radius: 2px; unicode-bidi: isolate;
  border-bottom: 2px solid transparent; }
.t:hover { outline: 2px solid #1c2128; }
.x { text-decoration: line-through 2px #b3261e; border-bottom-color: #b3261e; }
"""


def section(rows: list[dict[str, Any]]) -> Html:
    """All kept completions, by evaluation; the first and the last evaluation are open."""
    groups = [(step, list(g)) for step, g in groupby(rows, key=lambda r: r.get("step"))]
    shown = _spread(groups)
    parts = [paragraph(_INTRODUCTION)]
    if len(shown) < len(groups):
        parts.append(
            paragraph(
                f"{len(shown)} of {len(groups)} evaluations are shown; samples.jsonl has all.",
                "quiet",
            )
        )
    rejects = any(a != 1 for r in rows for a in r.get("accept_prob", []))
    first = "a" if rejects else "r"
    for letter, name, _, _ in VIEWS:
        chosen = " checked" if letter == first else ""
        parts.append(
            Html(
                f'<input class="view" type="radio" name="by" id="by-{letter}"{chosen}>'
                f'<label for="by-{letter}">{text(name)}</label>'
            )
        )
    parts += [_key(*view) for view in VIEWS]
    blocks = []
    for i, (step, samples) in enumerate(shown):
        opened = " open" if i in (0, len(shown) - 1) else ""
        right = sum((s.get("reward") or 0) >= 1 for s in samples)
        more = f", {SAMPLES_SHOWN} shown" if len(samples) > SAMPLES_SHOWN else ""
        title = text(f"step {step}: {right} of {len(samples)} right{more}")
        body = "".join(_sample(s) for s in samples[:SAMPLES_SHOWN])
        blocks.append(
            f'<details{opened}><summary>{title}</summary><div class="group">{body}</div></details>'
        )
    return Html("\n".join(parts) + f'<div class="samples">{"".join(blocks)}</div>')


_INTRODUCTION = (
    "Completions as they were sampled, a few at every evaluation, chosen by their place in the "
    "batch and not by what they show. Struck through in red: rejected, so the token trained "
    "nothing. ␣ is a space and ↵ a line break. Point at a token for its numbers, or open them "
    "below each completion. Choose what colours the tokens:"
)


def _key(letter: str, name: str, meaning: str, palette: list[str]) -> Html:
    low, high = _SCALES[letter]
    boxes = "".join(f'<span class="{letter}{i}">&nbsp;</span>' for i in range(len(palette)))
    return Html(
        f'<div class="key {letter}">{text(low)} {boxes} {text(high)} &nbsp; {text(meaning)}; '
        '<span class="t x">struck</span> rejected</div>'
    )


def _sample(row: dict[str, Any]) -> Html:
    tokens = row.get("tokens", [])
    columns = {
        k: row.get(k, [None] * len(tokens))
        for k in ("logp_inf", "log_ratio", "accept_prob", "accepted", "weight")
    }
    numbers = [dict(zip(columns, x, strict=True)) for x in zip(*columns.values(), strict=True)]
    pairs = list(zip(tokens, numbers, strict=False))
    line = "<wbr>".join(_token(piece, n) for piece, n in pairs[:TOKENS_SHOWN])
    left = len(pairs) - TOKENS_SHOWN
    more = badge("plain", counted(left, "more token")) if left > 0 else ""
    rejected = sum(n["accepted"] == 0 for n in numbers)
    reward = row.get("reward")
    head = badge("good" if (reward or 0) >= 1 else "plain", f"reward {_short(reward)}")
    length = counted(len(tokens), "token")
    about = f" advantage {_short(row.get('advantage'))}, {length}, {rejected} rejected"
    texts = facts([("prompt", _cut(row.get("prompt", ""))), ("right", _cut(row.get("answer", "")))])
    listing = "\n".join([_HEAD, *(_line(p, n) for p, n in pairs[:TOKENS_SHOWN])])
    return Html(
        f'<div class="sample">{head}{text(about)}{texts}<div class="tokens">{line}</div>{more}'
        f"{folded('numbers', listing)}</div>"
    )


def _token(piece: str, n: dict[str, float | None]) -> str:
    marks = (
        f"t r{_two_sided(n['log_ratio'])} a{_one_sided(n['accept_prob'])} w{_weight(n['weight'])}"
    )
    if n["accepted"] == 0:
        marks += " x"
    kept = n["accepted"]
    fate = "rejected" if kept == 0 else "accepted" if kept == 1 else "in expectation"
    q, ratio = _exp(n["logp_inf"]), _exp(n["log_ratio"])
    tooltip = (
        f"q {q}, p/q {ratio} (log {_short(n['log_ratio'])}), acceptance "
        f"{_short(n['accept_prob'])}, {fate}, weight {_short(n['weight'])}"
    )
    ends_line = "<br>" if piece.endswith(("\n", "\\n")) else ""
    return f'<span class="{marks}" title="{text(tooltip)}">{_spaced(piece)}</span>{ends_line}'


def _spaced(piece: str) -> str:
    """A token's text with its spaces as marks: a stroke through a blank would look like a minus."""
    return str(text(visible(piece))).replace(" ", '<span class="space">␣</span>')


def _cut(words: Any) -> str:
    whole = str(words)
    return visible(whole[:CHARACTERS_SHOWN]) + ("…" if len(whole) > CHARACTERS_SHOWN else "")


_HEAD = f"{'q':>9} {'p/q':>9} {'log p/q':>9} {'accept':>7} {'kept':>5} {'weight':>7}  token"


def _line(piece: str, n: dict[str, float | None]) -> str:
    return (
        f"{_exp(n['logp_inf']):>9} {_exp(n['log_ratio']):>9} {_short(n['log_ratio']):>9} "
        f"{_short(n['accept_prob']):>7} {_short(n['accepted']):>5} {_short(n['weight']):>7}  "
        f"{visible(piece)}"
    )


def visible(piece: str) -> str:
    """Line breaks, control and direction marks spelt out: none of them acts on the page."""
    return "".join(
        "↵"
        if c == "\n"
        else c
        if unicodedata.category(c) not in ("Cc", "Cf", "Cs")
        else repr(c)[1:-1]
        for c in str(piece)
    )


def _two_sided(log_ratio: float | None) -> int:
    """-2 or less is 0, 0 the middle, 2 or more the last."""
    x = 0.0 if log_ratio is None else max(-1.0, min(1.0, log_ratio / 2))
    return round((x + 1) / 2 * (STEPS - 1))


def _one_sided(share: float | None) -> int:
    return STEPS - 1 if share is None else round(max(0.0, min(1.0, share)) * (STEPS - 1))


def _weight(weight: float | None) -> int:
    """By its logarithm to base 2, from 1/4 to 4; 0 is the lowest."""
    if weight is None:
        return STEPS // 2
    return _two_sided(math.log2(weight)) if weight > 0 else 0


def _short(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


def _exp(x: float | None) -> str:
    return "-" if x is None else f"{math.exp(min(x, 700.0)):.3g}"


def _spread(groups: list) -> list:
    n = len(groups)
    if n <= INTERVALS_SHOWN:
        return groups
    return [groups[round(i * (n - 1) / (INTERVALS_SHOWN - 1))] for i in range(INTERVALS_SHOWN)]
