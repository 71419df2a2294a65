"""Settings: one parser, nothing unknown or without effect, and a file that reads back equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm import settings
from llm.__main__ import main
from llm.runs import run_folder
from llm.settings.loading import Config, ConfigError

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "llm/configs").glob("*.toml"))
READING = "--task.name problems --policy.path x --actor.path x"
UNTRAINED = "--loss.actor-ppo False --loss.distill-coef 0"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return str(path)


def test_files_are_read_in_order_and_flags_come_last(tmp_path):
    one = write(tmp_path, "[correction]\nlam = 2.0\nc1 = 5\n[run]\nseed = 1\n")
    two = tmp_path / "d.toml"
    two.write_text("[correction]\nlam = 3.0\n[loss]\nactor_ppo = false\n")
    cfg = settings.load([one, str(two)], ["--run.seed", "7"])
    assert (cfg.correction.lam, cfg.correction.c1, cfg.run.seed) == (3.0, 5.0, 7)
    assert cfg.loss.actor_ppo is False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_preset_loads_and_its_dump_reads_back_equal(path, tmp_path):
    base = [str(ROOT / "llm/configs/demo.toml")] if path.stem.startswith("demo_") else []
    cfg = settings.load([*base, str(path)], [])
    again = settings.load([write(tmp_path, settings.dump(cfg))], [])
    assert again == cfg


def test_infinite_caps_survive_the_round_trip(tmp_path):
    cfg = settings.load([], ["--correction.c1", "inf", "--loss.clip-low", "inf"])
    assert settings.load([write(tmp_path, settings.dump(cfg))], []).correction.c1 == float("inf")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[correction]\nlmb = 1.0\n", r"unknown key correction\.lmb; perhaps .*correction\.lam"),
        ("[correctoin]\nlam = 1.0\n", r"unknown key correctoin\.lam; perhaps .*correction\.lam"),
        ("lam = 1.0\n", r"unknown key lam; perhaps .*correction\.lam"),
        ("[loss]\nlam = 1.0\n", r"unknown key loss\.lam; perhaps .*correction\.lam"),
        ("[actor]\nbits = '8'\n", r"actor\.bits must be a int, got '8'"),
        ("[correction]\nlam = '1.0'\n", r"correction\.lam must be a float, got '1.0'"),
        ("[run]\nsteps = 2.5\n", r"run\.steps must be a int, got 2\.5"),
        ("[run]\nsteps = true\n", r"run\.steps must be a int, got True"),
        ("[loss]\nactor_ppo = 1\n", r"loss\.actor_ppo must be a bool, got 1"),
        ("[correction\n", r"is not TOML"),
    ],
)
def test_a_fault_in_a_file_is_an_error_that_names_key_and_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        settings.load([write(tmp_path, text)], [])


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"cannot read config file nope\.toml"):
        settings.load(["nope.toml"], [])


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--correction.lam 0", "lam must be greater than 0"),
        ("--correction.lam nan", "lam must be a finite number"),
        ("--correction.lam inf", "lam must be a finite number"),
        ("--run.steps -3", "run.steps must be greater than 0"),
        ("--rollout.rollouts-per-prompt 1", "at least 2"),
        ("--rollout.max-new-tokens 5", "at least 9: the longest answer"),
        ("--warmup.policy-error 1.5", "between 0 and 1"),
        ("--policy.width 40", "a multiple of 16"),
        ("--loss.updates-per-rollout 3", "a divisor of the 128 sequences"),
        (
            "--task.digits-min 9 --rollout.max-new-tokens 20",
            "digits_max must be >= task.digits_min",
        ),
        ("--correction.name tis --correction.lam 2", "lam 2.0 would have no effect"),
        ("--correction.tis-cap 3", "tis_cap 3.0 would have no effect: it needs name = tis"),
        ("--correction.c2 2", "c2 2.0 would have no effect: it needs target = new"),
        ("--correction.name none --correction.target new", "target new would have no effect"),
        ("--correction.z batch --correction.no_such 1", "no_such"),
        ("--correction.z batch --correction.kappa True", "kappa True would have no effect"),
        ("--correction.kappa True", "kappa True would have no effect: it needs z = state, z_tail"),
        ("--correction.name tis --loss.denominator accepted", "nothing else rejects"),
        ("--policy.path x --actor.path x --policy.layers 3", "it needs an empty policy.path"),
        ("--actor.kind self", "self has an actor that is not trained"),
        ("--actor.kind noisy", "noisy has an actor that is not trained"),
        ("--loss.actor-ppo False --loss.distill-coef 0", "both its losses are off"),
        (f"--actor.kind self {UNTRAINED}", "p_inf = p_ref and there is no mismatch to correct"),
        ("--actor.lag 3", "lag 3 would have no effect: it needs actor.kind stale"),
        ("--actor.bits 4", "bits 4 would have no effect: it needs actor.kind quantized"),
        ("--actor.bits 5", "5"),
        ("--actor.noise 0.1", "noise 0.1 would have no effect"),
        ("--actor.exit-layers 2", "exit_layers 2 would have no effect"),
        (f"--actor.kind noisy {UNTRAINED} --actor.noise -1", "noise must be greater than 0"),
        (f"--actor.kind noisy {UNTRAINED} --actor.width 64", "width 64 would have no effect"),
        (f"--actor.kind stale {UNTRAINED} --optim.actor-lr 1e-3", "it needs a trained actor"),
        ("--correction.budget 0.8", "budget 0.8 would have no effect: it needs lam_from"),
        ("--correction.lam-from batch --correction.budget 1.5", "budget must be at most 1"),
        ("--correction.lam-from batch --correction.lam 2", "lam 2.0 would have no effect"),
        ("--correction.lam-from state --control.lam-max 3", "it needs lam_from = tracked"),
        ("--correction.lam-from tracked --control.lam-min 20", "lam_max must be >= control.lam_m"),
        ("--control.gain 0.2", "gain 0.2 would have no effect: it needs control.kl_target > 0"),
        ("--control.kl-target 0.1 --control.factor-max 1", "factor_max must be above 1"),
        ("--correction.name tis --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--correction.z none --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--loss.actor-ppo False --loss.clip-low 0.1", "clip_low 0.1 would have no effect"),
        ("--alarm.patience 7", "patience 7 would have no effect: it needs a limit"),
        ("--optim.lr-warmup-steps 300", "lr_warmup_steps must be below run.steps, got 300"),
        ("--optim.weight-decay 1e40", "weight_decay must be at most 1"),
        (f"{READING} --task.source a.jsonl --task.split x", "it needs a source on the hub"),
        (f"{READING} --task.source a/b --task.eval-split x", "it needs an eval_source on the hub"),
        (f"{READING} --task.source a.jsonl --warmup.folder x", "a model that is built and warmed"),
        ("--control.kl-target 0.1 --control.distill False", "nothing is driven"),
        ("--control.policy-lr True", "policy_lr True would have no effect: it needs control.kl"),
        ("--correction.name tis --correction.scope prefix", "scope prefix would have no effect"),
        ("--task.slots 4", "slots must be at least task.digits_max, or 0, got 4"),
        ("--task.slots -1", "slots must be at least 0, got -1"),
        ("--task.name add --task.slots 9 --task.digits-max 2 --task.digits-min 2", "no effect"),
        ("--control.kl-target 0.1 --loss.distill-coef 0", "which is 0: give it a value"),
        ("--loss.distill-coef 0 --loss.distill-top-k 5", "distill_top_k 5 would have no effect"),
        ("--loss.actor-ppo False --loss.actor-correction tis", "it needs actor_ppo"),
        ("--loss.advantage best", "best"),
        ("--policy.lora-alpha 8", "lora_alpha 8.0 would have no effect"),
        ("--policy.dtype float16", "float16"),
        ("--alarm.lower-factor 0.1", "lower_factor 0.1 would have no effect"),
        ("--alarm.action lower --alarm.lower-factor 1", "lower_factor must be below 1"),
        ("--correction.name tis --alarm.accept-min 0.1", "accept_min 0.1 would have no effect"),
        ("--task.name arithmetic", "needs a model that reads text"),
        ("--task.name problems --policy.path x --actor.path x", "needs --task.source"),
        ("--task.source a.jsonl", "source a.jsonl would have no effect"),
        ("--task.score-seconds 2", "score_seconds 2.0 would have no effect"),
        ("--task.name sort --task.digits-max 20", "max_new_tokens must be at least 21"),
        ("--policy.path x", "--actor.path is empty"),
        ("--optim.schedule step", "step"),
        ("--rollout.engine-timeout 5", "it needs rollout.engine process"),
        ("--rollout.engine-memory 0.5", "it needs rollout.engine vllm"),
        ("--rollout.max-staleness -1", "max_staleness must be at least 0"),
        ("--rollout.max-staleness 65", "max_staleness must be at most 64"),
        ("--rollout.engine vllm --actor.kind quantized " + UNTRAINED, "cannot sample from --actor"),
        ("--run.checkpoints-kept 0", "checkpoints_kept must be greater than 0"),
        ("--run.tracker mlflow", "mlflow"),
        ("--run.sharding ddp", "ddp"),
        ("--optim.tokens-per-microbatch -1", "tokens_per_microbatch must be at least 0"),
        (
            "--optim.tokens-per-microbatch 64 --optim.sequences-per-microbatch 2",
            "sequences_per_microbatch 2 would have no effect: it needs optim.tokens_per_microbatch",
        ),
        ("--correction.mask bernouli", "bernouli"),
    ],
)
def test_a_bad_or_ineffective_setting_is_an_error(flags, message, capsys):
    with pytest.raises(SystemExit):
        settings.load([], flags.split())
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_help_needs_neither_torch_nor_tyro():
    code = "import sys; from llm.__main__ import main; main(['--help']); "
    code += "sys.exit(int(bool({'torch', 'tyro', 'transformers'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "python -m llm train CONFIG.toml" in done.stdout


def test_unknown_commands_and_missing_runs_say_what_there_is(capsys, tmp_path):
    assert main(["trian"]) == 2
    assert "there are: train, doctor, plan, eval, report, compare, fetch" in capsys.readouterr().err
    assert main(["eval", str(tmp_path)]) == 2
    assert "holds no config.toml" in capsys.readouterr().err


def test_a_folder_with_another_configuration_is_refused_and_left_as_it_was(tmp_path):
    folder = tmp_path / "r"
    run_folder.prepare(settings.load([], ["--run.folder", str(folder)]))
    before = (folder / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"correction\.lam \(1\.0 there, 2\.0 now\)"):
        run_folder.prepare(
            settings.load([], ["--run.folder", str(folder), "--correction.lam", "2"])
        )
    assert (folder / "config.toml").read_bytes() == before


def test_an_unwritable_folder_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to run folder"):
        run_folder.prepare(settings.load([], ["--run.folder", str(tmp_path / "file" / "r")]))


def test_dry_run_prints_the_resolved_configuration_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "r"
    flags = ["--run.folder", str(folder), "--correction.lam", "1.5", "--dry-run"]
    assert main(["train", str(CONFIGS[0]), *flags]) == 0
    assert "lam = 1.5" in capsys.readouterr().out and not folder.exists()


def test_defaults_pass_their_own_checks():
    assert Config() == settings.load([], [])
