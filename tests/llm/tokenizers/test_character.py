"""Characters are tokens."""

from __future__ import annotations

import pytest

from llm.tokenizers import character


def test_characters_read_and_write_themselves_and_name_what_they_cannot():
    characters = character.CharTokenizer()
    ids = characters.prompt("12=3 ab")
    assert characters.decode([*ids, 0, 1, 5]) == "12=3 ab<pad>"
    assert characters.pieces([*ids[:2], 0, 1, 99, -1]) == [
        *("1", "2", "<pad>", "<eos>", "<id 99>", "<id -1>")
    ]
    assert (characters.vocab_size, characters.pad, characters.eos) == (48, 0, {1})
    with pytest.raises(ValueError, match=r"'A' at 2 of '1 A'"):
        characters.encode("1 A")
