"""A run goes on only from what it was made of: models, data, reward function."""

from __future__ import annotations

import json
import shutil

import pytest
from training_runs import TINY, start

from llm.settings.loading import ConfigError
from llm.training import inputs

WHERE = {"policy: ": "/models/p"}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"data": "d", "policy: w": "x"}, r"policy: w in /models/p has changed .*SHA-256 p then"),
        ({"policy: w": "p"}, "data is gone since it began"),
        ({"data": "d", "policy: w": "p", "policy: v": "q"}, "policy: v in /models/p is new"),
    ],
)
def test_what_is_not_as_it_was_is_refused_by_name_and_place(tmp_path, now, message):
    inputs.keep_inputs(tmp_path, {"data": "d", "policy: w": "p"})
    inputs.check_inputs(tmp_path, now, WHERE)  # before its first step a folder binds nobody
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    inputs.check_inputs(tmp_path, {"policy: w": "p", "data": "d"}, WHERE)
    with pytest.raises(ConfigError, match=rf"made of something else: {message}.*Put back"):
        inputs.check_inputs(tmp_path, now, WHERE)
    (tmp_path / inputs.FILE).write_text("[" * 10**5)
    with pytest.raises(ConfigError, match=r"cannot read .*inputs.json: .*move it away"):
        inputs.check_inputs(tmp_path, now, WHERE)


def test_a_frozen_actor_that_was_replaced_between_two_starts_is_refused(tmp_path, pretrained):
    """Nothing of it is in a checkpoint, so the run would go on with another actor."""
    mine = (
        shutil.copytree(pretrained, tmp_path / "pretrained")
        if any(pretrained.iterdir())
        else tmp_path / "pretrained"
    )
    flags = ("--actor.type", "frozen", "--run.checkpoint-every", "1")
    start(tmp_path / "r", mine, "--run.steps", "1", *flags, base=TINY)
    kept = json.loads((tmp_path / "r" / inputs.FILE).read_text())
    assert {"policy: model.safetensors", "actor: config.json"} <= kept.keys()
    for weights in mine.glob("actor-*/model/model.safetensors"):
        content = bytearray(weights.read_bytes())
        content[-2] ^= 1
        weights.write_bytes(content)
    with pytest.raises(ConfigError, match=r"actor: model.safetensors in .* has changed since"):
        start(tmp_path / "r", mine, "--run.steps", "2", *flags, base=TINY)
