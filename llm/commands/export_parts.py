"""What an exported folder takes over from the model that a run started from, and what it does not.

A run changes a config while it computes (llm/models/configs.py). The folder gets the config of the
file, whole. What cannot be kept, or differs from what was trained, is a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from llm.hub import is_local
from llm.models import file_checks
from llm.models.configs import ids_in, rope_switches, text_of
from llm.models.roles import longest_sequence
from llm.settings.loading import Config, ModelConfig
from llm.tokenizers.pretrained import (
    TOKENIZER_FILES,
    Tokenizer,
    tokenizer_sources,
)

# of processors (pictures, audio) and vocabularies of older tokenizers, which others read
_BESIDE = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "sentencepiece.bpe.model", "vocab.bpe", "bpe.codes"),
)
_TERMS = ("license", "licence", "notice", "use_policy")  # of the model; names begin so
_TEMPLATES = "additional_chat_templates"
_OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
_WRITTEN = {"config.json", "generation_config.json", "readme.md", ".gitattributes"}
_WRITTEN |= {file_checks.INDEX}
_SAMPLING_KEPT = {"transformers_version", "_from_model_config", "pad_token_id", "bos_token_id"}
_SAMPLING_KEPT |= {"eos_token_id", "do_sample", "temperature", "max_new_tokens", "max_length"}
# what a pass returns, and whether it keeps a cache: the distribution stays
_SAMPLING_KEPT |= {"output_attentions", "output_hidden_states", "output_scores", "output_logits"}
_SAMPLING_KEPT |= {"return_dict_in_generate", "use_cache"}


def config_of_file(part: ModelConfig) -> Any:
    """The config of the model that a run started from, as it is in the file."""
    where: dict[str, Any] = {"local_files_only": is_local(part.path), "trust_remote_code": False}
    return AutoConfig.from_pretrained(part.path, **where)


def restore_config(model: Any, part: ModelConfig) -> None:
    """Give a model the config of its file, with what its tensors are: rows, and whether tied."""
    tied = (
        model.get_output_embeddings().weight.data_ptr()
        == model.get_input_embeddings().weight.data_ptr()
    )
    config = config_of_file(part) if part.path else model.config
    text_of(config).vocab_size = model.get_input_embeddings().weight.shape[0]
    text_of(config).tie_word_embeddings = config.tie_word_embeddings = tied
    model.config = config


def copied_files(path: str) -> dict[str, Path]:
    """What is copied byte for byte, {name: where}: tokenizer, processors and terms of use.

    Raises:
        ConfigError: one of them is a link out of the model's folder.
    """
    files, folder = dict(tokenizer_sources(path)), _folder(path)
    if folder is not None:
        names = sorted(p.name for p in folder.iterdir() if p.is_file())
        files |= {n: folder / n for n in names if n in _BESIDE or n.lower().startswith(_TERMS)}
        inner = folder / _TEMPLATES
        if inner.is_dir() and not inner.is_symlink():
            templates = sorted(inner.glob("*.jinja"))
            files |= {f"{_TEMPLATES}/{p.name}": p for p in templates if p.is_file()}
    for where in files.values() if is_local(path) else ():
        file_checks.check_inside(where.parent, where.name)
    return files


def _folder(path: str) -> Path | None:
    """Of a model, or of its snapshot in the hub's cache."""
    if is_local(path):
        return Path(path)
    config = file_checks.find(path, "config.json", local=False)
    return None if config is None else config.parent


def notes(cfg: Config, part: ModelConfig, model: Any, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Sentences on what the folder does not take over, or computes otherwise than the run did."""
    if not part.path:
        return ()
    config = config_of_file(part)
    rows, own = ids_in(config), int(model.get_input_embeddings().weight.shape[0])
    lines = [*_rope_notes(config, longest_sequence(cfg))]
    if rows is not None and rows != own:
        lines.append(
            f"the embedding has {own} rows, and {rows} in {part.path}: rows of ids that the "
            "tokenizer does not have were left out, as in the run"
        )
    lines += [*_sampling_notes(part.path), *_prompt_notes(cfg, tokenizer)]
    folder = _folder(part.path)
    taken = copied_files(part.path).keys()
    left = [] if folder is None else sorted(p.name for p in folder.iterdir())
    left = [
        name
        for name in left
        if name not in taken
        and not any(x.startswith(f"{name}/") for x in taken)
        and name.lower() not in _WRITTEN
        and not name.endswith(_OF_WEIGHTS)
    ]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        lines.append(f"not copied from {part.path}: {', '.join(left[:5])}{more}")
    return tuple(lines)


def _rope_notes(config: Any, longest: int) -> Iterator[str]:
    for switch in sorted(set(rope_switches(config))):
        used = "long" if longest > switch else "short"
        effect = (
            f"so a sequence of up to {switch} tokens is computed otherwise than in training; vLLM "
            f"uses the long one for all where --max-model-len is above {switch}"
            if used == "long"
            else f"with which nothing was trained: keep sequences to {switch} tokens"
        )
        yield (
            f"config.json has two rotary tables, as the model that the run started from. The run, "
            f"with sequences of up to {longest} tokens, used the {used} one for all. transformers "
            f"takes the short one up to {switch} tokens and the long one beyond, {effect}"
        )


def _sampling_notes(path: str) -> Iterator[str]:
    """Settings of generation_config.json that would sample from another distribution."""
    if file_checks.find(path, "generation_config.json", is_local(path)) is None:
        return
    try:
        given = GenerationConfig.from_pretrained(path, local_files_only=is_local(path))
    except (OSError, ValueError, TypeError):
        return  # whoever reads the end ids from it has said so
    default = GenerationConfig().to_dict()
    other = {k: v for k, v in given.to_dict().items() if v != default.get(k)}
    left = [f"{k} {v}" for k, v in sorted(other.items()) if k not in _SAMPLING_KEPT]
    if left:
        text = ", ".join(left)[:300]
        yield (
            f"generation_config.json samples from the distribution that was trained, so it leaves "
            f"out what that of {path} has: {text}"
        )


def _prompt_notes(cfg: Config, tokenizer: Tokenizer) -> Iterator[str]:
    """What the run put around a prompt, and the tokenizer's chat template does not."""
    names = ("system_prompt", "instruction", "template_arguments")
    given = [f"task.{name}" for name in names if getattr(cfg.task, name)]
    if getattr(tokenizer, "chat_template", None) and not getattr(tokenizer, "is_chat", True):
        given.append("task.prompt_format plain (no chat template)")
    if given:
        yield (
            f"prompts were trained with {', '.join(given)}, which no file of a tokenizer holds: "
            "the settings in README.md have the texts"
        )
    if getattr(tokenizer, "is_dated", False):
        yield (
            f"the chat template names the day; the run's prompts had that of its start, "
            f"{tokenizer.today.isoformat()}"  # type: ignore[union-attr]  # only such are dated
        )


def has_own_tokenizer(copied: dict[str, Path]) -> bool:
    """Whether a file of a tokenizer is among those that are copied."""
    return any(name in TOKENIZER_FILES for name in copied)
