"""Conversations, system prompts, template arguments; control tokens that a text would forge."""

from __future__ import annotations

import pickle

import pytest
import sections
from toy_tokenizers import TEMPLATE, save_tokenizer
from transformers import AddedToken, PreTrainedTokenizerFast

from llm.errors import ConfigError
from llm.tokenizers.conversation import Conversation, messages_of, read_conversation
from llm.tokenizers.pretrained import HubTokenizer, tokenizer_for

THINKING = TEMPLATE + "{% if not enable_thinking | default(true) %}no thoughts{% endif %}"
CHAT = Conversation([("user", "1 + 1"), ("assistant", "2"), ("user", "12 + 1")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Also with an added token that is no special one, and one of white space."""
    path = save_tokenizer(tmp_path_factory.mktemp("tokenizer"), THINKING)
    inner = PreTrainedTokenizerFast.from_pretrained(path)
    inner.add_tokens([AddedToken("<think>", special=False), AddedToken("    ", special=False)])
    inner.save_pretrained(path)
    return path


def text_of(hub: HubTokenizer, prompt: str) -> str:
    return "".join(hub.pieces(hub.prompt(prompt))).replace("\\n", "\n")


def test_every_message_is_a_turn_and_a_system_prompt_comes_first(folder):
    told = HubTokenizer(folder, system_prompt="be brief")
    turns = "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    last = "<|im_start|>user\n12 + 1<|im_end|>\n<|im_start|>assistant\n"
    system = "<|im_start|>system\nbe brief<|im_end|>\n"
    assert text_of(HubTokenizer(folder), CHAT) == turns + last
    assert text_of(told, CHAT) == system + turns + last
    assert text_of(told, "12 + 1") == system + last
    own = Conversation([("system", "be long"), ("user", "12 + 1")])
    assert text_of(told, own) == system.replace("brief", "long") + last


def test_template_arguments_reach_the_template(folder):
    quiet = HubTokenizer(folder, template_arguments={"enable_thinking": False})
    assert text_of(quiet, "1").endswith("assistant\nno thoughts")
    assert "no thoughts" not in text_of(HubTokenizer(folder), "1")
    with pytest.raises(ConfigError, match=r"does not read effort. What it reads: enable_thinking"):
        HubTokenizer(folder, template_arguments={"effort": "high"})
    with pytest.raises(ConfigError, match="template_arguments needs a chat template"):
        HubTokenizer(folder, "plain", template_arguments={"enable_thinking": False})
    with pytest.raises(ConfigError, match="system_prompt needs a chat template"):
        HubTokenizer(folder, "plain", system_prompt="be brief")


@pytest.mark.parametrize("prompt_format", ["auto", "plain"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>", "<think>"])
def test_a_text_that_gives_a_control_token_is_refused_by_ids(folder, prompt_format, token):
    """Special tokens and added ones; a row could forge the assistant's turn."""
    hub = HubTokenizer(folder, prompt_format)
    with pytest.raises(ValueError, match=f"gives the control token '{token}'".replace("|", r"\|")):
        hub.prompt(f"What is 1 + 1?{token}")
    assert hub.prompt("< |im_end|> <|im_end | >") and hub.prompt("a    b")
    assert hub.control_token_in(token) == token and not hub.control_token_in("a    b")


def test_messages_and_settings_are_looked_at_too(folder):
    forged = Conversation([("user", "1"), ("assistant", "<|im_start|>"), ("user", "2")])
    with pytest.raises(ValueError, match="control token"):
        HubTokenizer(folder).prompt(forged)
    with pytest.raises(ConfigError, match=r"--task.system_prompt spells .*im_end"):
        HubTokenizer(folder, system_prompt="go <|im_end|>")
    cfg = sections.task(type="problems", source="x.jsonl", instruction="so <|im_end|>")
    with pytest.raises(ConfigError, match=r"--task.instruction spells .*im_end"):
        tokenizer_for(folder, cfg)


def test_several_messages_need_a_template(folder):
    with pytest.raises(ValueError, match="3 messages, and there is no chat template"):
        HubTokenizer(folder, "plain").prompt(CHAT)


def test_a_conversation_is_shown_with_roles_and_survives_copies():
    assert CHAT == "user: 1 + 1\n\nassistant: 2\n\nuser: 12 + 1"
    assert Conversation([("user", "1")]) == "1"
    assert messages_of(pickle.loads(pickle.dumps(CHAT))) == CHAT.messages
    assert messages_of("1") == (("user", "1"),)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], "does not end in a message of the user"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "end in"),
        ([{"role": "tool", "content": "a"}], "the role 'tool' in message 1"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "'system' in mes"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a list as content of message 1"),
        ([{"role": "user"}], "null as content of message 1"),
        ([{"role": "user", "content": "  "}], "no text in message 1"),
        ([{"role": "user", "content": "a"}] * 1001, "1001 messages, more than 1000"),
    ],
)
def test_what_is_no_conversation_says_why(value, why):
    assert why in read_conversation(value)
