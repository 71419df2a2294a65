"""End to end beside TRL's GRPOTrainer: tokens/s of on-policy GRPO on the CPU, one thread.

    make bench-trl        (its environment: .venv-trl)
    .venv-trl/bin/python benchmarks/beside_trl.py [--quick] [--repeats 3] [--profile] [--json FILE]

Both trainers load the same random Qwen3 in float32 and its tokenizer from a folder, see prompts of
one file, sample `PROMPTS` groups of `GROUP` completions at temperature 1 until one of many end
tokens (so lengths are ragged, and equal in distribution) and take one AdamW step on the clipped
GRPO loss per token, without KL, from rewards that are a comparison of the last number in the text.
TRL's defaults that cost time are off: bfloat16, gradient checkpointing, logging, saving. Ours is
`llm.train.train` itself with `actor.type = self`, its log-probabilities and metrics included.

Tokens are completion tokens. A run's first `WARM` steps are left out, and its last, which saves.
Processor seconds of all threads; runs in turns; the median of the ratios and their range.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from llm import settings as config
from llm import train
from llm.rewards.scorers import same_number
from llm.runs import run_folder
from llm.settings.paths import path_of
from llm.training import run as run_steps

PROMPTS, GROUP, PROMPT_TOKENS = 4, 8, 16
STEPS, WARM = 7, 2
RATE = 1e-6  # of learning: lengths must stay as they are
TARGET = 1.4


class TrlCase(NamedTuple):
    """new: most tokens of a completion. ends: one in so many ids ends it."""

    name: str
    layers: int
    width: int
    vocabulary: int
    new: int
    ends: int


CASES = [
    TrlCase("4 layers of 128, vocabulary 4,096", 4, 128, 4096, 96, 32),
    TrlCase("8 layers of 512, vocabulary 32,768", 8, 512, 32_768, 96, 32),
]
QUICK = [TrlCase("2 layers of 64, vocabulary 512", 2, 64, 512, 16, 8)]
Steps = list[tuple[int, float]]  # completion tokens, seconds


def write(folder: Path, case: TrlCase) -> None:
    """Model, tokenizer and problems. Every id's text ends in a number of 0 to 3, the answer is 0:
    a quarter of the finished completions are right."""
    ends = case.vocabulary // case.ends
    words = {f"w{i}:{i % 4}": i for i in range(case.vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0:0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = list(words)
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=names[0], eos_token=names[1], unk_token=names[0]
    ).save_pretrained(folder)
    torch.manual_seed(0)
    made = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=case.vocabulary,
            hidden_size=case.width,
            intermediate_size=3 * case.width,
            num_hidden_layers=case.layers,
            num_attention_heads=case.width // 32,
            num_key_value_heads=case.width // 64,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    made.generation_config.eos_token_id = list(range(1, ends + 1))
    made.generation_config.pad_token_id = 0
    made.save_pretrained(folder)
    rng = random.Random(0)
    rows = [
        {"prompt": " ".join(rng.choices(names[ends + 1 :], k=PROMPT_TOKENS)), "answer": "0"}
        for _ in range(256)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ours(folder: Path, case: TrlCase, scratch: Path, seed: int) -> Steps:
    flags = [
        "--policy.path", str(folder), "--actor.type", "self", "--correction.type", "none",
        "--task.type", "problems", "--task.source", str(folder / "problems.jsonl"),
        "--reward.type", "number",
        "--rollout.prompts_per_step", str(PROMPTS), "--rollout.rollouts_per_prompt", str(GROUP),
        "--rollout.max_new_tokens", str(case.new), "--optim.policy_lr", str(RATE),
        "--run.folder", str(scratch), "--run.steps", str(STEPS), "--run.eval_prompts", "4",
        "--run.eval_every", str(STEPS), "--run.checkpoint_every", str(STEPS),
        "--run.keep_best", "False", "--run.device", "cpu", "--run.seed", str(seed),
    ]  # fmt: skip
    cfg = config.load([], flags)
    steps: Steps = []
    clock, text = time.process_time(), run_steps.progress_text

    def noted(row: dict) -> str:
        """Called once at the end of each step."""
        nonlocal clock
        now = time.process_time()
        steps.append((row["tokens"], now - clock))
        clock = now
        return text(row)

    run_steps.progress_text = noted
    try:
        prepared = run_folder.prepare(cfg)
        train.train(cfg, prepared)
    finally:
        run_steps.progress_text = text
        run_folder.release(scratch)
    return steps


def theirs(folder: Path, case: TrlCase, scratch: Path, seed: int) -> Steps:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[int] = []

    def right(completions: list[str], completion_ids: list, answer: list[str], **_) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [float(same_number(c, a)) for c, a in zip(completions, answer, strict=True)]

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: Steps = []

        def on_train_begin(self, *args, **kwargs) -> None:
            self.last = time.process_time()

        def on_step_end(self, *args, **kwargs) -> None:
            now = time.process_time()
            self.steps.append((sum(lengths), now - self.last))
            self.last = now
            lengths.clear()

    rows = [json.loads(x) for x in (folder / "problems.jsonl").read_text().splitlines()]
    settings = GRPOConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=case.new,
        max_steps=STEPS,
        seed=seed,
        beta=0.0,
        loss_type="dapo",  # per token of the batch, as ours
        temperature=1.0,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    clock = Clock()
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=right,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
        callbacks=[clock],
    )
    trainer.train()
    return clock.steps


def rate(steps: Steps) -> float:
    """Tokens per second of the steady steps."""
    tokens, seconds = zip(*steps[WARM:-1], strict=True)
    return sum(tokens) / sum(seconds)


def silently(work: Callable[..., Steps], *args: object, profile: bool) -> Steps:
    """Without what trainers print; its profile instead, if that is wanted."""
    watch, said = cProfile.Profile(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            steps = watch.runcall(work, *args) if profile else work(*args)
    except BaseException:
        sys.stderr.write(said.getvalue())
        raise
    if profile:
        print(f"--- {work.__name__}")
        pstats.Stats(watch).sort_stats("tottime").print_stats(15)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="where each spends its time")
    parser.add_argument("--json", type=path_of)
    args = parser.parse_args()
    try:
        import trl
    except ImportError:
        sys.exit("error: TRL is not in this environment: make bench-trl builds one that has it")
    torch.set_num_threads(1)
    print(f"TRL {trl.__version__}, torch {torch.__version__}, {PROMPTS} x {GROUP} completions")
    results = []
    for case in QUICK if args.quick else CASES:
        ratios = []
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write(folder, case)
            for turn in range(args.repeats):
                rates = {}
                for work in (ours, theirs) if turn % 2 else (theirs, ours):
                    out = Path(scratch) / f"{work.__name__}{turn}"
                    steps = silently(work, folder, case, out, turn, profile=args.profile)
                    rates[work] = rate(steps)
                    mean = statistics.fmean(n for n, _ in steps) / (PROMPTS * GROUP)
                    print(f"{work.__name__:7}{rates[work]:9.0f} tokens/s, mean length {mean:.1f}")
                ratios.append(rates[ours] / rates[theirs])
        ratio, spread = statistics.median(ratios), [round(x, 3) for x in (min(ratios), max(ratios))]
        name = f"tokens/s of on-policy GRPO over TRL's, {case.name}"
        print(
            f"{name}: {ratio:.2f} ({spread[0]:.2f} to {spread[1]:.2f}), aim {TARGET:g}", flush=True
        )
        met = ratio >= TARGET
        entry = {"name": name, "ratio": round(ratio, 3), "target": TARGET, "met": met}
        results.append(entry | {"spread": spread})
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
