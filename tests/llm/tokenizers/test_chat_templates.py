"""Chat templates are programs of others: rendered as transformers does, and bounded."""

from __future__ import annotations

import pytest
from toy_tokenizers import save_tokenizer

from llm.settings.loading import ConfigError
from llm.tokenizers import chat_templates, pretrained


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}{{ 'x' * 10**10 }}",
        "{{ messages[0].content }}{{ 'x' | center(10**10) }}",
        "{% set n = namespace(x='x') %}{% for i in range(50) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}{{ n.x }}",
    ],
)
def test_a_template_is_bounded_in_memory(tmp_path, template):
    """It is a program of others, and what Jinja computes of it beforehand counts too."""
    hub = pretrained.HubTokenizer(save_tokenizer(tmp_path, template=template))
    said = "it takes more than 256 MiB"
    with pytest.raises(ConfigError, match=f"chat template in {tmp_path} fails on '12': {said}"):
        hub.prompt("12")
    assert hub.closing() is None


def test_a_template_is_bounded_in_time_and_the_next_one_rendered(tmp_path, monkeypatch):
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    hub = pretrained.HubTokenizer(save_tokenizer(tmp_path, template=loops))
    monkeypatch.setattr(chat_templates, "SECONDS", 0.1)
    with pytest.raises(ConfigError, match=r"fails on '12': it takes more than 0\.1 s"):
        hub.prompt("12")
    monkeypatch.setattr(chat_templates, "SECONDS", 10.0)
    assert pretrained.HubTokenizer(save_tokenizer(tmp_path)).prompt("12")


def test_a_template_is_not_computed_to_find_its_variables():
    for bomb in ("'x' * 10**10", "'x' | center(10**10)", "10**10**9"):
        found = chat_templates.template_variables(f"{{{{ a }}}}{{{{ {bomb} }}}}{{% set b = c %}}")
        assert found == {"a", "c"}


def test_a_template_of_endless_length_is_refused(tmp_path):
    path = save_tokenizer(tmp_path, template="x" * 1_000_001)
    with pytest.raises(ConfigError, match="has 1000001 characters, more than 1000000"):
        pretrained.HubTokenizer(path)


LIKE_THE_LIBRARY = (
    "{%- if tools %}tools{% endif %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% continue %}{% endif %}{{ bos_token }}{{ m.role }}: {{ m.content | tojson }}"
    "{{ eos_token }}\n{% endfor %}"
    "{% generation %}{{ more is defined and more }}{% endgeneration %}\n  {% if true %}x{% endif %}"
    "{{ add_generation_prompt }}{{ {'é': [1, none, 2.5]} | tojson(indent=1) }} \u2028"
)


def test_the_text_is_the_one_that_transformers_renders(tmp_path):
    """Its own function renders, with the variables that it would give."""
    arguments = {"more": {"deep": [1, True, None]}}
    hub = pretrained.HubTokenizer(
        save_tokenizer(tmp_path, template=LIKE_THE_LIBRARY), template_arguments=arguments
    )
    messages = (("system", "é <b>"), ("user", "\u4e00 'a' \"b\" </s>\n"), ("assistant", "😀"))
    turns = [{"role": role, "content": content} for role, content in messages]
    for prompted in (False, True):
        found = hub._rendered(messages, 10**6, add_generation_prompt=prompted)
        assert found == hub._inner.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=prompted, **arguments
        )
        assert "é" in found and "{'deep': [1, True, None]}" in found
