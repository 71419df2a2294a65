"""Language models: built small, or loaded from a folder or the hub; with adapters if asked for."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers import logging as transformers_logging

from llm.hub import is_local, offline_hint, require_on_hub
from llm.phases import is_out_of_memory
from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.tokenizers.character import CharTokenizer

from .configs import check_depth, parts_of, positions_in, text_of, with_one_rope, without_outputs
from .file_checks import check_files, file_of

Model = Any  # a transformers causal language model; its classes share no typed base

transformers_logging.disable_progress_bar()


def build(cfg: ModelConfig, seed: int, synonyms: int = 1) -> Model:
    """A random Qwen3 model over the character alphabet with so many synonyms of a digit; the same
    seed gives the same weights."""
    with quiet():
        from transformers import Qwen3Config, Qwen3ForCausalLM

    heads = max(4, cfg.width // 16)  # with two heads of 16 the task is hardly learnt
    config = Qwen3Config(
        vocab_size=CharTokenizer(synonyms).vocab_size,
        hidden_size=cfg.width,
        intermediate_size=2 * cfg.width,
        num_hidden_layers=cfg.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.1,  # the library's 0.02 is for wide models: these would learn late
        pad_token_id=CharTokenizer.pad,
        eos_token_id=min(CharTokenizer.eos),
    )
    if synonyms > 1:
        config.digit_forms = synonyms  # kept in config.json
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    if synonyms > 1:
        _start_synonyms_near_digits(model, synonyms)
    return model


@torch.no_grad()
def _start_synonyms_near_digits(model: Model, synonyms: int) -> None:
    """Let every synonym of a digit start near it, in embedding and head: its row and half its own.

    From their own rows alone, 300 steps of pretraining with 201 synonyms learn no sums at all.
    """
    first, digits = CharTokenizer().vocab_size, CharTokenizer().encode("0123456789")
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        own = part.weight[first:]
        own.copy_(part.weight[digits].repeat(synonyms - 1, 1) + 0.5 * own)


def load(path: str | Path, dtype: str = "float32", longest: int | None = None) -> Model:
    """A causal language model from safetensors. Nothing in the folder is executed.

    Its config is changed to give logits alone, to use one rotary table whatever the batch
    (`configs.with_one_rope`), and to say of tied weights what the tensors are.

    Args:
        path: a folder, or a hub id (owner/name) where there is no such folder.
        dtype: float32 or bfloat16, of the weights. Log-probabilities are float32 either way.
        longest: tokens of the longest prompt and completion; None leaves rotary tables as they are.

    Raises:
        ConfigError: no model there, one whose weights are incomplete, too many, quantised, NaN or
            infinite, or kept in another format than safetensors or outside the folder, or one that
            needs code of its own.
    """
    path, local = str(path), is_local(str(path))
    where = {"local_files_only": local, "trust_remote_code": False}
    if not local:
        require_on_hub(path)
    try:
        config: Any = AutoConfig.from_pretrained(path, **where)
        if any(getattr(x, "quantization_config", None) is not None for x in parts_of(config)):
            raise ValueError("its weights are quantised, and such weights cannot be trained")
        check_depth(config)
        check_files(path, local, config)
        without_outputs(config)
        if longest is not None:
            with_one_rope(config, longest)
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which are named below, and not loaded
                **where,
            )
        model, report = loaded
        _check_report(model, report)
    except ConfigError:
        raise
    except Exception as e:  # whatever libraries raise at files that anybody may have made
        if is_out_of_memory(e):
            raise  # no fault of the files
        raise ConfigError(
            f"cannot load a safetensors model from {path}{offline_hint(path)}: {e}"
        ) from e
    tie_as_tensors(model)
    check_weights(model, path)
    return model.eval()  # no dropout: p_new must be the distribution that is compared with p_inf


def _check_report(model: Model, report: dict[str, Any]) -> None:
    """Raises ValueError for weights that were not loaded as the file has them."""
    if misshapen := sorted(report["mismatched_keys"], key=str):
        name, there, wanted = misshapen[0]
        more = f", and {len(misshapen) - 1} more have other shapes" if len(misshapen) > 1 else ""
        raise ValueError(
            f"{name} has the shape {tuple(there)} in the file, and {tuple(wanted)} by config.json"
            f"{more}: the two do not belong together"
        )
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        hint = _untied_hint(model, names)
        raise ValueError(f"{len(names)} weights are missing, {names[0]} among them{hint}")
    if report["unexpected_keys"]:
        names = sorted(report["unexpected_keys"])
        raise ValueError(
            f"its config.json has no place for {len(names)} of the weights, {names[0]} among "
            "them: the two do not belong together"
        )


def _untied_hint(model: Model, missing: list[str]) -> str:
    """What to do where only what is missing would come from tying embedding and head.

    transformers then starts a random head. Nothing in the file tells whether it was tied or cut.
    """
    ties = getattr(model, "_tied_weights_keys", None)
    tied = {*ties, *ties.values()} if isinstance(ties, dict) else set(ties or ())
    if not set(missing) <= tied:
        return ""
    return (
        ". config.json says that embedding and head are two tensors (tie_word_embeddings false), "
        "and the file has one: if the model was trained with both as one, set "
        '"tie_word_embeddings": true in config.json; else the file is incomplete'
    )


def tie_as_tensors(model: Model) -> None:
    """Let config.json say that embedding and head are tied where their tensors are, and only there.

    A file may hold both though the config ties them. Whoever builds a copy from the config alone
    would tie two tensors that differ.
    """
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(x is None for x in ends):
        return
    tied = ends[0].weight is ends[1].weight
    for part in (model.config, text_of(model.config)):
        if bool(getattr(part, "tie_word_embeddings", tied)) != tied:
            part.tie_word_embeddings = tied


_MAY_BE_INFINITE: dict[str, tuple[float, ...]] = {
    "_min": (-math.inf, math.inf),
    "_max": (-math.inf, math.inf),
}
_MAY_BE_INFINITE |= dict.fromkeys(("bias", "mask"), (-math.inf,))  # names of buffers end so


@torch.no_grad()
def check_weights(model: Model, path: str) -> None:
    """Refuse NaN and infinite weights, of rows that no prompt uses too; they spread in training.

    Buffers are weights as well: those of the file, and those that are computed from config.json, as
    the rotary frequencies are. What is added to logits or scores (a head's bias, a buffer that is
    called bias or mask) may be -inf: that id has probability 0. Limits (_min, _max) may be both.

    Raises:
        ConfigError: naming tensor and file.
    """
    head = model.get_output_embeddings()
    bias = None if head is None else getattr(head, "bias", None)
    kept = set(model.state_dict())
    legal = {n: (-math.inf,) if w is bias else () for n, w in model.named_parameters()}
    for name, weight in {**dict(model.named_parameters()), **dict(_computed(model))}.items():
        bad = ~weight.isfinite()
        for value in legal.get(name, _legal_in_buffer(name)):
            bad &= weight != value
        if not bool(bad.any()):
            continue
        rows = bad.flatten(1).any(1) if weight.ndim > 1 else bad.reshape(-1)
        first = int(rows.nonzero()[0])
        in_file = name in kept
        where = file_of(path, is_local(path), name) if in_file else "computed from config.json"
        remedy = (
            "the file is damaged or its training had diverged; take another copy or checkpoint"
            if in_file
            else "look at the settings of its positions there (rope_theta, rope_parameters)"
        )
        raise ConfigError(
            f"{path}: {int(bad.sum())} of {weight.numel()} values of {name} "
            f"({where}) are NaN or infinite, first in row {first}: {remedy}"
        )


def _computed(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers, kept in the file or not, and the numbers by which rotary tables are multiplied."""
    yield from model.named_buffers()
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, float) and key.endswith("attention_scaling"):
                yield f"{name}.{key}", torch.tensor(value)


def _legal_in_buffer(name: str) -> tuple[float, ...]:
    return next((legal for end, legal in _MAY_BE_INFINITE.items() if name.endswith(end)), ())


def with_lora(model: Model, cfg: ModelConfig, seed: int) -> Model:
    """Low-rank adapters on every linear layer but the head; nothing else is trained.

    They start without effect (one factor is 0). Adapters are float32 whatever the model is.
    """
    try:
        with quiet():
            from peft import LoraConfig, get_peft_model
    except ImportError as e:
        raise ConfigError(
            f"lora.rank {cfg.lora.rank} needs peft: pip install -e '.[peft]' in the checkout"
        ) from e
    lora = LoraConfig(
        r=cfg.lora.rank,
        lora_alpha=cfg.lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, lora).eval()


def check_cache(model: Model) -> None:
    """Refuse a model that cannot be sampled from, because its cache has no rows to select.

    Raises:
        ConfigError: a state-space or hybrid model, whose layers carry a state from token to token.
    """
    inner = plain(model)
    if getattr(inner, "_is_stateful", False):
        odd = ["a state that cannot be taken back"]
    else:
        layers = DynamicCache(config=inner.config).layers
        odd = sorted({type(x).__name__ for x in layers if not _selects_rows(x)})
    if odd:
        raise ConfigError(
            f"{type(inner).__name__} (model_type {inner.config.model_type}) cannot be sampled from "
            f"here: its cache holds {', '.join(odd)}. Only models whose cache can be selected by "
            "row are supported, which are those with attention in every layer"
        )


def _selects_rows(layer: Any) -> bool:
    """Layers with attention and a state select only the keys and values."""
    able = all(hasattr(layer, f"batch_{x}") for x in ("select_indices", "repeat_interleave"))
    return able and not hasattr(layer, "update_conv_state")


def check_positions(by_role: dict[str, Model], longest_prompt: int, max_new_tokens: int) -> None:
    """Refuse sequences longer than a model's positions.

    Learned positions end there; others were not trained beyond.

    Raises:
        ConfigError: says by how much.
    """
    needed = longest_prompt + max_new_tokens
    for role, model in by_role.items():
        limit = positions_of(model)
        if limit is not None and needed > limit:
            raise ConfigError(
                f"the longest prompt has {longest_prompt} tokens, with {max_new_tokens} new ones "
                f"that is {needed} tokens, and the {role} has {limit} positions: lower "
                "--rollout.max_new_tokens or --task.prompt_tokens_max"
            )


def positions_of(model: Model) -> int | None:
    """Tokens that a sequence may have; None where the model sets no limit."""
    return positions_in(plain(model).config)


def plain(model: Model) -> Model:
    """The transformers model itself, adapters (if any) in its layers; nothing is copied."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def enable_recomputing(model: Model) -> None:
    """Let `recomputing` save the memory of this model's activations.

    Raises:
        ConfigError: a model without that, or one with dropout, which would then be switched on.
    """
    parts = {id(x): x.to_dict() for x in (plain(model).config, text_of(plain(model).config))}
    given = {k: v for part in parts.values() for k, v in part.items() if "drop" in k}
    on = [k for k, v in given.items() if isinstance(v, (int, float)) and v is not True and v > 0]
    if on:
        raise ConfigError(
            f"--run.activation_checkpointing True: the model has dropout ({', '.join(on)}), which "
            "it would switch on; set it to 0 in the model's config.json"
        )
    try:
        with quiet():
            plain(model).gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as e:
        raise ConfigError(f"--run.activation_checkpointing True: {e}") from e


@contextmanager
def recomputing(model: Model) -> Iterator[None]:
    """A forward pass within keeps no activations of layers, if that is enabled and it has a
    gradient. Layers ask for it by their training mode, which is off otherwise."""
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    layers = layers if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def frozen_copy(model: Model) -> Model:
    """A copy that shares no memory and takes no gradient, adapters merged into its weights.

    With adapters it is float32 whatever the model is: see `merged`.
    """
    other = copy.deepcopy(model)
    if hasattr(other, "merge_and_unload"):
        other = merged(other)
    return other.requires_grad_(False).eval()


def merged(model: Model) -> Model:
    """The model with its adapters merged into its weights, in float32; the given one is used up.

    In float32 because a sum that is rounded to bfloat16 keeps only a part of a small change.
    """
    return model.float().merge_and_unload().eval()


@torch.no_grad()
def rounding_loss(model: Model, base: Model, dtype: str) -> float:
    """Share of the change from `base` that rounding `model` to `dtype` loses: the norm of what
    rounding takes, over the norm of the change; over all weights that changed. 0 without change."""
    kind, lost, change = getattr(torch, dtype), 0.0, 0.0
    for own, other in zip(model.parameters(), base.parameters(), strict=True):
        difference = own.double() - other.double()
        if bool(difference.any()):
            lost += float((own.to(kind).double() - own.double()).square().sum())
            change += float(difference.square().sum())
    return (lost / change) ** 0.5 if change else 0.0


def logits_width(model: Model) -> int:
    """Token ids that the model gives a probability; padding of the vocabulary included."""
    return int(plain(model).get_output_embeddings().weight.shape[0])


def restrict_ids(model: Model, ids: int) -> None:
    """Leave the first `ids` token ids to a model; the others are padding of its vocabulary.

    Their rows go, in embedding and head. So a distribution is over ids that the tokenizer has, for
    sampler and scorer and for every model alike, and models of one family that are padded to
    different sizes can be compared.
    """
    with quiet():
        model.resize_token_embeddings(ids, mean_resizing=False)
    text_of(model.config).vocab_size = ids


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log lines and warnings by which libraries tell each other of their versions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)


def seed_of(cfg: Config, role: str) -> int:
    """Of the weights that a role starts with: policy and actor differ."""
    return cfg.run.seed * 2 + (role == "actor")
