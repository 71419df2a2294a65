"""Runs of the figures: what names them and what is kept."""

import ast
import functools
import importlib.metadata
import json
import sys
from pathlib import Path

import llm_process
import pytest
import torch
from figure_runs import SEED, tiny
from optional import not_none

from llm import settings
from paper_figures.experiments import run_store
from paper_figures.experiments.configurations import run


@pytest.fixture
def code(monkeypatch, tmp_path):
    """A function: the version of the code if a module had this appended."""
    found = run_store._file
    run_store.code_version()  # kept from now on: later calls must not see what is replaced here

    def version(module: str, appended: str) -> str:
        changed = tmp_path / "changed.py"
        changed.write_text(not_none(found(module)).read_text() + appended)
        monkeypatch.setattr(run_store, "_file", lambda m: changed if m == module else found(m))
        return run_store.code_version.__wrapped__()

    return version


def test_any_setting_gives_a_run_another_name():
    base = run("chain", "jackpot", SEED)
    others = [
        base._replace(seed=SEED + 1),
        base._replace(method="tis"),
        base._replace(world="chain weak"),
        run("chain", "jackpot", SEED, correction__lam__value=0.99),
        run("chain", "jackpot", SEED, run__eval_every=15),
    ]
    names = {run_store.folder(r).name for r in (base, *others)}
    assert len(names) == 1 + len(others)


def test_where_it_lies_is_no_part_of_a_name(tmp_path):
    base = run("chain", "jackpot", SEED)
    assert run_store.folder(base, tmp_path).name == run_store.folder(base).name
    assert run_store.folder(base, tmp_path).parent == tmp_path


@pytest.mark.parametrize("module", ["llm.training.evaluation", "jackpot.weights"])
def test_a_change_of_code_changes_the_version_and_words_do_not(code, module):
    assert run_store._file(module) is not None
    same = code(module, "\n# a remark\n\n")
    assert same == run_store.code_version()
    assert code(module, "\nADDED = 1\n") != same


def test_another_version_of_the_code_gives_a_run_another_name(monkeypatch, tmp_path):
    cfg = run_store.resolved(run("chain", "jackpot", SEED), tmp_path)
    before = run_store.key(cfg)
    monkeypatch.setattr(run_store, "code_version", lambda: "0" * 12)
    assert run_store.key(cfg) != before


@pytest.mark.parametrize("library", ["torch", "transformers", "numpy"])
def test_another_version_of_a_library_is_another_version_of_the_code(monkeypatch, library):
    before, installed = run_store.code_version.__wrapped__(), importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: installed(name) + "+1" * (name == library)
    )
    assert run_store.code_version.__wrapped__() != before


def test_a_docstring_is_no_code():
    one, other = (ast.parse(f'def f(x):\n    "{text}"\n    return x\n') for text in ("a", "b"))
    assert ast.dump(run_store._without_docstrings(one)) == ast.dump(
        run_store._without_docstrings(other)
    )


def train_and_evaluate(config: Path, folder: str, result: Path) -> None:
    """And write which modules of llm and jackpot are then loaded."""
    from llm.commands import evaluate, train

    torch.set_num_threads(1)
    assert train.main([str(config)]) == 0
    assert evaluate.main([folder, "--prompts", "4", "--samples", "2"]) == 0
    files = {n: getattr(m, "__file__", None) for n, m in sys.modules.items()}
    own = {n: f for n, f in files.items() if f and n.split(".")[0] in ("llm", "jackpot")}
    result.write_text(json.dumps(own))


def test_all_that_a_real_training_loads_is_in_the_hash(tmp_path):
    """Every module of llm and jackpot that a process has loaded after training and evaluating."""
    own = tiny("jackpot", run__steps=2, pretrain__policy_steps=2, pretrain__actor_steps=2)
    cfg = run_store.resolved(own, tmp_path)
    config, result, stderr = (tmp_path / name for name in ("tiny.toml", "loaded.json", "stderr"))
    config.write_text(settings.dump(cfg))
    job = functools.partial(train_and_evaluate, config, cfg.run.folder, result)
    process = llm_process.called(job, stderr)
    process.join(200)
    assert process.exitcode == 0, stderr.read_text()
    loaded = json.loads(result.read_text())
    assert {"llm", "llm.train", "llm.training.weights", "llm.runs.metrics", "jackpot"} <= set(
        loaded
    )
    hashed = run_store.reached()
    assert {name: Path(file) for name, file in loaded.items()}.items() <= hashed.items()


def test_processes_of_their_own_are_doors():
    """A file that is run as a program, and not by a person, starts something that training uses."""
    programs = {
        ".".join(p.relative_to(run_store.ROOT).with_suffix("").parts)
        for p in (run_store.ROOT / "llm").rglob("*.py")
        if 'if __name__ == "__main__"' in p.read_text(encoding="utf-8")
    }
    by_a_person = {"llm.__main__", "llm.runs.metrics", "llm.settings.resuming"}
    assert programs - by_a_person <= set(run_store.ENTRY_POINTS)
    assert all(run_store._file(module) for module in run_store.ENTRY_POINTS)


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_imports_are_followed_at_any_level_and_through_init_files(tmp_path, monkeypatch):
    """Each file is named by one other alone: what is missed drops out of the hash."""
    plant(
        tmp_path,
        {
            "llm/__init__.py": "import jackpot\n",
            "llm/commands/__init__.py": "from . import words\n",
            "llm/commands/words.py": "",
            "llm/commands/train.py": "def main():\n    from llm import distributed\n",
            "llm/distributed/__init__.py": "from .collectives import rank\n",
            "llm/distributed/collectives.py": "from ..settings.schema import Run\n",
            "llm/settings/__init__.py": "from .loading import load\n",
            "llm/settings/loading.py": "",
            "llm/settings/schema.py": "from ..models.lm_head import chunked\n",
            "llm/models/__init__.py": "",
            "llm/models/lm_head/__init__.py": "",
            "llm/models/lm_head/chunked.py": "from ... import errors\nfrom .. import roles\n",
            "llm/models/roles.py": "import torch, os\n",
            "llm/errors.py": "import llm.randomness\n",
            "llm/randomness.py": "",
            "llm/report.py": "",  # nobody imports it
            "jackpot/__init__.py": "from .budget import lam\n",
            "jackpot/budget.py": "",
        },
    )
    monkeypatch.setattr(run_store, "ROOT", tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.py")}
    seen = run_store.reached(["llm.commands.train"]).values()
    assert {p.relative_to(tmp_path).as_posix() for p in seen} == files - {"llm/report.py"}


@pytest.mark.parametrize(
    "module", ["llm.distributed.collectives", "llm.rollout.engines.worker", "llm.settings"]
)
def test_a_change_behind_an_init_file_or_in_another_process_changes_the_version(code, module):
    assert code(module, "\nADDED = 1\n") != run_store.code_version()
