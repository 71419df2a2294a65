"""Modules and files of this repository that prose names exist.

Prose is docstrings, comments and messages of the sources, and every document. Names in the tests'
own strings are data of the tests, so of tests only docstrings and comments are read.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jackpot", "sim", "llm", "paper_figures")
DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+")
QUOTED = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`")
FILE = re.compile(r"(?<![\w.*{}<>/%-])(?:[\w-]+/)*[\w-]+\.py\b")
PROSE = re.compile(r'"""(?:.|\n)*?"""|#.*')
SECTIONS = {"lam", "rollout", "run"}  # of settings, called as a module or folder is
SUFFIXES = {"csv", "html", "json", "jsonl", "md", "png", "py", "toml", "yaml"}
OFFERED = {"llm.load", "llm.Config", "llm.ConfigError"}  # by `llm.__getattr__`
OFFERED |= {"jackpot.adapters.roll.JackpotActorWorker"}  # by its module's
EXAMPLES = {  # of a user's file, of a peer's, and of any file
    "docs/adapters/nemo_rl.md": {"examples/run_grpo.py"},
    "docs/adapters/roll.md": {"examples/start_rlvr_pipeline.py"},
    "docs/rewards.md": {"rewards.py"},
    "tests/docs/test_documents.py": {"file.py", "tests/file.py"},
    "tests/docs/test_theory.py": {"tests/file.py"},
    "tests/test_imports.py": {"benchmarks/x.py"},
    "tests/test_layout.py": {"llm/a/b.py", "tests/llm/a/test_b.py"},
    "tests/docs/test_module_names.py": {"rewards.py", "rewards/train.py"},
}


def repository() -> dict[str, str]:
    """{path: text} of sources and documents."""
    folders = (*PACKAGES, "benchmarks", "tests", "docs")
    files = [p for top in folders for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".md")]
    files += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def defines(source: str, name: str) -> bool:
    """Whether a source defines, assigns or imports a name, at any depth."""
    return bool(
        re.search(rf"^\s*(?:def |class )?{name}\b\s*[:=,(]|\bimport\b.*\b{name}\b", source, re.M)
    )


def exists(name: str, modules: dict[str, str]) -> bool:
    """A module, a folder of modules, or a name that a module defines."""
    if any(module == name or module.startswith(f"{name}.") for module in modules):
        return True
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if (source := modules.get(".".join(parts[:n]))) is not None:
            return defines(source, parts[n])
    return False


def stale_modules(path: str, text: str, modules: dict[str, str]) -> set[str]:
    """Dotted names that lead nowhere: full ones, and in sources `module.name` of their package."""
    stale = {
        name
        for name in DOTTED.findall(text)
        if name.rpartition(".")[2] not in SUFFIXES and not exists(name, modules)
    }
    package = path.split("/")[0]
    if package in PACKAGES and path.endswith(".py"):
        for name in set(QUOTED.findall(text)):
            first, _, last = name.partition(".")
            above = places(first, package, modules)
            if above and first not in SECTIONS and last not in SUFFIXES:
                if not any(exists(f"{place}.{name}", modules) for place in above):
                    stale.add(name)
    return stale - OFFERED


def places(name: str, package: str, modules: dict[str, str]) -> set[str]:
    """The folders of a package that hold a module or folder of this name."""
    found = set()
    for module in modules:
        parts = module.split(".")
        if parts[0] == package and name in parts[1:]:
            found.add(".".join(parts[: parts.index(name, 1)]))
    return found


def ends_of(paths: Iterable[str]) -> set[str]:
    """Each path, and what is left of it without its first folders."""
    return {"/".join(p.split("/")[n:]) for p in paths for n in range(p.count("/") + 1)}


def stale_files(text: str, ends: set[str]) -> set[str]:
    """Names of .py files that are no path, and no end of one; FILE.py stands for any.

    Paths that begin with vllm/ are of the wheel of vLLM.
    """
    named = {name for name in FILE.findall(text) if not name.startswith("vllm/")}
    return named - ends - {"FILE.py"}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    texts = repository()
    assert len(texts) > 400
    return texts


@pytest.fixture(scope="module")
def modules(texts) -> dict[str, str]:
    return {module_of(f): text for f, text in texts.items() if f.endswith(".py")}


def prose(path: str, text: str) -> str:
    in_tests = path.startswith("tests/") and path.endswith(".py")
    return "\n".join(PROSE.findall(text)) if in_tests else text


def made_by_tests(path: str, text: str) -> set[str]:
    """Files that the code of a test names: it makes them, or it would fail."""
    in_tests = path.startswith("tests/") and path.endswith(".py")
    return set(FILE.findall(PROSE.sub("", text))) if in_tests else set()


def test_modules_that_prose_names_exist(texts, modules):
    stale = {f: stale_modules(f, prose(f, text), modules) for f, text in texts.items()}
    assert {f: names for f, names in stale.items() if names} == {}


def test_files_that_prose_names_exist(texts):
    ends = ends_of(texts)
    stale = {
        f: stale_files(prose(f, text), ends) - EXAMPLES.get(f, set()) - made_by_tests(f, text)
        for f, text in texts.items()
    }
    assert {f: names for f, names in stale.items() if names} == {}


def test_a_name_that_leads_nowhere_is_noticed():
    modules = {
        "jackpot.torch": "from .lam import batch_lam\n",
        "jackpot.torch.lam": "LOW = 1\ndef batch_lam(p):\n    pass\n",
        "llm.train": "",
        "llm.training.run": "",
    }
    good = "llm.train, jackpot.torch.batch_lam, `jackpot.torch.lam.LOW`, `jackpot.torch.lam`"
    assert stale_modules("llm/x.py", good, modules) == set()
    bad = "llm.cost.gain, `jackpot.torch.tail`, `training.fresh`, `cfg.fresh`, llm.train.go"
    assert stale_modules("llm/x.py", bad, modules) == {
        *("llm.cost.gain", "jackpot.torch.tail", "training.fresh", "llm.train.go")
    }
    ends = ends_of(["llm/rewards/scorers.py", "llm/train.py"])
    text = "scorers.py, rewards/scorers.py, train.py and rewards.py, rewards/train.py"
    assert stale_files(text, ends) == {"rewards.py", "rewards/train.py"}
