"""Who may import whom, read from the source; and that light packages stay light."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLOTS = {"numpy", "scipy", "matplotlib"}
ALLOWED = {
    "jackpot": {"numpy", "array_api_compat"},
    "sim": {"jackpot", "mpmath"} | PLOTS,
    "llm": {"jackpot", "torch", "transformers", "safetensors", "numpy", "matplotlib"}
    | {"huggingface_hub"}  # comes with transformers, which raises its errors
    | {"peft", "torchao", "math_verify", "sympy", "pyarrow", "datasets", "reasoning_gym"}
    | {"vllm", "jinja2", "tensorboard", "wandb", "trackio", "gguf"},
    "paper_figures": {"sim", "jackpot"} | PLOTS,
}
SPECIAL = {  # by path: what is added to the package's own list, or replaces it
    "sim/worlds/strategies.py": ALLOWED["sim"] | {"hypothesis"},
    "sim/oracle/exact.py": set(),
    "sim/oracle/": {"mpmath"},
    "jackpot/torch/": {"numpy", "torch"},
    # Each imports its own peer, when that peer loads it.
    **{f"jackpot/adapters/{peer}.py": {"torch", peer} for peer in ("verl", "skyrl", "prime_rl")},
    **{f"jackpot/adapters/{peer}.py": {"torch", peer} for peer in ("nemo_rl", "roll", "trl")},
    "jackpot/adapters": {"torch"},
    # The configuration, to name a run by
    "paper_figures/experiments/run_store.py": {"llm.settings.loading"},
    # The commands it trains and evaluates by, and the folder that it lets go after training
    "paper_figures/experiments/runner.py": {
        *("llm.commands.train", "llm.commands.evaluate", "llm.runs.run_folder")
    },
}
# Files that may import by a name which is computed: the scans below do not see what they import.
# The commands among them start the pages of reports by name, as any other command. So the circle
# of sim.commands and sim.report.run, which calls the commands, exists only at run time; the same
# is true of paper_figures.commands and paper_figures.report.
DOORS = {
    "llm/__init__.py": "`import llm` loads nothing; what it offers is loaded when it is named",
    "llm/__main__.py": "a command is loaded when it is asked for, so that --help is quick",
    "llm/rewards/function_worker.py": "the user names the module of a reward function",
    "sim/commands.py": "a command is loaded when it is asked for",
    "sim/claims/check.py": "claims register themselves when their module is loaded",
    "paper_figures/commands.py": "a figure is loaded when it is asked for",
    "paper_figures/report/contents.py": "the page shows each figure in the list of commands",
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def imported(source: str, package: str) -> frozenset[str]:
    """Full names of what a file of `package` (its folder, dotted) imports, wherever it says so.

    `from a import b` gives a.b, whether b is a module or a name in one.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = above[: len(above) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return frozenset(names)


def imports_by_name(source: str) -> bool:
    """Whether a file mentions importlib.import_module or __import__, under whatever alias."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return bool(found & {"import_module", "__import__"})


def allowed(path: Path, package: str) -> set[str]:
    relative = path.relative_to(ROOT).as_posix()
    for prefix, names in SPECIAL.items():
        if relative.startswith(prefix):
            return names
    return ALLOWED[package]


def offences(path: Path, package: str) -> set[str]:
    """Names this file imports and may not; figure scripts may import their neighbours.

    A name is allowed if it, or a package that it lies in, is in one of the lists.
    """
    own = {package}
    if package == "paper_figures":
        own |= {p.stem for p in path.parent.glob("*.py")}
    if path.relative_to(ROOT).as_posix() == "sim/oracle/exact.py":
        own = set()
    folder = ".".join(path.relative_to(ROOT).parts[:-1])
    named = imported(path.read_text(encoding="utf-8"), folder)
    lists = own | allowed(path, package) | set(sys.stdlib_module_names)
    around = {name: name.split(".") for name in named}
    return {
        name
        for name, parts in around.items()
        if lists.isdisjoint(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    }


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_its_row_allows(package):
    """jackpot: numpy and array_api_compat; sim and llm never meet; nobody imports tests."""
    extra = {p.relative_to(ROOT).as_posix(): offences(p, package) for p in sources(package)}
    assert {path: names for path, names in extra.items() if names} == {}


def test_only_the_doors_import_by_a_computed_name():
    """Anywhere else, an import by name would be an arrow that no scan sees."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED
        for path in sources(package)
        if imports_by_name(path.read_text(encoding="utf-8"))
    }
    assert found == set(DOORS)


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module('llm.training.run')\n",
        "import importlib as i\ndef f():\n    return i.import_module(f())\n",
        "from importlib import import_module as load\n",
        "__import__('llm.training.run')\n",
        "import builtins\nbuiltins.__import__('llm')\n",
    ],
)
def test_an_import_by_name_is_seen_in_every_form(source):
    assert imports_by_name(source)
    assert not imports_by_name("import importlib.metadata\nx = 'import_module'\n")


def test_the_figures_reach_only_the_modules_of_llm_that_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = "paper_figures/experiments/runner.py"
    plant(tmp_path, {file: "from llm.runs import run_folder\nfrom llm.training import run\n"})
    assert offences(tmp_path / file, "paper_figures") == {"llm.training.run"}


def test_the_rules_of_single_folders_are_those_that_are_applied(tmp_path, monkeypatch):
    """A file there that imports what its package may and its folder may not is noticed."""
    planted = {"jackpot/torch/x.py": "array_api_compat", "sim/oracle/x.py": "jackpot"}
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    plant(tmp_path, {path: f"def f():\n    import {name}\n" for path, name in planted.items()})
    for path, name in planted.items():
        assert name in ALLOWED[path.split("/")[0]]
        assert offences(tmp_path / path, path.split("/")[0]) == {name}


def test_the_core_never_imports_its_adapters():
    """jackpot/torch and jackpot/adapters import torch, so the core must not reach them."""
    for path in sources("jackpot"):
        own = {part for part in path.parts if part in ("torch", "adapters")}
        folder = ".".join(path.relative_to(ROOT).parts[:-1])
        names = imported(path.read_text(encoding="utf-8"), folder)
        reached = {name.split(".")[1] for name in names if name.startswith("jackpot.")}
        if own != {"adapters"}:  # which build on jackpot/torch
            assert not reached & ({"torch", "adapters"} - own), path


def test_the_lab_never_imports_the_trainers_part_of_the_core():
    """sim is exact, in float64 on numpy: it judges jackpot/torch and must not lean on it."""
    for package in ("sim", "paper_figures"):
        for path in sources(package):
            names = imported(path.read_text(encoding="utf-8"), package)
            assert not {n for n in names if n.startswith("jackpot.torch")}, path


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
    """Every file of sim/oracle is independent of what it judges, packages around it included."""
    names = [name for name in modules(ROOT, "sim") if name.startswith("sim.oracle.")]
    assert len(names) >= 3
    code = f"import sys, {', '.join(names)}; sys.exit('jackpot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0, "import sim.oracle failed or brought jackpot in"


# The house: which folder of a package may import which

ALLOWED_IMPORTS = {  # package: row -> what its files import of the same package, and nothing else
    # A row is a folder, or a file that stands beside the folders. Every arrow points down.
    "llm": {
        "__main__": "output phases runs",  # imports a command when it is asked for
        "commands": "train training planning report models tasks tokenizers rewards "
        "runs checkpoints distributed settings hub errors output regular_files phases",
        "train": "training settings",
        "training": "rollout rollout.engines models models.lm_head rewards tasks tokenizers runs "
        "checkpoints distributed settings errors randomness regular_files phases",
        "planning": "models models.lm_head distributed settings hub errors",
        "rollout.engines": "rollout models tasks tokenizers checkpoints distributed settings "
        "randomness",
        "rollout": "tasks tokenizers settings errors",
        "models.lm_head": "models settings",
        "models": "tasks tokenizers runs checkpoints distributed settings hub randomness "
        "regular_files phases",
        "runs": "checkpoints distributed settings errors regular_files wakeup_pipe",
        "tasks": "rewards tokenizers settings hub errors randomness regular_files phases",
        "checkpoints": "distributed settings errors regular_files",
        "rewards": "tokenizers settings errors",
        "report": "errors regular_files",
        "distributed": "settings wakeup_pipe",
        "tokenizers": "settings hub errors regular_files phases",
        "settings": "errors regular_files",
        "hub": "errors regular_files",
        "randomness": "",
        "regular_files": "",
        "errors": "",
        "output": "",
        "phases": "",
        "wakeup_pipe": "",
    },
    "sim": {
        "__main__": "commands",
        "report": "claims studies commands arguments",
        "claims": "oracle worlds studies arguments",
        "studies": "worlds arguments",
        "commands": "",  # imports a command when it is asked for
        "worlds": "",
        "oracle": "",
        "arguments": "",
    },
    "paper_figures": {
        "__main__": "commands",
        "report": "claims figure drawing analysis experiments commands paths",
        "claims": "extras tables figures figure drawing analysis experiments paths",
        "extras": "figures figure drawing analysis experiments",
        "tables": "figures figure drawing analysis experiments",
        "figures": "figure drawing analysis experiments paths",
        "figure": "experiments paths",
        "drawing": "analysis experiments paths",
        "analysis": "experiments",
        "experiments": "",
        "commands": "",  # imports a figure when it is asked for
        "paths": "",
    },
}
EMPTY = ("llm", "llm.commands", "llm.rollout", "llm.rollout.engines")  # a docstring, nothing else
LIGHT = (
    *(
        "errors",
        "output",
        "phases",
        "randomness",
        "regular_files",
        "wakeup_pipe",
        "hub",
        "settings",
        "tokenizers",
        "rewards",
        "tasks",
    ),
    "report",
)


def modules(root: Path, package: str) -> dict[str, Path]:
    """Files of a package by the full names of their modules; `llm.settings` is its `__init__`."""
    files = sorted((root / package).rglob("*.py"))
    names = [".".join(f.relative_to(root).with_suffix("").parts) for f in files]
    return {n.removesuffix(".__init__"): f for n, f in zip(names, files, strict=True)}


def arrows(root: Path, package: str) -> dict[str, set[str]]:
    """For each module of a package, the modules of the package that its file imports."""
    files = modules(root, package)
    graph = {}
    for name, file in files.items():
        folder = ".".join(file.relative_to(root).parts[:-1])
        named = imported(file.read_text(encoding="utf-8"), folder)
        targets = {n if n in files else n.rpartition(".")[0] for n in named}
        graph[name] = {t for t in targets if t in files} - {name}
    return graph


def row(module: str, files: dict[str, Path]) -> str:
    """The row of the table that a module belongs to: its folder, or itself beside the folders."""
    parts = module.split(".")[1:]
    if files[module].name != "__init__.py":
        parts = parts[:-1] or parts
    return ".".join(parts)


def folder_arrows(root: Path, package: str) -> dict[str, set[str]]:
    files = modules(root, package)
    rows: dict[str, set[str]] = {row(m, files): set() for m in files}
    for module, targets in arrows(root, package).items():
        rows[row(module, files)] |= {row(t, files) for t in targets}
    return {name: targets - {name} for name, targets in rows.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names along some circle of a graph; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if seen := visit(target, [*path, name]):
                return seen
        done.add(name)
        return []

    return next((seen for name in sorted(graph) if (seen := visit(name, []))), [])


@pytest.mark.parametrize("package", ALLOWED_IMPORTS)
def test_folders_import_exactly_what_the_table_says(package):
    """Every folder has a row, and the arrows of the table are those that the code draws."""
    table = {name: set(targets.split()) for name, targets in ALLOWED_IMPORTS[package].items()}
    drawn = folder_arrows(ROOT, package)
    drawn.pop("")  # the package's own `__init__`, which imports nothing before it is asked to
    assert set(drawn) == set(table), "a folder without a row, or a row without a folder"
    extra = {name: targets - table[name] for name, targets in drawn.items()}
    assert {name: sorted(targets) for name, targets in extra.items() if targets} == {}
    unused = {name: targets - drawn[name] for name, targets in table.items()}
    assert {name: sorted(targets) for name, targets in unused.items() if targets} == {}


@pytest.mark.parametrize("package", ALLOWED_IMPORTS)
def test_the_table_has_no_circle_and_names_only_rows(package):
    table = {name: set(targets.split()) for name, targets in ALLOWED_IMPORTS[package].items()}
    assert circle(table) == []
    assert set().union(*table.values()) <= set(table)


@pytest.mark.parametrize("package", ["jackpot", *ALLOWED_IMPORTS])
def test_no_circle_of_imports(package):
    """Of files and of folders; imports inside functions and under TYPE_CHECKING count."""
    assert circle(arrows(ROOT, package)) == []
    assert circle(folder_arrows(ROOT, package)) == []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_the_scan_sees_relative_imports_of_any_level_and_imports_inside_functions(tmp_path):
    plant(
        tmp_path,
        {
            "p/__init__.py": "",
            "p/low/__init__.py": "from .tools import hammer\n",
            "p/low/tools.py": "import os\n",
            "p/low/deep/__init__.py": "",
            "p/low/deep/nail.py": "from ...high import roof\nfrom .. import tools\n",
            "p/high/__init__.py": "",
            "p/high/roof.py": "def build():\n    from ..low.tools import hammer\n",
            "p/door.py": "if TYPE_CHECKING:\n    from p.low import tools\n    import p.high.roof\n",
        },
    )
    assert arrows(tmp_path, "p") == {
        "p": set(),
        "p.low": {"p.low.tools"},
        "p.low.tools": set(),
        "p.low.deep": set(),
        "p.low.deep.nail": {"p.high.roof", "p.low.tools"},
        "p.high": set(),
        "p.high.roof": {"p.low.tools"},
        "p.door": {"p.low.tools", "p.high.roof"},
    }
    assert folder_arrows(tmp_path, "p") == {
        "": set(),
        "low": set(),
        "low.deep": {"high", "low"},
        "high": {"low"},
        "door": {"low", "high"},
    }
    assert circle(arrows(tmp_path, "p")) == []


def test_a_circle_through_a_function_is_seen(tmp_path):
    late = "def f():\n    from ..one import a\n"
    plant(tmp_path, {"p/one/a.py": "from p.two import b\n", "p/two/b.py": late})
    assert circle(arrows(tmp_path, "p")) == ["p.one.a", "p.two.b", "p.one.a"]
    assert circle(folder_arrows(tmp_path, "p")) == ["one", "two", "one"]


def test_every_folder_says_what_lives_there():
    """One sentence in the `__init__` file of each folder that holds code."""
    for package in ALLOWED_IMPORTS:
        for folder in {path.parent for path in sources(package)}:
            init = folder / "__init__.py"
            assert init.is_file(), f"{folder.relative_to(ROOT)} has no __init__.py"
            words = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            assert len(words.split()) >= 5, (
                f"{init.relative_to(ROOT)} does not say what lives there"
            )


def test_the_map_of_llm_has_every_row_and_names_files_that_exist():
    """llm/README.md: each row of the table above, and only .py files of llm and jackpot/torch."""
    text = (ROOT / "llm/README.md").read_text(encoding="utf-8")
    for name in set(ALLOWED_IMPORTS["llm"]) - {"__main__"}:
        place = ROOT / "llm" / name.replace(".", "/")
        word = f"{place.relative_to(ROOT / 'llm')}" + ("/" if place.is_dir() else ".py")
        assert f"`{word}`" in text, f"llm/README.md has no row for {word}"
    files = {path.relative_to(ROOT / "llm").as_posix() for path in sources("llm")}
    known = files | {file.rsplit("/", 1)[-1] for file in files}
    known |= {path.relative_to(ROOT).as_posix() for path in sources("jackpot/torch")}
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 40
    assert named <= known, f"llm/README.md names what is not there: {sorted(named - known)}"
    # A name without a folder is in the folder of the file before it in its row.
    mapped = set()
    for row in text.splitlines():
        folder = Path()
        for name in re.findall(r"`([\w/]+\.py)`", row):
            folder = Path(name).parent if "/" in name else folder
            mapped.add((folder / Path(name).name).as_posix())
    files = {file for file in files if not file.endswith("__init__.py")}
    assert files <= mapped, f"llm/README.md does not name {sorted(files - mapped)}"
    gone = {file for file in mapped - files if not file.startswith("jackpot/")}
    assert not gone, f"llm/README.md names what is not in that folder: {sorted(gone)}"


def map_of_llm() -> dict[str, set[str]]:
    """Rows of the table in llm/README.md: its names for a row's folders -> those of what they
    import."""
    text = (ROOT / "llm/README.md").read_text(encoding="utf-8")
    lines = text.split("| may import |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[re.findall(r"`(.+?)`", cell) for cell in line.split("|")] for line in lines]
    return {" ".join(row[1]): set(row[4]) for row in cells}


def test_the_map_of_llm_says_who_may_import_whom_as_the_table_does():
    """A row of the map may be several of the table's; `jackpot` stands where a file imports it."""
    table = {name: set(targets.split()) for name, targets in ALLOWED_IMPORTS["llm"].items()}
    for path in sources("llm"):
        folder = ".".join(path.relative_to(ROOT).parts[1:-1]) or path.stem
        if "jackpot" in {n.split(".")[0] for n in imported(path.read_text(), f"llm.{folder}")}:
            table[folder].add("jackpot")
    named = {}  # name in the map -> names in the table
    for row in map_of_llm():
        for word in row.split():
            named[word.rstrip("/")] = word.removesuffix(".py").rstrip("/").replace("/", ".")
    assert set(named.values()) - {"configs"} == set(table) - {"__main__"}
    for row, words in map_of_llm().items():
        own = {named[word.rstrip("/")] for word in row.split()} - {"configs"}
        wanted = set().union(*(table[name] for name in own)) - own
        assert {named.get(word, word) for word in words} == wanted, f"llm/README.md: {row}"


@pytest.mark.parametrize("package", EMPTY)
def test_some_init_files_hold_a_docstring_and_nothing_else(package):
    """`--help` must not load torch, and the rollout worker guards its stdout before any import.

    `llm` also has the function by which Python loads `llm.train` when it is first named.
    """
    source = (ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    body = ast.parse(source).body
    named = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert named == ["__getattr__"] * (package == "llm")
    assert [type(node) for node in body] == [ast.Expr, *[ast.FunctionDef] * len(named)]
    assert ast.get_docstring(ast.parse(source))


def test_importing_llm_loads_nothing_and_naming_what_it_offers_does():
    code = (
        "import sys, llm\n"
        "assert not [m for m in sys.modules if m.startswith('llm.') or m == 'torch']\n"
        "assert llm.load({'run.steps': 2}).run.steps == 2 and 'torch' not in sys.modules\n"
        "try:\n    llm.nothing\nexcept AttributeError as e:\n    print(e, file=sys.stderr)\n"
    )
    assert in_a_fresh_interpreter(code) == "module 'llm' has no attribute 'nothing'\n"


def misplaced_dots(source: str, package: str) -> list[str]:
    """Relative imports from another folder, and absolute ones from a file of the same folder."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            beside = node.module and package in (node.module, node.module.rpartition(".")[0])
            if node.level > 1 or (node.level == 0 and beside):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_are_relative_within_a_folder_and_absolute_across_folders(package):
    """So that an import of another folder can be told, and searched for, by its full name."""
    assert misplaced_dots("def f():\n    from ..b import x\n", "a.c") == ["from ..b import x"]
    assert misplaced_dots("from a.c.d import x\nfrom .e import y\n", "a.c") == [
        "from a.c.d import x"
    ]
    files = {
        path.relative_to(ROOT).as_posix(): misplaced_dots(
            path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parts[:-1])
        )
        for path in sources(package)
        if path.parent != ROOT / package  # files beside the folders are rows of their own
    }
    assert {name: lines for name, lines in files.items() if lines} == {}


def in_a_fresh_interpreter(code: str) -> str:
    """What `code` writes to stderr; it must end without an error."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def light_modules() -> list[str]:
    return [m for m in modules(ROOT, "llm") if m.split(".")[1:2] and m.split(".")[1] in LIGHT]


def test_light_folders_never_name_torch():
    """Not inside a function either: what needs a tensor belongs in another folder."""
    files = modules(ROOT, "llm")
    for module in light_modules():
        names = imported(files[module].read_text(encoding="utf-8"), module.rpartition(".")[0])
        assert "torch" not in {name.split(".")[0] for name in names}, module


def test_light_folders_load_without_torch():
    """Every module of them. Functions of `tokenizers` and of hub.py load transformers when they
    are called, and it may load torch."""
    own = light_modules()
    assert {m.split(".")[1] for m in own} == set(LIGHT)
    code = (
        "import importlib, sys\n"
        f"for name in {own}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} brought torch in'\n"
    )
    in_a_fresh_interpreter(code)


def test_the_help_of_every_command_loads_no_torch():
    from llm import __main__

    code = (
        "import contextlib, io, runpy, sys\n"
        f"for name in {list(__main__._COMMANDS)}:\n"
        "    sys.argv, out = ['llm', name, '--help'], io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        try:\n"
        "            runpy.run_module('llm', run_name='__main__')\n"
        "        except SystemExit as end:\n"
        "            assert not end.code, name\n"
        "    assert out.getvalue().strip(), f'{name} --help printed nothing'\n"
        "    assert 'torch' not in sys.modules, f'{name} --help loads torch'\n"
        "    print(name, file=sys.stderr)\n"
    )
    assert len(in_a_fresh_interpreter(code).split()) == len(__main__._COMMANDS) >= 7


def test_a_benchmark_finds_the_packages_from_wherever_it_is_started():
    """`python benchmarks/x.py` has benchmarks/ on its path, not the root: each file that imports a
    package of ours puts the root there before."""
    own, seen = {"jackpot", *ALLOWED_IMPORTS}, 0
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        starts = [n.lineno for n in tree.body if ast.unparse(n).startswith("sys.path.insert(0, ")]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                if {n.split(".")[0] for n in imported(ast.unparse(node), "")} & own:
                    assert starts and starts[0] < node.lineno, f"{path.name}, line {node.lineno}"
                    seen += 1
    assert seen > 50


ALIASED = (ast.Subscript, ast.BinOp)  # Literal[...], Callable[...]; A | B


def test_no_two_types_share_a_name():
    """A reader who meets a name knows which class is meant, in tests and benchmarks too. An alias
    has one meaning in the core and the trainer."""
    places: dict[str, list[str]] = {}
    aliases: dict[str, set[str]] = {}
    for package in ("jackpot", *ALLOWED_IMPORTS, "benchmarks", "docs", "tests"):
        for path in sources(package):
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
            nodes = ast.walk(tree) if "class" in source else ()
            for node in nodes:
                if isinstance(node, ast.ClassDef):
                    file = path.relative_to(ROOT).as_posix()
                    places.setdefault(node.name.strip("_"), []).append(file)
            for node in tree.body if package in ("jackpot", "llm") else ():
                if isinstance(node, ast.Assign) and isinstance(node.value, ALIASED):
                    name = ast.unparse(node.targets[0]).strip("_")
                    if not name.isupper() and name[:1].isupper():
                        aliases.setdefault(name, set()).add(ast.unparse(node.value))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
    core = {n for n, files in places.items() if files[0].startswith(("jackpot/", "llm/"))}
    assert {name for name, said in aliases.items() if len(said) > 1 or name in core} == set()
    assert len(places) > 150 and len(aliases) > 25
