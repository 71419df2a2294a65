"""TRL's own trainer with our weights, run on the CPU: `make test-trl`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.trl

VOCABULARY = 16


def tiny(folder: Path, layers: int, width: int, seed: int) -> Any:
    """A random Qwen3 of 16 words, "w0" to "w15"; w1 ends a completion."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    made = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width,
            num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
            head_dim=width // 2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = 1, 0
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tokenizer; a policy and a smaller actor of the same words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="w0", eos_token="w1", unk_token="w0"
    )
    tokenizer.save_pretrained(folder / "policy")
    tiny(folder / "policy", 2, 32, seed=0)
    return folder, tokenizer


def share_of_w3(completions, **_):
    return [text.split().count("w3") / 8 for text in completions]


def trainer_of(models, kind, steps=1, rate=1e-2, **more) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig

    folder, tokenizer = models
    rng = random.Random(0)
    words = [f"w{i}" for i in range(4, VOCABULARY)]
    rows = [{"prompt": " ".join(rng.choices(words, k=3))} for _ in range(64)]
    settings = {
        "per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 8,
        "max_steps": steps, "learning_rate": rate, "lr_scheduler_type": "constant",
        "top_k": 0, "beta": 0.0, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "output_dir": str(folder / "out"), "seed": 3, "use_vllm": False,
    }  # fmt: skip
    settings |= more.pop("settings", {})
    return kind(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        processing_class=tokenizer, reward_funcs=share_of_w3, train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(**settings), **more,
    )  # fmt: skip


def pair(models, **more) -> Any:
    from jackpot.adapters.trl import JackpotPairTrainer

    own = {"actor": tiny(models[0] / "actor", 1, 16, seed=1), "actor_learning_rate": 3e-2}
    return trainer_of(models, JackpotPairTrainer, **(own | more))


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.filterwarnings("ignore")
def test_a_small_actor_samples_is_trained_and_distilled_and_rewards_rise(models):
    trainer = pair(models, steps=60, jackpot_options={"c1": 3.0})
    before = [p.detach().clone() for p in trainer.actor.parameters()]
    trainer.train()
    trainer.jackpot.require_called()
    reward, kl = logged(trainer, "reward"), logged(trainer, "jackpot/loss_distill")
    assert sum(reward[-10:]) / 10 > sum(reward[:10]) / 10 + 0.2
    assert sum(kl[-10:]) < sum(kl[:10])
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.actor.parameters(), strict=True)
    )
    assert logged(trainer, "jackpot/hook_calls")[-1] == trainer.jackpot.calls == 60
    assert 0 < logged(trainer, "jackpot/accept_rate")[0] < 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize("target", ["ref", "new"])
def test_the_loss_is_trls_own_with_each_term_weighted(models, loss_type, target):
    """Denominators literally, and weights by a plain loop, on TRL's own batch."""
    trainer = pair(
        models,
        settings={"loss_type": loss_type, "epsilon": 0.1, "epsilon_high": 0.3},
        jackpot_options={"lam": 1.2, "c1": 1.4, "target": target, "z": "batch"},
    )
    trainer.model.train()
    rows = [{"prompt": "w4 w5"}] * 8 + [{"prompt": "w6"}] * 8
    inputs = trainer._generate_and_score_completions(rows)
    # As after an earlier update: p_ref is not p_new.
    noise = 0.3 * torch.randn(inputs["sampling_per_token_logps"].shape)
    reference = inputs["sampling_per_token_logps"] - 0.4 + noise.clamp(max=0.39)
    inputs["old_per_token_logps"] = reference
    trainer.current_gradient_accumulation_steps = 1
    from jackpot.adapters.trl import JackpotGRPOTrainer

    loss = JackpotGRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    token, mask = inputs["completion_ids"], inputs["completion_mask"]
    width = token.shape[1]
    with torch.no_grad():
        logits = trainer.model(input_ids=ids, attention_mask=attention).logits[:, -width - 1 : -1]
    new = logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
    real = [(i, j) for i, j in mask.nonzero().tolist()]
    p = reference if target == "ref" else new
    inf = inputs["sampling_per_token_logps"]
    r = {(i, j): float((p - inf)[i, j].exp()) for i, j in real}
    accept = {at: min(1.0, x / 1.2) for at, x in r.items()}
    z = sum(accept.values()) / len(real)
    terms = torch.zeros(token.shape)
    for i, j in real:
        w = accept[i, j] * min(z * max(1.2, r[i, j]), 1.4)
        if target == "new":
            w *= min(float((reference - new)[i, j].exp()), 3.0)
        a, ratio = float(inputs["advantages"][i]), float((new - reference)[i, j].exp())
        if loss_type == "cispo":
            terms[i, j] = -w * min(ratio, 0.3) * a * float(new[i, j])
        else:
            terms[i, j] = -w * min(ratio * a, min(max(ratio, 0.9), 1.3) * a)
    lengths = mask.sum(-1)
    want = {
        "grpo": (terms.sum(-1) / lengths).mean(),
        "dr_grpo": terms.sum() / (16 * 8),
    }.get(loss_type, terms.sum() / lengths.sum())
    assert float(loss.detach()) == pytest.approx(float(want), rel=2e-4, abs=1e-6)
    assert inputs["advantages"].dim() == 1  # as TRL gave them


def sampled_batch(trainer) -> Any:
    """TRL's batch of 16 completions, whose prompts are of one and two words."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [{"prompt": "w4 w5"}] * 8 + [{"prompt": "w6"}] * 8
    return trainer._generate_and_score_completions(rows)


def logp_of_all(model, inputs) -> Any:
    """(B, T, v) of the states of the completions."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    width = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        position = (attention.cumsum(dim=1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=attention, position_ids=position)
    return out.logits[:, -width - 1 : -1].double().log_softmax(-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [4, VOCABULARY])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("target", ["ref", "new"])
def test_z_of_each_state_is_that_of_the_core_on_the_actors_likeliest_tokens(
    models, k, updates, target
):
    """With k the whole vocabulary, Z is sum_x min(q, p / lam), Eq. 3, of all its tokens."""
    import jackpot

    trainer = pair(
        models, z_top_k=k, settings={"num_iterations": updates, "epsilon": 1e6},
        jackpot_options={"lam": 1.2, "c1": 1.4, "target": target, "z_tail": "dropped"},
    )  # fmt: skip
    inputs = sampled_batch(trainer)
    assert ("old_per_token_logps" in inputs) == (updates == 2)
    log_q, log_ref = logp_of_all(trainer.actor, inputs), logp_of_all(trainer.model, inputs)
    if updates == 2:  # as after the first update: both models are others than at the sampling
        for parameter in (*trainer.model.parameters(), *trainer.actor.parameters()):
            parameter.data += 0.05 * torch.randn_like(parameter)
    log_new = logp_of_all(trainer.model, inputs)
    log_p = log_ref if target == "ref" else log_new

    top = log_q.topk(k, dim=-1).indices
    top_p, top_q = log_p.gather(-1, top), log_q.gather(-1, top)
    no_tail = np.full(top_p.shape[:-1], -np.inf)
    z = jackpot.z_topk(top_p.numpy(), top_q.numpy(), 1.2, no_tail, no_tail)[0]
    if k == VOCABULARY:
        assert z == pytest.approx(jackpot.acceptance_rate(log_p.numpy(), log_q.numpy(), 1.2))
    seen: dict[str, Any] = {}
    trainer.jackpot.metrics = lambda weights: seen.update(of=weights) or {}
    loss = trainer._compute_loss(trainer.model, inputs)
    mask = inputs["completion_mask"].bool()
    token = inputs["completion_ids"][..., None]
    r = (log_p - log_q).gather(-1, token)[..., 0].exp()
    want = r.div(1.2).clamp(max=1.0) * (torch.as_tensor(z) * r.clamp(min=1.2)).clamp(max=1.4)
    if target == "new":
        want *= (log_ref - log_new).gather(-1, token)[..., 0].exp().clamp(max=3.0)
    assert torch.allclose(seen["of"].weight[mask].double(), want[mask], rtol=2e-4, atol=1e-6)
    assert bool(torch.isfinite(loss.detach())) and not seen["of"].weight[~mask].any()


@pytest.mark.filterwarnings("ignore")
def test_an_actor_that_is_the_policy_has_weight_one_everywhere(models):
    """p = q: Z = 1 with the tail's ratio, and every token is accepted."""
    from transformers import AutoModelForCausalLM

    actor = AutoModelForCausalLM.from_pretrained(models[0] / "policy", dtype=torch.float32)
    actor.generation_config.eos_token_id, actor.generation_config.pad_token_id = 1, 0
    trainer = pair(models, actor=actor, z_top_k=3)
    inputs = sampled_batch(trainer)
    seen: dict[str, Any] = {}
    trainer.jackpot.metrics = lambda weights: seen.update(of=weights) or {}
    trainer._compute_loss(trainer.model, inputs)
    mask = inputs["completion_mask"].bool()
    assert torch.allclose(seen["of"].weight[mask], torch.tensor(1.0), atol=2e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_number_of_likeliest_tokens_without_use_or_below_one_is_refused(models):
    with pytest.raises(ValueError, match="z_top_k has no effect"):
        pair(models, z_top_k=4, jackpot_options={"z": "batch"})
    with pytest.raises(ValueError, match="z_top_k = 0"):
        pair(models, z_top_k=0)


@pytest.mark.filterwarnings("ignore")
def test_log_q_is_that_of_the_actor_at_the_temperature(models):
    from jackpot.adapters.trl import sample_of_actor, states_logits

    trainer = pair(models, settings={"temperature": 0.7})
    out = sample_of_actor(["w4 w5 w6", "w7"], trainer)
    for prompt, row, logp in zip(*out.values(), strict=True):
        ids = torch.tensor([prompt + row])
        logits = states_logits(trainer.actor, ids, torch.ones_like(ids), len(row)) / 0.7
        want = logits.log_softmax(-1).gather(-1, torch.tensor([row])[..., None])[0, :, 0]
        assert torch.allclose(torch.tensor(logp), want.detach(), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_type": "sapo"}, "not linear"),
        ({"importance_sampling_level": "sequence"}, "weights are of tokens"),
        ({"off_policy_mask_threshold": 0.5}, "leave it out"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(models, settings, said):
    from jackpot.adapters.hook import PeerError

    with pytest.raises(PeerError, match=said):
        pair(models, settings=settings)


@pytest.mark.filterwarnings("ignore")
def test_without_the_samplers_log_probabilities_training_stops(models):
    from jackpot.adapters.hook import PeerError
    from jackpot.adapters.trl import JackpotGRPOTrainer

    trainer = trainer_of(models, JackpotGRPOTrainer, jackpot_options={})
    with pytest.raises(PeerError, match="no log-probabilities of the sampler"):
        trainer.train()


@pytest.mark.filterwarnings("ignore")
def test_a_truncated_actor_is_refused(models):
    from jackpot.adapters.hook import PeerError

    with pytest.raises(PeerError, match="without truncation"):
        pair(models, settings={"top_p": 0.9}).train()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_a_server_whose_log_probabilities_are_not_what_it_samples_from_is_refused(models, mode):
    """TRL warns of it only where its own correction is on, which is off beside ours."""
    from types import SimpleNamespace

    from jackpot.adapters.hook import PeerError
    from jackpot.adapters.trl import JackpotGRPOTrainer

    trainer = trainer_of(models, JackpotGRPOTrainer)
    info = {"model_config": {"logprobs_mode": mode}}
    client = SimpleNamespace(get_server_info=lambda: info)
    trainer.vllm_generation = SimpleNamespace(vllm_client=client)
    trainer.use_vllm, trainer.vllm_mode = True, "server"
    trainer.vllm_importance_sampling_correction = False
    if mode == "processed_logprobs":
        trainer._refuse_settings()
        return
    with pytest.raises(PeerError, match=r"raw_logprobs.*--logprobs-mode processed"):
        trainer._refuse_settings()


@pytest.mark.filterwarnings("ignore")
def test_trl_asks_vllm_for_the_sampled_token_alone(models, monkeypatch):
    """Why Z is of the microbatch: docs/adapters/trl.md."""
    import trl.trainer.grpo_trainer as peer

    from jackpot.adapters.trl import JackpotGRPOTrainer

    asked: dict[str, Any] = {}

    class Generation:
        def __init__(self, **keywords: Any) -> None:
            asked.update(keywords)

    monkeypatch.setattr(peer, "VLLMGeneration", Generation)
    settings = {"use_vllm": True, "vllm_mode": "colocate"}
    settings["vllm_importance_sampling_correction"] = False
    trainer_of(models, JackpotGRPOTrainer, settings=settings)
    assert asked["logprobs"] == 0


@pytest.mark.filterwarnings("ignore")
def test_an_advantage_that_is_no_number_stops_training(models):
    trainer = pair(models, jackpot_options={"z": "batch"})
    logp = torch.full((2, 3), -1.0)
    inputs = {
        "completion_mask": torch.ones(2, 3),
        "sampling_per_token_logps": logp,
        "advantages": torch.tensor([1.0, torch.inf]),
    }
    with pytest.raises(ValueError, match="advantages: NaN or inf at 1 of 2"):
        trainer._weight_advantages(inputs, logp, None)
