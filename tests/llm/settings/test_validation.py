"""A bad or ineffective setting is refused; the defaults are not."""

from __future__ import annotations

import pytest

from llm import settings
from llm.settings.loading import Config

READING = "--task.name problems --policy.path x --actor.path x"
UNTRAINED = "--loss.actor-ppo False --loss.distill-coef 0"


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--correction.lam 0", "lam must be greater than 0"),
        ("--correction.lam nan", "lam must be a finite number"),
        ("--correction.lam inf", "lam must be a finite number"),
        ("--run.steps -3", "run.steps must be greater than 0"),
        ("--rollout.rollouts-per-prompt 1", "at least 2"),
        ("--rollout.max-new-tokens 5", "at least 9: the longest answer"),
        ("--warmup.policy-error 1.5", "between 0 and 1"),
        ("--policy.width 40", "a multiple of 16"),
        ("--loss.updates-per-rollout 3", "a divisor of the 128 sequences"),
        (
            "--task.digits-min 9 --rollout.max-new-tokens 20",
            "digits_max must be >= task.digits_min",
        ),
        ("--correction.name tis --correction.lam 2", "lam 2.0 would have no effect"),
        ("--correction.tis-cap 3", "tis_cap 3.0 would have no effect: it needs name = tis"),
        ("--correction.c2 2", "c2 2.0 would have no effect: it needs target = new"),
        ("--correction.name none --correction.target new", "target new would have no effect"),
        ("--correction.z batch --correction.no_such 1", "no_such"),
        ("--correction.z batch --correction.kappa True", "kappa True would have no effect"),
        ("--correction.kappa True", "kappa True would have no effect: it needs z = state, z_tail"),
        ("--correction.name tis --loss.denominator accepted", "nothing else rejects"),
        ("--policy.path x --actor.path x --policy.layers 3", "it needs an empty policy.path"),
        ("--actor.kind self", "self has an actor that is not trained"),
        ("--actor.kind noisy", "noisy has an actor that is not trained"),
        ("--loss.actor-ppo False --loss.distill-coef 0", "both its losses are off"),
        (f"--actor.kind self {UNTRAINED}", "p_inf = p_ref and there is no mismatch to correct"),
        ("--actor.lag 3", "lag 3 would have no effect: it needs actor.kind stale"),
        ("--actor.bits 4", "bits 4 would have no effect: it needs actor.kind quantized"),
        ("--actor.bits 5", "5"),
        ("--actor.noise 0.1", "noise 0.1 would have no effect"),
        ("--actor.exit-layers 2", "exit_layers 2 would have no effect"),
        (f"--actor.kind noisy {UNTRAINED} --actor.noise -1", "noise must be greater than 0"),
        (f"--actor.kind noisy {UNTRAINED} --actor.width 64", "width 64 would have no effect"),
        (f"--actor.kind stale {UNTRAINED} --optim.actor-lr 1e-3", "it needs a trained actor"),
        ("--correction.budget 0.8", "budget 0.8 would have no effect: it needs lam_from"),
        ("--correction.lam-from batch --correction.budget 1.5", "budget must be at most 1"),
        ("--correction.lam-from batch --correction.lam 2", "lam 2.0 would have no effect"),
        ("--correction.lam-from state --control.lam-max 3", "it needs lam_from = tracked"),
        ("--correction.lam-from tracked --control.lam-min 20", "lam_max must be >= control.lam_m"),
        ("--control.gain 0.2", "gain 0.2 would have no effect: it needs control.kl_target > 0"),
        ("--control.kl-target 0.1 --control.factor-max 1", "factor_max must be above 1"),
        ("--correction.name tis --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--correction.z none --rollout.top-k 3", "top_k 3 would have no effect"),
        ("--loss.actor-ppo False --loss.clip-low 0.1", "clip_low 0.1 would have no effect"),
        ("--alarm.patience 7", "patience 7 would have no effect: it needs a limit"),
        ("--optim.lr-warmup-steps 300", "lr_warmup_steps must be below run.steps, got 300"),
        ("--optim.weight-decay 1e40", "weight_decay must be at most 1"),
        (f"{READING} --task.source a.jsonl --task.split x", "it needs a source on the hub"),
        (f"{READING} --task.source a/b --task.eval-split x", "it needs an eval_source on the hub"),
        (f"{READING} --task.source a.jsonl --warmup.folder x", "a model that is built and warmed"),
        ("--control.kl-target 0.1 --control.distill False", "nothing is driven"),
        ("--control.policy-lr True", "policy_lr True would have no effect: it needs control.kl"),
        ("--correction.name tis --correction.scope prefix", "scope prefix would have no effect"),
        ("--task.slots 4", "slots must be at least task.digits_max, or 0, got 4"),
        ("--task.slots -1", "slots must be at least 0, got -1"),
        ("--task.name add --task.slots 9 --task.digits-max 2 --task.digits-min 2", "no effect"),
        ("--control.kl-target 0.1 --loss.distill-coef 0", "which is 0: give it a value"),
        ("--loss.distill-coef 0 --loss.distill-top-k 5", "distill_top_k 5 would have no effect"),
        ("--loss.actor-ppo False --loss.actor-correction tis", "it needs actor_ppo"),
        ("--loss.advantage best", "best"),
        ("--policy.lora-alpha 8", "lora_alpha 8.0 would have no effect"),
        ("--policy.dtype float16", "float16"),
        ("--alarm.lower-factor 0.1", "lower_factor 0.1 would have no effect"),
        ("--alarm.action lower --alarm.lower-factor 1", "lower_factor must be below 1"),
        ("--correction.name tis --alarm.accept-min 0.1", "accept_min 0.1 would have no effect"),
        ("--task.name arithmetic", "needs a model that reads text"),
        ("--task.name problems --policy.path x --actor.path x", "needs --task.source"),
        ("--task.source a.jsonl", "source a.jsonl would have no effect"),
        ("--task.score-seconds 2", "score_seconds 2.0 would have no effect"),
        ("--task.name sort --task.digits-max 20", "max_new_tokens must be at least 21"),
        ("--policy.path x", "--actor.path is empty"),
        ("--optim.schedule step", "step"),
        ("--rollout.engine-timeout 5", "it needs rollout.engine process"),
        ("--rollout.engine-memory 0.5", "it needs rollout.engine vllm"),
        ("--rollout.max-staleness -1", "max_staleness must be at least 0"),
        ("--rollout.max-staleness 65", "max_staleness must be at most 64"),
        ("--rollout.engine vllm --actor.kind quantized " + UNTRAINED, "cannot sample from --actor"),
        ("--run.checkpoints-kept 0", "checkpoints_kept must be greater than 0"),
        ("--run.tracker mlflow", "mlflow"),
        ("--run.sharding ddp", "ddp"),
        ("--optim.tokens-per-microbatch -1", "tokens_per_microbatch must be at least 0"),
        (
            "--optim.tokens-per-microbatch 64 --optim.sequences-per-microbatch 2",
            "sequences_per_microbatch 2 would have no effect: it needs optim.tokens_per_microbatch",
        ),
        ("--correction.mask bernouli", "bernouli"),
    ],
)
def test_a_bad_or_ineffective_setting_is_an_error(flags, message, capsys):
    with pytest.raises(SystemExit):
        settings.load([], flags.split())
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_defaults_pass_their_own_checks():
    assert Config() == settings.load([], [])
