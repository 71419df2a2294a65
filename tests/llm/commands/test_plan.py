"""plan: memory and time from shapes alone, against hand computation and real models' graphs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm import __main__ as command
from llm import settings
from llm.commands import plan
from llm.planning import cost, estimate, memory
from llm.planning.memory import Layout
from llm.settings.loading import ConfigError, ModelConfig

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "llm/configs").glob("qwen*.toml"))
EIGHT_B = str(ROOT / "llm/configs/qwen3_1.7b_8b_deepscaler.toml")
ON_8 = ["--gpus", "8", "--gpu-memory", "80GB"]
LEAN = ["--head", "chunked", "--checkpointing", "on", "--engine", "vllm"]
TINY = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip


def tiny(**changes):
    with torch.device("meta"):
        return Qwen3ForCausalLM(Qwen3Config(**{**TINY, **changes}))


def of_preset(*flags: str, file: str = EIGHT_B):
    """(settings, shapes, choice, arguments) as `main` has them."""
    args, files, rest = plan._arguments([file, *ON_8, *flags])
    cfg = settings.load(files, rest)
    pair = estimate.open_shapes(cfg, args.model_sizes)
    return cfg, pair, estimate.choice_of(cfg, pair, args), args


def peak(*flags: str, file: str = EIGHT_B) -> int:
    cfg, pair, choice, _ = of_preset(*flags, file=file)
    return estimate.memory_of(cfg, pair, choice, 72 * 10**9).peak


# Shapes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as published with the models
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_models_of_the_table_have_the_published_number_of_parameters(name, parameters):
    for path in (name, f"{name}-Base", f"{name}-Instruct"):
        found, source = estimate._config_of("policy", ModelConfig(path=path), "")
        assert source == f"table: {name}"
    model = memory.shape(ModelConfig(path=name), found)
    assert memory.size(model, ModelConfig(path=name)).total == parameters


def test_the_weights_that_multiply_are_counted_by_hand():
    """3 layers: q and o 32 x 32, k and v 32 x 16, three 32 x 48; a head, tied or not."""
    body = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    for tied in (False, True):
        shape = cost.shape_of(tiny(tie_word_embeddings=tied))
        assert shape == cost.Shape(3, 32, 32, 16, 100, body, 100 * 32, 2)


# Memory


def policy_only(*flags: str):
    base = ["--actor.kind", "self", "--correction.name", "none", "--loss.actor_ppo", "False"]
    return settings.load([], [*base, "--loss.distill_coef", "0", *flags])


def test_sharding_divides_what_is_trained_and_keeps_a_whole_copy_and_the_engines():
    model, cfg = tiny(), policy_only("--policy.dtype", "bfloat16")
    n = sum(p.numel() for p in model.parameters())
    held, _ = memory.by_phase(cfg, model, None, 4, Layout(ranks=4, sharded=True, engine_copy=True))
    assert held["policy weights"] == held["policy gradients"] == pytest.approx(2 * n / 4, abs=1)
    assert held["policy optimiser"] == pytest.approx(12 * n / 4, abs=1)  # masters, two moments
    assert held["engine's copy"] == held["whole copies"] == 2 * n
    whole, _ = memory.by_phase(cfg, model, None, 4, Layout(ranks=4))
    assert whole["policy weights"] == 2 * n
    assert "engine's copy" not in whole and "whole copies" not in whole


@pytest.mark.parametrize("kind", ["separate", "frozen"])
def test_of_two_models_the_trained_ones_are_whole_once_more_and_the_actor_is_the_engines(kind):
    """Float32, 2 ranks. 4 bytes of a weight: whole copies of what is trained, the engine's of the
    actor; a frozen actor and the anchor are not divided."""
    untrained = ["--loss.actor_ppo", "False", "--loss.distill_coef", "0"]
    flags = ["--actor.kind", kind, "--loss.anchor_coef", "0.1", *untrained * (kind == "frozen")]
    cfg, policy, actor = settings.load([], flags), tiny(), tiny(num_hidden_layers=1)
    p, a = (4 * sum(x.numel() for x in m.parameters()) for m in (policy, actor))
    held, _ = memory.by_phase(cfg, policy, actor, 4, Layout(2, sharded=True, engine_copy=True))
    assert held["whole copies"] == p + (a if kind == "separate" else 0)
    assert held["actor weights"] == pytest.approx(a / 2 if kind == "separate" else a, abs=1)
    assert held["anchor weights"] == p and held["engine's copy"] == a


def test_the_estimate_counts_the_copy_of_an_engine_in_a_process_of_its_own():
    found = {}
    for engine in ("hf", "process", "vllm"):
        cfg = policy_only("--rollout.engine", engine)
        found[engine] = memory.estimate(cfg, tiny(), None, 4)
    n = 4 * sum(p.numel() for p in tiny().parameters())
    assert "engine's copy" not in found["hf"]
    assert found["process"]["engine's copy"] == found["vllm"]["engine's copy"] == n


def test_cache_and_head_workspace_are_as_by_hand():
    """16 x 8 sequences of 4 + 12 tokens on 2 ranks; keys and values of 3 layers x 16, float32."""
    layout = Layout(ranks=2, blocks=True)
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, layout)
    assert phases["sampling"]["key-value cache"] == 64 * 16 * 3 * 2 * 16 * 4
    blocks, hidden = 4 * 4 * 64 * 12 * 100, 2 * 4 * 64 * 12 * 32
    hidden += 4 * 100 * 32  # a block of the weight
    assert phases["update"]["logits of a micro-batch"] == blocks + hidden
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, layout._replace(at_once=5))
    assert phases["sampling"]["key-value cache"] == 5 * 16 * 3 * 2 * 16 * 4


def test_gathered_layers_are_the_outer_ones_and_two_more():
    """float32: embedding, head, final norm apart; then gradients of them and of one layer."""
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32 + 2 * 8
    layer += 32 // 3  # the final norm, spread over the layers
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, Layout(ranks=2, sharded=True))
    outer = 2 * 100 * 32
    assert phases["update"]["gathered layers"] == 4 * (2 * outer + 3 * layer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_activations_are_those_that_the_graph_of_a_real_model_keeps(dtype, kind, kv_heads):
    """Storage that autograd saves per layer, weights apart, with padding as in training."""
    cls = {"qwen3": (Qwen3ForCausalLM, Qwen3Config), "llama": (LlamaForCausalLM, LlamaConfig)}[kind]
    b, t = 2, 240
    kept = []
    for layers in (1, 3):
        fields = {**TINY, "num_hidden_layers": layers, "num_key_value_heads": kv_heads,
                  "hidden_size": 128, "intermediate_size": 384, "head_dim": 32}  # fmt: skip
        model = cls[0](cls[1](**fields)).to(getattr(torch, dtype))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, int] = {}
        alive = []

        def pack(x, weights=weights, seen=seen, alive=alive):
            alive.append(x)
            if x.untyped_storage().data_ptr() not in weights:
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        mask = torch.ones(b, t, dtype=torch.long)
        mask[0, :3] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.model(input_ids=torch.ones(b, t, dtype=torch.long), attention_mask=mask)
        kept.append(sum(seen.values()))
    part = ModelConfig(dtype=dtype)
    each = memory.activation_bytes(model, part, t, checkpointing=False) / 3
    assert each == pytest.approx((kept[1] - kept[0]) / 2 / (b * t), rel=0.02)


def test_a_checkpointed_layer_keeps_its_input_and_one_layer_is_whole():
    model, part = tiny(), ModelConfig(dtype="bfloat16")
    whole = memory.activation_bytes(model, part, 10, checkpointing=False)
    lean = memory.activation_bytes(model, part, 10, checkpointing=True)
    assert lean == 3 * 2 * 32 + whole / 3


def test_each_way_of_saving_memory_saves_it():
    base = peak("--engine", "hf", "--checkpointing", "off")
    assert peak("--engine", "hf", "--checkpointing", "off", "--head", "dense") > base
    assert peak("--engine", "hf", "--checkpointing", "on") < base
    assert peak("--engine", "hf", "--checkpointing", "off", "--sharding", "none") > base
    assert peak("--engine", "hf", "--checkpointing", "off", "--gpus", "16") < base
    assert peak("--checkpointing", "off", "--rollout.max_new_tokens", "4096") < base
    assert peak("--checkpointing", "off", "--optim.sequences_per_microbatch", "2") > base


# Time


def test_operations_are_two_per_weight_and_token_and_four_widths_per_pair_in_attention():
    """One sequence of 6 tokens, causal: 6 x 6 / 2 pairs, of which each layer makes two products."""
    shape = cost.shape_of(tiny())
    pairs = 6 * 6 / 2
    wanted = 2 * 6 * shape.body + 2 * 2 * pairs * 32 * 3 + 2 * 5 * shape.head
    assert cost.forward_flops(shape, 6, 6, 5) == wanted


def test_decoding_few_sequences_costs_one_reading_of_the_weights():
    _, pair, _, _ = of_preset()
    shape = cost.shape_of(pair.policy)
    device = cost.Device(flops=1e15, bandwidth=1e12, read_share=1.0, mfu=1.0, layer_seconds=0.0)
    one = cost.decode_step_seconds(shape, 1, 0, device)
    assert one == pytest.approx(2 * (shape.body + shape.head) / 1e12, rel=1e-3)
    assert cost.decode_step_seconds(shape, 8, 0, device) == pytest.approx(one, rel=0.01)
    many = cost.decode_step_seconds(shape, 100_000, 0, device)
    assert many == pytest.approx(100_000 * 2 * (shape.body + shape.head) / 1e15)


def test_a_longer_cache_is_read_and_launches_bound_small_models_from_below():
    shape, device = cost.shape_of(tiny()), cost.Device(layer_seconds=1.0)
    assert cost.decode_step_seconds(shape, 4, 10, device) == 3.0
    fast = cost.Device(bandwidth=1.0, read_share=1.0, layer_seconds=0.0)
    more = cost.decode_step_seconds(shape, 4, 20, fast) - cost.decode_step_seconds(
        shape, 4, 10, fast
    )
    assert more == pytest.approx(4 * 10 * 2 * 3 * 16 * 2)


def test_places_are_refilled_and_the_longest_completion_bounds_the_steps():
    shape, device = cost.shape_of(tiny()), cost.Device(layer_seconds=1.0)
    work = cost.Work(10, 8, 5, 50, 100, at_once=20)
    assert cost.decode_seconds(shape, work, device) == 3.0 * 80 * 50 / 20
    assert cost.decode_seconds(shape, work._replace(at_once=1000), device) == 3.0 * 100


def test_a_backward_pass_costs_two_forward_passes_and_recomputing_one_more():
    shape, device, work = cost.shape_of(tiny()), cost.Device(), cost.Work(2, 4, 5, 5, 10, 8)

    def seconds(forwards, recompute, backward):
        return cost.training_seconds(
            shape, work, device, forwards=forwards, recompute=recompute, backward=backward
        )

    one = seconds(1, False, False)
    assert seconds(0, False, True) == pytest.approx(3 * one)
    assert seconds(2, True, True) == pytest.approx(6 * one)


def test_gain_is_the_ratio_of_two_steps_written_out():
    """R = 6 s, T = 2 s; the actor samples in 1.5 s and adds 1 s: 8 s against 4.5 s."""
    assert cost.gain(3.0, 0.25, 0.5) == pytest.approx(8 / 4.5)
    assert cost.gain(1e9, 0.25, 0.5) == pytest.approx(4.0)
    assert cost.gain(1e-9, 0.25, 0.5) == pytest.approx(1 / 1.5)
    over = cost.break_even(0.25, 0.5)
    assert cost.gain(over, 0.25, 0.5) == pytest.approx(1.0)
    assert cost.break_even(1.0, 0.5) == float("inf")
    with pytest.raises(ValueError, match="gain needs g > 0"):
        cost.gain(0.0, 0.5, 0.5)


def test_rollouts_dominate_where_completions_are_long_and_few():
    long = ["--mean-new-tokens", "8192"]
    short = ["--rollout.max_new_tokens", "64", "--rollout.rollouts_per_prompt", "64"]
    shares = []
    for flags in (long, short):
        cfg, pair, choice, args = of_preset(*LEAN, *flags)
        at_once = estimate.memory_of(cfg, pair, choice, 72 * 10**9).at_once
        shares.append(
            estimate.times_of(cfg, pair, choice, at_once, cost.Device(), args).rollout_share
        )
    assert shares[0] > 3 * shares[1]


# Presets


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_fits_8_gpus_of_80_gb_as_launched_and_not_with_dense_logits(path, capsys):
    assert command.main(["plan", str(path), *ON_8, *LEAN]) == 0
    assert "\nFITS: " in capsys.readouterr().out
    assert command.main(["plan", str(path), *ON_8, "--head", "dense", "--engine", "hf"]) == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out and ", fits\n" in out
    assert max(map(len, out.splitlines()[1:])) <= 100


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_every_value_of_a_preset_says_where_it_is_from(path):
    source = re.compile(r"# .*(Sec\.|Table|Eq\.|Fig\.|Algorithm|[Aa]bstract|not given)")
    values = [x for x in path.read_text().splitlines() if re.match(r"[a-z_0-9]+ = ", x)]
    assert len(values) > 20
    silent = [x for x in values if not source.search(x) and not x.startswith(("folder", "name = "))]
    assert silent == []


def test_the_stale_pair_differs_in_its_correction_alone():
    stem = ROOT / "llm/configs/qwen3_4b_stale64_noclip"
    one, other = (
        settings.flatten(settings.load([f"{stem}{x}.toml"], [])) for x in ("", "_jackpot")
    )
    differ = {k.split(".")[0] for k in one if one[k] != other[k]} - {"run"}
    assert differ == {"correction"} and one["loss.clip_low"] == float("inf")


def test_what_is_said_to_make_it_fit_does():
    cfg, pair, choice, args = of_preset("--head", "dense", "--engine", "hf")
    offered = estimate.remedies(cfg, pair, choice, args)
    assert offered
    for change, _, _ in offered:
        assert command.main(["plan", EIGHT_B, *ON_8, *change.split()]) == 0


def test_a_gpu_too_small_for_the_masters_is_told_how_many_it_takes(capsys):
    argv = ["plan", EIGHT_B, "--gpus", "1", "--gpu-memory", "80GB", *LEAN]
    assert command.main(argv) == 1
    offered = re.search(r"--gpus (\d+)", capsys.readouterr().out)
    assert offered and command.main(["plan", EIGHT_B, "--gpus", offered[1], *argv[4:]]) == 0


# The command


def test_a_folder_with_a_config_and_no_weights_is_enough(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", **TINY}))
    flags = ["--policy.path", str(tmp_path), "--actor.path", str(tmp_path)]
    assert command.main(["plan", *ON_8, *flags]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/config.json" in out and "FITS" in out


def test_models_that_are_not_local_are_named_by_hand(capsys):
    other = ["--policy.path", "me/mine", "--actor.path", "me/mine"]
    sizes = ["--model-sizes", "policy=Qwen/Qwen3-4B", "actor=Qwen/Qwen3-1.7B"]
    assert command.main(["plan", EIGHT_B, *ON_8, *LEAN, *other, *sizes]) == 0
    assert "4.02B" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "0"], "--gpus must be greater than 0, got 0"),
        (["--gpu-memory", "80"], "'80' is no size: write it like 80GB or 24GiB"),
        (["--gpu-memory", "0GB"], "'0GB' is no size"),
        (["--mfu", "1.5"], "--mfu is a share, at most 1"),
        (["--bandwidth", "-1"], "--bandwidth must be greater than 0, got -1"),
        (["--engine", "sglang"], "invalid choice: 'sglang'"),
        (["--no-such-flag", "1"], "no-such-flag"),
    ],
)
def test_a_bad_flag_is_an_error_that_says_what_is_wanted(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        plan.main([EIGHT_B, *ON_8, *flags])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy.path", "me/mine"], r"policy 'me/mine' is not known.*Qwen/Qwen3-8B.*--model-s"),
        (["--model-sizes", "critic=Qwen/Qwen3-8B"], "write ROLE=MODEL, ROLE one of policy, actor"),
        (["--model-sizes", "policy"], "write ROLE=MODEL"),
        (["--gpus", "128"], "prompts_per_step 64 must be a multiple of the 128 ranks"),
        (["--gpus", "7"], "64 must be a multiple of the 7 ranks.*change it, or --gpus"),
    ],
)
def test_an_unknown_model_or_too_many_gpus_is_an_error(flags, message):
    with pytest.raises(ConfigError, match=message):
        plan.main([EIGHT_B, *ON_8, *flags])


def test_gpus_are_offered_only_if_the_prompts_divide_among_them(capsys):
    """64 prompts can be shared by the GPUs offered, one prompt more by no power of two."""
    argv = ["plan", EIGHT_B, "--gpus", "1", "--gpu-memory", "80GB", *LEAN]
    for prompts, offers in (("64", True), ("65", False)):
        assert command.main([*argv, "--rollout.prompts-per-step", prompts]) == 1
        assert ("--gpus" in capsys.readouterr().out) is offers


def test_sizes_are_read_with_their_units():
    assert plan._bytes_of("80GB") == 80 * 10**9
    assert plan._bytes_of("24 GiB") == 24 * 2**30
    assert plan._bytes_of("1.5gb") == 1_500_000_000
