"""The process that calls a reward function of the user's: a JSON line in, a JSON line out.

Started by function_pool.py as a file of its own, so only the standard library is imported. The
function is the user's code and may do what it likes, within the limits on time and memory.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import inspect
import itertools
import json
import math
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 1e15  # of a reward's size: the variance of a group must stay finite in float32
MODULES_MAX = 1000  # of a reward function's own folder: a digest of each at every start
_GRACE = 5.0  # seconds past the limit; the parent, if it still lives, has killed us long before
_MESSAGE_MAX = 400  # characters


def load_function(name: str, path: list[str]) -> tuple[Callable[..., Any], str, dict[str, str]]:
    """The function that FILE.py:NAME or package.module:NAME names, its file's SHA-256, and those
    of its `own_modules`.

    Args:
        name: of the function. The file is compiled from the very bytes that the digest is of.
        path: where modules are looked for besides sys.path; a file's own folder comes first.

    Raises:
        ValueError: it is no function, or there is none of this name; OSError: no such file.
        Exception: whatever running the file raises.
    """
    place, _, attribute = name.rpartition(":")
    file: Path | None
    sys.path[:0] = [p for p in path if p not in sys.path]
    if place.endswith(".py"):
        file = Path(place).resolve()
        sys.path.insert(0, str(file.parent))
        module = types.ModuleType(f"reward_function_{file.stem}")
        module.__file__ = str(file)
        source = file.read_bytes()
        sys.modules[module.__name__] = module  # dataclasses look their module up
        exec(compile(source, str(file), "exec"), module.__dict__)  # the user asked for it
    else:
        module = importlib.import_module(place)
        file = Path(module.__file__).resolve() if module.__file__ else None
        source = file.read_bytes() if file else b""
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        names = ", ".join(k for k, v in vars(module).items() if inspect.isfunction(v)) or "none"
        raise ValueError(f"{place} has no function {attribute!r}; its functions: {names}")
    package = "" if place.endswith(".py") else module.__package__ or ""
    modules = own_modules(file, source, package) if file else {}
    return function, hashlib.sha256(source).hexdigest(), modules


def own_modules(file: Path, source: bytes, package: str) -> dict[str, str]:
    """SHA-256 of the modules of its own folder that a file imports, and that those import, by path.

    They are found in the source (`imported_names`), so that imports within functions count too.
    Modules elsewhere on sys.path, and this repository's, do not: they are installed, not written
    for the run.

    Args:
        file: absolute. Its own folder is that which holds it, or its outermost package. Of an
            installed package that package alone counts.
        package: of the module, dotted; empty for a file.

    Raises:
        ValueError: more than MODULES_MAX of them.
    """
    depth = len(package.split(".")) if package else 0
    root = file.parents[depth]
    installed = bool({"site-packages", "dist-packages"} & set(root.parts))
    digests: dict[Path, str] = {file: ""}
    waiting = [(file, source)]
    while waiting:
        path, text = waiting.pop()
        inside = path.relative_to(root).parent.parts
        for name in imported_names(text, inside):
            if installed and (not depth or name[0] != package.split(".")[0]):
                continue
            for one in _files_of(root, name):
                if one in digests:
                    continue
                if len(digests) > MODULES_MAX:
                    raise ValueError(
                        f"it imports more than {MODULES_MAX} modules of its own folder {root}; "
                        "install them as a package, or move the function to a folder of its own"
                    )
                data = one.read_bytes()
                digests[one] = hashlib.sha256(data).hexdigest()
                waiting.append((one, data))
    return {p.relative_to(root).as_posix(): mark for p, mark in sorted(digests.items()) if mark}


def imported_names(source: bytes, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Every name that a source imports, with those of the packages around it; () of none.

    `from a import b` gives a and a.b, whether b is a module or not. Names that are computed when
    the function runs are not found.

    Args:
        package: of the module, which relative imports begin from.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return set()  # an extension module, or one that whoever imports it will report
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names |= {(*base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            value = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(value, str):
                names.add(tuple(value.split(".")))
    return {name[:n] for name in names for n in range(1, len(name) + 1)}


def _files_of(root: Path, name: tuple[str, ...]) -> list[Path]:
    """The file of a module or package below `root`; [] where there is none."""
    place = root.joinpath(*name)
    ours = Path(__file__).resolve().parents[1]
    if not all(part.isidentifier() for part in name) or place.is_relative_to(ours):
        return []
    ends = importlib.machinery.all_suffixes()
    named = [place / f"__init__{end}" for end in ends]
    named += [place.with_name(place.name + end) for end in ends]
    return [path for path in named if path.is_file()][:1]


def parameters(function: Callable[..., Any]) -> tuple[list[str] | None, list[str]] | None:
    """Names of the arguments that a function takes, and of those that it needs.

    The first is None for a function that takes any (`**columns`). None where Python cannot tell.

    Raises:
        ValueError: every call would fail: it needs an argument without its name, or is async.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError("it is async, and a plain function is wanted: call asyncio.run in it")
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    for p in arguments:
        if p.kind is p.POSITIONAL_ONLY and p.default is p.empty:
            raise ValueError(f"it takes {p.name!r} by position only, and is called by names")
    named = [p for p in arguments if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments)
    needed = [p.name for p in named if p.default is p.empty]
    return None if takes_any else [p.name for p in named], needed


def call_function(
    function: Callable[..., Any], arguments: Mapping[str, Any], count: int | None
) -> list[float | str]:
    """The rewards of one call, each a number or, in place of it, what is wrong with it.

    Args:
        function: called with those of the arguments that it takes.
        arguments: prompt, completion and so on; lists of them where count is given.
        count: how many rewards are wanted as a list; None: a single one, not in a list.

    Raises:
        Exception: what the function raises; ValueError for a list of another length.
    """
    names = parameters(function)
    if names is not None and names[0] is not None:
        arguments = {k: v for k, v in arguments.items() if k in names[0]}
    result = function(**arguments)
    if count is None:
        return [as_reward(result)]
    # a set has no order in which its rewards belong to the completions
    if isinstance(result, str | bytes | Mapping | Set) or not hasattr(result, "__iter__"):
        raise ValueError(f"it returned {_shown(result)}, and a list of {count} rewards is wanted")
    rewards = list(itertools.islice(result, count + 1))  # an iterator may never end
    if len(rewards) != count:
        returned = f"more than {count}" if len(rewards) > count else str(len(rewards))
        raise ValueError(f"it returned {returned} rewards for {count} completions")
    return [as_reward(x) for x in rewards]


def as_reward(value: Any) -> float | str:
    """A finite float, or what is wrong with the value."""
    # NumPy gives the real part of a complex scalar as its float
    is_complex = getattr(getattr(value, "dtype", None), "kind", "") == "c"
    if isinstance(value, str | bytes) or is_complex or not hasattr(value, "__float__"):
        return f"it returned {_shown(value)}, which is no number"
    try:
        number = float(value)
    except Exception as e:
        return f"it returned {_shown(value)}, which is no number ({_kind(e)})"
    if not math.isfinite(number):
        return f"it returned {number}"
    if abs(number) > LARGEST:
        return f"it returned {number:g}; the largest reward is {LARGEST:g}"
    return number


def _shown(value: Any) -> str:
    try:
        return f"{_printable(repr(value)[:60])} ({_kind(value)})"
    except Exception:
        return f"a {_kind(value)}"


def _kind(value: object) -> str:
    return type(value).__name__[:60]


def _printable(text: str) -> str:
    """In one line, and nothing in it controls a terminal: it may hold a completion."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def described(error: BaseException) -> str:
    """An exception with the line of the user's code that it came from, bounded in length."""
    try:
        text = _printable(str(error)[:_MESSAGE_MAX])
    except Exception:
        text = ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{_kind(error)}: {text}{where}" if text else f"{_kind(error)}{where}"


def limit_memory(mebibytes: int) -> None:
    """Bounds this process's address space; 0: no bound. It never dumps core."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if mebibytes:
            resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    except (ImportError, OSError, ValueError):
        pass  # a system without these limits; the parent's time limit holds everywhere


def answer(function: Callable[..., Any], job: Mapping[str, Any], memory: int) -> dict[str, Any]:
    """A call's reply: {"rewards": [...]}, or {"failed": message}. last: end this process."""
    try:
        return {"rewards": call_function(function, job["arguments"], job["count"])}
    except MemoryError:
        return {"failed": f"out of memory: more than {memory} MiB (reward.memory)", "last": True}
    except BaseException as e:  # SystemExit too: a function must not end its worker by it
        return {"failed": described(e)}


def main() -> None:
    """Serve until the input ends, which it also does when the parent dies."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints must not be taken for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    setup = json.loads(requests.readline() or "{}")
    if not setup:
        return

    def reply(value: dict[str, Any]) -> None:
        data = memoryview(json.dumps(value).encode() + b"\n")
        while data:
            data = data[replies.write(data) :]

    limit_memory(setup["memory"])
    try:
        function, digest, modules = load_function(setup["function"], setup["path"])
        known = parameters(function)
    except BaseException as e:
        reply({"failed": described(e)})
        return
    needed = known[1] if known else []
    reply({"ready": True, "digest": digest, "modules": modules, "needed": needed})
    own = os.getpid()
    limit = min(setup["seconds"] + _GRACE, 1e8)  # more than a timer of the kernel's takes
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, limit)  # ends an orphan stuck in a call
        result = answer(function, json.loads(line), setup["memory"])
        if os.getpid() != own:  # a process that the function forked returned from it too
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply(result)
        if "last" in result:
            return


def end() -> NoReturn:
    """End this process with its group: threads and processes of the function's may never end, and
    when the trainer was killed nobody else is left to end them."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
    end()
