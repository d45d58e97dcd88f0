"""Options of earlier versions go on working: they become a structure, and a warning says which one to write."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.structures import GSD, Chain, Graph, Paths, Tree
from models import perturbed, plain, tiny_lm

TRANSLATED: list[tuple[dict[str, Any], Any]] = [
    ({"branching": (3, 2, 1, 1)}, Tree((3, 2, 1, 1))),
    ({"branching": [2, 1], "structure": "tree", "children": "spine"}, Tree((2, 1), "spine")),
    ({"branching": (4, 1, 1), "structure": "paths"}, Paths(4, 3)),
    ({"branching": (4, 1), "structure": "paths", "children": "with_replacement"}, Paths(4, 2)),
    ({"branching": (1, 1, 1), "structure": "chain"}, Chain(3)),
    ({"branching": (1, 1), "structure": "chain", "children": "fixed"}, Tree((1, 1), "fixed")),
    ({"branching": (3, 1), "rule": "multipath"}, Tree((3, 1))),
    ({"structure": "paths", "children": "with_replacement"}, "paths"),
    ({"structure": "gsd", "gsd_match": 0}, GSD(0)),
    ({"gsd_match": 1}, "auto"),
    ({"read_ahead": 4}, Graph(read_ahead=4)),
    ({"read_ahead": 0}, Graph(read_ahead=0)),
    ({"read_ahead": 0, "rule": "block"}, "auto"),
    ({"read_ahead": 0, "structure": "tree"}, "tree"),
    ({"read_ahead": 4, "structure": "graph"}, Graph(read_ahead=4)),
    ({"branching": None, "children": "auto", "read_ahead": "auto"}, "auto"),
]


@pytest.mark.parametrize(("options", "structure"), TRANSLATED, ids=str)
def test_an_old_option_becomes_a_structure(options: dict[str, Any], structure: Any) -> None:
    instead = "leave it out" if structure == options.get("structure", "auto") else f"write structure={structure}"
    for make in (lambda: dg.Config(**options), lambda: dg.Config().with_options(**options)):
        with pytest.warns(DeprecationWarning, match="a parameter of structures now") as told:
            config = make()
        assert config.structure == structure
        assert len(told) == 1
        assert str(told[0].message).endswith(instead)
        assert all(f"{name}=" in str(told[0].message) for name in options.keys() - {"structure", "rule"})
        assert told[0].filename == __file__, "it points at the user's own line"


def test_old_options_change_the_structure_that_is_there() -> None:
    with pytest.warns(DeprecationWarning, match="write structure=.*'spine'"):
        config = dg.Config(structure=Tree((3, 2))).with_options(children="spine")
    assert config.structure == Tree((3, 2), "spine")
    with pytest.warns(DeprecationWarning, match="GSD"):
        assert dg.Config(structure=GSD(2)).with_options(gsd_match=0).structure == GSD(0)
    with pytest.warns(DeprecationWarning, match="Chain"):
        assert dg.Config(8, "chain", branching=(1, 1)).structure == Chain(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branching": 3}, "branching=3"),
        ({"branching": "321"}, "branching='321'"),
        ({"branching": (1.5,)}, "branching"),
        ({"branching": ()}, r"branching=\(\)"),
        ({"branching": (2, 0)}, "branching"),
        ({"branching": (64, 64, 64)}, "266304 nodes, and a round verifies at most 4096"),
        ({"branching": (2, 1), "num_speculative_tokens": 3}, "is 2 deep, not num_speculative_tokens=3"),
        ({"rule": "block", "branching": (2, 1)}, "write structure='chain'"),
        ({"structure": "paths", "branching": (3, 2)}, r"part at the root only.*write structure=.*Paths\(count=3, len"),
        ({"structure": "paths", "children": "hybrid"}, "structure='paths' has children='with_replacement'"),
        ({"structure": "comb", "branching": (3, 2)}, r"shape of a tree; write structure=dg.structures.Tree\("),
        ({"branching": (3, 2), "children": "hybird"}, "unknown children 'hybird'.*Did you mean 'hybrid'"),
        ({"children": "systematic"}, r"write dg.structures.Tree\(\(3, 2, 1, 1\), children='systematic'\)"),
        ({"structure": "chain", "branching": (2, 1)}, "cannot branch"),
        ({"structure": "graph", "branching": (2, 1)}, "shape of a tree"),
        ({"rule": "agree", "branching": (2,), "children": "spine"}, "rule 'agree' reads no laws"),
        ({"structure": "gsd", "gsd_match": -2}, "match=-2 is not possible; write an integer from -1"),
        ({"structure": "tree", "gsd_match": 2}, "gsd_match=2 is for structure='gsd'"),
        ({"structure": "tree", "read_ahead": 4}, "structure='tree' has none"),
        ({"read_ahead": -1}, "read_ahead=-1 is not possible"),
        ({"read_ahead": "some"}, "read_ahead='some' is not possible"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*a parameter of structures now:DeprecationWarning")
def test_what_was_refused_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Config(**options)


def test_engines_take_old_options() -> None:
    target = tiny_lm()
    with pytest.warns(DeprecationWarning, match=r"write structure=dg.structures.Tree\(branching=\(2, 2, 1\)\)"):
        engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.1), branching=(2, 2, 1))
    assert engine.generate([5, 9, 5], dg.SamplingParams(max_new_tokens=20)).token_ids == plain(target, [5, 9, 5], 20)


def test_custom_generate_takes_old_options_and_warns_once() -> None:
    target = tiny_lm()
    with pytest.warns(DeprecationWarning, match=r"Tree\(branching=\(2, 1\)\)") as told:
        loop = dg.custom_generate(draft_model=perturbed(target, 0.1), branching=(2, 1))
    assert told[0].filename == __file__
    ids = torch.tensor([[5, 9, 5]])
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert target.generate(ids, custom_generate=loop, **options)[0, 3:].tolist() == plain(target, [5, 9, 5], 8)
