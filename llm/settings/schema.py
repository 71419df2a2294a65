"""Every setting of a run: its section, its default and its meaning (which is its --help).

A section whose settings depend on a choice is a union: one class for each choice, named by `type`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .renamed import RENAMED


@dataclass(frozen=True)
class TaskSection:
    """What every task answers; a type declares as fields those that can be chosen."""

    pool: int = 0
    """Number of different prompts that are trained on, the first that run.seed gives; 0: no limit.
    Settings that go by a prompt's history (rollout.allocation, rollout.pruning.prompt_rate) need a
    pool."""

    @property
    def digit_synonyms(self) -> int:
        return 1

    @property
    def prompt_format(self) -> Literal["auto", "chat", "plain"]:
        return "auto"

    @property
    def prompt_tokens_max(self) -> int:
        return 1024

    @property
    def instruction(self) -> str:
        return ""

    @property
    def system_prompt(self) -> str:
        return ""

    @property
    def template_arguments(self) -> str:
        return ""


@dataclass(frozen=True)
class _OfNumbers(TaskSection):
    digits_min: int = 8
    """Fewest digits in a prompt; for add and arithmetic, fewest digits in each number."""
    digits_max: int = 8
    """Most digits in a prompt; for add and arithmetic, most digits in each number."""


@dataclass(frozen=True)
class _InCharacters(_OfNumbers):
    digit_synonyms: int = 1
    """Characters that each digit of an answer may be written with; any of them counts. A built
    model then has 48 + 10 (digit_synonyms - 1) token ids: 2,048 with 201."""


@dataclass(frozen=True)
class _InWords(TaskSection):
    instruction: str = ""
    """Text that is put after every prompt, on a line of its own."""
    prompt_format: Literal["auto", "chat", "plain"] = "auto"
    """How a prompt becomes tokens. auto: by the tokenizer's chat template, if it has one."""
    system_prompt: str = ""
    """System message before every prompt that has none of its own; needs a chat template."""
    template_arguments: str = ""
    """Arguments of the chat template: "enable_thinking=false, effort=high". true and false, numbers
    and texts; a text with a comma stands in double quotes."""


@dataclass(frozen=True)
class _FromRows(_InWords):
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What a bad row does: it stops the run before it starts, or it is skipped and counted."""
    prompt_tokens_max: int = 1024
    """Longer prompts are bad rows."""


@dataclass(frozen=True)
class DigitTask(_InCharacters):
    """Digits, answered by their running sums modulo 10 (chain), sorted, or reversed."""

    type: Literal["chain", "sort", "reverse"] = "chain"
    """The task."""
    pad_prompt_to: int = 0
    """Prompts of fewer digits are filled up to so many places with ".", so a digit keeps its
    distance to its place in the answer and tiny models can learn several lengths at once. At least
    digits_max and above digits_min; 0: no filling."""


@dataclass(frozen=True)
class AddTask(_InCharacters):
    """The sum of two numbers."""

    type: Literal["add"] = "add"
    """The task."""


@dataclass(frozen=True)
class ArithmeticTask(_OfNumbers, _InWords):
    """The sum of two numbers, asked in words, for a model that reads."""

    type: Literal["arithmetic"] = "arithmetic"
    """The task."""


@dataclass(frozen=True)
class ProblemsTask(_FromRows):
    """Rows of a data set."""

    type: Literal["problems"] = "problems"
    """The task."""
    source: str = ""
    """A .jsonl or .parquet file, a hub dataset id, or gsm8k, math, deepscaler, dapo, math500, amc,
    aime24, aime25; a file with a preset's columns and answers: gsm8k:train.jsonl. Must be given."""
    split: str = ""
    """Split of a hub dataset from which training prompts come; empty: a preset's only one, else
    train."""
    eval_source: str = ""
    """Held-out problems, one set or several: math500,aime24:FILE.jsonl, own=FILE.jsonl. Each set
    has its own mean@k and pass@k. Empty: an eighth of `source`, chosen by a hash of the prompt."""
    eval_split: str = ""
    """Split of the hub datasets in `eval_source`; empty: a preset's only one, else test."""
    prompt_column: str = ""
    """Column of the prompt, a text or a list of messages; empty: the preset's, else "prompt"."""
    answer_column: str = ""
    """Column of the answer, inside others too (reward_model.ground_truth); empty: the preset's,
    else "answer"."""


@dataclass(frozen=True)
class GymTask(_FromRows):
    """A reasoning-gym generator."""

    type: Literal["gym"] = "gym"
    """The task."""
    generator: Literal[
        "chain_sum",
        "basic_arithmetic",
        "products",
        "gcd",
        "lcm",
        "count_bits",
        "spell_backward",
        "simple_equations",
    ] = "chain_sum"
    """Name of the generator; only generators that are scored without running the answer are
    offered."""
    size: int = 10000
    """Number of problems that are generated."""


TaskConfig = DigitTask | AddTask | ArithmeticTask | ProblemsTask | GymTask


class RewardSection:
    """What every reward answers."""


@dataclass(frozen=True)
class AutoReward(RewardSection):
    """number for arithmetic, math_verify for problems, else exact."""

    type: Literal["auto"] = "auto"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""


@dataclass(frozen=True)
class ExactReward(RewardSection):
    """1 for the same text (with a model's own tokenizer, but for space around it), else 0."""

    type: Literal["exact"] = "exact"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""


@dataclass(frozen=True)
class EndingReward(RewardSection):
    """1 if the last characters are those of the answer, whatever stands before them, else 0."""

    type: Literal["ending"] = "ending"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""
    characters: int = 2
    """Number of last characters that must be the answer's."""


@dataclass(frozen=True)
class NumberReward(RewardSection):
    """1 if the last number in the text, or in its last box, equals the answer's, else 0."""

    type: Literal["number"] = "number"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""


@dataclass(frozen=True)
class MathVerifyReward(RewardSection):
    """1 if the final expression equals the answer as mathematics, else 0."""

    type: Literal["math_verify"] = "math_verify"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""
    seconds: float = 1.0
    """Time for one answer; after it the score is 0."""
    characters_max: int = 4000
    """Only so many of the last characters of an answer are read."""
    workers: int = 2
    """Number of processes that score, on each rank."""


@dataclass(frozen=True)
class OwnReward(RewardSection):
    """A function of the user's, of finished and unfinished completions."""

    batched: bool = False
    """Whether it is called once for all completions of a step and rank: each argument is then a
    list, and it returns a list of rewards."""
    on_error: Literal["zero", "stop"] = "zero"
    """What a reward that fails (exception, no finite number, time, memory) does: it counts as 0, or
    it stops the run."""

    @property
    def name(self) -> str:
        """Which function."""
        raise NotImplementedError


@dataclass(frozen=True)
class FunctionReward(OwnReward):
    """A function of your own, called in worker processes. Giving reward.function is enough."""

    CHOSEN_BY: ClassVar[str] = "function"

    type: Literal["function"] = "function"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""
    function: str = ""
    """FILE.py:NAME or package.module:NAME. It is called with prompt, completion, answer, finished
    and the row's other columns, and returns a float. Its code is executed. Must be given."""
    seconds: float = 10.0
    """Time for one call; after it the reward is 0 and the worker is replaced."""
    memory: int = 4096
    """MiB of address space of each worker, the function's own imports included; 0: no limit."""
    workers: int = 2
    """Number of processes that call it, on each rank."""

    @property
    def name(self) -> str:
        return self.function


@dataclass(frozen=True)
class PythonReward(OwnReward):
    """The callable of llm.train(cfg, reward=...), called in this process; giving it is enough."""

    type: Literal["python"] = "python"
    """What gives a completion's reward: a scorer, which compares a finished completion with the
    right answer, or a function of your own (docs/rewards.md)."""
    callable: str = ""
    """Name of the callable, which llm.train fills in."""

    @property
    def name(self) -> str:
        return self.callable


RewardConfig = (
    AutoReward
    | ExactReward
    | EndingReward
    | NumberReward
    | MathVerifyReward
    | FunctionReward
    | PythonReward
)


@dataclass(frozen=True)
class NoAdapters:
    """All weights are trained."""

    type: Literal["none"] = "none"
    """What is trained of a model. Giving lora.rank is enough to choose adapters."""

    @property
    def rank(self) -> int:
        return 0

    @property
    def alpha(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters on every linear layer (LoRA, peft)."""

    CHOSEN_BY: ClassVar[str] = "rank"

    type: Literal["adapters"] = "adapters"
    """What is trained of a model. Giving lora.rank is enough to choose adapters."""
    rank: int = 16
    """Rank of the low-rank adapters that are trained on every linear layer."""
    alpha: float = 32.0
    """Scale of the adapters: they are multiplied by alpha / rank."""


LoraConfig = NoAdapters | Adapters


@dataclass(frozen=True)
class ModelConfig:
    path: str = ""
    """Folder or hub id of a transformers causal language model (safetensors); empty: build one over
    the character alphabet and pretrain it on noisy demonstrations."""
    layers: int = 2
    """Decoder layers of a built model (Qwen3 architecture)."""
    width: int = 64
    """Hidden size of a built model; must be a multiple of 16."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations. A trained bfloat16 model keeps float32 master weights."""

    @property
    def lora(self) -> LoraConfig:
        return NoAdapters()


@dataclass(frozen=True)
class TrainedModelConfig(ModelConfig):
    lora: LoraConfig = NoAdapters()
    """Which weights are trained: the model's own, or those of adapters."""


@dataclass(frozen=True)
class UnitWeight:
    """F(r) = 1: no weight."""

    type: Literal["none"] = "none"
    """F of Sec. 2.2, a function of the ratio r = p / q of a sampled token."""


@dataclass(frozen=True)
class ImportanceWeight:
    """F(r) = r: importance sampling, as AReaL."""

    type: Literal["importance"] = "importance"
    """F of Sec. 2.2, a function of the ratio r = p / q of a sampled token."""


@dataclass(frozen=True)
class TisWeight:
    """F(r) = min(r, cap): truncated importance sampling."""

    type: Literal["tis"] = "tis"
    """F of Sec. 2.2, a function of the ratio r = p / q of a sampled token."""
    cap: float = 2.0
    """Largest weight."""


@dataclass(frozen=True)
class IcePopWeight:
    """F(r) = r within a band and 0 outside it: IcePop."""

    type: Literal["icepop"] = "icepop"
    """F of Sec. 2.2, a function of the ratio r = p / q of a sampled token."""
    low: float = 0.5
    """Smallest ratio that is kept."""
    high: float = 2.0
    """Largest ratio that is kept; inf: none is too large (low must then be above 0)."""


Weight = UnitWeight | ImportanceWeight | TisWeight | IcePopWeight


@dataclass(frozen=True)
class NoDistillation:
    """The actor learns by PPO alone."""

    type: Literal["none"] = "none"
    """Distillation of the policy into the actor."""

    @property
    def coef(self) -> float:
        return 0.0

    @property
    def top_k(self) -> int:
        return 0

    @property
    def temperature(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Distillation:
    """KL(policy || actor), Eq. 7 (forward); KL(actor || policy) (reverse)."""

    type: Literal["forward", "reverse"] = "forward"
    """Distillation of the policy into the actor."""
    coef: float = 1.0
    """Weight of this KL in the actor's loss. The paper gives no value."""
    top_k: int = 0
    """Number of the policy's likeliest tokens that are distilled one by one, with one bucket for
    the rest; 0: full vocabulary."""
    temperature: float = 1.0
    """Temperature by which both models' logits are divided once more in this loss, which is
    multiplied by its square."""


Distill = NoDistillation | Distillation


class ActorSection:
    """What every actor answers; a type declares as fields those that can be chosen."""

    @property
    def trained(self) -> bool:
        return False

    @property
    def ppo(self) -> bool:
        return False


class _NotTrained(ActorSection):
    @property
    def distill(self) -> Distill:
        return NoDistillation()


@dataclass(frozen=True)
class _OtherModel(ModelConfig):
    layers: int = 1
    """Decoder layers of a built model (Qwen3 architecture)."""
    width: int = 32
    """Hidden size of a built model; must be a multiple of 16."""


@dataclass(frozen=True)
class SeparateActor(_OtherModel, TrainedModelConfig, ActorSection):
    """Another model, trained by Eq. 6 and 7."""

    type: Literal["separate"] = "separate"
    """Where the model that samples comes from."""
    lr: float = 6e-4
    """Learning rate (AdamW, betas 0.9 and 0.95); optim.schedule and lr_warmup_steps apply."""
    ppo: bool = True
    """Whether the actor is trained by PPO on its own rollouts (Eq. 6)."""
    clip_low: float = 0.2
    """Eq. 6 clips the actor's ratio below at 1 - clip_low; inf: no clip."""
    clip_high: float = 0.2
    """Eq. 6 clips the actor's ratio above at 1 + clip_high; inf: no clip."""
    correction: Weight = field(default_factory=UnitWeight)
    """F of Eq. 6: weight of its tokens where what sampled is not quite what is trained
    (p_actor / p_inf): rollouts that are stale, of another engine than hf, or of a bfloat16 actor.
    The PPO ratio is then to p_actor before the updates."""
    distill: Distill = field(default_factory=Distillation)
    """KL(policy || actor) in its loss (Eq. 7)."""

    @property
    def trained(self) -> bool:
        return True


@dataclass(frozen=True)
class FrozenActor(_OtherModel, _NotTrained):
    """Another model, not trained."""

    type: Literal["frozen"] = "frozen"
    """Where the model that samples comes from."""


@dataclass(frozen=True)
class StaleActor(_NotTrained):
    """The policy of some steps ago."""

    type: Literal["stale"] = "stale"
    """Where the model that samples comes from."""
    lag: int = 4
    """Age in steps (each of updates_per_rollout updates); at first the initial policy."""


@dataclass(frozen=True)
class QuantizedActor(_NotTrained):
    """The policy's copy in fewer bits."""

    type: Literal["quantized"] = "quantized"
    """Where the model that samples comes from."""
    bits: Literal[8, 4] = 8
    """Bits of the linear layers' weights, the head's included, the embedding's not (torchao, weight
    only)."""


@dataclass(frozen=True)
class EarlyExitActor(_NotTrained):
    """The policy's first layers and its head."""

    type: Literal["early_exit"] = "early_exit"
    """Where the model that samples comes from."""
    exit_layers: int = 1
    """Layers kept, fewer than the policy has."""


@dataclass(frozen=True)
class NoisyActor(_NotTrained):
    """The policy's weights with noise."""

    type: Literal["noisy"] = "noisy"
    """Where the model that samples comes from."""
    noise: float = 0.03
    """Standard deviation over the root mean square of each weight matrix."""


@dataclass(frozen=True)
class SelfActor(_NotTrained):
    """The policy itself (on-policy)."""

    type: Literal["self"] = "self"
    """Where the model that samples comes from."""


ActorConfig = (
    SeparateActor
    | FrozenActor
    | StaleActor
    | QuantizedActor
    | EarlyExitActor
    | NoisyActor
    | SelfActor
)


@dataclass(frozen=True)
class PretrainConfig:
    folder: str = ""
    """Where pretrained models are kept and found again, each in a folder of its own recipe, so that
    runs of any settings may share it; empty: inside the run folder. Needs a model that is
    pretrained."""
    policy_steps: int = 400
    """Supervised steps of the policy before reinforcement learning."""
    actor_steps: int = 600
    """Supervised steps of the actor."""
    batch_size: int = 128
    """Demonstrations per supervised step."""
    lr: float = 3e-3
    """Highest learning rate of both models (Adam); it rises over 20 steps, then falls linearly to a
    tenth."""
    policy_error: float = 0.15
    """Share of steps at which a demonstration for the policy goes wrong (and stays wrong)."""
    actor_error: float = 0.25
    """Share of such steps for the actor: more errors make a weaker actor and a larger mismatch."""


@dataclass(frozen=True)
class HfEngineConfig:
    """transformers in this process, with the actor's own model."""

    type: Literal["hf"] = "hf"
    """What samples. Each rank has one, on its own device."""


@dataclass(frozen=True)
class ProcessEngineConfig:
    """transformers in a process of its own with a copy of the model, which can sample while this
    process trains."""

    type: Literal["process"] = "process"
    """What samples. Each rank has one, on its own device."""
    timeout: float = 600.0
    """Seconds without an answer after which the engine's process counts as hung and is replaced.
    The start of vLLM counts."""


@dataclass(frozen=True)
class VllmEngineConfig(ProcessEngineConfig):
    """vLLM in a process of its own."""

    type: Literal["vllm"] = "vllm"  # type: ignore[assignment]
    """What samples. Each rank has one, on its own device."""
    memory: float = 0.4
    """Share of the GPU's memory that it may take, its weights and cache together."""


EngineConfig = HfEngineConfig | ProcessEngineConfig | VllmEngineConfig


@dataclass(frozen=True)
class PlainMode:
    """The actor alone samples, token by token."""

    type: Literal["plain"] = "plain"
    """How completions are sampled."""


@dataclass(frozen=True)
class FixedBlock:
    """Every block has as many tokens."""

    type: Literal["fixed"] = "fixed"
    """How many tokens the actor drafts before the policy verifies them."""
    length: int = 4
    """Tokens of a block."""

    @property
    def longest(self) -> int:
        """Tokens of the longest block."""
        return self.length


@dataclass(frozen=True)
class AdaptiveBlock:
    """After a block that is accepted to its end one of twice its length; after another one of a
    token more than were accepted. Each sequence by itself."""

    type: Literal["adaptive"] = "adaptive"
    """How many tokens the actor drafts before the policy verifies them."""
    length: int = 2
    """Tokens of a sequence's first block."""
    length_max: int = 8
    """Most tokens of a block."""

    @property
    def longest(self) -> int:
        """Tokens of the longest block."""
        return self.length_max


@dataclass(frozen=True)
class FixedDraftLam:
    """The same lam in every state."""

    type: Literal["fixed"] = "fixed"
    """Where the threshold lam of the acceptance min(1, p / (lam q)) comes from."""
    value: float = 1.0
    """lam, at most 1. At 1 completions follow the policy exactly; below it more is accepted, p / s
    is at least lam, and their distribution s lies between policy and actor."""


@dataclass(frozen=True)
class StateDraftLam:
    """In every state the largest lam that accepts `budget`, and 1 where that accepts more."""

    type: Literal["state"] = "state"
    """Where the threshold lam of the acceptance min(1, p / (lam q)) comes from."""
    budget: float = 0.9
    """Least acceptance rate in every state, as far as tokens with p > 0 allow."""


@dataclass(frozen=True)
class TrackedDraftLam:
    """The same lam in every state of a step, from the acceptance rates of the steps before. It
    starts at 1."""

    type: Literal["tracked"] = "tracked"
    """Where the threshold lam of the acceptance min(1, p / (lam q)) comes from."""
    budget: float = 0.9
    """Mean acceptance rate that lam is led to, below 1; lam stays at 1 where that accepts more."""
    gain: float = 0.1
    """lam of the next step is multiplied by (share that may be rejected / share rejected)^gain."""
    min: float = 0.1
    """Smallest lam."""


@dataclass(frozen=True)
class PriceDraftLam:
    """In every state the lam at which one rejection more would save KL(p || s) by `price`. This is
    the least mean KL for the mean acceptance rate."""

    type: Literal["price"] = "price"
    """Where the threshold lam of the acceptance min(1, p / (lam q)) comes from."""
    price: float = 0.1
    """mu - lam in every state, nats per rejection."""


@dataclass(frozen=True)
class TrackedPriceDraftLam:
    """The same price in every state of a step, from the acceptance rates of the steps before."""

    type: Literal["tracked_price"] = "tracked_price"
    """Where the threshold lam of the acceptance min(1, p / (lam q)) comes from."""
    budget: float = 0.9
    """Mean acceptance rate that the price is led to, below 1."""
    gain: float = 0.1
    """The next step's price is multiplied by (share rejected / share that may be rejected)^gain."""
    price: float = 0.1
    """mu - lam of the first step, nats per rejection."""
    min: float = 0.001
    """Smallest price. 0 would be lossless, and could not be moved."""
    max: float = 10.0
    """Largest price."""


DraftLam = FixedDraftLam | StateDraftLam | TrackedDraftLam | PriceDraftLam | TrackedPriceDraftLam


@dataclass(frozen=True)
class DraftedMode:
    """The actor drafts blocks of tokens, the policy verifies each in one pass, and the first token
    that is rejected is drawn anew (docs/drafting.md)."""

    type: Literal["drafted"] = "drafted"
    """How completions are sampled."""
    block: FixedBlock | AdaptiveBlock = field(default_factory=FixedBlock)
    """Tokens drafted at a time."""
    lam: DraftLam = field(default_factory=FixedDraftLam)
    """The threshold of acceptance."""
    reuse_logp: bool = True
    """Whether the log-probabilities of the policy's verification serve as p_ref while its weights
    are the same: this saves one forward pass in each step."""


ModeConfig = PlainMode | DraftedMode


@dataclass(frozen=True)
class UniformAllocation:
    """As many completions for every prompt."""

    type: Literal["uniform"] = "uniform"
    """How the completions of a step, prompts_per_step x rollouts_per_prompt, are shared out among
    its prompts."""


@dataclass(frozen=True)
class _ByPassRate:
    prompt_weight: Literal["", "equal", "rollouts"] = ""
    """equal: a prompt's advantages are multiplied by rollouts_per_prompt over its completions, so
    that every prompt counts the same. rollouts: it counts by its completions. Must be given."""
    window: int = 1
    """Visits of a prompt whose rewards give its pass rate; 1/2 before the first."""


@dataclass(frozen=True)
class VipAllocation(_ByPassRate):
    """The least variance of the gradient at the prompts' pass rates (VIP, arXiv 2602.01601)."""

    type: Literal["vip"] = "vip"
    """How the completions of a step, prompts_per_step x rollouts_per_prompt, are shared out among
    its prompts."""
    rollouts_min: int = 4
    """Fewest completions of a prompt."""
    rollouts_max: int = 32
    """Most completions of a prompt."""


@dataclass(frozen=True)
class CobaAllocation(_ByPassRate):
    """The largest training value, which favours easier prompts the more rollouts fail (CoBA-RL,
    arXiv 2602.03048)."""

    type: Literal["coba"] = "coba"
    """How the completions of a step, prompts_per_step x rollouts_per_prompt, are shared out among
    its prompts."""
    rollouts_min: int = 2
    """Fewest completions of a prompt."""
    rollouts_max: int = 128
    """Most completions of a prompt."""
    concentration: float = 11.0
    """alpha + beta of the Beta density over pass rates, the paper's kappa."""
    failure_steps: int = 1
    """Number of steps whose mean failure rate moves alpha. The paper does not give it."""


AllocationConfig = UniformAllocation | VipAllocation | CobaAllocation


@dataclass(frozen=True)
class NoDownSampling:
    """The update uses every completion."""

    type: Literal["none"] = "none"
    """Which completions of a prompt the update uses (PODS, arXiv 2504.13818)."""


@dataclass(frozen=True)
class DownSampling:
    """Some completions of each prompt, whose advantages are among them alone; a biased gradient."""

    type: Literal["max_variance", "max_reward", "random"] = "max_variance"
    """Which completions of a prompt the update uses (PODS, arXiv 2504.13818)."""
    keep: int = 4
    """Completions of each prompt that are kept, fewer than rollouts_per_prompt."""


@dataclass(frozen=True)
class NoPruning:
    """Nothing is left out by chance."""

    type: Literal["none"] = "none"
    """What is left out by chance, without bias (Dynamic Pruning PO, arXiv 2603.04135)."""


@dataclass(frozen=True)
class HorvitzThompsonPruning:
    """Candidates of small advantage are dropped by a coin; what is kept is weighted by 1 / (1 - the
    chance of being dropped)."""

    type: Literal["horvitz_thompson"] = "horvitz_thompson"
    """What is left out by chance, without bias (Dynamic Pruning PO, arXiv 2603.04135)."""
    prompt_rate: float = 0.0
    """Chance that a candidate among the prompts is not sampled. Candidates: those of the smallest
    mean |advantage| at their last visit."""
    completion_rate: float = 0.5
    """Chance that a candidate among the completions is dropped. Candidates: those of the smallest
    |advantage|."""
    candidate_fraction: float = 0.5
    """Share of a step's prompts, and of its completions, that are candidates."""


@dataclass(frozen=True)
class RolloutConfig:
    prompts_per_step: int = 16
    """Prompts per step. Rows of a file are all different in a step, so there must be as many."""
    rollouts_per_prompt: int = 8
    """Completions per prompt: the group whose mean reward is the baseline."""
    temperature: float = 1.0
    """Temperature of the distribution that is sampled from, and of every log-probability that is
    trained on."""
    top_k: int = 20
    """Number of log-probabilities of q that are kept per position, those of its k likeliest tokens;
    at most as many as the models have."""
    max_new_tokens: int = 12
    """Longest completion, in tokens, end-of-sequence included."""
    max_staleness: int = 0
    """Steps that sampling runs ahead of the updates: in every engine, the batch of step t is
    sampled from the weights after step t - 1 - max_staleness (at first the initial ones); 0: from
    the present ones. Above 0, an engine other than hf samples while updates are made. A frozen
    actor always has the same weights, so for it only this time changes."""
    allocation: AllocationConfig = field(default_factory=UniformAllocation)
    """How many completions each prompt gets."""
    down_sampling: NoDownSampling | DownSampling = field(default_factory=NoDownSampling)
    """Which completions the update uses."""
    pruning: NoPruning | HorvitzThompsonPruning = field(default_factory=NoPruning)
    """What is left out by chance."""
    engine: EngineConfig = field(default_factory=HfEngineConfig)
    """The engine that samples."""
    mode: ModeConfig = field(default_factory=PlainMode)
    """How completions are sampled: by the actor alone, or drafted by it and verified."""


@dataclass(frozen=True)
class RefTarget:
    """p_ref, the policy before the updates of its batch."""

    type: Literal["ref"] = "ref"
    """Target p of the ratio p/q (Sec. 4.3). new needs updates_per_rollout > 1, because at 1 both
    are the same."""


@dataclass(frozen=True)
class NewTarget:
    """p_new, the policy that is being updated."""

    type: Literal["new"] = "new"
    """Target p of the ratio p/q (Sec. 4.3). new needs updates_per_rollout > 1, because at 1 both
    are the same."""
    c2: float = 3.0
    """Cap on p_ref / p_new; inf: no cap. The paper gives no value."""


Target = RefTarget | NewTarget


@dataclass(frozen=True)
class NoCorrection(UnitWeight):
    """F(r) = 1: no correction."""

    @property
    def target(self) -> Target:
        return RefTarget()


@dataclass(frozen=True)
class _Corrected:
    target: Target = field(default_factory=RefTarget)
    """p of the ratio p/q."""


@dataclass(frozen=True)
class ImportanceCorrection(_Corrected, ImportanceWeight):
    """F(r) = r: importance sampling, as AReaL."""


@dataclass(frozen=True)
class TisCorrection(_Corrected, TisWeight):
    """F(r) = min(r, cap): truncated importance sampling."""


@dataclass(frozen=True)
class IcePopCorrection(_Corrected, IcePopWeight):
    """F(r) = r within a band and 0 outside it: IcePop."""


@dataclass(frozen=True)
class FixedLam:
    """The same lam for every token, at every step."""

    type: Literal["fixed"] = "fixed"
    """Where the OBRS threshold lam comes from."""
    value: float = 1.0
    """Value of lam. The paper does not give it."""


@dataclass(frozen=True)
class _OfBudget:
    budget: float = 0.9
    """Wanted acceptance rate."""


@dataclass(frozen=True)
class StateLam(_OfBudget):
    """In every state the lam that accepts `budget`, with q's top k and the rest as one token."""

    type: Literal["state"] = "state"
    """Where the OBRS threshold lam comes from."""


@dataclass(frozen=True)
class BatchLam(_OfBudget):
    """The lam that accepts `budget` of the update's own tokens."""

    type: Literal["batch"] = "batch"
    """Where the OBRS threshold lam comes from."""


@dataclass(frozen=True)
class TrackedLam(_OfBudget):
    """The lam that accepted `budget` of the tokens of earlier updates."""

    type: Literal["tracked"] = "tracked"
    """Where the OBRS threshold lam comes from."""
    decay: float = 0.9
    """Weight of the past in lam."""
    min: float = 0.1
    """Smallest lam."""
    max: float = 10.0
    """Largest lam."""


Lam = FixedLam | StateLam | BatchLam | TrackedLam


@dataclass(frozen=True)
class RatioTail:
    """One acceptance ratio holds for the tails of all states, smoothed over steps."""

    type: Literal["ratio"] = "ratio"
    """What Z of a state takes for the tokens outside q's top k."""


@dataclass(frozen=True)
class LumpedTail:
    """The tail counts as one token."""

    type: Literal["lumped"] = "lumped"
    """What Z of a state takes for the tokens outside q's top k."""
    kappa: bool = False
    """Whether Z per state is calibrated by the batch's acceptance, as in the paper."""


@dataclass(frozen=True)
class DroppedTail:
    """The tail is left out, as in the paper."""

    type: Literal["dropped"] = "dropped"
    """What Z of a state takes for the tokens outside q's top k."""
    kappa: bool = False
    """Whether Z per state is calibrated by the batch's acceptance, as in the paper."""


Tail = RatioTail | LumpedTail | DroppedTail


@dataclass(frozen=True)
class StateZ:
    """Z per state, from q's top k (the paper)."""

    type: Literal["state"] = "state"
    """Z of Eq. 5."""
    tail: Tail = field(default_factory=RatioTail)
    """Tokens outside the top k."""


@dataclass(frozen=True)
class BatchZ:
    """The batch's acceptance rate (unbiased)."""

    type: Literal["batch"] = "batch"
    """Z of Eq. 5."""


@dataclass(frozen=True)
class UnitZ:
    """Z = 1."""

    type: Literal["none"] = "none"
    """Z of Eq. 5."""


Z = StateZ | BatchZ | UnitZ


@dataclass(frozen=True)
class JackpotCorrection(_Corrected):
    """Jackpot's rejection (OBRS) and its weight (Eq. 5)."""

    type: Literal["jackpot"] = "jackpot"
    """F of Sec. 2.2, a function of the ratio r = p / q of a sampled token; or Jackpot's Eq. 5."""
    lam: Lam = field(default_factory=FixedLam)
    """The OBRS threshold."""
    mask: Literal["bernoulli", "expected"] = "bernoulli"
    """Whether the acceptance coin is drawn (bernoulli), or its expectation is used (expected)."""
    scope: Literal["token", "prefix"] = "token"
    """What a rejection concerns. token: the rejected token alone (the paper). prefix: all tokens
    after it in its completion too, so that a token counts only if all before it were accepted."""
    z: Z = field(default_factory=StateZ)
    """The acceptance rate that the weight is multiplied by."""
    c1: float = 3.0
    """Cap on the OBRS weight; inf: no cap. The paper gives no value."""


CorrectionConfig = (
    NoCorrection | ImportanceCorrection | TisCorrection | IcePopCorrection | JackpotCorrection
)


@dataclass(frozen=True)
class NoSequenceMask:
    """No sequence is left out."""

    type: Literal["none"] = "none"
    """A mask of whole sequences, on top of the objective's own."""

    @property
    def delta(self) -> float:
        return math.inf


@dataclass(frozen=True)
class OpsmMask:
    """A sequence of negative advantage is left out where log p_old - log p_new, averaged over
    its tokens, is above delta; p_old is the objective's (DeepSeek-V3.2, arXiv 2512.02556)."""

    type: Literal["opsm"] = "opsm"
    """A mask of whole sequences, on top of the objective's own."""
    delta: float = 1e-4
    """Largest mean, nats per token. The default is slime's, for a ratio to p_ref; with a ratio to
    p_inf it leaves out nearly every negative sequence that has become less likely."""


SequenceMask = NoSequenceMask | OpsmMask


@dataclass(frozen=True)
class ObjectiveSection:
    """What every objective answers; a type declares as fields those that can be chosen."""

    sequence_mask: SequenceMask = field(default_factory=NoSequenceMask)
    """Sequences that are left out."""

    @property
    def needs_topk(self) -> bool:
        """Whether it takes log p_new of q's k likeliest tokens."""
        return False

    @property
    def needs_initial(self) -> bool:
        """Whether it takes log-probabilities of the initial policy."""
        return False


@dataclass(frozen=True)
class RatioObjective(ObjectiveSection):
    ratio: Literal["ref", "inf"] = "ref"
    """p_old: p_ref, the policy before the updates on its batch, or p_inf, what sampled it. inf
    takes no correction, and ref needs loss.updates_per_rollout above 1."""


@dataclass(frozen=True)
class PpoObjective(ObjectiveSection):
    """min(r A, clip(r) A), r = p_new / p_ref: PPO and GRPO (arXiv 1707.06347; Jackpot's Eq. 2)."""

    type: Literal["ppo"] = "ppo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low; inf: no clip. The default is PPO's customary
    value."""
    clip_high: float = 0.2
    """The ratio is clipped above at 1 + clip_high; inf: no clip. The default is PPO's customary
    value."""


@dataclass(frozen=True)
class CispoObjective(RatioObjective):
    """SG(clip(r)) A log p_new, r = p_new / p_old: no token loses its gradient (MiniMax-M1, arXiv
    2506.13585)."""

    type: Literal["cispo"] = "cispo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    clip_low: float = math.inf
    """The ratio is clipped below at 1 - clip_low; inf: no lower bound, as in the paper."""
    clip_high: float = 4.0
    """The ratio is clipped above at 1 + clip_high. The paper gives no value; 4 is TRL's largest
    ratio of 5."""


@dataclass(frozen=True)
class GspoObjective(RatioObjective):
    """PPO with the ratio of a sequence, exp(mean of log p_new / p_old over its tokens) (GSPO,
    arXiv 2507.18071). Needs loss.denominator = sequence."""

    type: Literal["gspo"] = "gspo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    clip_low: float = 3e-4
    """The ratio is clipped below at 1 - clip_low; inf: no clip. The default is the paper's value.
    """
    clip_high: float = 4e-4
    """The ratio is clipped above at 1 + clip_high; inf: no clip. The default is the paper's value.
    """


@dataclass(frozen=True)
class TvDivergence:
    """Total variation: half the sum of |p_new - q| over the sampled token and all others as one
    (binary), or q's top k, the sampled token and the others as one (top_k)."""

    type: Literal["binary_tv", "top_k_tv"] = "binary_tv"
    """Distance between q and p_new in the state of a token; top_k takes rollout.top_k tokens."""
    delta: float = 0.15
    """Largest distance that is kept. The default is that of the authors' scripts."""


@dataclass(frozen=True)
class KlDivergence:
    """KL(q || p_new), nats, over the same tokens."""

    type: Literal["binary_kl", "top_k_kl"] = "binary_kl"
    """Distance between q and p_new in the state of a token; top_k takes rollout.top_k tokens."""
    delta: float = 0.05
    """Largest distance that is kept, nats. The default is that of the authors' scripts."""


@dataclass(frozen=True)
class NoDivergence:
    """No trust region: no token is left out."""

    type: Literal["none"] = "none"
    """Distance between q and p_new in the state of a token; top_k takes rollout.top_k tokens."""


DivergenceConfig = TvDivergence | KlDivergence | NoDivergence


@dataclass(frozen=True)
class DppoObjective(ObjectiveSection):
    """SG(min(p_new / p_inf, cap)) A log p_new, but 0 where A moves p_new away from q and they are
    further apart than delta: divergence PPO (arXiv 2602.04879). Takes no correction but jackpot of
    target new, whose weight then corrects: the ratio is to p_ref."""

    type: Literal["dppo"] = "dppo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    divergence: DivergenceConfig = field(default_factory=TvDivergence)
    """The trust region around q."""
    cap: float = 20.0
    """Largest ratio that multiplies a token; inf: none. The default is TRL's; Stable-RL has 10,
    verl 3."""

    @property
    def needs_topk(self) -> bool:
        return self.divergence.type.startswith("top_k")


@dataclass(frozen=True)
class MinproObjective(ObjectiveSection):
    """SG(clip(rho m)) A log p_new, rho = p_new / p_inf, and m the smallest rho before the token in
    its sequence: MinPRO (arXiv 2601.22718). Takes no correction."""

    type: Literal["minpro"] = "minpro"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    clip_low: float = 0.2
    """rho m is clipped below at 1 - clip_low; inf: no lower bound. The paper gives no value."""
    clip_high: float = 0.2
    """rho m is clipped above at 1 + clip_high; inf: no upper bound. The paper gives no value."""


@dataclass(frozen=True)
class BapoObjective(RatioObjective):
    """PPO with bounds that rise, in each update, until positive advantages contribute their share:
    BAPO (arXiv 2510.18927). First the upper bound rises, then the lower one."""

    type: Literal["bapo"] = "bapo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    share: float = 0.4
    """Wanted share of the tokens of positive advantage. The default is the paper's value."""
    accounting: Literal["value", "grad", "literal"] = "value"
    """What a token contributes. value: |min(r A, clip(r) A)|; grad: |r A| where its gradient is not
    clipped; literal: as value, but negative tokens subtract, as the paper's formula is printed."""
    low_min: float = 0.6
    """First lower bound of the ratio. The defaults of the bounds are the paper's values."""
    low_max: float = 0.9
    """Last lower bound."""
    low_step: float = 0.02
    """Step of the lower bound, where low_max is above low_min."""
    high_min: float = 1.2
    """First upper bound of the ratio."""
    high_max: float = 3.0
    """Last upper bound."""
    high_step: float = 0.05
    """Step of the upper bound, where high_max is above high_min."""


@dataclass(frozen=True)
class M2poObjective(ObjectiveSection):
    """rho A, rho = p_new / p_inf, but 0 at the tokens of largest (log rho)^2, until its mean over
    those that A moves away from q is at most tau: M2PO (arXiv 2510.01161). Takes no correction."""

    type: Literal["m2po"] = "m2po"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    tau: float = 0.04
    """Largest second moment of log rho. The default is the paper's value."""


@dataclass(frozen=True)
class WholeCompletionObjective:
    """An objective of whole completions, with the initial policy, p_pre, in its loss; it has no
    advantage."""

    @property
    def sequence_mask(self) -> SequenceMask:
        return NoSequenceMask()

    @property
    def needs_topk(self) -> bool:
        return False

    @property
    def needs_initial(self) -> bool:
        return True


@dataclass(frozen=True)
class AStarPoObjective(WholeCompletionObjective):
    """-(beta log(p_new / p_pre) + V* - reward)^2 of a completion: a regression on the reward
    (A*-PO, arXiv 2505.20686). Takes no correction; needs task.pool, because V* is kept by prompt.
    """

    type: Literal["a_star_po"] = "a_star_po"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    beta: float = 1e-3
    """Beta of the regression. The default is the authors' value."""
    value_beta: float = 0.5
    """Beta of V* = beta log mean exp(reward / beta) over completions of p_pre; 0: their mean. The
    default is the authors' value. The loss can reach 0 only if value_beta is beta."""
    value_rollouts: int = 8
    """Completions of p_pre for each prompt's V*, sampled when the prompt first comes. The default
    is the authors' value."""


@dataclass(frozen=True)
class NoBaseline:
    """b = 0."""

    type: Literal["none"] = "none"
    """Baseline b. neg: the softmax with -reward, as in the paper; mean: equal weights; self: the
    softmax of log(p_new / p_inf); none: 0."""


@dataclass(frozen=True)
class WeightBaseline:
    """s b is subtracted from each weight."""

    type: Literal["neg", "mean", "self"] = "neg"
    """Baseline b. neg: the softmax with -reward, as in the paper; mean: equal weights; self: the
    softmax of log(p_new / p_inf); none: 0."""
    coef: float = 1.0
    """Factor s of the baseline. The default is the paper's value."""


@dataclass(frozen=True)
class DmpoObjective(WholeCompletionObjective):
    """sum of (W - s b) log p_new over a prompt's completions, W the softmax of log(p_pre / p_inf) +
    reward / alpha: the weights of p_pre exp(reward / alpha) (DMPO, arXiv 2510.08233, for models
    that sample token by token). Divides by p_inf, so takes no correction."""

    type: Literal["dmpo"] = "dmpo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    alpha: float = 0.04
    """Temperature of the rewards. The default is the paper's value."""
    baseline: NoBaseline | WeightBaseline = field(default_factory=WeightBaseline)
    """Term s b, which is subtracted from the weights."""
    ess_min: float = 0.0
    """Least effective number of weights, as a share of the prompt's completions: both softmaxes are
    tempered until it is reached; 0: never. The authors' code has .7 and .8."""


@dataclass(frozen=True)
class AlphaDpoObjective(WholeCompletionObjective):
    """log sigmoid(beta (l_w - l_l - alpha z - gamma / beta)) of every pair of a right and a wrong
    completion of a prompt, l the mean log p_new of its tokens, z how far the pair is from p_pre
    beside the others (alpha-DPO, arXiv 2410.10148, with pairs of the run's own). Right: a reward
    above 1/2."""

    type: Literal["alpha_dpo"] = "alpha_dpo"
    """What a token adds to the policy's loss beside its weight; docs/methods.md compares them."""
    beta: float = 2.5
    """Beta of the margin. All defaults here are the authors' for Llama 3."""
    gamma_beta_ratio: float = 0.6
    """Quotient gamma / beta: the margin that every pair should have."""
    alpha: float = 0.2
    """How far z moves that margin; 0: SimPO."""
    decay: float = 0.9
    """Decay, per update, of the moving mean and standard deviation in z."""
    bias_correction: bool = False
    """Whether the first updates' mean and deviation are corrected for starting at 0; the authors'
    code does not do this."""


ObjectiveConfig = (
    PpoObjective
    | CispoObjective
    | GspoObjective
    | DppoObjective
    | MinproObjective
    | BapoObjective
    | M2poObjective
    | AStarPoObjective
    | DmpoObjective
    | AlphaDpoObjective
)


@dataclass(frozen=True)
class LossConfig:
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """Advantage of a completion. grpo: reward minus group mean, over the group's standard
    deviation; dr_grpo: the same, not divided; rloo: reward minus the mean of the group's others."""
    updates_per_rollout: int = 1
    """Optimiser steps per rollout batch, each on its share of the sequences."""
    denominator: Literal["proposed", "accepted", "sequence"] = "proposed"
    """What the policy's loss is divided by. proposed: the sampled tokens; accepted: the accepted
    ones (jackpot); sequence: it is the mean over sequences of each one's mean over its sampled
    tokens."""
    initial_kl_coef: float = 0.0
    """Weight of KL(policy || initial policy) in the policy's loss; the initial policy is a frozen
    copy of the policy at the start. 0: no such term, and no copy in memory."""


@dataclass(frozen=True)
class NoControl:
    """Nothing is driven."""

    type: Literal["none"] = "none"
    """Closed loop between steps."""


@dataclass(frozen=True)
class KLControl:
    """While KL(policy || actor) is above (below) its target, what is driven rises (falls)."""

    type: Literal["kl"] = "kl"
    """Closed loop between steps."""
    kl_target: float = 0.05
    """Wanted KL(policy || actor), nats per token."""
    distill: bool = True
    """Whether actor.distill.coef is driven."""
    actor_lr: bool = False
    """Whether the actor's learning rate is driven."""
    policy_lr: bool = False
    """Whether the policy's learning rate is driven the other way, never above its own: while the
    measured KL is too high the policy waits for its actor."""
    gain: float = 0.1
    """Change of the logarithm per step, per unit of log(KL / kl_target), which counts as at most 1
    either way."""
    factor_max: float = 10.0
    """Driven settings stay within this factor of their own values, up and down."""


ControlConfig = NoControl | KLControl


@dataclass(frozen=True)
class SequenceMicrobatches:
    """As many sequences in each forward pass."""

    type: Literal["sequences"] = "sequences"
    """How an update is divided into forward passes. Changes memory and time, not the result."""
    sequences: int = 0
    """Sequences per forward pass; 0: all of an update's."""

    @property
    def tokens(self) -> int:
        return 0


@dataclass(frozen=True)
class TokenMicrobatches:
    """Sequences of like length together, as many as fit into `tokens`."""

    type: Literal["tokens"] = "tokens"
    """How an update is divided into forward passes. Changes memory and time, not the result."""
    tokens: int = 16384
    """Tokens per forward pass, padding included; a longer sequence goes alone."""

    @property
    def sequences(self) -> int:
        return 0


MicrobatchConfig = SequenceMicrobatches | TokenMicrobatches


@dataclass(frozen=True)
class OptimConfig:
    policy_lr: float = 2e-4
    """Learning rate of the policy (AdamW, betas 0.9 and 0.95)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How both learning rates go on after lr_warmup_steps: they stay (constant), or fall to 0 just
    after the last step. If a single step is left it has the whole rate, whatever the schedule: a
    run may go on with more steps."""
    lr_warmup_steps: int = 0
    """Steps over which both learning rates rise, linearly."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, for both models."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment, for both models. Far above the size of the
    gradients it makes a step that of gradient descent with momentum 0.9, at the learning rate over
    eps."""
    grad_clip: float = 1.0
    """Largest norm of each model's gradient."""
    head: Literal["auto", "chunked", "dense"] = "auto"
    """Log-probabilities and KLs from the vocabulary's logits in blocks (chunked), never all at
    once, or from whole logits (dense). auto: chunked from 1,024 ids, where the models' heads and
    the losses (not actor.distill.top_k) allow it. Changes memory and time, results by rounding;
    a run may go on with another choice."""
    microbatch: MicrobatchConfig = field(default_factory=SequenceMicrobatches)
    """What one forward pass of an update holds."""


@dataclass(frozen=True)
class StopAction:
    """It stops the run."""

    type: Literal["stop"] = "stop"
    """What an alarm does."""


@dataclass(frozen=True)
class LowerAction:
    """It multiplies both learning rates by `factor`, and the run goes on."""

    type: Literal["lower"] = "lower"
    """What an alarm does."""
    factor: float = 0.5
    """Factor that multiplies the learning rates."""
    lowerings_max: int = 3
    """Number of lowerings after which the next alarm stops the run."""


ActionConfig = StopAction | LowerAction


@dataclass(frozen=True)
class AlarmConfig:
    kl_max: float = math.inf
    """KL(q, p) per token above which there is an alarm, estimated from the step's ratios
    (kl_inf_target_k3)."""
    ratio_max: float = math.inf
    """Ratio p/q of a single token above which there is an alarm."""
    accept_min: float = 0.0
    """Share of accepted tokens below which there is an alarm (correction.type = jackpot)."""
    entropy_min: float = 0.0
    """Entropy of the policy, in nats per token, below which there is an alarm."""
    patience: int = 1
    """Steps in a row beyond a limit before the alarm."""
    action: ActionConfig = field(default_factory=StopAction)
    """What an alarm does. NaN or inf in a loss or gradient is always an alarm; that update is not
    made."""


@dataclass(frozen=True)
class RunConfig:
    folder: str = "runs/default"
    """Where everything of this run is written; an interrupted run there goes on. A start without it
    says which folder it takes."""
    steps: int = 300
    """Number of steps: batches of completions with their updates."""
    seed: int = 0
    """Seed of every random stream."""
    eval_every: int = 10
    """Steps between evaluations; the first is before training, the last after it."""
    eval_updates: int = 0
    """Optimiser steps within a step after which the policy's pass rate is also measured
    (updates_per_rollout > 1); 0: never."""
    eval_prompts: int = 384
    """Held-out prompts per evaluation, of each set of task.eval_source."""
    eval_completions: int = 1
    """Completions of each held-out prompt: the k of each set's mean@k and pass@k."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always has one."""
    stop_seconds: float = 5.0
    """Time that the step in progress may take after a signal (TERM, INT, HUP, USR1). A step that
    takes longer is dropped: while it samples, the run is saved as it was before; once its updates
    have begun, the run goes on from its last checkpoint. Raise it if a step takes longer and
    whoever sends the signal waits longer. A second Ctrl-C ends the run at once."""
    checkpoints_kept: int = 2
    """Number of newest checkpoints that are kept."""
    keep_best: bool = True
    """Whether the checkpoint of the best evaluation is kept too, in checkpoints/best."""
    samples_kept: int = 4
    """Completions kept with every evaluation, token by token, for the report."""
    self_test_max: float = 0.0
    """Largest |log p_inf - log p_ref| of a token that the self-test before training allows, both by
    the same model. 0: in float32 1e-3; in bfloat16 2, with a mean of at most 0.1 and with the
    likeliest tokens' log-probabilities in proportion to 3 % (a wrong temperature is a factor)."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Program to which metrics are sent too; metrics.jsonl is always written."""
    device: str = "auto"
    """Device of the models. auto: cuda if there is one, else cpu."""
    threads: int = 1
    """Torch threads of each process; at most the cores that it may use."""
    sharding: Literal["none", "fsdp"] = "none"
    """How models lie on the ranks of torchrun. none: every rank holds the trained models and their
    optimisers. fsdp: these are spread over the ranks, of which there must be several, and a whole
    copy of each model's weights samples. A run may go on with another choice and another number of
    ranks."""
    activation_checkpointing: bool = False
    """Whether each layer is computed again in the backward pass, in place of keeping its
    activations."""


DIGIT_SYNONYMS_MAX = 2000  # of each digit: 19,990 characters of the block
CHARACTER_IDS = 48  # token ids of a built model without synonyms


@dataclass(frozen=True)
class Settings:
    """All sections, not yet checked."""

    RENAMED: ClassVar[Mapping[str, str]] = RENAMED

    task: TaskConfig = field(default_factory=DigitTask)
    reward: RewardConfig = field(default_factory=AutoReward)
    policy: TrainedModelConfig = field(default_factory=TrainedModelConfig)
    actor: ActorConfig = field(default_factory=SeparateActor)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    correction: CorrectionConfig = field(default_factory=JackpotCorrection)
    objective: ObjectiveConfig = field(default_factory=PpoObjective)
    loss: LossConfig = field(default_factory=LossConfig)
    control: ControlConfig = field(default_factory=NoControl)
    optim: OptimConfig = field(default_factory=OptimConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    run: RunConfig = field(default_factory=RunConfig)
