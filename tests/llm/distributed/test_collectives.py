"""Several ranks repeat the run of one, and end with one message."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from optional import not_none
from ranks import RankScenario, assert_near, assert_same, finish, pids, play, ranks, torchrun
from safetensors.torch import load_file
from training_runs import rows, weights
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm.checkpoints.checkpoint import latest
from llm.commands.export import export

RUN = (
    "--policy.layers 2 --policy.width 32 --actor.layers 1 --actor.width 16 --task.digits-min 1 "
    "--task.digits-max 3 --rollout.max-new-tokens 5 --pretrain.policy-steps 250 "
    "--pretrain.actor-steps 150 --pretrain.batch-size 32 --rollout.prompts-per-step 4 "
    "--rollout.rollouts-per-prompt 4 --run.steps 3 --run.eval-every 2 --run.eval-prompts 61 "
    "--run.checkpoint-every 1 --optim.policy-lr 1e-3"
).split()
FSDP = ["--run.sharding", "fsdp"]
BLOCKS = ["--optim.head", "chunked"]
SETTINGS = {  # each with statistics of the whole batch that a rank's own part would change
    "batch": (
        "--correction.z.tail.type lumped --correction.z.tail.kappa True "
        "--correction.lam.type batch --loss.updates-per-rollout 8 "
        "--correction.target.type new --loss.denominator accepted"
    ),
    "tracked": "--correction.lam.type tracked --loss.denominator sequence",
    "plain": "--correction.z.type batch --loss.initial-kl-coef 0.1 --control.type kl "
    "--control.kl-target 0.1",
    "poisoned": (
        "--correction.type tis --alarm.action.type lower --optim.microbatch.sequences 2 "
        "--loss.updates-per-rollout 2"
    ),
    "shared out": "--task.pool 8 --rollout.allocation.type vip --loss.advantage rloo "
    "--rollout.allocation.prompt-weight equal --rollout.allocation.rollouts-min 2 "
    "--rollout.pruning.type horvitz_thompson --loss.denominator sequence",
    "whole": "--objective.type a_star_po --task.pool 6 --correction.type none --actor.ppo False "
    "--loss.updates-per-rollout 2",
    # at this temperature, step 1 has pairs on each of two ranks
    "pairs": "--objective.type alpha_dpo --correction.type none --rollout.temperature 0.7",
    "groups": "--objective.type dmpo --objective.alpha 0.5 --correction.type none",
    "bapo": "--objective.type bapo --objective.ratio inf --objective.share 0.6 "
    "--correction.type none --loss.updates-per-rollout 2",
    "m2po": "--objective.type m2po --objective.tau 0.01 --correction.type none "
    "--loss.updates-per-rollout 2",
    "coba": "--task.pool 8 --rollout.allocation.type coba --rollout.allocation.window 2 "
    "--rollout.allocation.prompt-weight equal --rollout.allocation.rollouts-min 2",
    "pruned prompts": "--task.pool 8 --rollout.pruning.type horvitz_thompson "
    "--rollout.pruning.prompt-rate 0.5 --loss.denominator sequence",
    "rejected": "--correction.lam.value 12 --correction.z.tail.kappa True "
    "--correction.z.tail.type lumped",
    "drafted": "--rollout.mode.type drafted --rollout.mode.block.type adaptive "
    "--rollout.mode.block.length-max 4 "
    "--rollout.mode.lam.type tracked --correction.type tis --loss.updates-per-rollout 2",
}
MICRO = {
    "whole": "",
    "three": "--optim.microbatch.sequences 3",
    "budget": "--optim.microbatch.type tokens --optim.microbatch.tokens 24",
    "again": "--optim.microbatch.type tokens --optim.microbatch.tokens 60 "
    "--run.activation-checkpointing True",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def scene(home: Path, name: str, setting: str, *extra: str, stop_at: int = -1) -> RankScenario:
    pretrained = ["--pretrain.folder", str(home / "pretrained")]
    flags = [*RUN, *pretrained, *SETTINGS.get(setting, setting).split(), *extra]
    spoilt = {"reject": setting == "rejected", "poison": setting == "poisoned"}
    return RankScenario(str(home / name), flags, stop_at, **spoilt)


_alone: dict[str, Path] = {}


def alone(home: Path, setting: str) -> Path:
    """The run of a setting in this process, each made once."""
    if setting not in _alone:
        play(scene(home, f"alone_{len(_alone)}", setting))
        _alone[setting] = home / f"alone_{len(_alone)}"
    return _alone[setting]


PROCESS, AHEAD = ["--rollout.engine.type", "process"], ["--rollout.max-staleness", "2"]
TWO = {  # (setting, its flags) of a run on two ranks
    "batch": ("batch", BLOCKS),
    "batch_sharded": ("batch", [*MICRO["budget"].split(), *FSDP, *BLOCKS]),
    "tracked": ("tracked", MICRO["budget"].split()),
    "rejected": ("rejected", [*MICRO["three"].split(), *FSDP, *BLOCKS]),
    "poisoned": ("poisoned", FSDP),
    "cut": ("plain", [*FSDP, *BLOCKS]),
    "shared out": ("shared out", MICRO["three"].split()),
    "whole": ("whole", MICRO["three"].split()),
    "pairs": ("pairs", [*FSDP, *BLOCKS]),
    "groups": ("groups", MICRO["three"].split()),
    "bapo": ("bapo", MICRO["three"].split()),
    "m2po": ("m2po", [*FSDP, *BLOCKS]),
    "present": ("tracked", [*PROCESS, *FSDP]),
    "drafted": ("drafted", [*PROCESS, *FSDP, *BLOCKS]),
    "ahead": ("tracked", [*PROCESS, *AHEAD]),
    "moving": ("tracked", AHEAD),
}
# Settings whose checkpoint holds the prompts' last visits, V* of each, or the statistics of pairs,
# and the step that two ranks take over. There are no pairs before step 1.
HISTORIES = {"shared out": 1, "coba": 1, "pruned prompts": 1, "whole": 1, "pairs": 2}


@pytest.fixture(scope="module")
def two(home) -> dict[str, RankScenario]:
    """What two ranks have run: all in one start of torchrun."""
    made = {name: scene(home, name, setting, *flags) for name, (setting, flags) in TWO.items()}
    made["cut"].stop_at = 1
    made["present"].kill, made["present"].fails = 2, True
    made["ahead"].kill = 0
    made["tied"] = tied(home, "tied_2", *FSDP, *BLOCKS, *MICRO["three"].split())
    for setting in SETTINGS:
        alone(home, setting)
    play(scene(home, "moving", "tracked", *AHEAD, stop_at=0))
    made["moving"].stop_at = 1
    for setting, step in HISTORIES.items():  # the steps before by one process, this by two ranks
        play(scene(home, f"{setting} moved", setting, stop_at=step - 1))
        made[f"{setting} moved"] = scene(home, f"{setting} moved", setting, stop_at=step)
    ranks(2, list(made.values()))
    return made


def test_two_ranks_replicated_or_sharded_repeat_the_run_of_one(home, two):
    """Statistics of the batch are of all ranks, gradients sums with denominators of all; also where
    a rank has no sequence of a share (two sequences each), or every token of its own is rejected,
    or its loss is NaN (then no rank steps). What two ranks saved, sharded, one goes on with."""
    assert not_none(latest(home / "cut/checkpoints")).name == "step_00000002"
    play(scene(home, "cut", "plain"))
    for name in (name for name in TWO if name not in ("present", "ahead", "moving")):
        assert_same(alone(home, TWO[name][0]), home / name)
    assert [r.get("updates_skipped") for r in rows(home / "poisoned")] == [0, 2, 0, None]
    half = [r for r in rows(home / "rejected", "samples") if r["sequence"] >= 8]
    assert half and not any(any(r["accepted"]) for r in half)  # all of rank 1
    assert 0 < rows(home / "rejected")[0]["accept_rate"] < 1


def test_engines_of_two_ranks_repeat_the_run_of_one_though_one_is_killed(home, two):
    """From the present weights, gathered; two steps ahead, where a checkpoint of one process is
    taken over by two ranks and theirs by one. The end of a rank's engine is no other's; if it
    cannot be replaced all ranks end with one message."""
    whole = alone(home, " ".join([SETTINGS["tracked"], *AHEAD]))
    play(scene(home, "moving", "tracked", *AHEAD))
    assert_same(whole, home / "moving")
    assert_same(whole, home / "ahead")
    assert sum(r["engine_restarts"] for r in rows(home / "ahead")[:-1]) == 1
    found, wanted = rows(home / "present"), rows(alone(home, "tracked"))
    assert len(found) == 2
    for one, other in zip(found, wanted, strict=False):
        assert one.pop("engine_restarts") == 0
        assert_near(one, other, "present")
    said = [(home / f"present/failed_{r}").read_text() for r in (0, 1)]
    assert said[0] == said[1]
    failed = "--rollout.engine.type process: the process that samples of rank 1 failed"
    assert said[0].startswith(failed)


@pytest.mark.parametrize("setting", HISTORIES)
def test_histories_go_on_on_two_ranks_and_then_on_one(home, two, setting):
    play(scene(home, f"{setting} moved", setting))
    assert_same(alone(home, setting), home / f"{setting} moved")


def tied(home: Path, name: str, *flags: str) -> RankScenario:
    """A run from saved models whose head is their embedding, of 51 ids: v is odd."""
    if not (home / "tied").exists():
        config = Qwen3Config(
            vocab_size=51,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            tie_word_embeddings=True,
            initializer_range=0.3,
            pad_token_id=0,
        )
        for seed, role in enumerate(("policy", "actor")):
            torch.manual_seed(seed)
            Qwen3ForCausalLM(config).save_pretrained(home / f"tied/{role}")
    drop = ("--policy", "--actor.layers", "--actor.width", "--pretrain")
    pairs = zip(RUN[::2], RUN[1::2], strict=True)
    own = [w for k, v in pairs if not k.startswith(drop) for w in (k, v)]
    for role in ("policy", "actor"):
        own += [f"--{role}.path", str(home / f"tied/{role}")]
    return RankScenario(str(home / name), [*own, *flags])


def test_two_ranks_train_a_tied_head_in_blocks_as_one_does_whole(home, two):
    """Its sharded weight gets one gradient as an embedding and another as a head."""
    one = tied(home, "tied_1")
    play(one)
    assert_same(Path(one.folder), Path(two["tied"].folder))
    assert rows(Path(one.folder))[1]["grad_norm_actor"] > 0.01
    export(
        Path(two["tied"].folder), home / "tied/exported"
    )  # what shards were, a model that is opened
    saved = not_none(latest(Path(two["tied"].folder) / "checkpoints"))
    kept = load_file(saved / "policy.safetensors")
    own = AutoModelForCausalLM.from_pretrained(home / "tied/exported").state_dict()
    assert kept and all(torch.equal(own[name], tensor) for name, tensor in kept.items())
    assert own.keys() - kept.keys() <= {"lm_head.weight", "model.embed_tokens.weight"}


def test_a_budget_of_tokens_and_recomputed_activations_change_only_rounding(home):
    for micro in ("budget", "again"):
        play(scene(home, micro, "batch", *MICRO[micro].split()))
        assert_same(alone(home, "batch"), home / micro)


@pytest.mark.slow
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s != "poisoned"])
@pytest.mark.parametrize("n", [2, 4])
def test_no_factorisation_into_ranks_and_microbatches_changes_anything(home, n, setting):
    """(ranks, accumulation, microbatch), replicated and sharded."""
    scenes = [
        scene(home, f"{n}_{setting}_{micro}_{len(how)}", setting, *MICRO[micro].split(), *how)
        for micro in MICRO
        for how in ([], [*FSDP, *BLOCKS])
    ]
    alone(home, setting)
    ranks(n, scenes)
    for s in scenes:
        assert_same(alone(home, setting), Path(s.folder))


KINDS = {
    "bfloat16": "--policy.dtype bfloat16 --actor.dtype bfloat16",
    "lora": "--policy.lora.rank 2 --actor.lora.rank 2",
    "self": "--actor.type self --correction.type none",
    "stale": "--actor.type stale --actor.lag 1",
    "early_exit": "--actor.type early_exit",
    "quantized": "--actor.type quantized",
}


@pytest.mark.slow
def test_every_kind_of_model_and_actor_trains_on_two_ranks(home):
    """In bfloat16 gradients are rounded at another place in the sum, and a last digit of a weight
    may change its int8 copy by a whole step: there, only that it trains."""
    drop = ("--actor.layers", "--actor.width", "--pretrain.actor-steps")
    scenes = {}
    for kind, setting in KINDS.items():
        for flags in (None, [], [*FSDP, *BLOCKS]):
            made = scene(home, f"{kind}_{flags and len(flags)}", setting, *(flags or []))
            if "actor.type" in setting:
                kept = zip(made.flags[::2], made.flags[1::2], strict=True)
                made.flags = [w for k, v in kept if k not in drop for w in (k, v)]
            scenes[kind, None if flags is None else len(flags)] = made
    for (_, how), made in scenes.items():
        if how is None:
            play(made)
    ranks(2, [s for (_, how), s in scenes.items() if how is not None])
    for kind in KINDS:
        for how in (0, 4):
            one, other = (Path(scenes[kind, h].folder) for h in (None, how))
            if kind in ("bfloat16", "quantized"):
                assert len(rows(one)) == len(rows(other)) and weights(one).keys()
            else:
                assert_same(one, other)


@pytest.mark.slow
def test_a_run_goes_on_from_two_ranks_to_one_to_four(home):
    """Sharded, then alone, then on four ranks: the run of one process, uninterrupted."""
    play(scene(home, "whole", "batch", "--run.steps", "5"))
    ranks(2, [scene(home, "moving", "batch", "--run.steps", "5", *FSDP, stop_at=1)])
    play(scene(home, "moving", "batch", "--run.steps", "5", stop_at=2))
    ranks(4, [scene(home, "moving", "batch", "--run.steps", "5", *FSDP)])
    assert_same(home / "whole", home / "moving")


def steps_saved(made: RankScenario) -> int:
    kept = not_none(latest(Path(made.folder) / "checkpoints"))
    return json.loads((kept / "state.json").read_text())["step"]


def launched(home: Path, name: str, *extra: str):
    """A long run on two ranks, and its processes, once it has made three steps."""
    made = scene(home, name, "tracked", "--run.steps", "100000", "--run.eval-every", "1000", *extra)
    made.flags += ["--run.folder", made.folder]
    process = torchrun(2, ["-m", "llm", "train", *made.flags])
    file, end = Path(made.folder) / "metrics.jsonl", time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < end, finish(process, 5)
        time.sleep(0.2)
    return made, process


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [[], FSDP], ids=["replicated", "sharded"])
def test_a_killed_rank_ends_all_with_one_message_and_the_run_goes_on(home, victim, how):
    made, process = launched(home, f"killed_{victim}_{len(how)}", *how)
    os.kill(pids(process)[victim], signal.SIGKILL)
    code, _, err = finish(process, 90)
    said = [line for line in err.splitlines() if line.startswith("error:")]
    assert code != 0 and len(said) == 1, err[-3000:]
    assert f"rank {victim} ended" in said[0] and "goes on from the last checkpoint" in said[0]
    made.stop_at = steps_saved(made)
    made.flags = made.flags[:-2]
    play(made)
    steps = [r["step"] for r in rows(Path(made.folder))]
    assert steps == list(range(made.stop_at + 1))


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_and_ends_with_one_message(home):
    made, process = launched(home, "terminated", "--run.checkpoint-every", "100000")
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, 90)
    said = [line for line in err.splitlines() if line.startswith("error:")]
    assert code != 0 and len(said) == 1 and "stopped by a signal, after saving" in said[0], err
    assert [r["step"] for r in rows(Path(made.folder))] == list(range(steps_saved(made)))
