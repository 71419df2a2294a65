"""Hypothesis profiles (HYPOTHESIS_PROFILE = dev, ci or nightly) and one torch thread."""

import os

import torch
from hypothesis import HealthCheck, settings

_common = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],  # a busy machine is not a failure
}
settings.register_profile("dev", max_examples=50, derandomize=True, **_common)
settings.register_profile("ci", max_examples=300, derandomize=True, **_common)
settings.register_profile("nightly", max_examples=5000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)
