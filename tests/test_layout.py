"""Each module has its tests at the mirrored path, and each file of tests has its module.

llm/a/b.py is tested by tests/llm/a/test_b.py, __main__.py by test_main.py. The exceptions stand
here, with their reasons.
"""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("jackpot", "sim", "llm", "paper_figures")

# {file of tests: modules that it tests beside its own}
ALSO = {
    "tests/jackpot/torch/test_corrector.py": [
        *("jackpot/torch/corrector_settings.py", "jackpot/torch/token_layout.py"),
    ],
    # Parts of one command or of one public module: they are tested through it, as they are used.
    "tests/llm/test_train.py": ["llm/training/python_api.py"],
    "tests/test_imports.py": ["llm/__init__.py"],
    "tests/llm/commands/test_doctor.py": ["llm/commands/doctor_checks.py"],
    "tests/llm/commands/test_plan.py": ["llm/commands/plan_tables.py"],
    "tests/llm/test_main.py": ["llm/commands/train.py", "llm/commands/dry_run.py"],
    "tests/llm/models/lm_head/test_chunked.py": ["llm/models/lm_head/autograd.py"],
    "tests/llm/rewards/test_function_scorer.py": ["llm/rewards/function_pool.py"],
    "tests/llm/rewards/test_math_verifier.py": ["llm/rewards/math_verifier_worker.py"],
    "tests/llm/tasks/test_datasets.py": ["llm/tasks/factory.py"],
    "tests/llm/tokenizers/test_chat_templates.py": ["llm/tokenizers/template_worker.py"],
    "tests/sim/claims/test_check.py": [  # a verdict of each claim, and faults that it must notice
        *(f"sim/claims/{name}.py" for name in ("budget", "core", "obrs", "weights")),
        *("sim/commands.py", "sim/arguments.py", "sim/oracle/exact.py", "sim/oracle/rules.py"),
    ],
    "tests/sim/claims/test_drafting.py": ["sim/oracle/draft_rules.py"],
    "tests/sim/report/test_run.py": ["sim/report/html.py", "sim/report/sections.py"],
    "tests/sim/studies/test_budgets.py": ["sim/studies/budgets_figure.py"],
    "tests/sim/studies/test_drafting.py": ["sim/studies/drafting_figure.py"],
    "tests/sim/studies/test_topk.py": [
        *("sim/studies/topk_figure.py", "sim/studies/subsampling.py", "sim/worlds/topk_states.py"),
    ],
    "tests/sim/studies/test_estimator_studies.py": [
        *("sim/studies/estimators.py", "sim/studies/estimators_figure.py"),
        "sim/studies/objectives_figure.py",
    ],
    # Collective operations in one process do nothing; with several they are tested in whole runs.
    "tests/llm/distributed/test_collectives.py": ["llm/distributed/dtensors.py"],
    # Figures, tables and their command: every one is drawn of runs that are trained for it.
    "tests/paper_figures/report/test_everything.py": [
        *(f"paper_figures/figures/{name}.py" for name in ("fig1", "fig4", "fig5")),
        *(f"paper_figures/{name}.py" for name in ("commands", "figure", "paths")),
        *(f"paper_figures/extras/{name}.py" for name in ("ablations", "beyond")),
        "paper_figures/report/contents.py",
    ],
    "tests/paper_figures/figures/test_fig2.py": ["paper_figures/figures/fig2_ladder.py"],
    "tests/paper_figures/drawing/test_tables.py": [
        *(f"paper_figures/tables/table{i}.py" for i in (1, 2, 3)),
        "paper_figures/drawing/plots.py",
    ],
    "tests/paper_figures/claims/test_page.py": ["paper_figures/report/page.py"],
    # The commands of the studies, and their lists of runs: each test goes through all of them
    "tests/paper_figures/claims/test_kept_study.py": [
        *(f"paper_figures/claims/{name}.py" for name in ("rivals", "drafted", "evidence")),
    ],
    "tests/paper_figures/experiments/test_studies.py": [
        *(
            f"paper_figures/experiments/{name}_lists.py"
            for name in ("rival", "drafted", "evidence", "smollm2")
        ),
        "paper_figures/experiments/kept_studies.py",
    ],
    "tests/docs/test_makefile.py": ["paper_figures/figures/demo.py"],
}
UNTESTED = {  # module: why it has no test
    "llm/errors.py": "exceptions without any code",
    "paper_figures/extras/tuning.py": "draws sweeps of hours, whose rows are stored in data/",
    "sim/worlds/strategies.py": "what property tests draw from",
}
OF_NO_MODULE = {  # file of tests: what it tests
    "tests/llm/test_bad_configurations.py": "what `train` refuses; the parser, bounds and files",
    "tests/llm/test_configs.py": "the files of llm/configs",
    "tests/jackpot/torch/test_objectives_against_lab.py": "objectives against those of sim",
    "tests/llm/test_hostile_folders.py": "run and model folders of somebody else, every command",
    "tests/llm/test_process_faults.py": "faults of the system and of processes in whole runs",
    "tests/llm/rollout/engines/test_drafting.py": "engines that draft: what they share",
    "tests/llm/commands/test_smollm2.py": "a real model through several commands; slow",
}


@functools.cache
def modules() -> frozenset[str]:
    """Files that define a function or a class."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body):
                found.add(path.relative_to(ROOT).as_posix())
    return frozenset(found)


def files_of_tests() -> set[str]:
    paths = [path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py")]
    return {path.relative_to(ROOT).as_posix() for path in paths}


def mirrored(module: str) -> str:
    """The file of a module's tests."""
    path = Path("tests", module)
    return path.with_name(f"test_{path.name.strip('_')}").as_posix().replace("__.py", ".py")


ELSEWHERE = {module for own in ALSO.values() for module in own} | set(UNTESTED)


def test_every_module_has_its_tests_at_the_mirrored_path():
    missing = {m for m in modules() - ELSEWHERE if not (ROOT / mirrored(m)).is_file()}
    assert len(modules()) > 150
    assert sorted(missing) == []


def test_every_file_of_tests_has_its_module():
    wanted = {mirrored(m) for m in modules()}
    others = {f for f in files_of_tests() - set(OF_NO_MODULE) if f not in wanted}
    assert len(files_of_tests()) > 100
    assert sorted(others) == []


def test_the_exceptions_are_exceptions():
    """Of modules that exist and have no file of tests; their tests are in a file that exists."""
    assert sorted(ELSEWHERE - modules()) == []
    assert sorted(m for m in ELSEWHERE if (ROOT / mirrored(m)).is_file()) == []
    assert sorted(f for f in [*ALSO, *OF_NO_MODULE] if not (ROOT / f).is_file()) == []


def test_the_path_of_a_modules_tests():
    assert mirrored("llm/a/b.py") == "tests/llm/a/test_b.py"
    assert mirrored("llm/__main__.py") == "tests/llm/test_main.py"
