"""A bad or ineffective setting is refused; the defaults are not."""

from __future__ import annotations

import pytest
from setting_choices import choices

from llm import settings
from llm.settings import bounds, sections, validation
from llm.settings.loading import Config, ConfigError
from llm.settings.schema import Settings
from llm.tokenizers.character import CharTokenizer

READING = "--task.type problems --policy.path x --actor.path x"
STALE, OTHER_ENGINE = "--rollout.max_staleness 1", "--rollout.engine.type process"
# At a single update p_new is p_ref, however old the rollouts and whoever sampled them.
AT_ONE_UPDATE = ("", STALE, OTHER_ENGINE, "--correction.type tis", "--policy.dtype bfloat16")
NEW_NEEDS = "type new would have no effect: it needs loss.updates_per_rollout > 1 (at a single"
# The policy's ratio is 1 there, and so is the actor's, if it has one: to what sampled, which is it
# itself, or to p_actor_ref.
CLIPS_NOTHING = (
    "",
    "--actor.type frozen --rollout.max_staleness 1",
    "--actor.ppo False --actor.dtype bfloat16",
    "--actor.correction.type tis --rollout.max_staleness 1",
    "--policy.dtype bfloat16",
)
CLIP_NEEDS = " would have no effect: it needs loss.updates_per_rollout > 1"
ACTOR_CLIP_NEEDS = " would have no effect: it needs actor.ppo, and loss.updates_per_rollout"
# p_actor_ref is p_inf, at any number of updates: neither weight nor ratio is another.
SAMPLES_ITSELF = ("", "--loss.updates_per_rollout 4", "--policy.dtype bfloat16")
TIS_NEEDS = "type tis would have no effect: it needs actor.ppo, and rollout.max_staleness > 0, anot"


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--correction.lam.value 0", "correction.lam.value must be greater than 0"),
        ("--correction.lam.value nan", "correction.lam.value must be a finite number"),
        ("--correction.lam.value inf", "correction.lam.value must be a finite number"),
        ("--run.steps -3", "run.steps must be greater than 0"),
        ("--run.folder=", "run.folder must be the name of a folder, got ''"),
        ("--run.folder=a\0b", "run.folder must be without the character NUL"),
        ("--run.folder=a\udcff", "run.folder must be without lone surrogates"),
        ("--run.folder=a\udcff", r"got 'a\udcff'"),
        ("--policy.path=\ud800 --actor.path=x", "policy.path must be without lone surrogates"),
        (f"--run.seed {2**63}", "run.seed must be below 2^63"),
        ("--rollout.rollouts-per-prompt 1", "at least 2"),
        ("--rollout.max-new-tokens 5", "at least 9: the longest answer"),
        ("--pretrain.policy-error 1.5", "between 0 and 1"),
        ("--policy.width 40", "a multiple of 16"),
        ("--loss.updates-per-rollout 3", "a divisor of the 128 sequences"),
        (
            "--task.digits-min 9 --rollout.max-new-tokens 20",
            "digits_max must be >= task.digits_min",
        ),
        (
            "--correction.type tis --correction.lam.value 2",
            "lam is a setting of correction.type jackpot",
        ),
        (
            "--correction.cap 3",
            "cap is a setting of correction.type tis, and correction.type is left",
        ),
        (
            "--correction.target.c2 2",
            "c2 is a setting of correction.target.type new, and correction.target.type is left",
        ),
        (
            "--correction.type none --correction.target.type new",
            "importance or tis or icepop or jackpot",
        ),
        ("--correction.z.type batch --correction.no_such 1", "unknown flag --correction.no_such"),
        (
            "--correction.z.type batch --correction.z.tail.kappa True",
            "correction.z.tail is a setting of correction.z.type state, and",
        ),
        (
            "--correction.z.tail.kappa True",
            "kappa is a setting of correction.z.tail.type lumped or dropped, and",
        ),
        ("--correction.type tis --loss.denominator accepted", "nothing else rejects"),
        ("--policy.path x --actor.path x --policy.layers 3", "it needs an empty policy.path"),
        ("--actor.type self --actor.ppo True", "ppo is a setting of actor.type separate"),
        ("--actor.type noisy --actor.distill.coef 1", "and actor.type is noisy: choose that type"),
        ("--actor.ppo False --actor.distill.type none", "both its losses are off"),
        ("--actor.type self", "p_inf = p_ref and there is no mismatch to correct"),
        ("--actor.lag 3", "lag is a setting of actor.type stale"),
        ("--actor.bits 4", "bits is a setting of actor.type quantized"),
        ("--actor.type quantized --actor.bits 5", "bits must be one of 8, 4, got 5"),
        ("--actor.noise 0.1", "noise is a setting of actor.type noisy"),
        ("--actor.exit-layers 2", "exit_layers is a setting of actor.type early_exit"),
        ("--actor.type noisy --actor.noise -1", "noise must be greater than 0"),
        (
            "--actor.type noisy --actor.width 64",
            "width is a setting of actor.type separate or frozen",
        ),
        ("--actor.type stale --actor.lr 1e-3", "lr is a setting of actor.type separate, and"),
        ("--correction.lam.budget 0.8", "budget is a setting of correction.lam.type state or"),
        ("--correction.lam.type batch --correction.lam.budget 1.5", "budget must be at most 1"),
        (
            "--correction.lam.type batch --correction.lam.value 2",
            "value is a setting of correction.lam.type fixed, and correction.lam.type is batch",
        ),
        (
            "--correction.lam.type state --correction.lam.max 3",
            "max is a setting of correction.lam.type tracked, and",
        ),
        (
            "--correction.lam.type tracked --correction.lam.min 20",
            "correction.lam.max must be >= correction.lam.m",
        ),
        ("--control.gain 0.2", "gain is a setting of control.type kl"),
        (
            "--control.type kl --control.kl-target 0.1 --control.factor-max 1",
            "factor_max must be above 1",
        ),
        ("--correction.type tis --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--correction.z.type none --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--objective.clip-low 0.1", "clip_low 0.1 would have no effect"),
        (
            "--actor.clip-low 0.1",
            "actor.clip_low 0.1 would have no effect: it needs actor.ppo, and",
        ),
        ("--alarm.patience 7", "patience 7 would have no effect: it needs a limit"),
        ("--optim.lr-warmup-steps 300", "lr_warmup_steps must be below run.steps, got 300"),
        ("--optim.weight-decay 1e40", "weight_decay must be at most 1"),
        (f"{READING} --task.source a.jsonl --task.split x", "it needs a source on the hub"),
        (f"{READING} --task.source a/b --task.eval-split x", "it needs an eval_source on the hub"),
        (f"{READING} --task.source a.jsonl --pretrain.folder x", "it needs a model that is built"),
        ("--control.type kl --control.kl-target 0.1 --control.distill False", "nothing is driven"),
        ("--control.policy-lr True", "policy_lr is a setting of control.type kl"),
        (
            "--correction.type tis --correction.scope prefix",
            "scope is a setting of correction.type j",
        ),
        ("--task.pad_prompt_to 4", "pad_prompt_to must be at least task.digits_max, or 0, got 4"),
        ("--task.pad_prompt_to -1", "pad_prompt_to must be at least 0, got -1"),
        ("--task.pad_prompt_to 8", "8 would have no effect: it needs task.digits_min below it"),
        (
            "--pretrain.policy-steps 0 --pretrain.actor-steps 0 --pretrain.folder x",
            "folder x would have no effect: it needs a model that is built and pretrained",
        ),
        (
            "--actor.type noisy --pretrain.policy-steps 0 --pretrain.folder x",
            "folder x would have no effect: it needs a model that is built and pretrained",
        ),
        ("--rollout.top_k 49", "top_k must be at most 48, which keeps every token id that the"),
        ("--task.digit_synonyms 2 --rollout.top_k 59", "top_k must be at most 58"),
        (
            "--actor.type early_exit --actor.exit_layers 2",
            "exit_layers must be below policy.layers, which is 2, got 2",
        ),
        *[(f"{flags} --correction.target.type new", NEW_NEEDS) for flags in AT_ONE_UPDATE],
        *[(f"{x} --objective.clip_low 0.1", f"clip_low 0.1{CLIP_NEEDS}") for x in CLIPS_NOTHING],
        *[(f"{x} --objective.clip_high inf", f"high inf{CLIP_NEEDS}") for x in CLIPS_NOTHING],
        *[
            (f"{x} --actor.clip_{side}", f"actor.clip_{side}{ACTOR_CLIP_NEEDS}")
            for x in CLIPS_NOTHING
            for side in ("low 0.1", "high inf")
            if "frozen" not in x
        ],
        *[(f"{flags} --actor.correction.type tis", TIS_NEEDS) for flags in SAMPLES_ITSELF],
        ("--actor.correction.type icepop", "icepop would have no effect: it needs actor.ppo, and"),
        (
            "--task.type add --task.pad-prompt-to 9",
            "a setting of task.type chain or sort or reverse",
        ),
        (
            "--control.type kl --control.kl-target 0.1 --actor.distill.type none",
            "whose type is none: choose",
        ),
        (
            "--actor.distill.type none --actor.distill.top_k 5",
            "top_k is a setting of actor.distill.type forward or reverse, and",
        ),
        (
            "--actor.ppo False --actor.correction.type tis",
            "correction.type tis would have no effect: it needs actor.ppo",
        ),
        ("--loss.advantage best", "advantage must be one of grpo, dr_grpo, rloo, got 'best'"),
        (
            "--policy.lora.alpha 8",
            "alpha is a setting of policy.lora.type adapters, and policy.lora.",
        ),
        ("--policy.dtype float16", "float16"),
        ("--alarm.action.factor 0.1", "factor is a setting of alarm.action.type lower"),
        ("--alarm.action.type lower --alarm.action.factor 1", "action.factor must be below 1"),
        ("--correction.type tis --alarm.accept-min 0.1", "accept_min 0.1 would have no effect"),
        ("--task.type arithmetic", "needs a model that reads text"),
        ("--task.type problems --policy.path x --actor.path x", "needs --task.source"),
        ("--task.source a.jsonl", "source is a setting of task.type problems"),
        (
            "--reward.type number --reward.function a.py:f",
            "reward.function is a setting of reward.type function, and reward.type is number",
        ),
        (
            "--reward.seconds 2",
            "seconds is a setting of reward.type math_verify or function, and reward.type is left",
        ),
        (
            "--reward.on-error stop",
            "on_error is a setting of reward.type function or python, and reward.type is left at",
        ),
        (
            "--reward.function a.py:f --reward.batched True --reward.workers 4",
            "workers 4 would have no effect: it needs reward.batched False (else one call at once",
        ),
        (
            "--reward.type python --reward.memory 5",
            "memory is a setting of reward.type function, and reward.type is python",
        ),
        ("--reward.type function", "must be FILE.py:NAME or package.module:NAME, got ''"),
        ("--reward.function a.py", "must be FILE.py:NAME or package.module:NAME, got 'a.py'"),
        ("--reward.function a.py:", "must be FILE.py:NAME or package.module:NAME"),
        ("--reward.function :f", "must be FILE.py:NAME or package.module:NAME"),
        ("--reward.function a.py:f() ", "must be FILE.py:NAME or package.module:NAME"),
        ("--reward.function a.py:f --reward.seconds 0", "seconds must be greater than 0"),
        ("--reward.function a.py:f --reward.memory -1", "memory must be at least 0"),
        (
            "--task.score-seconds 2",
            "unknown flag --task.score_seconds; perhaps you meant --reward.s",
        ),
        ("--task.type sort --task.digits-max 20", "max_new_tokens must be at least 21"),
        ("--policy.path x", "--actor.path is empty"),
        ("--optim.schedule step", "step"),
        ("--rollout.engine.timeout 5", "a setting of rollout.engine.type process or vllm"),
        ("--rollout.engine.memory 0.5", "memory is a setting of rollout.engine.type vllm, and"),
        ("--rollout.max-staleness -1", "max_staleness must be at least 0"),
        ("--rollout.max-staleness 65", "max_staleness must be at most 64"),
        ("--rollout.engine.type vllm --actor.type quantized", "cannot sample from --actor.type"),
        ("--run.checkpoints-kept 0", "checkpoints_kept must be greater than 0"),
        ("--run.tracker mlflow", "mlflow"),
        ("--run.sharding ddp", "ddp"),
        (
            "--optim.microbatch.type tokens --optim.microbatch.tokens 0",
            "optim.microbatch.tokens must be greater than 0",
        ),
        ("--optim.microbatch.sequences -1", "optim.microbatch.sequences must be at least 0"),
        (
            "--optim.microbatch.tokens 64 --optim.microbatch.sequences 2",
            "tokens is a setting of optim.microbatch.type tokens, and",
        ),
        ("--correction.mask bernouli", "got 'bernouli'; perhaps you meant bernoulli?"),
        ("--correction.type tsi", "got 'tsi'; perhaps you meant tis?"),
        ("--control.type kl --actor.type frozen", "control.type kl would have no effect: it needs"),
        ("--control.type kl --control.kl-target 0", "kl_target must be greater than 0"),
        ("--actor.correction.cap 3", "cap is a setting of actor.correction.type tis"),
        (
            "--actor.type self --actor.correction.type tis",
            "correction is a setting of actor.type se",
        ),
        (
            "--actor.correction.type icepop --actor.correction.low 3",
            "high must be >= actor.correct",
        ),
        ("--correction.type icepop --correction.low 3", "high must be >= correction.low"),
        ("--correction.lam.value", "--correction.lam.value needs a value"),
        ("--correction.lam.value --run.steps 3", "--correction.lam.value needs a value"),
        ("--lam 3", "unknown flag --lam; perhaps you meant --correction.lam.value?"),
        ("--corection.lam 3", "perhaps you meant --correction.lam.value?"),
        ("--actor.correction 3", "actor.correction is a section of settings, and was given '3'"),
        ("--correction.lam.x 3", "unknown flag --correction.lam.x"),
        ("--correction.c1.x 3", "--correction.c1 must be a float"),
        (
            "--alarm.action.type lower --alarm.action.lowerings_max 0",
            "lowerings_max 0 lowers no learning rate, so alarm.action.factor would have no effect",
        ),
        (
            "--actor.type frozen --rollout.max_staleness 1",
            "max_staleness 1 would have no effect: it needs an actor whose weights change, or an",
        ),
        ("--actor.distill.coef 0", "actor.distill.coef must be greater than 0"),
        ("lam 3", "'lam' is neither a configuration file (NAME.toml) nor a setting"),
    ],
)
def test_a_bad_or_ineffective_setting_is_an_error(flags, message):
    with pytest.raises(ConfigError) as fault:
        settings.load([], flags.split())
    assert message in str(fault.value)


@pytest.mark.parametrize(
    "flags",
    [
        "--loss.updates_per_rollout 2 --correction.target.type new --objective.clip_low 0.1",
        "--correction.target.type new --correction.target.c2 0.5",  # p_ref / p_new = 1 is capped
        *[f"{other} --actor.clip_low 0.1" for other in (STALE, OTHER_ENGINE)],
        "--actor.dtype bfloat16 --actor.clip_high inf",
        *[f"{other} --actor.correction.type tis" for other in (STALE, OTHER_ENGINE)],
        "--actor.dtype bfloat16 --actor.correction.type icepop --loss.updates_per_rollout 2",
        "--actor.correction.type tis --actor.correction.cap 0.5",  # a weight of a half
        "--actor.correction.type icepop --actor.correction.low 1",  # drops half by their rounding
        "--task.digits_min 7 --task.pad_prompt_to 8",
        "--task.pad_prompt_to 9",
        "--pretrain.actor-steps 0 --pretrain.folder x",
        "--rollout.top_k 48",
        "--rollout.top_k 47 --correction.z.tail.type dropped",
        "--rollout.top_k 48 --correction.z.tail.type dropped --correction.z.tail.kappa True",
        "--actor.distill.top_k 47",
        "--actor.type frozen --rollout.max_staleness 1 --rollout.engine.type process",
        "--task.digit_synonyms 2 --rollout.top_k 58",
        "--policy.layers 3 --actor.type early_exit --actor.exit_layers 2",
        "--run.folder=Läufe/\U0001f680",
    ],
)
def test_a_setting_with_an_effect_is_not_refused(flags):
    assert settings.load([], flags.split())


@pytest.mark.parametrize("synonyms", [1, 2, 201])
def test_as_many_log_probabilities_are_kept_as_a_built_model_has_ids(synonyms):
    ids = CharTokenizer(synonyms).vocab_size
    flags = ["--task.digit_synonyms", str(synonyms), "--rollout.top_k"]
    assert settings.load([], [*flags, str(ids)]).rollout.top_k == ids
    with pytest.raises(ConfigError, match=f"top_k must be at most {ids}, .*, got {ids + 1}"):
        settings.load([], [*flags, str(ids + 1)])


def test_the_default_top_k_is_no_fault_of_a_model_with_fewer_ids():
    validation.check_vocabulary(Config(), 12)
    with pytest.raises(ConfigError, match="top_k must be at most 12"):
        validation.check_vocabulary(settings.load([], ["--rollout.top_k", "13"]), 12)


def test_a_choice_about_tokens_outside_the_top_k_is_refused_where_none_are():
    for tail in ("lumped", "dropped"):
        given = [*"--rollout.top_k 48 --correction.z.tail.type".split(), tail]
        with pytest.raises(ConfigError, match=f"tail.type {tail} would have no effect: --rollout"):
            settings.load([], given)
        small = settings.load([], given[2:])
        validation.check_vocabulary(small, 21)
        with pytest.raises(ConfigError, match="top_k 20 keeps all 20 token ids"):
            validation.check_vocabulary(small, 20)


def test_distilling_on_as_many_tokens_as_there_are_is_refused():
    with pytest.raises(ConfigError, match="top_k 48 leaves none of the models' 48 token ids for"):
        settings.load([], ["--actor.distill.top_k", "48"])


def test_every_bound_is_of_a_setting_that_there_is():
    """A renamed setting would lose its bound without a word."""
    known = set(sections.all_keys(Settings))
    named = {*bounds._POSITIVE, *bounds._NOT_NEGATIVE, *bounds._MAY_BE_INFINITE}
    named |= {*bounds._AT_MOST, *bounds._AT_LEAST, *bounds._BELOW_ONE, *bounds._ABOVE}
    named |= {*bounds._SHARES, *bounds._MULTIPLES_OF_16, *bounds._CHECKED_WITH_OTHERS}
    named |= {key for low, high in bounds._NOT_ABOVE for key in (low, high)}
    named |= {k for need in validation._needs(Settings()) for k in need.keys.split()}
    assert named <= known


def test_defaults_pass_their_own_checks():
    assert Config() == settings.load([], [])


@pytest.mark.parametrize(
    "flags",
    ["--rollout.engine.type process", "--rollout.engine.type vllm", "--policy.dtype bfloat16"],
)
def test_the_same_weights_may_be_corrected_where_sampling_computes_differently(flags):
    cfg = settings.load([], ["--actor.type", "self", *flags.split()])
    assert cfg.correction.type == "jackpot"


CONTEXTS: tuple[dict, ...] = (  # in one of these every setting has an effect
    {},
    {"loss.updates_per_rollout": 2, "policy.lora.type": "adapters"},
    {"actor.type": "separate", "actor.lora.type": "adapters", "rollout.max_staleness": 1},
    {"alarm.kl_max": 1.0, "reward.type": "math_verify"},
    {"task.type": "problems", "task.source": "a/b", "task.eval_source": "c/d"},
    {"loss.updates_per_rollout": 2, "correction.type": "tis"},
)
IDLE_IN: tuple[dict, ...] = (  # in one of these every rule holds that a setting has none
    {"policy.path": "x", "actor.path": "x", "correction.type": "tis"},
    {"actor.ppo": False},
    {"actor.type": "frozen", "loss.denominator": "accepted", "correction.type": "none"},
    {"task.type": "problems", "task.source": "a.jsonl"},
    {"policy.path": "x", "reward.type": "number"},
    {"reward.function": "a.py:f", "reward.batched": True},
    {"task.pad_prompt_to": 8},
    {"objective.type": "dppo"},
    {"objective.type": "dmpo", "actor.ppo": False},
    {"objective.type": "bapo", "objective.low_min": 0.9, "objective.high_max": 1.2},
    {"objective.type": "alpha_dpo", "objective.alpha": 0.0},
    {"rollout.mode.type": "drafted"},
)


def contexts_for(types: dict) -> list[dict]:
    """Those whose own types do not contradict these."""
    return [c for c in CONTEXTS if all(types.get(k, v) == v for k, v in c.items() if "type" in k)]


def state_of(*layers: dict) -> Settings:
    state = Settings()
    for flat in layers:
        state = sections.updated(state, sections.nested_table(flat))
    return state


@pytest.mark.parametrize(
    ("place", "name", "cls", "types"), [*choices(Settings)], ids=lambda x: str(x)[:30]
)
def test_every_setting_of_every_type_has_an_effect_somewhere(place, name, cls, types):
    states = [state_of(context | types) for context in contexts_for(types)]
    for key in sections.settings_of(cls):
        if not sections.classes_of(sections.settings_of(cls)[key]):
            idle = [f"{place}.{key}" in validation.without_effect(state) for state in states]
            assert not all(idle), key


def test_every_setting_without_types_has_an_effect_somewhere():
    states = [state_of(context) for context in CONTEXTS]
    for key in sections.flatten(Settings()):
        assert not all(key in validation.without_effect(state) for state in states), key


def test_every_rule_about_effects_can_be_broken():
    ruled = {k for need in validation._needs(Settings()) for k in need.keys.split()}
    ruled |= {"task.split", "task.eval_split"}
    states = [state_of(context) for context in ({}, *IDLE_IN)]
    assert set().union(*map(validation.without_effect, states)) == ruled


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--policy.path x --actor.path x --policy.layers 2", "policy.layers 2 would have no"),
        ("--correction.type tis --rollout.top-k 20", "top_k 20 would have no effect"),
        ("--alarm.patience 1", "patience 1 would have no effect"),
        ("--run.eval-updates 0", "eval_updates 0 would have no effect"),
        (
            "--actor.ppo False --objective.clip-low 0.2",
            "objective.clip_low 0.2 would have no effect",
        ),
        ("--actor.ppo False --actor.clip-low 0.2", "actor.clip_low 0.2 would have no effect"),
        ("--policy.lora.alpha 32", "alpha is a setting of policy.lora.type adapters, and"),
        ("--correction.type none --alarm.accept-min 0", "accept_min 0.0 would have no effect"),
    ],
)
def test_a_setting_without_effect_is_refused_with_its_default_value_too(flags, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        settings.load([], flags.split())
    flat = dict(zip(flags.split()[::2], flags.split()[1::2], strict=True))
    *others, (last, value) = flat.items()
    before = [word for pair in others for word in pair]
    assert settings.load([], before)  # nobody gave it
    file = tmp_path / "a.toml"
    file.write_text("[run]\nsteps = 7\n")
    with pytest.raises(ConfigError, match=message):
        settings.load([str(file)], [*before, last, value])


def test_none_may_be_said_of_a_section_that_could_be_nothing_else():
    cfg = settings.load([], "--actor.type frozen --control.type none".split())
    assert cfg == settings.load([], ["--actor.type", "frozen"])


def test_a_tracked_lam_that_cannot_move_is_refused():
    flags = ["--correction.lam.type", "tracked", "--correction.lam.min", "2"]
    with pytest.raises(ConfigError, match=r"lam\.max must be above correction\.lam\.min"):
        settings.load([], [*flags, "--correction.lam.max", "2"])
    settings.load([], [*flags, "--correction.lam.max", "2.5"])
