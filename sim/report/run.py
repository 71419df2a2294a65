"""`python -m sim report`: everything the lab knows, run anew and put on one page of HTML."""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sim.arguments import output_file, seed

from . import html
from .html import Markup
from .sections import Part

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_OUT = Path("runs/report/report.html")
PACKAGES = ("jackpot-obrs", "numpy", "scipy", "mpmath", "matplotlib")


@dataclass(frozen=True)
class Outcome:
    """What running a part gave; `failure` is empty if all went well."""

    part: Part
    command: str
    failure: str
    seconds: float
    content: Markup


def main(argv: list[str]) -> int:
    """Run the parts and write the page; 1 if a part failed."""
    p = parser()
    args = p.parse_args(argv)
    out = args.out or default_file(p)
    started = time.perf_counter()
    chosen = parts()
    outcomes = []
    for i, part in enumerate(chosen, 1):
        say(f"report [{i}/{len(chosen)}] {part.name}")
        outcomes.append(run(part, args))
        say(f"report [{i}/{len(chosen)}] {part.name}: {_status(outcomes[-1])}")
    seconds = time.perf_counter() - started
    try:
        out.write_text(document(outcomes, facts(args, argv, seconds)), encoding="utf-8")
    except OSError as error:
        say(f"python -m sim report: cannot write {out}: {error.strerror}")
        return 1
    print(f"wrote {out} in {seconds:.0f} s")
    failed = [o.part.name for o in outcomes if o.failure]
    if failed:
        say(f"python -m sim report: failed: {', '.join(failed)}; the page says how")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m sim report",
        description="Run the lab and write one self-contained HTML page with its claims, tables "
        "and pictures. Exits 1 if a part fails; the page shows it.",
    )
    p.add_argument(
        "--out", type=output_file, metavar="FILE.html", help=f"the page (default {DEFAULT_OUT})"
    )
    p.add_argument("--seed", type=seed, default=0, help="seed of every random part (default 0)")
    p.add_argument("--quick", action="store_true", help="fewer cases, worlds and states")
    return p


def default_file(p: argparse.ArgumentParser) -> Path:
    """The default page, its folder made; ends the program if that cannot be."""
    try:
        DEFAULT_OUT.parent.mkdir(parents=True, exist_ok=True)
        return output_file(str(DEFAULT_OUT))
    except (OSError, argparse.ArgumentTypeError) as error:
        p.error(f"cannot write {DEFAULT_OUT}: {error}; give another file with --out")


def parts() -> list[Part]:
    """The parts of the page, of the commands that exist."""
    from sim.commands import COMMANDS

    from .sections import PARTS

    return [part for part in PARTS if part.name in COMMANDS]


class Tee(io.StringIO):
    """Keeps what is written and passes it on."""

    def __init__(self, to):
        super().__init__()
        self.to = to

    def write(self, text: str) -> int:
        self.to.write(text)
        return super().write(text)


def run(part: Part, args: argparse.Namespace) -> Outcome:
    """Run one command in this process, in a folder of its own; whatever it raises is a failure."""
    command = [part.name, *part.options(args)]
    output, errors = io.StringIO(), Tee(sys.stderr)
    started = time.perf_counter()
    content = Markup("")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            failure = execute(command + part.files(folder))
        seconds = time.perf_counter() - started
        try:
            content = show(part, folder)
        except Exception as error:
            failure = failure or f"its files cannot be shown: {type(error).__name__}: {error}"
    if failure:
        last = "\n".join(errors.getvalue().strip().splitlines()[-20:])
        content = Markup(content + html.folded("the last lines on stderr", last or "none"))
    said = output.getvalue().strip() or "nothing"
    content = Markup(content + html.folded("everything it printed", said))
    return Outcome(part, " ".join(["python -m sim", *command]), failure, seconds, content)


def execute(command: list[str]) -> str:
    """Run `python -m sim` with these arguments; what went wrong, or nothing."""
    from sim.commands import main as sim_main

    try:
        code: object = sim_main(command)
    except SystemExit as error:
        code = error.code
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"exit status {code}" if code else ""


def show(part: Part, folder: Path) -> Markup:
    """The pictures and tables made from what a command wrote."""
    pictures = [html.picture(folder / name, caption) for name, caption in part.captions.items()]
    return Markup("\n".join([*pictures, *part.tables(folder)]))


def facts(args: argparse.Namespace, argv: list[str], seconds: float) -> dict[str, str]:
    """How the page came about."""
    rows = {
        "made by": " ".join(["python -m sim report", *argv]),
        "made at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, in {seconds:.0f} s",
        "seed": str(args.seed),
        "commit": commit(),
        "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
    }
    rows["packages"] = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return rows


def commit() -> str:
    """The commit of this checkout, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain")
        return git("rev-parse", "HEAD") + (", with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"


def document(outcomes: list[Outcome], about: dict[str, str]) -> str:
    """The page."""
    rows = [
        (
            Markup(f'<a href="#{html.text(o.part.name)}">{html.text(o.part.title)}</a>'),
            _badge(o),
            Markup(f"<code>{html.text(o.command)}</code>"),
            f"{o.seconds:.1f}",
        )
        for o in outcomes
    ]
    head = ("part", "outcome", "how to reproduce it", "seconds")
    overview = html.table(head, rows, ("", "nowrap", "", "number"))
    lead = Markup(
        "<p>Optimal Budgeted Rejection Sampling (OBRS) and Jackpot (arXiv 2602.06107): the claims "
        "of the paper and of <code>docs/theory.md</code>, each checked anew, and the numbers "
        "behind our pictures. All of it is computed on small or synthetic distributions; nothing "
        "here is a measurement of a language model unless it says so.</p>"
    )
    sections = [("overview", "Overview", overview)]
    sections += [(o.part.name, o.part.title, _section(o)) for o in outcomes]
    return html.page("OBRS and Jackpot: the lab's report", lead, about, sections)


def _section(o: Outcome) -> Markup:
    text = html.text
    alarm = f"<p>{_badge(o)} {text(o.failure)}</p>" if o.failure else ""
    return Markup(
        f"{alarm}<p>{text(o.part.text)}</p><p>Reproduce: <code>{text(o.command)}</code></p>\n"
        f"{o.content}"
    )


def _badge(o: Outcome) -> Markup:
    return html.badge(*(("bad", "FAILED") if o.failure else ("good", "passed")))


def _status(o: Outcome) -> str:
    return f"{'FAILED, ' + o.failure if o.failure else 'passed'}, {o.seconds:.1f} s"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
