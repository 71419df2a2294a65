"""Our sampler against `model.generate(output_scores=True)`; two-level draws against multinomial.

    python benchmarks/rollout.py [--quick] [--repeats 3] [--json FILE]

tokens/s of `rollout.sample` over those of generate, both sampling from softmax(logits / T) and both
returning tokens with log-probabilities of the sampled and of the 20 likeliest tokens: 128 ragged
completions of a tiny model, and 16 of SmolLM2-135M where runs/smollm2/model is. An end token of
about constant probability makes lengths geometric. Draws: `inverse_cdf` over `torch.multinomial`,
rows of 151,936 ids, from log-probabilities either way. All in turns in one process, processor
seconds of its one thread; the median of the ratios and their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from jackpot.torch.logprobs import chosen
from llm.models import loading
from llm.rollout.sampling import inverse_cdf, sample
from llm.settings.paths import path_of
from llm.tasks.problem import Problem
from llm.tokenizers.character import CharTokenizer
from llm.tokenizers.pretrained import HubTokenizer

with loading.quiet():
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

TOP_K = 20
SMOLLM2 = Path(__file__).parents[1] / "runs/smollm2/model"
VOCABULARY = 151_936
TARGETS = {"tiny": 1.8, "smollm2": 1.3, "draws": 7.0}


class Ending:
    """A tokenizer whose completions end at any of several ids: ragged lengths of a random model."""

    def __init__(self, inner, ends: list[int]) -> None:
        self.inner, self.pad, self.eos = inner, inner.pad, frozenset(ends)

    def prompt(self, text: str) -> list[int]:
        return self.inner.prompt(text)


def ours(model, tokenizer, problems, new: int, group: int, seed: int) -> int:
    """Tokens sampled."""
    batch = sample(
        model,
        tokenizer,
        problems,
        np.random.default_rng(seed),
        max_new_tokens=new,
        temperature=0.8,
        top_k=TOP_K,
        group=group,
    )
    return int(batch.is_completion.sum())


@torch.no_grad()
def theirs(model, tokenizer, problems, new: int, group: int, seed: int) -> int:
    """The same with generate, whose scores are the logits after temperature."""
    prompts = [tokenizer.prompt(p.prompt) for p in problems]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), tokenizer.pad)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    torch.manual_seed(seed)
    settings = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new,
        num_return_sequences=group,
        eos_token_id=sorted(tokenizer.eos),
        pad_token_id=tokenizer.pad,
        output_scores=True,
        return_dict_in_generate=True,
    )
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    taken = out.sequences[:, width:]
    for i, scores in enumerate(out.scores):
        logq = torch.log_softmax(scores.float(), dim=-1)
        chosen(logq, taken[:, i])
        logq.topk(TOP_K, dim=-1)
    ends = torch.isin(taken, torch.tensor(sorted(tokenizer.eos)))
    return int((ends.cumsum(dim=1) - ends.long() == 0).sum())


def in_turns(fast: Callable[[int], int], slow: Callable[[int], int], repeats: int) -> list[float]:
    """Rate of `fast` over that of `slow`, once for each repeat; the first round is not counted."""
    ratios = []
    for i in range(repeats + 1):
        rates = []
        for work in (fast, slow) if i % 2 else (slow, fast):
            clock = time.process_time()
            done = work(i)
            rates.append(done / (time.process_time() - clock))
        ratio = rates[0] / rates[1] if i % 2 else rates[1] / rates[0]
        ratios += [ratio] if i else []
    return ratios


def tiny(repeats: int, quick: bool) -> list[float]:
    size: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=512, pad_token_id=0, **size, **heads)).eval()
    tokenizer = Ending(CharTokenizer(), list(range(1, 17)))  # ends once in 32 tokens
    problems = [Problem("1234567890"[: 3 + i % 8] + "=", "") for i in range(16)]
    new = 32 if quick else 96
    return in_turns(
        lambda i: ours(model, tokenizer, problems, new, 8, i),
        lambda i: theirs(model, tokenizer, problems, new, 8, i),
        repeats,
    )


def smollm2(repeats: int, quick: bool) -> list[float]:
    model = loading.load(SMOLLM2)
    inner = HubTokenizer(str(SMOLLM2))
    tokenizer = Ending(inner, sorted({*inner.eos, *inner.encode(".,\n"), *inner.encode(" the")}))
    asked = ["Name three rivers.", "What is 12 + 30?", "Why is the sky blue?", "Tell me a story."]
    new, group = (12, 2) if quick else (32, 4)
    return in_turns(
        lambda i: ours(model, tokenizer, [Problem(x, "") for x in asked], new, group, i),
        lambda i: theirs(model, tokenizer, [Problem(x, "") for x in asked], new, group, i),
        repeats,
    )


def draws(repeats: int, quick: bool) -> list[float]:
    rows = 8 if quick else 32
    torch.manual_seed(0)
    logq = torch.log_softmax(4 * torch.randn(rows, VOCABULARY), dim=-1)

    def fast(i: int) -> int:
        return len(inverse_cdf(logq, torch.rand(rows, dtype=torch.float64)))

    return in_turns(fast, lambda i: len(torch.multinomial(logq.exp(), 1)), repeats)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=path_of)
    given = parser.parse_args()
    torch.set_num_threads(1)
    titles = {
        "tiny": "rollout tokens/s over generate, tiny model, 128 ragged completions",
        "smollm2": "rollout tokens/s over generate, SmolLM2-135M, 16 ragged completions",
        "draws": f"two-level draws/s over torch.multinomial, {VOCABULARY:,} ids",
    }
    results = []
    measures = {"tiny": tiny, "draws": draws, "smollm2": smollm2}
    for name, measure in measures.items():
        if name == "smollm2" and not SMOLLM2.is_dir():
            sys.stdout.write(f"{SMOLLM2} is not there: python -m llm fetch smollm2\n")
            continue
        ratios = measure(given.repeats, given.quick)
        ratio, target = statistics.median(ratios), TARGETS[name]
        spread = [round(min(ratios), 3), round(max(ratios), 3)]
        results.append(
            {
                "name": titles[name],
                "ratio": round(ratio, 3),
                "target": target,
                "met": ratio >= target,
                "spread": spread,
            }
        )
        low, high = spread
        sys.stdout.write(
            f"{titles[name]:72} {ratio:6.2f} ({low:.2f} to {high:.2f}), target {target:g}\n"
        )
        sys.stdout.flush()
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
