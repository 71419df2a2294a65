"""The process that judges answers by math-verify: one JSON line in, one JSON line out.

Started by math_verifier.py as a file of its own, so only the standard library is imported at the
top. What it reads was written by a model: LaTeX goes through math-verify's grammar and is never
compiled, and after `lock_down` the interpreter refuses to compile text, start processes, connect or
write.
"""

import json
import os
import re
import signal
import sys
from functools import lru_cache
from typing import Any

_MEMORY = 2 * 1024**3  # bytes of address space
_GRACE = 5.0  # seconds past the limit; the parent, if it still lives, has killed us long before
_GENERATORS = (  # write code from counts and from names in their own source, never from an answer
    *("sympy.polys.monomials", "dataclasses", "collections"),
)
_WARM_UP = (  # what sympy loads for these it could no longer load once locked down
    ("42", "42.0"),
    (r"\frac{1}{2}", r"\sqrt{2}"),
    ("x^2-1", "(x-1)(x+1)"),
    ("x=3", "3"),
    ("(1,2)", "[1,2]"),
    ("x<2", r"(-\infty,2)"),
    (r"\{1,2\}", "1,2"),
    (r"\sin^2 x+\cos^2 x", r"\int_0^1 2 x dx"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\text{no}"),
)


@lru_cache(maxsize=1000)  # the completions of one prompt share their gold answer
def parsed(expression: str) -> list:
    """What math-verify reads in one LaTeX expression; [] where it reads nothing.

    Only its LaTeX grammar is used: its reader of plain expressions hands them to a sympy function
    that evaluates Python.
    """
    from math_verify import LatexExtractionConfig, parse

    return parse(f"${expression}$", [LatexExtractionConfig()], parsing_timeout=None)


def equal(gold: str, answer: str) -> bool:
    """True if the answer equals the gold one as mathematics; not symmetric, gold comes first."""
    from math_verify import verify

    return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))


def readable(gold: str) -> bool:
    """True if math-verify makes an expression of it, not just its text."""
    return any(not isinstance(x, str) for x in parsed(gold))


def plain_number(text: str, **_: Any) -> Any:
    """The sympy number that a decimal stands for; anything else is refused.

    Takes the place of sympy's `parse_expr`, which would evaluate the text as Python, and which
    sympy calls even for the digits that the LaTeX grammar hands on.
    """
    import sympy

    if re.fullmatch(r"[0-9]+", text):
        return sympy.Integer(text)
    if re.fullmatch(r"(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?", text):
        return sympy.Float(text)
    raise ValueError("not a plain number")


def lock_down() -> None:
    """Refuse, from now on, what judging an answer never needs. Cannot be undone.

    Comes after the warm-up, in which sympy loads modules of its own that evaluate text of theirs.
    """
    import sympy.parsing.sympy_parser

    sympy.parsing.sympy_parser.parse_expr = plain_number
    sys.dont_write_bytecode = True
    sys.addaudithook(_refuse)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass  # a system without these limits; the parent's time limit holds everywhere


def _refuse(event: str, args: tuple) -> None:
    if event == "compile":  # eval, exec, compile, ast.parse of a text; modules come from files
        caller = sys._getframe(1).f_globals.get("__name__")
        bad = not str(args[1]).endswith(".py") and caller not in _GENERATORS
    elif event == "open":
        bad = bool(set(str(args[1] or "")) & set("wax+")) or bool(
            (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        )
    elif event.startswith("os."):
        bad = event not in ("os.listdir", "os.scandir")  # the import system's own
    else:
        bad = event.startswith(("subprocess.", "socket.", "shutil.", "ctypes.", "pty."))
    if bad:
        raise PermissionError(f"{event} is refused here")


def _judge(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            "ok": equal(job["gold"], job["answer"]) if "answer" in job else readable(job["gold"])
        }
    except MemoryError:
        os._exit(1)  # what is left of this process is not worth keeping
    except Exception as e:
        return {"error": type(e).__name__}


def main() -> None:
    """Serve until the input ends, which it also does when the parent dies."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # a library that prints must not be taken for a reply
        os.dup2(null, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    seconds = float(sys.argv[1])

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value).encode() + b"\n")

    try:
        import logging
        import warnings

        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        for gold, answer in _WARM_UP:
            equal(gold, answer)
        parsed.cache_clear()
        lock_down()
    except Exception as e:
        reply({"error": f"{type(e).__name__}: {e}"[:500]})
        return
    reply({"ready": True})
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)  # ends an orphan stuck in an answer
        value = _judge(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply(value)


if __name__ == "__main__":
    main()
