"""Every module is found by its own name: no package bears the name of a function that hides it."""

from __future__ import annotations

import pkgutil
import pydoc
import sys

import pytest

import draftgraph

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(draftgraph.__path__, "draftgraph.")
    if not found.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_imported_under_a_name_of_its_own(name):
    bound: dict[str, object] = {}
    exec(f"import {name} as module", bound)
    assert bound["module"] is sys.modules[name]
    assert pydoc.locate(name) is sys.modules[name]


def test_public_names_are_those_that_are_exported():
    assert sorted(draftgraph.__all__) == sorted(set(draftgraph.__all__))
    for name in draftgraph.__all__:
        assert getattr(draftgraph, name) is not None
