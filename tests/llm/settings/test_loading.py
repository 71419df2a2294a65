"""Settings: one parser, nothing unknown or without effect, and a file that reads back equal."""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm import settings
from llm.settings import sections
from llm.settings.loading import ConfigError, dump, resolve
from llm.settings.schema import (
    Adapters,
    DigitTask,
    FixedLam,
    FrozenActor,
    FunctionReward,
    HfEngineConfig,
    IcePopWeight,
    JackpotCorrection,
    KLControl,
    NewTarget,
    NoAdapters,
    PpoObjective,
    SeparateActor,
    Settings,
    TisCorrection,
)

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "llm/configs").glob("*.toml"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return str(path)


def test_files_are_read_in_order_and_flags_come_last(tmp_path):
    one = write(tmp_path, "[correction]\nlam.value = 2.0\nc1 = 5\n[run]\nseed = 1\n")
    two = tmp_path / "d.toml"
    two.write_text("[correction]\nlam.value = 3.0\n[actor]\nppo = false\n")
    cfg = settings.load([one, str(two)], ["--run.seed", "7"])
    assert isinstance(cfg.correction, JackpotCorrection)
    assert cfg.correction.lam == FixedLam(value=3.0)
    assert (cfg.correction.c1, cfg.run.seed) == (5.0, 7)
    assert cfg.actor.ppo is False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_preset_loads_and_its_dump_reads_back_equal(path, tmp_path):
    base = [str(ROOT / "llm/configs/demo.toml")] if path.stem.startswith("demo_") else []
    cfg = settings.load([*base, str(path)], [])
    again = settings.load([write(tmp_path, settings.dump(cfg))], [])
    assert again == cfg


def test_infinite_caps_survive_the_round_trip(tmp_path):
    flags = "--loss.updates-per-rollout 2 --correction.c1 inf --objective.clip-low inf"
    cfg = settings.load([], flags.split())
    again = settings.load([write(tmp_path, settings.dump(cfg))], [])
    assert isinstance(again.correction, JackpotCorrection)
    assert again.correction.c1 == float("inf")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[correction]\nlmb = 1.0\n", r"unknown key correction\.lmb; perhaps .*correction\.lam"),
        ("[correctoin]\nlam = 1.0\n", r"unknown key correctoin\.lam; perhaps .*correction\.lam"),
        ("lam = 1.0\n", r"unknown key lam; perhaps .*correction\.lam"),
        ("[loss]\nlam = 1.0\n", r"unknown key loss\.lam; perhaps .*correction\.lam"),
        ("[actor]\ntype = 'quantized'\nbits = '8'\n", r"actor\.bits must be an int, got '8'"),
        ("[correction.lam]\nvalue = '1.0'\n", r"correction\.lam\.value must be a float, got '1.0'"),
        ("[run]\nsteps = 2.5\n", r"run\.steps must be an int, got 2\.5"),
        ("[run]\nsteps = true\n", r"run\.steps must be an int, got True"),
        ("[actor]\nppo = 1\n", r"actor\.ppo must be a bool, got 1"),
        ("[correction]\ncap = 3.0\n", r"cap is a setting of correction\.type tis, and .* left at"),
        ("[correction]\nname = 'tis'\n", r"unknown key correction\.name"),
        ("[warmup]\nactor_steps = 1\n", r"unknown key warmup\.actor_steps; .*pretrain\.actor_st"),
        ("[actor]\ncorrection = 'tis'\n", r"actor\.correction is a section of settings"),
        ("[correction\n", r"is not TOML"),
    ],
)
def test_a_fault_in_a_file_is_an_error_that_names_key_and_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        settings.load([write(tmp_path, text)], [])


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"cannot read config file nope\.toml"):
        settings.load(["nope.toml"], [])


# Types


def keys_of(section) -> set[str]:
    return set(sections.flatten(section))


def test_another_type_replaces_the_section_and_the_same_type_does_not(tmp_path):
    text = "[correction]\ntarget.type = 'new'\nlam.value = 2.0\nc1 = 5.0\n"
    one = write(tmp_path, text + "[loss]\nupdates_per_rollout = 2\n[objective]\nclip_low = 0.1\n")
    same = settings.load([one], ["--correction.type", "jackpot", "--correction.c1", "4"])
    assert isinstance(same.correction, JackpotCorrection)
    assert (same.correction.lam, same.correction.c1) == (FixedLam(value=2.0), 4.0)
    assert same.correction.target.type == "new"
    other = settings.load([one], ["--correction.cap", "3", "--correction.type", "tis"])
    assert keys_of(other.correction) == {"type", "cap", "target.type"}
    assert isinstance(other.correction, TisCorrection)
    assert (other.correction.cap, other.correction.target.type) == (3.0, "ref")
    assert other.objective == PpoObjective(clip_low=0.1)  # other sections stay


def test_a_section_that_is_replaced_twice_starts_from_its_defaults(tmp_path):
    one = write(tmp_path, "[correction.lam]\nvalue = 2.0\n")
    two = tmp_path / "two.toml"
    two.write_text("[correction]\ntype = 'none'\n")
    cfg = settings.load([one, str(two)], ["--correction.type", "jackpot"])
    assert isinstance(cfg.correction, JackpotCorrection)
    assert cfg.correction.lam == FixedLam(value=1.0)


def test_a_section_inside_a_section_is_replaced_too(tmp_path):
    text = "[actor]\nlr = 1e-3\n[actor.correction]\ntype = 'tis'\ncap = 3.0\n"
    one = write(tmp_path, text + "[rollout]\nmax_staleness = 1\n")
    kept = settings.load([one], ["--actor.correction.cap=4.0"]).actor
    assert isinstance(kept, SeparateActor)
    assert sections.flatten(kept.correction) == {"type": "tis", "cap": 4.0}
    other = settings.load([one], ["--actor.correction.type", "icepop"]).actor
    assert isinstance(other, SeparateActor) and isinstance(other.correction, IcePopWeight)
    assert (other.lr, other.correction.low) == (1e-3, 0.5)
    gone = settings.load([one], ["--actor.type", "self", "--correction.type", "none"])
    assert keys_of(gone.actor) == {"type"}


@pytest.mark.parametrize("flag", ["--task.digits-max", "--task.digits_max"])
@pytest.mark.parametrize("join", [" ", "="])
def test_flags_are_spelt_in_four_ways(flag, join):
    task = settings.load([], f"{flag}{join}9".split()).task
    assert isinstance(task, DigitTask) and task.digits_max == 9


def test_a_setting_that_loses_its_effect_to_a_later_layer_goes_and_one_given_in_vain_is_refused(
    tmp_path,
):
    text = "[rollout]\ntop_k = 3\nengine = {type = 'vllm', memory = 0.3}\n"
    text += "[pretrain]\nactor_steps = 7\n"
    text += "[loss]\nupdates_per_rollout = 2\n[objective]\nclip_low = 0.1\n"
    one = write(tmp_path, text)
    flags = "--rollout.engine.type hf --actor.type self --correction.type none"
    cfg = settings.load([one], [*flags.split(), "--loss.updates-per-rollout", "1"])
    assert (cfg.rollout.top_k, cfg.pretrain.actor_steps) == (20, 600)
    assert cfg.rollout.engine == HfEngineConfig()
    assert isinstance(cfg.objective, PpoObjective) and cfg.objective.clip_low == 0.2
    with pytest.raises(ConfigError, match=r"top_k 3 would have no effect"):
        settings.load([one], "--correction.type none --rollout.top-k 3".split())
    with pytest.raises(ConfigError, match=r"actor_steps 7 would have no effect"):
        settings.load([one], [*flags.split(), "--pretrain.actor-steps", "7"])
    two = tmp_path / "two.toml"
    two.write_text("[rollout]\ntop_k = 3\n[correction]\ntype = 'none'\n")  # it never had any
    with pytest.raises(ConfigError, match=r"top_k 3 would have no effect"):
        settings.load([str(two)], ["--run.steps", "5"])


def test_what_several_updates_gave_an_effect_goes_with_them(tmp_path):
    text = "[correction.target]\ntype = 'new'\nc2 = 2.0\n"
    one = write(tmp_path, text + "[loss]\nupdates_per_rollout = 2\n[objective]\nclip_high = 0.3\n")
    target = settings.load([one], []).correction.target
    assert isinstance(target, NewTarget) and target.c2 == 2.0
    cfg = settings.load([one], ["--loss.updates-per-rollout", "1"])
    assert isinstance(cfg.objective, PpoObjective)
    assert (cfg.correction.target.type, cfg.objective.clip_high) == ("ref", 0.2)
    keys = sections.flat_table(tomllib.loads(settings.dump(cfg))).keys()
    assert not keys & {"correction.target.type", "objective.clip_high"}


def test_what_was_given_in_vain_is_forgotten_with_the_section_that_it_was_in(tmp_path):
    """The layers of the frozen actor are the default, which nobody gave."""
    one = write(tmp_path, "[policy]\npath = 'x'\n[actor]\npath = 'x'\nlayers = 1\n")
    with pytest.raises(ConfigError, match=r"actor\.layers 1 would have no effect"):
        settings.load([one], [])
    flags = "--actor.type frozen --actor.path x --task.type arithmetic".split()
    actor = settings.load([one], flags).actor
    assert isinstance(actor, FrozenActor) and actor.layers == 1


def test_a_later_layer_may_give_what_an_earlier_one_needs(tmp_path):
    one = write(tmp_path, "[alarm]\npatience = 3\n")
    assert settings.load([one], ["--alarm.kl-max", "1"]).alarm.patience == 3


def test_a_closed_loop_goes_with_the_actor_that_it_drives(tmp_path):
    one = write(tmp_path, "[control]\ntype = 'kl'\ngain = 0.2\n")
    control = settings.load([one], []).control
    assert isinstance(control, KLControl) and control.gain == 0.2
    assert settings.load([one], ["--actor.type", "frozen"]).control == Settings().control


ON_POLICY = str(ROOT / "llm/configs/controls/on_policy.toml")
OVERLAYS = ("chain_forms", "demo_none", "demo_tis_distill", "prefixes")


@pytest.mark.parametrize(
    "flags", ["", "--run.steps 7", "--policy.lora.rank 2 --loss.initial-kl-coef 1"]
)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_on_policy_turns_every_shipped_configuration_on_policy(path, flags):
    base = [str(ROOT / "llm/configs/demo.toml")] if path.stem in OVERLAYS else []
    plain = settings.load([*base, str(path)], flags.split())
    cfg = settings.load([*base, str(path), ON_POLICY], flags.split())
    assert (cfg.actor.type, cfg.correction.type, cfg.control.type) == ("self", "none", "none")
    assert (cfg.rollout.max_staleness, cfg.loss.updates_per_rollout) == (0, 1)
    assert (cfg.task, cfg.policy, cfg.run.steps) == (plain.task, plain.policy, plain.run.steps)
    assert settings.load([*base, str(path), ON_POLICY], flags.split()) == cfg


@pytest.mark.parametrize(
    "objective", ["cispo", "gspo", "dppo", "minpro", "bapo", "m2po", "a_star_po", "dmpo"]
)
def test_on_policy_turns_every_objective_on_policy(objective):
    given = {"objective.type": objective, "correction.type": "none", "task.pool": 64}
    given |= {} if objective == "dmpo" else {"loss.updates_per_rollout": 2}
    given |= {"loss.denominator": "sequence"} if objective == "gspo" else {}
    cfg = settings.resolve(given, ON_POLICY)
    assert (cfg.objective.type, cfg.actor.type) == ("ppo", "self")


@pytest.mark.parametrize(
    "lam", [{}, {"rollout.mode.lam.value": 0.5}, {"rollout.mode.lam.type": "state"}]
)
def test_on_policy_turns_drafted_rollouts_plain(lam):
    given = {"rollout.mode.type": "drafted", "correction.type": "none"}
    cfg = settings.resolve(given | lam, ON_POLICY)
    assert (cfg.rollout.mode.type, cfg.actor.type) == ("plain", "self")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            "--actor.lr 1e-3",
            "lr is a setting of actor.type separate, and actor.type is left at self",
        ),
        ("--correction.cap 3", "correction.type is left at none"),
        ("--pretrain.actor-error 0.1", "actor_error 0.1 would have no effect"),
        ("--objective.clip-low 0.1", "clip_low 0.1 would have no effect"),
    ],
)
def test_after_on_policy_a_flag_without_effect_is_still_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        settings.load([str(ROOT / "llm/configs/demo.toml"), ON_POLICY], flags.split())


def test_files_and_tables_are_layers_of_a_configuration_made_in_python(tmp_path):
    """As llm.load: nested or flat names, numbers as themselves, the last layer wins."""
    llm: Any = importlib.import_module("llm")  # it finds its names when they are asked for
    file = tmp_path / "a.toml"
    file.write_text("[run]\nsteps = 7\nseed = 3\n")
    cfg = llm.load(file, {"run": {"steps": 9}}, {"optim.policy_lr": 1e-3, "run.eval_every": 2})
    assert (cfg.run.steps, cfg.run.seed, cfg.run.eval_every) == (9, 3, 2)
    assert isinstance(cfg, llm.Config) and cfg.optim.policy_lr == 1e-3
    assert llm.load(str(file)).run.steps == 7
    with pytest.raises(llm.ConfigError, match=r"perhaps you meant --run.steps\?"):
        llm.load({"run.step": 9})


def test_what_has_no_effect_is_not_in_the_dump(tmp_path):
    flags = "--policy.path x --actor.type frozen --actor.path x --correction.type none"
    cfg = settings.load([], f"{flags} --task.type arithmetic".split())
    text = settings.dump(cfg)
    keys = sections.flat_table(tomllib.loads(text))
    assert not keys.keys() & {"policy.layers", "rollout.top_k", "control.type", "alarm.patience"}
    assert "[pretrain]" not in text and keys == settings.applicable(cfg)
    assert settings.load([write(tmp_path, text)], []) == cfg
    assert settings.load([write(tmp_path, text)], ["--run.steps", "7"]).run.steps == 7


def test_layers_of_flat_names_resolve_as_files_and_flags_do(tmp_path):
    one = write(tmp_path, "[actor]\nwidth = 64\n[correction.lam]\nvalue = 2.0\n")
    cfg = settings.load([one], "--actor.type frozen --correction.type none".split())
    flat = [{"actor.width": 64, "correction.lam.value": 2.0}]
    assert resolve(*flat, {"actor.type": "frozen", "correction.type": "none"}) == cfg
    with pytest.raises(ConfigError, match="actor is not a section"):
        resolve({"actor": 1, "actor.width": 64})


# Any settings: dump, load, equal


def values(kind):
    """Values of a setting by its type; within bounds or not."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    whole = st.integers(0, 10**6)
    real = st.floats(allow_nan=False)
    return {bool: st.booleans(), int: whole, float: real, str: st.text()}[kind]


@st.composite
def drawn(draw, hint):
    """Any section of a type hint: any type of it, any values."""
    cls = draw(st.sampled_from(sections.classes_of(hint)))
    return cls(
        **{
            name: draw(drawn(kind) if sections.classes_of(kind) else values(kind))
            for name, kind in sections.settings_of(cls).items()
        }
    )


@given(drawn(Settings))
def test_any_settings_are_dumped_as_toml_that_reads_back_equal(found):
    """Unchecked: every type, every float with inf among them, any text."""
    table = tomllib.loads(settings.dump(found))
    assert sections.updated(Settings(), table) == found
    assert sections.flat_table(table) == settings.applicable(found)


def test_a_path_that_starts_with_a_tilde_is_of_the_home_folder(tmp_path, monkeypatch):
    """No shell expands it in a file, or behind an equals sign."""
    monkeypatch.setenv("HOME", "/home/me")
    file = write(tmp_path, "[pretrain]\nfolder = '~/kept'\n")
    cfg = settings.load([file], ["--run.folder=~/runs/a"])
    assert (cfg.run.folder, cfg.pretrain.folder) == ("/home/me/runs/a", "/home/me/kept")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = " + b"[" * 9000, "nested too deeply"),
        (b"[run]\nsteps = 1" + b"0" * 5000, "is not TOML"),
        (b"\xff", "is not TOML"),
    ],
    ids=["depth", "digits", "bytes"],
)
def test_a_hostile_configuration_file_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.toml.*{message}"):
        settings.load([str(tmp_path / "c.toml")], [])


def test_a_byte_order_mark_before_toml_is_dropped(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[run]\nseed = 5\n")
    assert settings.load([str(tmp_path / "c.toml")], []).run.seed == 5


def test_a_configuration_that_is_no_regular_file_is_refused_at_once(tmp_path):
    """A FIFO would wait for its other end, /dev/zero would never end."""
    os.mkfifo(tmp_path / "c.toml")
    for path in (tmp_path / "c.toml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="it is not a regular file"):
            settings.load([str(path)], [])


def test_naming_a_function_chooses_it_and_another_type_drops_it(tmp_path):
    file = str(tmp_path / "own.toml")
    Path(file).write_text('[reward]\nfunction = "a.py:f"\nseconds = 3.0\n')
    own = settings.load([file], [])
    assert own.reward == FunctionReward(function="a.py:f", seconds=3.0)
    assert own == resolve({"reward.type": "function"}, file) == resolve(write(tmp_path, dump(own)))
    again = settings.load([file], ["--reward.function", "b.py:f"])
    assert again.reward == FunctionReward(function="b.py:f", seconds=3.0)
    assert settings.load([file], ["--reward.type", "auto"]) == resolve()
    for before in ("number", "math_verify", "python"):
        assert resolve({"reward.type": before}, file) == own
    with pytest.raises(ConfigError, match=r"reward.function is a setting of reward.type function"):
        settings.load([file], ["--reward.type", "exact", "--reward.function", "b.py:f"])
    limited = resolve({"reward.type": "math_verify", "reward.seconds": 5.0}, file)
    assert limited.reward == FunctionReward(function="a.py:f", seconds=3.0)


def test_an_earlier_types_setting_is_not_kept_where_a_function_is_named():
    """Its workers would else count as given to the function, and be refused with batched."""
    verified = {"reward.type": "math_verify", "reward.workers": 3}
    cfg = resolve(verified, {"reward.function": "a.py:f", "reward.batched": True})
    assert cfg.reward == FunctionReward(function="a.py:f", batched=True)


def test_a_rank_chooses_adapters_and_none_drops_them(tmp_path):
    file = write(tmp_path, "[policy.lora]\nrank = 4\nalpha = 8.0\n")
    cfg = settings.load([file], [])
    assert cfg.policy.lora == Adapters(rank=4, alpha=8.0)
    assert isinstance(cfg.actor, SeparateActor) and cfg.actor.lora == NoAdapters()
    assert resolve(write(tmp_path, dump(cfg))) == cfg
    assert settings.load([file], ["--policy.lora.type", "none"]) == resolve()
    actor = settings.load([], ["--actor.lora.rank", "2"]).actor
    assert isinstance(actor, SeparateActor) and actor.lora == Adapters(rank=2)
    for flag in (
        "--policy.lora 4",
        "--policy.lora_rank 4",
        "--policy.lora.type none --policy.lora.rank 4",
    ):
        with pytest.raises(ConfigError, match=r"policy\.lora"):
            settings.load([], flag.split())
    with pytest.raises(ConfigError, match=r"lora\.rank must be greater than 0"):
        settings.load([], ["--policy.lora.rank", "0"])
