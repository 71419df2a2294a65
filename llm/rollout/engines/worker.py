"""The worker of subprocess_engine.py: a line of JSON in, a line out, tensors in files.

It ends when its input does, in the middle of a batch too: then nobody waits for it, and it removes
the folder that it shared with whoever started it.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any


def main(folder: Path) -> None:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # a library that prints must not be taken for a reply
        os.dup2(null, descriptor)
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a group: the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, messages, folder), daemon=True).start()
    try:
        _serve(folder, messages, replies)
    except Exception as e:
        import traceback

        traceback.print_exc()
        _reply(replies, {"error": f"{type(e).__name__}: {e}"})
        os._exit(1)


def _listen(requests: IO[bytes], messages: queue.Queue[dict[str, Any]], folder: Path) -> None:
    for line in requests:
        messages.put(json.loads(line))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _serve(folder: Path, messages: queue.Queue[dict[str, Any]], replies: IO[bytes]) -> None:
    import torch
    from safetensors.torch import save_file

    from llm.checkpoints.state_tensors import own_storage
    from llm.rollout.drafted import Drafting

    from .base import GenerationRequest

    start = json.loads((folder / "start.json").read_text())
    torch.set_num_threads(start["threads"])
    sampler: Any
    if start["engine"] == "vllm":
        from .vllm_engine import Sampler

        sampler = Sampler(start, folder)
    else:
        from .weights import Shell

        sampler = Shell(start)
    _reply(replies, {"ready": True})
    while True:
        message = messages.get()
        if "weights" in message:
            sampler.load_weights(folder / message["weights"])
            continue
        number = message["request"]
        asked = GenerationRequest(**json.loads((folder / f"request_{number}.json").read_text()))
        place = None if asked.place is None else (asked.place[0], asked.place[1])
        drafting = None if asked.drafting is None else Drafting(*asked.drafting)
        asked = asked._replace(place=place, drafting=drafting)
        result = sampler.generate(asked, message["version"])
        result = {name: own_storage(x.cpu()) for name, x in result.items()}
        save_file(result, folder / f"result_{number}.safetensors")
        _reply(replies, {"done": number})


def _reply(replies: IO[bytes], value: dict[str, Any]) -> None:
    replies.write(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
