"""Text and ids: characters, a model's own tokenizer, and what makes two tokenizers differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm import text
from llm.config import ConfigError
from llm.settings import TaskConfig

WORDS = TaskConfig(name="problems", source="x.jsonl")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(folder: Path, template: str | None = TEMPLATE, **changes: str) -> str:
    """A byte-level tokenizer of 256 bytes, two merges and specials; pad is end-of-sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {piece: i for i, piece in enumerate([*specials, *alphabet, "12", "Ġ+"])}
    inner = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("Ġ", "+")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {
        "unk_token": specials[0],
        "bos_token": specials[1],
        "eos_token": specials[2],
        "pad_token": specials[2],
    }
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, **{**special, **changes})
    outer.chat_template = template
    outer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_characters_read_and_write_themselves_and_name_what_they_cannot():
    characters = text.CharTokenizer()
    ids = characters.prompt("12=3 ab")
    assert characters.decode([*ids, 0, 1, 5]) == "12=3 ab<pad>"
    assert characters.pieces([*ids[:2], 0, 1, 99, -1]) == [
        *("1", "2", "<pad>", "<eos>", "<id 99>", "<id -1>")
    ]
    assert (characters.vocab_size, characters.pad, characters.eos) == (48, 0, {1})
    with pytest.raises(ValueError, match=r"'A' at 2 of '1 A'"):
        characters.encode("1 A")


def test_a_chat_prompt_is_one_turn_of_a_user_and_the_start_of_the_answer(folder):
    hub = text.HubTokenizer(folder)
    shown = "".join(hub.pieces(hub.prompt("12 + 1?")))
    assert shown == r"<|im_start|>user\n12 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert hub.prompt("12")[0] == hub.bos  # specials are ids, not text, and come once
    assert hub.prompt("12").count(hub.bos) == 2


def test_a_plain_prompt_is_the_text_alone(folder, tmp_path):
    plain = text.HubTokenizer(folder, "plain")
    assert plain.prompt("12 + 1") == plain.encode("12 + 1")
    untuned = save_tokenizer(tmp_path, template=None)
    assert text.HubTokenizer(untuned, "auto").prompt("12") == plain.encode("12")
    with pytest.raises(ConfigError, match=r"prompt_format chat.*no chat template.*plain"):
        text.HubTokenizer(untuned, "chat")


def test_a_completion_ends_at_the_first_end_even_where_padding_is_the_same_id(folder):
    hub = text.HubTokenizer(folder)
    assert hub.pad in hub.eos
    assert hub.decode([*hub.encode("12 + 1"), 2, 2, *hub.encode("9")]) == "12 + 1"
    assert hub.decode([1, *hub.encode("7"), 0]) == "7"  # other specials are left out


def test_every_end_in_generation_config_ends_a_completion(tmp_path):
    path = save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    hub = text.HubTokenizer(path)
    assert hub.eos == {0, 2, 7}
    assert hub.decode([*hub.encode("1"), 7, *hub.encode("2")]) == "1"


def test_no_list_of_ids_can_break_decoding_or_pieces(folder):
    hub = text.HubTokenizer(folder)
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
    assert isinstance(text.tokenizer_for("", WORDS), text.CharTokenizer)
    assert isinstance(text.tokenizer_for(str(tmp_path), WORDS), text.CharTokenizer)
    assert isinstance(text.tokenizer_for(folder, WORDS), text.HubTokenizer)
    with pytest.raises(ConfigError, match=r"runs/no/such.*no such folder, and it is not a hub id"):
        text.tokenizer_for("runs/no/such", WORDS)


def test_a_hub_id_without_network_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"nobody/nothing \(no such folder.*HF_HUB_OFFLINE"):
        text.tokenizer_for("nobody/nothing", WORDS)


def test_a_tokenizer_that_cannot_end_a_completion_is_refused(tmp_path):
    path = save_tokenizer(tmp_path, eos_token=None, pad_token=None)
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        text.HubTokenizer(path)


def test_code_beside_a_tokenizer_is_not_run(tmp_path):
    path = save_tokenizer(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(
        settings.read_text().replace("{", '{"auto_map": {"AutoTokenizer": [null, "evil.T"]},', 1)
    )
    text.HubTokenizer(path)
    assert not (tmp_path / "ran").exists()


def test_differences_are_named_one_by_one(folder, tmp_path):
    hub = text.HubTokenizer(folder)
    assert text.differences(hub, text.HubTokenizer(folder)) == []
    assert text.differences(text.CharTokenizer(), text.CharTokenizer()) == []
    assert "character alphabet" in text.differences(hub, text.CharTokenizer())[0]
    other = text.HubTokenizer(
        save_tokenizer(tmp_path, template="{{ 1 }}", eos_token="<|endoftext|>", bos_token="<new>")
    )
    found = text.differences(hub, other)
    assert [line.split(" (")[0] for line in found] == [
        *("vocabulary", "bos id", "end-of-sequence ids", "chat template")
    ]
    assert found[0] == (
        "vocabulary (261 and 262 tokens, 1 with other ids; for example '<new>' is id None and 261)"
    )
    assert found[2] == "end-of-sequence ids ([2] and [0])"


def test_a_template_that_fails_says_so(tmp_path):
    hub = text.HubTokenizer(save_tokenizer(tmp_path, template="{{ raise_exception('no users') }}"))
    with pytest.raises(ConfigError, match=r"chat template in .* fails.*no users.*plain"):
        hub.prompt("1")
