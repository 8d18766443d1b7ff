"""Hypothesis profiles: `fast` by default, `--hypothesis-profile=thorough` for ten times as many examples."""

import gc
import os

import torch
from hypothesis import HealthCheck, settings

collect_ignore = ["scripts"]  # users' scripts, which the tests run

# Two workers share two cores, and bits depend on the number of threads, which Lightning would set by this variable.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# By itself Python looks for garbage thousands of times while tests are collected, and at each compile in all of torch.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


# The first torch call takes longer than any deadline, and a compile law more than a health check allows.
common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("fast", max_examples=25, derandomize=True, **common)
settings.register_profile("thorough", max_examples=250, **common)
settings.load_profile("fast")
