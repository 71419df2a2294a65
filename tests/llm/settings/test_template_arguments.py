"""Arguments of chat templates: a small grammar, and nothing else is read."""

from __future__ import annotations

import pytest

from llm.errors import ConfigError
from llm.settings.template_arguments import read_arguments


def test_values_are_truth_values_numbers_and_texts():
    text = 'enable_thinking=false, a=true,n = -3, x=0.5, effort=very high ,t="a, \\"b\\"", z="7"'
    assert read_arguments(text) == {
        **{"enable_thinking": False, "a": True, "n": -3, "x": 0.5},
        **{"effort": "very high", "t": 'a, "b"', "z": "7"},
    }
    assert read_arguments("") == read_arguments("  ") == {}


FORMS = r"""thinking|=3|a=|a=1,,b=2|a b=3|a="x|1a=3|a=1,a=2|messages=x|a="\x"|a="b"c"""


@pytest.mark.parametrize("text", [*FORMS.split("|"), "add_generation_prompt=false"])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match=r"--task\.template_arguments"):
        read_arguments(text)
