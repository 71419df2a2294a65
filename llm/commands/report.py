"""`python -m llm report RUN`: one self-contained HTML page about a run, finished or not."""

from __future__ import annotations

import argparse
from typing import Any

from llm.report import html, token_view
from llm.report import plots as report_plots
from llm.report.html import Html, badge, counted, facts, folded, paragraph, picture, table
from llm.report.panels import divided, panels_for, series, shown
from llm.report.run_files import RunData, read_run, write
from llm.settings.loading import refuse_old
from llm.settings.paths import path_of
from llm.settings.sections import flat_table

from .report_facts import cell, identity

DECISIONS_SHOWN = 300
STARTS_SHOWN = 50
DIGESTS_SHOWN = 200


def main(argv: list[str]) -> int:
    """Write the page; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m llm report",
        description="Write one self-contained HTML page about a run: curves, distributions of "
        "ratios and weights, completions token by token, settings and provenance.",
    )
    parser.add_argument("run", type=path_of, help="run folder, finished or not")
    parser.add_argument("--out", type=path_of, help="page to write (default RUN/report.html)")
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


def _summary(files: RunData) -> Html:
    rows = files.rows
    pairs: list[tuple[str, Any]] = []
    for name, label in (
        ("kl_policy_actor", "KL(policy, actor), nats per token"),
        ("kl_actor_policy", "KL(actor, policy), nats per token"),
    ):
        steps, values = series(rows, name)
        if values:
            pairs.append(
                (label, f"{values[0]:.4g} at the start → {values[-1]:.4g} at step {steps[-1]}")
            )
    for name, label in (
        ("reward_mean", "reward of the actor's rollouts"),
        ("accept_rate", "accepted share of tokens"),
        ("entropy_policy", "entropy of the policy, nats per token"),
    ):
        _, values = series(rows, name)
        if values:
            n = max(1, len(values) // 10)
            first, last = sum(values[:n]) / n, sum(values[-n:]) / n
            pairs.append((label, f"{first:.4g} → {last:.4g} (means of the first and last tenth)"))
    tokens = sum(r.get("tokens") or 0 for r in rows)
    seconds = sum(v or 0 for r in rows for k, v in r.items() if k.startswith("seconds_"))
    sampled = f"{tokens:,}" if tokens < 1e15 else f"{tokens:.4g}"
    pairs.append(
        ("sampled", f"{sampled} tokens, in {_duration(seconds)} of rollouts, updates, evaluations")
    )
    starts = counted(len(files.provenance), "start")
    pairs.append(("starts", Html(f'{starts} (<a href="#provenance">provenance</a>)')))
    alarms = [r for r in rows if r.get("alarms")]
    if alarms:
        words = f"at {counted(len(alarms), 'step')}"
        pairs.append(("alarms", Html(f'<a href="#decisions">{badge("bad", words)}</a>')))
    notes = "".join(paragraph(n, "quiet") for n in files.notes)
    return Html(facts(identity(files)) + facts(pairs) + notes)


def _curves(files: RunData) -> Html:
    if not files.rows:
        return paragraph("metrics.jsonl holds no rows yet.")
    plots = []
    moving, constant = divided(files.rows, panels_for(files.rows))
    for panel in moving:
        ends = []
        for name, label in panel.series.items():
            _, values = series(files.rows, name)
            ends.append(f"{label} {values[0]:.4g} to {values[-1]:.4g}")
        alt = f"{panel.title} against the step: {', '.join(ends)}"
        plots.append(picture(report_plots.curve(files.rows, panel), alt))
    said = [
        "The reward is that of the completions that the actor sampled for training prompts. The "
        "pass rates are of held-out prompts."
    ]
    if constant:
        held = ", ".join(f"{shown(name)} {value:.4g}" for name, value in constant.items())
        said.append(f"The same at every step, and not drawn: {held}.")
    if len(files.rows) > report_plots.POINTS:
        said.append(f"Curves of more than {report_plots.POINTS} steps are means over windows.")
    notes = "".join(paragraph(line, "quiet") for line in said)
    return Html(f'{notes}<div class="plots">{"".join(plots)}</div>')


def _decisions(files: RunData) -> Html:
    if not files.decisions:
        return paragraph("None: no alarm was raised and no controller changed a setting.")
    head = ("step", "setting", "before", "after", "reason", "limited")
    shown = files.decisions[-DECISIONS_SHOWN:]
    body = table(
        head,
        [[cell(d.get(k, "")) for k in head] for d in shown],
        ("number", "", "number", "number", "", ""),
    )
    left = len(files.decisions) - len(shown)
    more = (
        paragraph(f"The last {len(shown)}; decisions.jsonl has {left} more.", "quiet")
        if left
        else ""
    )
    title = counted(len(files.decisions), "decision")
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
        "distance of the ratio from 1; the stronger the colour, the more tokens."
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
    digests = list(files.inputs.items())[:DIGESTS_SHOWN]
    parts = [f"<h3>made of (SHA-256)</h3>{facts(digests)}"] if digests else []
    if not files.provenance:
        return Html(paragraph("provenance.json is missing.") + "".join(parts))
    first = max(1, len(files.provenance) - STARTS_SHOWN + 1)  # the last ones
    for i, entry in enumerate(files.provenance[first - 1 :], first):
        pairs = [(str(k), cell(v)) for k, v in entry.items()]
        parts.append(f"<h3>start {i} of {len(files.provenance)}</h3>{facts(pairs)}")
    return Html("".join(parts))


def _getter(files: RunData) -> Any:
    flat = flat_table(files.config)

    def get(key: str, default: Any = "") -> Any:
        return flat.get(key, default)

    return get


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours:.1f} h" if hours < 1e6 else "?"
