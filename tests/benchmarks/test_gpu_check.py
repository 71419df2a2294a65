"""benchmarks/gpu_check.py on the CPU, at a tiny size: the code that runs where there is a GPU."""

from pathlib import Path

import pytest
import torch
from importing import module_at

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield module_at(BENCHMARKS / "gpu_check.py")


def test_every_error_is_measured_and_within_its_limit_and_a_broken_limit_is_told(
    script, monkeypatch, capsys
):
    torch.set_num_threads(1)
    monkeypatch.setitem(script.LIMITS, "core: weight, relative", 0.0)
    assert script.main(["--device", "cpu", "--quick"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("BROKEN") == 1
    assert next(x for x in shown.splitlines() if "BROKEN" in x).startswith("core: weight")
    missing = {name for name in script.LIMITS if name not in shown}
    assert {name for name in missing if "vllm" not in name} == set()


def test_without_a_gpu_it_says_so_with_exit_status_2(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tpu", "meta", "gpu0"])
def test_a_device_of_another_kind_is_an_error_of_usage(script, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--device", name])
    assert stopped.value.code == 2
    assert f"'{name}' is none of cuda, cuda:1, ..., cpu" in capsys.readouterr().err


def test_a_number_that_is_not_finite_breaks_its_limit(script):
    row = script.CheckRow("core: weight, relative", float("nan"))
    assert row.ok(cost_judged=False) is False


def test_memory_and_time_are_judged_on_a_gpu_at_full_size_alone(script):
    for name in ("memory: prediction over peak, less 1", "time: step of Jackpot over TIS"):
        row = script.CheckRow(name, 9.0)
        assert row.ok(cost_judged=True) is False
        assert row.ok(cost_judged=False) is None


def test_the_cores_error_does_not_depend_on_which_of_two_equal_tokens_a_device_takes(
    script, monkeypatch
):
    """bfloat16 logits tie at the k-th place, and the topk of a GPU breaks ties its own way."""
    topk = torch.Tensor.topk

    def other_ties(x, k, dim=-1):
        values, ids = topk(x.flip(-1), k, dim=dim)
        return torch.return_types.topk((values, x.shape[-1] - 1 - ids))

    cpu = torch.device("cpu")
    plain = [row.value for row in script.core(cpu, 1000)]
    calls = []

    def sometimes(x, k, dim=-1):  # of float32 alone, as another device would
        calls.append(x.dtype)
        return other_ties(x, k, dim) if x.dtype == torch.float32 else topk(x, k, dim=dim)

    monkeypatch.setattr(torch.Tensor, "topk", sometimes)
    assert [row.value for row in script.core(cpu, 1000)] == plain
    assert torch.float64 in calls
