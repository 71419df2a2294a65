"""Runs to compare, written rather than trained."""

import json

from llm import settings
from llm.commands import compare
from llm.report.run_files import read_run


def make_run(folder, *flags, rates=(0.2, 0.4), kl=(0.5, 0.3), steps=(0, 10)):
    folder.mkdir(parents=True)
    cfg = settings.load([], ["--run.folder", str(folder), *flags])
    (folder / "config.toml").write_text(settings.dump(cfg))
    rows = [
        {"step": s, "pass_rate": p, "kl_policy_actor": k, "reward_mean": p, "accept_rate": 0.9}
        for s, p, k in zip(steps, rates, kl, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def seeds(folder, n, *flags, **more):
    return [make_run(folder / f"s{i}", "--run.seed", str(i), *flags, **more) for i in range(n)]


def groups_of(*folders, force=False):
    return compare.grouped([read_run(f) for f in folders], force=force)
