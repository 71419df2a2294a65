"""`python -m llm report RUN`: one self-contained HTML page about a run, finished or not."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from llm.report import html, token_view
from llm.report import plots as report_plots
from llm.report.html import Html, badge, facts, folded, paragraph, picture, table
from llm.report.run_files import RunData, read_run, write
from llm.settings.loading import refuse_old
from llm.settings.sections import flat_table

DECISIONS_SHOWN = 300


def main(argv: list[str]) -> int:
    """Write the page; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m llm report",
        description="Write one self-contained HTML page about a run: curves, distributions of "
        "ratios and weights, completions token by token, settings and provenance.",
    )
    parser.add_argument("run", type=Path, help="run folder, finished or not")
    parser.add_argument("--out", type=Path, help="the page (default RUN/report.html)")
    args = parser.parse_args(argv)
    files = read_run(args.run)
    refuse_old(args.run / "config.toml", files.config)
    out = args.out or args.run / "report.html"
    write(out, document(files), follow=args.out is not None)
    print(f"wrote {out}")
    return 0


def document(files: RunData) -> str:
    """The page."""
    sections = [
        ("summary", "Summary", _summary(files)),
        ("curves", "Curves", _curves(files)),
        ("decisions", "Alarms and decisions", _decisions(files)),
        ("distributions", "Ratios and weights", _distributions(files)),
        ("tokens", "Token by token", _tokens(files)),
        ("config", "Configuration", _config(files)),
        ("provenance", "Provenance", _provenance(files)),
    ]
    lead = Html("".join(paragraph(line) for line in _lead(files)))
    title = f"Run {files.folder.resolve().name}"
    return html.page(title, lead, sections, token_view.style())


def _lead(files: RunData) -> list[str]:
    get = _getter(files)
    model, actor = (
        get(f"{m}.path")
        or f"a built model (layers {get(f'{m}.layers')}, width {get(f'{m}.width')})"
        for m in ("policy", "actor")
    )
    kind = get("actor.type", "separate")
    whose = {
        "separate": f"another model, {actor}, trained with it",
        "frozen": f"another model, {actor}, not trained",
        "stale": f"the policy of {get('actor.lag')} steps ago",
        "quantized": f"the policy in {get('actor.bits')} bits",
        "early_exit": f"the policy's first {get('actor.exit_layers')} layers",
        "noisy": f"the policy with noise {get('actor.noise')} on its weights",
        "self": "the policy itself",
    }.get(str(kind), str(kind))
    return [
        f"Policy: {model}, on the task {get('task.type', 'unknown')}. Sampled from: {whose}. "
        f"Correction: {get('correction.type', 'unknown')}."
    ]


def _evaluation_sets(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """mean@k and pass@k of each evaluation set, first and last."""
    first = rows[0] if rows else {}
    names = [n.removeprefix("mean_at_k_") for n in first if n.startswith("mean_at_k_")]
    pairs: list[tuple[str, Any]] = []
    for name in names:
        texts = []
        for metric in ("mean", "pass"):
            steps, values = report_plots.series(rows, f"{metric}_at_k_{name}")
            if values:
                texts.append(f"{metric}@k {values[0]:.3f} → {values[-1]:.3f} (step {steps[-1]})")
        pairs.append((f"evaluation set {name}", "; ".join(texts)))
    return pairs


def _summary(files: RunData) -> Html:
    rows = files.rows
    wanted = _getter(files)("run.steps", "?")
    last = rows[-1]["step"] if rows else 0
    state = badge("good", "complete") if files.finished else badge("warn", "not complete")
    pairs: list[tuple[str, Any]] = [
        ("state", Html(f"{state} step {last} of {html.text(wanted)}")),
    ]
    for name, label in (("pass_rate", "policy"), ("pass_rate_actor", "actor")):
        steps, values = report_plots.series(rows, name)
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            text = f"{values[0]:.3f} (step {steps[0]})"
            if len(values) > 1:
                text += f" → {values[-1]:.3f} (step {steps[-1]})"
                text += f"; best {values[best]:.3f} (step {steps[best]})"
            pairs.append((f"held-out pass rate, {label}", text))
    pairs += _evaluation_sets(rows)
    for name, label in (
        ("kl_policy_actor", "KL(policy, actor), nats per token"),
        ("kl_actor_policy", "KL(actor, policy), nats per token"),
    ):
        steps, values = report_plots.series(rows, name)
        if values:
            pairs.append(
                (label, f"{values[0]:.4g} at the start → {values[-1]:.4g} at step {steps[-1]}")
            )
    for name, label in (
        ("reward_mean", "reward"),
        ("accept_rate", "accepted share of tokens"),
        ("entropy_policy", "entropy of the policy, nats per token"),
    ):
        _, values = report_plots.series(rows, name)
        if values:
            n = max(1, len(values) // 10)
            first, last = sum(values[:n]) / n, sum(values[-n:]) / n
            pairs.append((label, f"{first:.4g} → {last:.4g} (means of the first and last tenth)"))
    tokens = sum(r.get("tokens") or 0 for r in rows)
    seconds = sum(v or 0 for r in rows for k, v in r.items() if k.startswith("seconds_"))
    pairs.append(
        (
            "sampled",
            f"{tokens:,} tokens, in {_duration(seconds)} of rollouts, updates and evaluations",
        )
    )
    pairs.append(("starts", f"{len(files.provenance)} (see provenance)"))
    alarms = [r for r in rows if r.get("alarms")]
    if alarms:
        pairs.append(
            ("alarms", Html(f'<a href="#decisions">{badge("bad", f"at {len(alarms)} steps")}</a>'))
        )
    notes = "".join(paragraph(n, "quiet") for n in files.notes)
    return Html(facts(pairs) + notes)


def _curves(files: RunData) -> Html:
    if not files.rows:
        return paragraph("metrics.jsonl holds no rows yet.")
    plots = []
    for panel in report_plots.panels_for(files.rows):
        ends = []
        for name, label in panel.series.items():
            _, values = report_plots.series(files.rows, name)
            ends.append(f"{label} {values[0]:.4g} to {values[-1]:.4g}")
        alt = f"{panel.title} against the step: {', '.join(ends)}"
        plots.append(picture(report_plots.curve(files.rows, panel), alt))
    many = len(files.rows) > report_plots.POINTS
    thinned = (
        paragraph(
            f"Curves of more than {report_plots.POINTS} steps are means over equal windows.",
            "quiet",
        )
        if many
        else ""
    )
    return Html(f'{thinned}<div class="plots">{"".join(plots)}</div>')


def _decisions(files: RunData) -> Html:
    if not files.decisions:
        return paragraph("None: no alarm was raised and no controller changed a setting.")
    head = ("step", "setting", "before", "after", "reason", "limited")
    shown = files.decisions[-DECISIONS_SHOWN:]
    body = table(
        head,
        [[_cell(d.get(k, "")) for k in head] for d in shown],
        ("number", "", "number", "number", "", ""),
    )
    left = len(files.decisions) - len(shown)
    more = (
        paragraph(f"The last {len(shown)}; decisions.jsonl has {left} more.", "quiet")
        if left
        else ""
    )
    title = f"{len(files.decisions)} decisions"
    if len(shown) > 20:
        body = Html(f"<details><summary>{html.text(title)}</summary>{body}</details>")
    return Html(more + body)


def _distributions(files: RunData) -> Html:
    rows = files.histograms
    if not rows:
        return paragraph("None: histograms.jsonl holds no rows. They are written at evaluations.")
    plots = []
    for name, title, label in (
        ("log_ratio", "Log ratio, log p/q, before any cap", "log p/q, nats"),
        ("weight", "Applied weight, where it is not 0", "weight"),
        ("accept_prob", "Acceptance probability", "a(x)"),
    ):
        alt = f"{title}: histograms at steps {rows[0]['step']} to {rows[-1]['step']}"
        plots.append(picture(report_plots.histograms(rows, name, title, label), alt))
    first, last = (
        f"{r['weight'].get('zeros', 0) / max(1, r['tokens']):.1%} at step {r['step']}"
        for r in (rows[0], rows[-1])
    )
    note = paragraph(
        f"Tokens of weight 0: {first}, {last}. Bins are logarithmic in the weight and in the "
        "distance of the ratio from 1; the darker, the more tokens."
    )
    return Html(note + f'<div class="plots">{"".join(plots)}</div>')


def _tokens(files: RunData) -> Html:
    if not files.samples:
        return paragraph("None: samples.jsonl holds no rows (run.samples_kept, at evaluations).")
    return token_view.section(files.samples)


def _config(files: RunData) -> Html:
    if not files.config_text:
        return paragraph("config.toml is missing.")
    return folded("config.toml: every setting, resolved", files.config_text)


def _provenance(files: RunData) -> Html:
    if not files.provenance:
        return paragraph("provenance.json is missing.")
    parts = []
    for i, entry in enumerate(files.provenance, 1):
        pairs = [(str(k), _cell(v)) for k, v in entry.items()]
        parts.append(f"<h3>start {i} of {len(files.provenance)}</h3>{facts(pairs)}")
    return Html("".join(parts))


def _getter(files: RunData) -> Any:
    flat = flat_table(files.config)

    def get(key: str, default: Any = "") -> Any:
        return flat.get(key, default)

    return get


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
