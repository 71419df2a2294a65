"""What every engine does: staleness exact, batches that wait are saved."""

from __future__ import annotations

import copy
import json

import pytest
from engine_cases import CPU, SHORT, equal
from safetensors.torch import load_file
from training_runs import COMMON, POLICY, rows, start

from llm import train
from llm.rollout.engines.in_process import HfEngine
from llm.settings.loading import ConfigError
from llm.training import run


@pytest.mark.parametrize("d", [0, 1, 3])
def test_the_batch_of_step_t_is_of_the_weights_after_step_t_less_1_less_d(
    tmp_path, pretrained, monkeypatch, d
):
    """version = max(0, t - d) at every token; its log-probabilities are those of that version."""
    seen, models_then = [], {}
    sample_rollouts = train.sample_rollouts

    def noting(ctx, step, **kw):
        state = ctx.actor.model.state_dict()
        models_then[step] = {k: v.clone() for k, v in state.items()}
        batch = sample_rollouts(ctx, step, **kw)
        version = max(0, step - d)
        assert set(batch.version.unique().tolist()) == {version}
        fresh = copy_with(ctx.actor.model, models_then[version])
        wanted = HfEngine(ctx.cfg, ctx.tokenizer, CPU)
        wanted.update(fresh, version)
        problems = ctx.task.batch(ctx.cfg.run.seed, step, ctx.cfg.rollout.prompts_per_step)
        assert equal(batch, wanted.generate(step, problems).flat())
        seen.append(step)
        return batch

    for module in (train, run):  # the steps, and the evaluation after the last of them
        monkeypatch.setattr(module, "sample_rollouts", noting)
    start(tmp_path, pretrained, *SHORT, "--rollout.max-staleness", str(d))
    assert seen == list(range(7))
    assert [r["staleness"] for r in rows(tmp_path)[:-1]] == [min(t, d) for t in range(6)]


def copy_with(model, state):
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return other


def test_a_checkpoint_holds_the_batches_that_wait(tmp_path, pretrained):
    start(tmp_path, pretrained, *SHORT, "--run.steps", "4", "--rollout.max-staleness", "2")
    kept, last = sorted((tmp_path / "checkpoints").glob("step_*"))
    manifest = json.loads((kept / "manifest.json").read_text())
    assert "rollouts.safetensors" in manifest["files"]
    found = load_file(kept / "rollouts.safetensors")
    assert {k.split(".")[0] for k in found} == {"2", "3"}
    assert int(found["2.version"].max()) == 0 and int(found["3.version"].min()) == 1
    assert {k.split(".")[0] for k in load_file(last / "rollouts.safetensors")} == {"4"}


ON_POLICY = (*POLICY, *COMMON, "--actor.type", "self")


def test_staleness_gives_an_actor_that_is_the_policy_something_to_correct(tmp_path, pretrained):
    flags = (*SHORT, "--correction.type", "jackpot", "--rollout.max-staleness")
    with pytest.raises(ConfigError, match="there is no mismatch to correct"):
        start(tmp_path / "a", pretrained, *flags, "0", base=ON_POLICY)
    start(tmp_path / "b", pretrained, *flags, "2", base=ON_POLICY)
    first, last = rows(tmp_path / "b")[0], rows(tmp_path / "b")[-2]
    assert abs(first["log_ratio_max"]) < 1e-4 < abs(last["log_ratio_max"])
