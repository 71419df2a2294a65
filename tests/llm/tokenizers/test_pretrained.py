"""Text and ids: characters, a model's own tokenizer, and what makes two tokenizers differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sections
import torch
from toy_tokenizers import save_tokenizer

from llm import settings as config
from llm.models import loading as language_models
from llm.rollout.sampling import sample
from llm.settings.loading import ConfigError
from llm.settings.schema import ModelConfig
from llm.tasks import factory
from llm.tasks.factory import open_task
from llm.tasks.problem import Problem
from llm.tokenizers import character, pretrained

WORDS = sections.task(type="problems", source="x.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_chat_prompt_is_one_turn_of_a_user_and_the_start_of_the_answer(folder):
    hub = pretrained.HubTokenizer(folder)
    shown = "".join(hub.pieces(hub.prompt("12 + 1?")))
    assert shown == r"<|im_start|>user\n12 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert hub.prompt("12")[0] == hub.bos  # specials are ids, not text, and come once
    assert hub.prompt("12").count(hub.bos) == 2


def test_a_tokenizer_that_adds_a_start_adds_none_to_a_chat_that_has_one(folder, tmp_path):
    path = save_tokenizer(tmp_path, adds_start=True)
    assert pretrained.HubTokenizer(path).prompt("12") == pretrained.HubTokenizer(folder).prompt(
        "12"
    )
    plain = pretrained.HubTokenizer(path, "plain")
    assert plain.prompt("12") == [plain.bos, *plain.encode("12")]


def test_a_plain_prompt_is_the_text_alone(folder, tmp_path):
    plain = pretrained.HubTokenizer(folder, "plain")
    assert plain.prompt("12 + 1") == plain.encode("12 + 1")
    untuned = save_tokenizer(tmp_path, template=None)
    assert pretrained.HubTokenizer(untuned, "auto").prompt("12") == plain.encode("12")
    with pytest.raises(ConfigError, match=r"prompt_format chat.*no chat template.*plain"):
        pretrained.HubTokenizer(untuned, "chat")


def test_a_completion_ends_at_the_first_end_even_where_padding_is_the_same_id(folder):
    hub = pretrained.HubTokenizer(folder)
    assert hub.pad in hub.eos
    assert hub.decode([*hub.encode("12 + 1"), 2, 2, *hub.encode("9")]) == "12 + 1"
    assert hub.decode([1, *hub.encode("7"), 0]) == "7"  # other specials are left out


def test_every_end_in_generation_config_ends_a_completion(tmp_path):
    path = save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    hub = pretrained.HubTokenizer(path)
    assert hub.eos == {0, 2, 7}
    assert hub.decode([*hub.encode("1"), 7, *hub.encode("2")]) == "1"


def test_an_end_beyond_the_tokenizer_and_the_models_is_left_out(tmp_path):
    """No completion can hold it, and nothing could print it."""
    path = save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 99999]}')
    hub = pretrained.HubTokenizer(path)
    size = hub.vocab_size
    hub.restrict(10**6)
    assert hub.vocab_size == size and max(hub.eos) < size and 2 in hub.eos


def test_no_list_of_ids_can_break_decoding_or_pieces(folder):
    hub = pretrained.HubTokenizer(folder)
    euro = hub.encode("€")
    assert len(euro) == 3
    assert hub.decode(euro[:2]) == "\ufffd"
    assert hub.decode([10**9, -5, *euro, hub.vocab_size]) == "€"
    every = hub.pieces([*range(-1, hub.vocab_size + 1), 10**9])
    assert all(p and p.isprintable() for p in every)
    assert len(set(hub.pieces(euro))) == 3  # parts of a character stay distinct
    for i in range(hub.vocab_size):
        assert isinstance(hub.decode([i]), str)


def test_a_path_decides_which_tokenizer(folder, tmp_path):
    assert isinstance(pretrained.tokenizer_for("", WORDS), character.CharTokenizer)
    assert isinstance(pretrained.tokenizer_for(str(tmp_path), WORDS), character.CharTokenizer)
    assert isinstance(pretrained.tokenizer_for(folder, WORDS), pretrained.HubTokenizer)
    with pytest.raises(ConfigError, match=r"runs/no/such.*no such folder, and it is not a hub id"):
        pretrained.tokenizer_for("runs/no/such", WORDS)


def test_a_hub_id_without_network_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"nobody/nothing \(no such folder.*HF_HUB_OFFLINE"):
        pretrained.tokenizer_for("nobody/nothing", WORDS)


def test_a_tokenizer_that_cannot_end_a_completion_is_refused(tmp_path):
    path = save_tokenizer(tmp_path, eos_token=None, pad_token=None)
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        pretrained.HubTokenizer(path)


def test_code_beside_a_tokenizer_is_not_run(tmp_path):
    path = save_tokenizer(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(
        settings.read_text().replace("{", '{"auto_map": {"AutoTokenizer": [null, "evil.T"]},', 1)
    )
    pretrained.HubTokenizer(path)
    assert not (tmp_path / "ran").exists()


def test_differences_are_named_one_by_one(folder, tmp_path):
    hub = pretrained.HubTokenizer(folder)
    assert pretrained.differences(hub, pretrained.HubTokenizer(folder)) == []
    assert pretrained.differences(character.CharTokenizer(), character.CharTokenizer()) == []
    assert "character alphabet" in pretrained.differences(hub, character.CharTokenizer())[0]
    other = pretrained.HubTokenizer(
        save_tokenizer(tmp_path, template="{{ 1 }}", eos_token="<|endoftext|>", bos_token="<new>")
    )
    found = pretrained.differences(hub, other)
    assert [line.split(" (")[0] for line in found] == [
        *("vocabulary", "bos id", "end-of-sequence ids", "chat template")
    ]
    assert found[0] == (
        "vocabulary (261 and 262 tokens, 1 with other ids; for example '<new>' is id None and 261)"
    )
    assert found[2] == "end-of-sequence ids ([2] and [0])"


def test_a_template_that_fails_says_so(tmp_path):
    hub = pretrained.HubTokenizer(
        save_tokenizer(tmp_path, template="{{ raise_exception('no users') }}")
    )
    with pytest.raises(ConfigError, match=r"chat template in .* fails.*no users.*plain"):
        hub.prompt("1")


TEMPLATES = {
    "{{ 1 / 0 }}": "fails on '12': ZeroDivisionError",
    "{% for i in range(10**7) %}a{% endfor %}": "fails on '12': OverflowError",
    "{{ '{} {}'.format(1) }}": "fails on '12': IndexError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "fails on '12': RecursionError",
    "{% if %}": "fails on '12': TemplateSyntaxError",
    "{{ ''.__class__.__mro__ }}": "fails on '12': SecurityError",
    "{% if false %}x{% endif %}": "leaves out the prompt",
    "hello": "leaves out the prompt: '12' gives 'hello'",
    "{{ messages[0].content * (10**7) }}": "makes 20000000 characters",
}


@pytest.mark.parametrize("template", TEMPLATES, ids=list(TEMPLATES.values()))
def test_whatever_a_template_does_it_is_named(tmp_path, template):
    hub = pretrained.HubTokenizer(save_tokenizer(tmp_path, template=template))
    with pytest.raises(ConfigError, match=f"chat template in {tmp_path}.*{TEMPLATES[template]}"):
        hub.prompt("12")


@pytest.mark.parametrize("part", ["{{ ['a', 'b'] | random }}", "{{ lipsum() }}"])
def test_a_template_that_draws_at_random_is_refused(tmp_path, part):
    """No start would give the prompts of another; what is text in the template does not count."""
    template = "{{ messages[0].content }} lipsum | random "
    save_tokenizer(tmp_path, template=template)
    assert pretrained.HubTokenizer(str(tmp_path)).is_chat
    save_tokenizer(tmp_path, template=template + part)
    with pytest.raises(ConfigError, match=r"chat template in .* draws at random \((random|lipsum)"):
        pretrained.HubTokenizer(str(tmp_path))


def test_a_template_may_strip_the_prompt(tmp_path):
    hub = pretrained.HubTokenizer(
        save_tokenizer(tmp_path, template="{{ messages[0].content | trim }}")
    )
    assert hub.prompt(" 12\n") == hub.encode("12")


def test_a_prompt_without_any_token_is_refused(folder, monkeypatch):
    """A tokenizer may drop what it does not know."""
    plain, chat = pretrained.HubTokenizer(folder, "plain"), pretrained.HubTokenizer(folder)
    with pytest.raises(ValueError, match="makes no token of ''"):
        plain.prompt("")
    monkeypatch.setattr(type(chat._inner), "encode", lambda *a, **k: [])
    with pytest.raises(ConfigError, match=r"chat template in .* gives no token for '12'"):
        chat.prompt("12")


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json", "tokenizer.model"])
def test_a_folder_with_any_file_of_a_tokenizer_is_never_read_as_characters(folder, tmp_path, file):
    """A built model's folder has none of them."""
    (tmp_path / file).write_bytes((Path(folder) / "tokenizer.json").read_bytes())
    try:
        found = pretrained.tokenizer_for(str(tmp_path), WORDS)
    except ConfigError:
        return
    assert isinstance(found, pretrained.HubTokenizer)


def test_every_end_of_a_tokenizer_ends_what_is_sampled():
    """Two end ids: each ends its completion, and nothing is sampled after it."""

    class TwoEnds(character.CharTokenizer):
        eos = frozenset({1, 40})

    model = language_models.build(ModelConfig(layers=1, width=16), seed=0)
    with torch.no_grad():
        batch = sample(
            model, TwoEnds(), [Problem("12=", "")], np.random.default_rng(0),
            max_new_tokens=60, temperature=1.0, top_k=1, group=64,
        ).flat()  # fmt: skip
    last = [c[-1] for c, done in zip(batch.completions(), batch.finished, strict=True) if done]
    assert set(last) == {1, 40} and min(map(last.count, (1, 40))) > 5
    for ids, done in zip(batch.completions(), batch.finished, strict=True):
        assert not {1, 40} & set(ids[:-1]) and done == (ids[-1] in (1, 40))


def test_prompt_lengths_are_those_of_training_and_evaluation():
    cfg = config.load([], ["--task.digits_min", "2", "--task.digits_max", "4"])
    characters = character.CharTokenizer()
    found = factory.prompt_lengths(cfg, open_task(cfg.task, characters), characters)
    assert set(found) == {3, 4, 5}
