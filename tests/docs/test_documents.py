"""What the documents say is what the code does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from optional import not_none

ROOT = Path(__file__).resolve().parents[2]


def test_the_numbers_beside_the_readme_example_are_what_it_computes():
    import jackpot

    readme = (ROOT / "README.md").read_text()
    block = not_none(re.search(r"```python\n(.*?)```", readme, re.S)).group(1)
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block, "README.md", "exec"), names)
    log_p, log_q, lam = names["log_p"], names["log_q"], names["lam"]
    accept = jackpot.accept_prob(log_p, log_q, lam)
    shown = not_none(re.search(r"\[([\d. ]+)\]  each", block)).group(1)
    assert [float(a) for a in shown.split()] == pytest.approx(accept.tolist(), abs=1e-9)
    after = jackpot.kl_p_q(log_p, jackpot.post_rejection(log_p, log_q, lam))
    kls = not_none(re.search(r"# ([\d.]+) nats; before: ([\d.]+)", block)).groups()
    stated = [float(x) for x in kls]
    assert stated == pytest.approx([after, jackpot.kl_p_q(log_p, log_q)], abs=5e-4)


def test_the_readme_counts_the_claims_that_are_checked():
    from sim.claims import check, registry

    check.load_claims()
    counts = re.findall(r"(?:tests|verdicts on) (\d+) claims", (ROOT / "README.md").read_text())
    assert counts == [str(len(registry.CLAIMS))] * 2


def test_one_version_is_stated_everywhere():
    """In the package, its metadata, the citation, and the newest entry of the release notes."""
    import jackpot

    stated = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\S+)",
    }
    for name, pattern in stated.items():
        found = re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)
        assert found[:1] == [jackpot.__version__], name
    assert re.fullmatch(r"\d+\.\d+\.\d+", jackpot.__version__)  # semantic


def test_no_page_and_no_message_installs_this_project_from_an_index():
    """The name may be another project's there, so every installation is from the checkout."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    for folder in ("docs", "jackpot", "llm", "sim", "paper_figures", "benchmarks"):
        files += [
            f for end in ("md", "py", "sh", "toml") for f in (ROOT / folder).rglob(f"*.{end}")
        ]
    commands = [
        (file, line.strip())
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bpip3? install\b", line)
    ]
    assert len(commands) > 15
    name = re.compile(r"install\b[^;|`]*[\s'\"]jackpot(?![\w/])")
    assert [(f.name, line) for f, line in commands if name.search(line)] == []


def anchors(document: Path) -> set[str]:
    """What GitHub names the headings of a page: lower case, words joined by hyphens."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_link_in_the_documents_leads_somewhere():
    """To a file, and to a heading of it where the link names one."""
    folders = (".", "docs", "docs/adapters", "docs/launch", "llm", "paper_figures")
    links = 0
    for document in (page for folder in folders for page in (ROOT / folder).glob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            page = document.parent / path if path else document
            assert page.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(page), f"{document.name}: {target}"
            links += 1
    assert links > 80


def test_no_command_that_is_pasted_is_a_pipe():
    """`python -m sim check | sweep` would start a program named sweep."""
    pages = [page for folder in (".", "docs", "llm") for page in (ROOT / folder).glob("*.md")]
    blocks = [b for p in pages for b in re.findall(r"```\w*\n(.*?)```", p.read_text("utf-8"), re.S)]
    commands = [x for b in blocks for x in b.splitlines() if re.match(r"(python|make|vllm) ", x)]
    assert len(commands) > 20
    assert [x for x in commands if "|" in x] == []


def test_every_file_and_test_that_the_page_of_planted_faults_names_exists():
    """In docs/planted_faults.md `file.py::name` is test_name of tests/file.py; every other file
    is named by its path from the root."""
    page = (ROOT / "docs/planted_faults.md").read_text(encoding="utf-8")
    placed = re.findall(r"([\w/]+)::(\w+)", page.replace(".py::", "::"))
    files = re.findall(r"[\w/.]+\.py\b(?!::)", page)
    assert len(placed) > 200 and len(files) > 200
    assert [file for file in files if not (ROOT / file).is_file()] == []
    for file, name in placed:
        path = ROOT / "tests" / f"{file}.py"
        assert path.is_file(), f"{file}.py::{name}"
        assert f"def test_{name}(" in path.read_text(encoding="utf-8"), f"{file}.py::{name}"


def test_every_metric_the_trainer_writes_is_explained():
    from llm.runs.metrics import METRICS

    files = [ROOT / "llm/train.py", *(ROOT / "jackpot/torch").glob("*.py")]
    files += (ROOT / "llm/training").glob("*.py")
    others = ("self_test.py", "sample_records.py")  # rows of other files
    source = "".join(file.read_text() for file in files if file.name not in others)
    written = set(re.findall(r'"([a-z][a-z0-9_]+)": (?:float|int|sum|ess|evaluate)', source))
    written |= set(re.findall(r'row\["([a-z_]+)"\] =', source))
    assert len(written) > 20
    assert written <= set(METRICS)


def test_every_metric_explained_is_written_somewhere():
    """By its own name, or by the end of it that follows eval_, lr_ or grad_norm_."""
    from llm.runs.metrics import METRICS

    files = [f for f in (ROOT / "llm").rglob("*.py") if f.name != "metrics.py"]
    files += (ROOT / "jackpot/torch").glob("*.py")
    files = [f for f in files if f.parent.name not in ("report", "commands")]
    source = "".join(file.read_text() for file in files)
    for name in METRICS:
        end = re.sub("^(eval|lr|grad_norm)_", "", name)
        assert f'"{end}"' in source, name


def test_the_page_of_metrics_is_up_to_date():
    from llm.runs import metrics

    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == metrics.page()


def test_the_page_of_metrics_is_pointed_to():
    from llm import __main__

    assert "docs/metrics.md" in __main__._HELP
    assert "docs/metrics.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_public_function_documents_arguments_result_errors_and_source():
    import inspect

    import jackpot

    for name in jackpot.__all__:
        doc = inspect.getdoc(getattr(jackpot, name)) or ""
        assert "Paper:" in doc or "Source:" in doc, name
        if inspect.isfunction(getattr(jackpot, name)):
            for section in ("Args:\n", "Returns:\n", "Raises:\n"):
                assert section in doc, f"{name}: {section}"
