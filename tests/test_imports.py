"""Who may import whom, read from the source; and that light packages stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLOTS = {"numpy", "scipy", "matplotlib"}
ALLOWED = {
    "jackpot": {"numpy", "array_api_compat"},
    "sim": {"jackpot", "mpmath"} | PLOTS,
    "llm": {"jackpot", "torch", "transformers", "safetensors", "tyro", "numpy", "matplotlib"}
    | {"peft", "torchao", "math_verify", "sympy", "pyarrow", "datasets", "reasoning_gym"}
    | {"vllm", "jinja2", "tensorboard", "wandb", "trackio", "gguf"},
    "paper_figures": {"sim", "jackpot"} | PLOTS,
}
SPECIAL = {  # by path: what is added to the package's own list, or replaces it
    "sim/worlds/strategies.py": ALLOWED["sim"] | {"hypothesis"},
    "sim/oracle/exact.py": set(),
    "jackpot/adapters": ALLOWED["jackpot"] | {"torch"},
    "paper_figures/experiments/run_store.py": {"llm"},  # the configuration, to name a run by
    "paper_figures/experiments/runner.py": {"llm"},  # the doors it trains and evaluates through
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str, package: str) -> set[str]:
    """Full names of the modules that a file of `package` imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(x for x in (package, node.module) if x)
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def allowed(path: Path, package: str) -> set[str]:
    relative = path.relative_to(ROOT).as_posix()
    for prefix, names in SPECIAL.items():
        if relative.startswith(prefix):
            return names
    return ALLOWED[package]


def offences(path: Path, package: str) -> set[str]:
    """Top-level names this file imports and may not; figure scripts may import their neighbours."""
    own = {package}
    if package == "paper_figures":
        own |= {p.stem for p in path.parent.glob("*.py")}
    if path.relative_to(ROOT).as_posix() == "sim/oracle/exact.py":
        own = set()
    found = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"), package)}
    return found - own - allowed(path, package) - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_its_row_allows(package):
    """jackpot: numpy and array_api_compat; sim and llm never meet; nobody imports tests."""
    found = {p.relative_to(ROOT).as_posix(): offences(p, package) for p in sources(package)}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_core_never_imports_its_adapters():
    """jackpot/adapters may import torch, so the core must not reach it."""
    for path in sources("jackpot"):
        if "adapters" not in path.parts:
            names = imported(path.read_text(encoding="utf-8"), "jackpot")
            assert not {n for n in names if n.startswith("jackpot.adapters")}, path


def test_the_scan_sees_every_form_of_import():
    """Plain, from, relative, and inside a function: a scan that sees nothing would always pass."""
    source = "import a.b\nfrom c import d\nfrom .e import f\ndef g():\n    from . import h\n"
    assert imported(source, "pkg") == {"a.b", "c.d", "pkg.e.f", "pkg.h"}
    assert sources("jackpot")
    assert sources("sim")


@pytest.mark.parametrize("package", ["jackpot", "sim", "sim.oracle.exact"])
def test_importing_a_light_package_leaves_torch_out(package):
    """In a fresh interpreter: importing torch takes seconds, the core a twentieth of one."""
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0, f"import {package} failed or brought torch in"


def test_the_oracle_does_not_load_the_core():
    """sim/oracle/exact.py is independent of what it judges, packages around it included."""
    code = "import sys, sim.oracle.exact; sys.exit('jackpot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0, "import sim.oracle.exact failed or brought jackpot in"
