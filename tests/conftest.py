"""Fixtures for all tests. The models here are so small that a second thread only gets in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from cost_tables import costs

# No limit on how long inputs take to be made: on a busy machine that says nothing about a test.
TIMELESS = [HealthCheck.too_slow]
settings.register_profile("default", deadline=None, derandomize=True, max_examples=60, suppress_health_check=TIMELESS)
settings.load_profile("default")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def known_costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test depends on a clock: rounds cost what a table says, and what a process of a test keeps is not the user's.

    Workers of one run share the folder, so that a model is converted for OpenVINO once, where tests load folders as users do.
    """
    run = tmp_path_factory.getbasetemp()
    shared = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAFTGRAPH_CACHE", str(shared / "cache"))
        patch.setattr("draftgraph.engine.engine.pair_costs", lambda *pair: costs())
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test material; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared test material is not here")
    return SHARED
