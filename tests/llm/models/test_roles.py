"""The model of a role: what is refused or built; ids it shares with its tokenizer; ends, dates."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_context import random_pair
from toy_tokenizers import save_tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llm import hub, settings
from llm.models import actors, loading, pretraining, roles
from llm.settings.loading import Config, ConfigError
from llm.tokenizers import pretrained

IDS = 261  # of the toy tokenizer; its end is 2


def model_in(folder: Path, rows: int, seed: int = 0, tied: bool = False, **config: Any) -> Path:
    """A model with so many rows of embedding, and the toy tokenizer beside it."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    shape |= dict(num_attention_heads=2, initializer_range=0.3)
    shape |= dict(vocab_size=rows, tie_word_embeddings=tied) | config
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def settings_of(policy: Path, actor: Path | None = None) -> Config:
    paths = [f"--policy.path={policy}"] + ([f"--actor.path={actor}"] if actor else [])
    own = [] if actor else ["--actor.type=self", "--correction.type=none"]
    return settings.load([], [*paths, *own])


def with_more_tokens(folder: Path, *tokens: str) -> Path:
    inner: Any = AutoTokenizer.from_pretrained(folder)
    inner.add_tokens(list(tokens), special_tokens=True)
    inner.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_a_padded_vocabulary_is_left_out_of_embedding_and_head(tmp_path, tied):
    """The distribution is that over the tokenizer's ids, renormalised."""
    cfg = settings_of(model_in(tmp_path, 272, tied=tied))
    policy, whole = roles.open_policy(cfg, tmp_path), loading.load(tmp_path)
    assert loading.logits_width(policy) == policy.config.vocab_size == IDS
    ids = torch.arange(20)[None]
    wanted = torch.log_softmax(whole(ids).logits[..., :IDS], -1)
    torch.testing.assert_close(torch.log_softmax(policy(ids).logits, -1), wanted)
    assert (policy.lm_head.weight is policy.model.embed_tokens.weight) == tied


def test_models_of_one_family_padded_to_different_sizes_are_a_pair(tmp_path):
    policy, actor = model_in(tmp_path / "p", 272), model_in(tmp_path / "a", 264, seed=1)
    cfg = settings_of(policy, actor)
    opened = roles.open_policy(cfg, tmp_path)
    sampler = actors.open_actor(cfg, opened, tmp_path).model
    assert loading.logits_width(opened) == loading.logits_width(sampler) == IDS


def test_a_token_beyond_the_embedding_makes_bad_prompts_and_no_bad_model(tmp_path):
    folder = with_more_tokens(model_in(tmp_path, IDS), "<image>")
    cfg = settings_of(folder)
    assert loading.logits_width(roles.open_policy(cfg, tmp_path)) == IDS
    tokenizer = roles.open_tokenizer(cfg, tmp_path)
    assert tokenizer.vocab_size == IDS and tokenizer.prompt("12")
    with pytest.raises(ValueError, match=r"'<image>' is token id 261, and the models have 261 ids"):
        tokenizer.prompt("12 <image>")


def test_a_token_that_one_tokenizer_alone_has_is_no_difference(tmp_path):
    more = with_more_tokens(model_in(tmp_path / "p", 272), "<image>")
    cfg = settings_of(more, model_in(tmp_path / "a", 272, seed=1))
    assert roles.open_tokenizer(cfg, tmp_path).vocab_size == IDS


def test_padding_beyond_the_embedding_is_replaced_and_ends_beyond_it_are_refused(tmp_path):
    folder = with_more_tokens(model_in(tmp_path, IDS), "<end>")
    tokenizer = pretrained.HubTokenizer(str(folder))
    tokenizer.pad = 261
    tokenizer.restrict(IDS)
    assert tokenizer.pad == 2
    (folder / "generation_config.json").write_text('{"eos_token_id": 261}')
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<end>"}))
    with pytest.raises(ConfigError, match=r"ids \[261\] .* lie beyond the 261 ids .* could end"):
        roles.open_tokenizer(settings_of(folder), tmp_path)


def test_without_generation_config_the_ends_are_those_of_config(tmp_path):
    """As transformers' generate(): also where a wrapper keeps them in its text config."""
    folder = model_in(tmp_path, 272, eos_token_id=[7, 9])
    (folder / "generation_config.json").unlink()
    assert pretrained.HubTokenizer(str(folder)).eos == {2, 7, 9}
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert pretrained.HubTokenizer(str(folder)).eos == {2, 5}


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [-1]}'])
def test_a_generation_config_that_cannot_be_read_is_an_error_that_names_it(tmp_path, text):
    save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot read generation_config\.json of .*what ends"):
        pretrained.HubTokenizer(str(tmp_path))


def test_a_hub_that_does_not_answer_is_an_error_unless_it_is_switched_off(tmp_path, monkeypatch):
    def silent(*_, _raise_exceptions_for_connection_errors, **__):
        if _raise_exceptions_for_connection_errors:
            raise OSError("no answer")

    monkeypatch.setattr("transformers.utils.cached_file", silent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ConfigError, match=r"cannot read generation_config\.json of a/b.*no answer"):
        pretrained.end_ids("a/b", local=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.hub_file("a/b", "generation_config.json") is None


CLOSED = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "found"),
    [(CLOSED, (2, "<|im_end|>")), ("{{ messages[-1].content }}", None), (None, None)],
)
def test_the_token_that_closes_a_turn_is_found_in_the_template(tmp_path, template, found):
    hub = pretrained.HubTokenizer(save_tokenizer(tmp_path, template=template))
    assert hub.end_of_turn() == found


def test_a_template_with_a_date_has_the_day_of_the_first_start(tmp_path):
    template = "\n{% macro day() %}{{ strftime_now('%d %b %Y, %-d/%m') }}{% endmacro %}"
    template += "{{ day() if strftime_now is defined else 0 }} {{ messages[0].content }}"
    run, folder = tmp_path / "run", model_in(tmp_path / "model", IDS)
    save_tokenizer(folder, template=template)
    run.mkdir()
    cfg = settings_of(folder)
    tokenizer = roles.open_tokenizer(cfg, run)
    assert isinstance(tokenizer, pretrained.HubTokenizer) and tokenizer.is_dated
    assert tokenizer.today == datetime.date.today()
    entries = [{"time": "2025-03-04T23:10:00+00:00"}, {"time": "2026-01-01T00:00:00+00:00"}]
    (run / "provenance.json").write_text(json.dumps(entries))
    tokenizer = roles.open_tokenizer(cfg, run)
    assert tokenizer.decode(tokenizer.prompt("12")) == "\n04 Mar 2025, 4/03 12"


BUILT = ["--policy.layers", "1", "--policy.width", "16", "--policy.dtype", "bfloat16"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model of as many ids as characters; what is loaded from there is not pretrained."""
    random_pair()[1].save_pretrained(tmp_path / "m")
    monkeypatch.setattr(pretraining, "pretrained", lambda *_: tmp_path / "m")
    return tmp_path


def test_a_vocabulary_for_other_digits_is_refused_with_the_setting(folder):
    cfg = settings.load([], ["--task.digit-synonyms", "3"])
    with pytest.raises(ConfigError, match=r"has a vocabulary of 48 ids, its tokenizer one of "):
        roles.open_policy(cfg, folder)


def test_adapters_are_added_where_a_role_has_a_lora_rank(folder):
    cfg = settings.load([], ["--policy.lora.rank", "2"])
    names = [n for n, p in roles.open_policy(cfg, folder).named_parameters() if p.requires_grad]
    assert names and all("lora" in n for n in names)
    assert not any(
        "lora" in n for n, _ in roles.open_base(cfg, "policy", folder).named_parameters()
    )


def test_a_shell_for_a_checkpoint_is_built_and_never_pretrained(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "pretrained", lambda *_: pytest.fail("pretrained"))
    shell = roles.open_shell(settings.load([], BUILT), "policy", tmp_path)
    assert {p.dtype for p in shell.parameters()} == {torch.bfloat16} and not shell.training


def test_models_of_two_tokenizers_are_refused_with_the_difference(tmp_path):
    for name, eos in (("a", "<|im_end|>"), ("b", "<|im_start|>")):
        (tmp_path / name).mkdir()
        save_tokenizer(tmp_path / name, eos_token=eos)
    flags = ["--policy.path", str(tmp_path / "a"), "--actor.path", str(tmp_path / "b")]
    cfg = settings.load([], ["--task.type", "problems", "--task.source", "x.jsonl", *flags])
    with pytest.raises(ConfigError, match=r"must share a tokenizer, and differ in: "):
        roles.open_tokenizer(cfg, tmp_path)
