"""Everybody can come to an end, in some order, with the cells that there are."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from draftgraph.engine.claims import Claim, is_safe

CLAIMS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda two: Claim(two[0], sum(two))), max_size=5)


def by_trying(free: int, claims: list[Claim]) -> bool:
    def ends(order: tuple[Claim, ...]) -> bool:
        left = free
        for claim in order:
            if claim.most - claim.held > left:
                return False
            left += claim.held
        return True

    return any(map(ends, permutations(claims)))


@given(st.integers(0, 12), CLAIMS)
def test_it_is_safe_if_any_order_is(free: int, claims: list[Claim]) -> None:
    assert is_safe(free, claims) == by_trying(free, claims)


def test_what_is_overdrawn_is_not_safe() -> None:
    assert not is_safe(-1, [])
