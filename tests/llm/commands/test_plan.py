"""The plan command: what it prints, chooses and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plan_cases import EIGHT_B, LEAN, ON_8, TINY, of_preset

from llm import __main__ as command
from llm import settings
from llm.commands import plan, plan_tables
from llm.planning import estimate
from llm.settings.loading import ConfigError

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "llm/configs").glob("qwen*.toml"))


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
    silent = [x for x in values if not source.search(x) and not x.startswith(("folder", "type = "))]
    assert silent == []


def test_the_stale_pair_differs_in_its_correction_alone():
    stem = ROOT / "llm/configs/qwen3_4b_stale64_noclip"
    one, other = (
        settings.flatten(settings.load([f"{stem}{x}.toml"], [])) for x in ("", "_jackpot")
    )
    differ = {k.split(".")[0] for k in one if one[k] != other[k]} - {"run"}
    assert differ == {"correction"} and one["objective.clip_low"] == float("inf")


def test_what_is_said_to_make_it_fit_does():
    cfg, pair, choice, args = of_preset("--head", "dense", "--engine", "hf")
    offered = estimate.remedies(cfg, pair, choice, args)
    assert offered
    for change, _, _ in offered:
        assert command.main(["plan", EIGHT_B, *ON_8, *change.split()]) == 0


def test_drafted_rollouts_are_predicted_over_acceptance_rates(tmp_path, capsys):
    """At the block length of the settings and at the best; the rate of the step's time is said."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", **TINY}))
    flags = ["--policy.path", str(tmp_path), "--actor.path", str(tmp_path)]
    flags += ["--rollout.mode.type", "drafted", "--correction.type", "none"]
    assert command.main(["plan", *ON_8, *flags, "--accept-rate", "0.7"]) == 0
    out = capsys.readouterr().out
    rows = [x.split() for x in out.splitlines() if re.match(r"0\.\d\d +\d", x)]
    assert ["0.80", "4", "3.36"] in [row[:3] for row in rows]  # 1 + .8 + .64 + .512 + .4096
    assert {row[0] for row in rows} == {"0.50", "0.60", "0.70", "0.80", "0.90", "0.95", "0.98"}
    assert "at no Z" in out and "Of drafted tokens 70% are accepted" in out
    assert (
        command.main(
            ["plan", *ON_8, *flags[:2], "--actor.type", "self", "--correction.type", "none"]
        )
        == 0
    )
    assert "drafted rollouts" not in capsys.readouterr().out


def test_how_far_measured_drafting_exceeds_the_prediction_is_that_of_the_page():
    """Seconds over the ideal of each row, to what two digits of both allow."""
    page = (ROOT / "docs/drafting.md").read_text()
    table = page[page.index("| policy layers ") :].split("\n\n")[0]
    head, *body = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    rows = [dict(zip(head, row, strict=True)) for row in body[1:]]
    seconds = [float(row["seconds (range)"].split("**")[1]) for row in rows]
    above = [100 * (s / float(row["ideal"]) - 1) for s, row in zip(seconds, rows, strict=True)]
    said = [int(x) for x in re.findall(r"\d+", plan_tables.MEASURED_ABOVE)]
    assert len(rows) == 15 and said == pytest.approx([min(above), max(above)], abs=1.0)


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
