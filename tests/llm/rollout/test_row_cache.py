"""Rows of a cache are cut back by themselves, and go on as if they had never been longer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import MambaConfig, Qwen3Config, Qwen3ForCausalLM

from llm.errors import ConfigError
from llm.rollout.row_cache import RowCache, check_cuts


def model(**settings: Any) -> Any:
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 2, "vocab_size": 11}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**small, **settings)).eval()


WINDOW = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, WINDOW], ids=["full attention", "a window of 4"])
def test_logits_after_ragged_cuts_are_those_of_a_pass_without_a_cache(settings):
    """Prompts of 1, 3 and 6 tokens; reads of several tokens, cuts by 0 to 3, a row that leaves."""
    m, rng = model(**settings), torch.Generator().manual_seed(0)
    texts = [torch.randint(11, (n,), generator=rng).tolist() for n in (1, 3, 6)]
    ids = torch.tensor([[0] * (6 - len(x)) + x for x in texts])
    is_real = torch.tensor([[False] * (6 - len(x)) + [True] * len(x) for x in texts])
    cache = RowCache(m, torch.tensor([30, 30, 30]))
    cache.read_prompts(ids[:, :-1], is_real[:, :-1], group=1)
    new = ids[:, -1:]
    for rows, back in (([0, 1, 2], [3, 0, 1]), ([2, 0], [2, 2]), ([0, 1], [0, 1])):
        more = torch.randint(11, (len(texts), 4), generator=rng)
        logits = cache.read(torch.cat([new, more], dim=1), keep=4)
        texts = [x + row.tolist() for x, row in zip(texts, more, strict=True)]
        for text, found in zip(texts, logits, strict=True):
            whole = m(input_ids=torch.tensor([text])).logits[0, -4:]
            assert torch.allclose(found, whole, atol=1e-5)
        texts = [texts[i][: len(texts[i]) - n] for i, n in zip(rows, back, strict=True)]
        # the last token of each row is read again, so the cache must not hold it
        cache.cut(torch.tensor(rows), torch.tensor([len(x) - 1 for x in texts]))
        new = torch.tensor([x[-1:] for x in texts])
        assert cache.width == max(len(x) - 1 for x in texts)


def test_a_group_shares_the_pass_of_its_prompt():
    m, seen = model(), []
    m.register_forward_pre_hook(
        lambda _, args, words: seen.append(tuple(words["input_ids"].shape)), with_kwargs=True
    )
    cache = RowCache(m, torch.tensor([9] * 6))
    with torch.no_grad():
        cache.read_prompts(torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2).bool(), group=3)
    assert seen == [(2, 2)] and cache.held.tolist() == [2] * 6 and cache.width == 2


def test_padding_beyond_the_last_position_has_that_position():
    """Learned positions end there, and an index beyond them would be an error."""
    m, seen = model(), []
    m.register_forward_pre_hook(
        lambda _, args, words: seen.append(words["position_ids"].tolist()), with_kwargs=True
    )
    with torch.no_grad():
        RowCache(m, torch.tensor([1, 5])).read(torch.tensor([[1, 2, 3], [1, 2, 3]]), keep=1)
    assert seen == [[[0, 1, 1], [0, 1, 2]]]


def test_a_model_whose_cache_holds_a_state_is_refused():
    mamba: Any = SimpleNamespace(config=MambaConfig(num_hidden_layers=1))
    with pytest.raises(ConfigError, match="cannot be cut"):
        check_cuts(mamba)
