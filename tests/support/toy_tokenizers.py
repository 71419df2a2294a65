"""Tokenizers that have only what one test needs."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(
    folder: Path, template: str | None = TEMPLATE, adds_start: bool = False, **changes: str | None
) -> str:
    """A byte-level tokenizer of 256 bytes, two merges and specials; pad is end-of-sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {piece: i for i, piece in enumerate([*specials, *alphabet, "12", "Ġ+"])}
    inner = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("Ġ", "+")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if adds_start:
        inner.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
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


class Unicode:
    """A tokenizer for tests: ids are code points, 0 ends."""

    eos = frozenset({0, 1})

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).split("\0")[0]


class Words:
    """A tokenizer for tests: one id a word, 0 ends."""

    eos = frozenset({0})

    def prompt(self, text: str) -> list[int]:
        return [1] * len(text.split())
