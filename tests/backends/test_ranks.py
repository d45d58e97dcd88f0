"""A pass that breaks off on rank 0 is the last one: the other ranks wait in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from draftgraph.backends.ranks import Ranks
from draftgraph.errors import ModelError

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch was built without gloo")


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """A job of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("too large")])
def test_a_pass_that_breaks_off_is_the_last_one(error: BaseException, ranks: Ranks) -> None:
    with ranks.told("a pass"):
        pass
    raised = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ModelError
    with pytest.raises(raised), ranks.told("a pass"):
        raise error
    made = []
    with pytest.raises(ModelError, match=r"out of step; .*start the program anew"), ranks.told("a pass"):
        made.append("a pass")
    assert not made
    ranks.end()
    assert not dist.is_initialized()


def test_the_end_may_come_twice(ranks: Ranks) -> None:
    ranks.end()
    ranks.end()
