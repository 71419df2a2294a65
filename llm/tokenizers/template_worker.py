"""The process that renders chat templates: a JSON line in, a JSON line out.

A template is a program that came with a tokenizer. It can compute nothing but text, and without
bounds of its own: `'x' * 10**10`, or loops in loops. Started by chat_templates.py as a file of its
own; only the standard library and the part of transformers that renders are imported.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

MEMORY = 1 << 28  # bytes of address space beyond what the process has at its start
_GRACE = 5.0  # seconds past the limit; the parent, if it still lives, has killed us long before
_MESSAGE_MAX = 300  # characters of an exception of the template's


def rendered(job: dict[str, Any]) -> dict[str, Any]:
    """The reply to a job: {"text": ...}; {"characters": n} for more than job["most"] of them; or
    {"failed": why}. last: end this process.

    Args:
        job: template; messages; variables, what else the template can read; most.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts: Any = render_jinja_template(
            [job["messages"]], chat_template=job["template"], **job["variables"]
        )
        text = texts[0][0]  # of the first conversation; beside it are places of the assistant's
    except MemoryError:
        return {"failed": f"it takes more than {MEMORY >> 20} MiB"}
    except Exception as e:  # of somebody else's program: of any kind
        return {"failed": f"{type(e).__name__}: {str(e)[:_MESSAGE_MAX]}"}
    return {"text": text} if len(text) <= job["most"] else {"characters": len(text)}


def limit_memory() -> None:
    """Bound the address space; where the system has no such limit the parent's on time holds."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    except (ImportError, OSError, ValueError):
        pass


def main() -> None:
    """Serve until the input ends, which it also does when the parent dies."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import transformers.utils.chat_template_utils  # noqa: F401  # before memory is bounded

    limit_memory()
    replies.write(b'{"ready": true}\n')
    replies.flush()
    for line in requests:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"] + _GRACE)  # ends an orphan
        reply = rendered(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
