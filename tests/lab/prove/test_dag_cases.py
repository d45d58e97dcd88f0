"""Nine conditions under which re-used, merged and shared draft tokens keep the target's law, and what breaks them.

A node may be reached by two prefixes while it is drafted; for the target it is unrolled, once per prefix. What matters is
the law that the copies state, and whether the rule has looked at the token before. Each test enumerates every draft.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch

from draftgraph.errors import DraftError
from draftgraph.lab.prove.bounds import available, lossless_bound
from draftgraph.lab.prove.cases import by_depth, grow, paths, shared
from draftgraph.lab.prove.controls import judged
from draftgraph.lab.prove.law import (
    Draw,
    Laws,
    Program,
    Tables,
    enumerate_draws,
    output_law,
    random_tables,
    total_variation,
)
from draftgraph.lab.prove.misdrafted import best_of_two, late_sibling, merged_token, siblings, unreplaced_pair
from draftgraph.lab.prove.misjudged import IndependentTests
from draftgraph.lab.prove.slots import Draft, best, fixed, hybrid, replaced
from draftgraph.types import ROOT, Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.registry import RULES

EXACT, VISIBLE = 1e-12, 1e-3
TABLES = [random_tables("random", 3, 3, seed) for seed in range(5)]
SMALL = [random_tables("random", 3, 2, seed) for seed in range(5)]

LAYER, BLOCK, TOKEN, WALK, AGREE = (RULES[name] for name in ("layer", "block", "token", "walk", "agree"))
RECURSIVE, TRAVERSAL = RULES["recursive"], RULES["traversal"]
ON_TREES = (LAYER, RECURSIVE, TRAVERSAL, WALK, AGREE)
READS_LAWS = (LAYER, RECURSIVE, TRAVERSAL)

on = pytest.mark.parametrize
named = {"ids": lambda value: value.name if isinstance(value, Rule) else None}


def unchecked(rule: Rule) -> Rule:
    """The rule without its refusals, to see what they prevent."""
    anything = {"accepts": Accepts(EVERY_LAW, EVERY_STRUCTURE)}
    return type(type(rule).__name__, (type(rule),), anything)()


def bias(rule: Rule, program: Program, tables: Iterable[Tables] = SMALL) -> float:
    """The largest total variation over some tables."""
    return max(judged(program, rule)(pair) for pair in tables)


def tokens(rule: Rule, program: Program, pair: Tables) -> float:
    return output_law(rule, pair, program, pair.depth + 1).expected_tokens


# Always: every copy has a target row of its own.


class RowsByNode(LayerRule):
    """The copy of a token reads the target row of its first prefix, as if a merged node had one row."""

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        merged = list(zip(tree.depths, tree.tokens, strict=True))
        return super().outcome(tree, p[[0, *(merged.index(node) + 1 for node in merged)]])


def test_one_target_row_for_two_prefixes_is_biased():
    assert bias(RowsByNode(), merged_token("fixed"), TABLES) > VISIBLE
    assert bias(LAYER, merged_token("fixed"), TABLES) < EXACT


# 1. Deterministic graph: merging is free.


def deterministic(copies: bool) -> Program:
    """The best two tokens of every node to depth two; leaves that repeat a token of layer one borrow its children."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        first = [draft.add(ROOT, token) for token in best(q(()), 2)]
        leaves = [draft.add(node, token) for node in first for token in best(q(draft.prefix(node)), 2)]
        for leaf in leaves if copies else ():
            for node in first:
                if draft.tokens[node] == draft.tokens[leaf]:
                    for child in draft.children(node):
                        draft.add(leaf, draft.tokens[child])
        return draft.tree()

    return program


@on("rule", ON_TREES, **named)
def test_1_a_deterministic_graph_is_lossless_optimal_and_longer_with_its_copies(rule):
    assert bias(rule, deterministic(True), TABLES) < EXACT
    for pair in TABLES:
        ((_, tree),) = enumerate_draws(lambda draw, q=pair.drafter: deterministic(True)(q, draw))
        mass = sum(prefix_mass(pair, tree.path_tokens(node)) for node in range(len(tree)))
        assert tokens(rule, deterministic(True), pair) == pytest.approx(1.0 + mass, abs=EXACT)
    with_copies, without = (sum(tokens(rule, deterministic(c), pair) for pair in TABLES) for c in (True, False))
    assert with_copies > without + 0.1


def prefix_mass(pair: Tables, text: Sequence[int]) -> float:
    """The target's probability of a text: what no lossless rule can exceed at a FIXED node."""
    mass = 1.0
    for i, token in enumerate(text):
        mass *= float(pair.target(text[:i])[token])
    return mass


# 2. One random draw below several parents of a layer.

two_parents = shared(fixed, 2, False, 2)


def forgetting(program: Program) -> Program:
    """The same drafts, stated as if every copy of a shared draw were a draw of its own."""

    def forget(q: Laws, draw: Draw) -> TokenTree:
        tree = program(q, draw)
        return TokenTree(tree.tokens, tree.parents, tree.law_row, tree.laws, across=tree.across)

    return forget


@on("program", [two_parents, shared(hybrid, 3, False, 2), shared(replaced, 2, False, 2), shared(hybrid, 2, True, 2)])
def test_2_a_draw_below_several_parents_of_a_layer_is_lossless_if_it_is_named(program):
    for rule in (LAYER, RECURSIVE, WALK, AGREE):
        assert bias(rule, program) < EXACT
    assert bias(LAYER, forgetting(program)) > VISIBLE


def test_2_a_shared_draw_is_matched_against_the_mixture_of_its_parents():
    """E = 1 + sum w + sum_x min(Q(x), sum_v w_v p_v(x)): block verification of one draw against the mixture."""
    for pair in SMALL:
        parents = best(pair.drafter(()), 2)
        weights = pair.target(())[parents]
        mixture = sum(w * pair.target((v,)) for w, v in zip(weights, parents, strict=True))
        kept = torch.minimum(pair.drafter((parents[0],)), mixture).sum()
        assert tokens(LAYER, two_parents, pair) == pytest.approx(float(1.0 + weights.sum() + kept), abs=EXACT)
        assert tokens(LAYER, two_parents, pair) >= tokens(LAYER, merged_token("fixed"), pair)


@pytest.mark.skipif(not available(), reason="needs the solver of draftgraph[prove]")
def test_2_no_lossless_rule_accepts_more_of_a_shared_draw():
    for pair in SMALL:
        assert tokens(LAYER, two_parents, pair) == pytest.approx(lossless_bound(pair, two_parents), abs=1e-7)


def test_2_rules_that_cannot_share_a_draw_refuse_it():
    for rule in (TRAVERSAL, BLOCK, TOKEN):
        with pytest.raises(DraftError, match=f"rule {rule.name!r}"):
            bias(rule, two_parents)
    assert bias(unchecked(TRAVERSAL), two_parents) > VISIBLE


# 3. One draw met again at another depth, or by a rule that goes depth first: it has been looked at.


def posterior(pair: Tables) -> Program:
    """d ~ Q below a, and below b with its law after a's branch has failed: proportional to (Q - r p(.|a))_+, r = p(a)."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = (draft.add(ROOT, token) for token in best(q(()), 2))
        law, mass = q(draft.prefix(a)), pair.target(())[draft.tokens[a]]
        d = draw(law)
        draft.add(a, d, law)
        left = (law - mass * pair.target(draft.prefix(a))).clamp(min=0.0)
        if float(left[d]) > 0.0:  # else a's branch never fails with this d
            draft.add(b, d, left / left.sum())
        return draft.tree()

    return program


def deeper(stated: str) -> Program:
    """d ~ q(.|a) below a, and once more one layer deeper, below the best token of b."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = (draft.add(ROOT, token) for token in best(q(()), 2))
        law = q(draft.prefix(a))
        d = draw(law)
        draft.add(a, d, law)
        below = draft.add(b, best(q(draft.prefix(b)), 1)[0])
        draft.add(below, d, {"its law": law, "new prefix": q(draft.prefix(below)), "fixed": None}[stated])
        return draft.tree()

    return program


def test_3_depth_first_a_shared_draw_needs_its_posterior_or_a_point_mass():
    assert max(bias(TRAVERSAL, posterior(pair), [pair]) for pair in SMALL) < EXACT
    assert bias(TRAVERSAL, merged_token("fixed")) < EXACT
    assert bias(TRAVERSAL, merged_token("first prefix")) > VISIBLE
    assert bias(TRAVERSAL, merged_token("new prefix")) > VISIBLE


def test_3_top_down_a_shared_draw_keeps_its_law_because_it_is_looked_at_once():
    assert bias(RECURSIVE, merged_token("first prefix")) < EXACT
    assert bias(RECURSIVE, merged_token("fixed")) < EXACT
    assert bias(RECURSIVE, merged_token("new prefix")) > VISIBLE


def test_3_a_draw_met_again_one_layer_deeper_is_a_point_mass():
    for rule in ON_TREES:
        assert bias(rule, deeper("fixed"), TABLES) < EXACT
    assert bias(RECURSIVE, deeper("its law"), TABLES) < EXACT
    for rule in (LAYER, TRAVERSAL):
        assert bias(rule, deeper("its law"), TABLES) > VISIBLE
    for rule in READS_LAWS:
        assert bias(rule, deeper("new prefix"), TABLES) > VISIBLE


def test_3_a_draft_cannot_name_one_draw_at_two_depths():
    law = torch.tensor([[0.5, 0.5]])
    with pytest.raises(DraftError, match="at one depth"):
        TokenTree([0, 1, 1], [ROOT, 0, 1], [-1, 0, 0], law, draws=[0, 1, 1])


# 4. Two independently drawn paths meet, and each borrows the continuation of the other.


def crossed(stated: str) -> Program:
    """Two SAMPLED paths below a and b; where their second tokens are equal, the third ones hang below both."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        ends, laws, drawn = [], [], []
        for token in best(q(()), 2):
            node = draft.add(ROOT, token)
            law = q(draft.prefix(node))
            node = draft.add(node, draw(law), law)
            ends.append(node)
            laws.append(q(draft.prefix(node)))
            drawn.append(draw(laws[-1]))
        for node, token, law in zip(ends, drawn, laws, strict=True):
            draft.add(node, token, law)
        if stated != "nothing" and draft.tokens[ends[0]] == draft.tokens[ends[1]]:
            for i, node in enumerate(ends):
                law = {"its law": laws[1 - i], "new prefix": laws[i], "fixed": None}[stated]
                draft.add(node, drawn[1 - i], law)
        return draft.tree(across=True)

    return program


def test_4_crossing_tokens_are_lossless_as_point_masses_and_longer_than_none():
    for rule in ON_TREES:
        assert bias(rule, crossed("fixed"), TABLES) < EXACT
        for pair in TABLES:
            assert tokens(rule, crossed("fixed"), pair) > tokens(rule, crossed("nothing"), pair)


def test_4_crossing_tokens_keep_the_law_they_were_drawn_from_top_down_only():
    assert bias(RECURSIVE, crossed("its law"), TABLES) < EXACT
    for rule in (LAYER, TRAVERSAL):
        assert bias(rule, crossed("its law"), TABLES) > VISIBLE


@on("rule", READS_LAWS, **named)
def test_4_crossing_tokens_judged_by_the_law_of_the_new_prefix_are_biased(rule):
    assert bias(rule, crossed("new prefix"), TABLES) > VISIBLE


# 5. De-duplication.


@on("rule", READS_LAWS, **named)
def test_5_a_duplicate_is_kept_as_a_step_or_its_law_says_that_it_is_distinct(rule):
    assert bias(rule, siblings(drop_duplicates=False)) < EXACT
    assert bias(rule, unreplaced_pair(stated_iid=False)) < EXACT
    assert bias(rule, siblings(drop_duplicates=True)) > VISIBLE


# 6. Selection after sampling.


def selected(depth: int) -> Program:
    """A chain of the likelier of two draws, stated with the law of what is selected."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(depth):
            law = q(draft.prefix(node))
            token = max(draw(law), draw(law), key=lambda t, law=law: float(law[t]))
            order = law.argsort()
            below = law[order].cumsum(0)
            chosen = torch.zeros_like(law).scatter(0, order, below**2 - (below - law[order]) ** 2)
            node = draft.add(node, token, chosen)
        return draft.tree()

    return program


def pruned(stated_sampled: bool) -> Program:
    """Of two SAMPLED paths only the likelier one is kept."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        both = paths(2, 2)(q, draw)

        def score(path: list[int]) -> float:
            return float(torch.stack([both.laws[both.law_row[node], both.tokens[node]] for node in path]).prod())

        kept = max(([0, 1], [2, 3]), key=score)
        rows = [both.law_row[node] if stated_sampled else -1 for node in kept]
        return TokenTree([both.tokens[node] for node in kept], [ROOT, 0], rows, both.laws)

    return program


@on("rule", [LAYER, BLOCK, TOKEN, RECURSIVE, TRAVERSAL], **named)
def test_6_a_selected_token_has_the_law_of_the_selection_or_is_a_point_mass(rule):
    assert bias(rule, selected(2)) < EXACT
    assert bias(rule, best_of_two(False, 2)) < EXACT
    assert bias(rule, best_of_two(True, 2)) > VISIBLE
    assert bias(rule, pruned(stated_sampled=False)) < EXACT
    assert bias(rule, pruned(stated_sampled=True)) > VISIBLE


# 7. A sibling that exists only if a deeper token of another branch looks good.


def early_sibling(looks_at: str) -> Program:
    """A SAMPLED sibling with a SAMPLED child, verified before a branch a, b, is dropped if b looks good."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, root = Draft(), q(())
        first, a = draw(root), draw(root)
        below = q((a,))
        b = draw(below)
        good = b == int(below.argmax()) if looks_at == "deeper token" else first == int(root.argmax())
        if not good:
            law = q((first,))
            draft.add(draft.add(ROOT, first, root), draw(law), law)
        draft.add(draft.add(ROOT, a, root), b, below)
        return draft.tree(across=True)

    return program


def late_leaf(q: Laws, draw: Draw) -> TokenTree:
    """The best token FIXED beside a SAMPLED branch, and the best continuation FIXED below it: only if b looks good."""
    draft, root = Draft(), q(())
    a = draft.add(ROOT, draw(root), root)
    below = q(draft.prefix(a))
    b = draw(below)
    draft.add(a, b, below)
    if b == int(below.argmax()):
        leaf = draft.add(ROOT, best(root, 1)[0])
        draft.add(leaf, best(q(draft.prefix(leaf)), 1)[0])
    return draft.tree(across=True)


def test_7_a_sibling_that_depends_on_a_deeper_token_is_harmless_only_if_it_is_verified_after_it():
    assert bias(LAYER, late_sibling("deeper token")) > VISIBLE  # layer by layer the sibling comes before b
    assert bias(TRAVERSAL, late_sibling("deeper token")) < EXACT  # depth first it comes after b
    assert bias(LAYER, early_sibling("deeper token")) > VISIBLE
    assert bias(TRAVERSAL, early_sibling("deeper token")) > VISIBLE


def test_7_top_down_the_sibling_must_not_come_before_the_branch_it_depends_on():
    assert bias(RECURSIVE, late_sibling("deeper token")) < EXACT
    assert bias(RECURSIVE, early_sibling("deeper token")) > VISIBLE


@on("rule", ON_TREES, **named)
def test_7_a_sibling_may_depend_on_upper_layers_and_a_fixed_branch_on_anything(rule):
    assert bias(rule, late_sibling("upper layers")) < EXACT
    assert bias(rule, late_leaf) < EXACT


# 8. Left-over tokens in the next round.


def left_over(rule: Rule, stated: str) -> float:
    """Round one drafts X1, X2; if X1 is rejected, round two drafts X2 behind the bonus token, with a law that varies."""
    worst = 0.0
    for pair in SMALL:

        def decode(draw: Draw, pair: Tables = pair) -> list[int]:
            chain = grow(by_depth(), replaced, 2)(pair.drafter, draw)
            text = emit(rule, chain, pair, [], draw)
            if len(text) == 1:
                old, new = pair.drafter((chain.tokens[0],)), pair.drafter(text)
                law = {"old prefix": old, "new prefix": new, "fixed": None}[stated]
                draft = Draft()
                draft.add(ROOT, chain.tokens[1], law)
                text = emit(rule, draft.tree(), pair, text, draw)
            while len(text) < 3:
                text.append(draw(pair.target(text)))
            return text

        law = torch.zeros(3, 3, 3, dtype=torch.float64)
        for probability, text in enumerate_draws(decode):
            law[tuple(text)] += probability
        worst = max(worst, total_variation(law.flatten(), pair.target_law(3)))
    return worst


def emit(rule: Rule, tree: TokenTree, pair: Tables, text: list[int], draw: Draw) -> list[int]:
    outcome = rule.outcome(tree, pair.rows(tree, text))
    end = draw(torch.tensor(outcome.stop, dtype=torch.float64))
    return [*text, *tree.path_tokens(end - 1), draw(outcome.bonus(end))]


@on("rule", [TOKEN, RECURSIVE, BLOCK, LAYER, TRAVERSAL], **named)
def test_8_a_left_over_token_is_a_point_mass_in_the_next_round(rule):
    assert left_over(rule, "fixed") < EXACT
    assert left_over(rule, "new prefix") > VISIBLE


def test_8_a_left_over_token_keeps_its_law_only_if_the_rule_never_looked_at_it():
    for rule in (TOKEN, RECURSIVE):
        assert left_over(rule, "old prefix") < EXACT
    for rule in (BLOCK, LAYER, TRAVERSAL):
        assert left_over(rule, "old prefix") > VISIBLE


# 9. Every node tested alone, the longest path, the bonus token from p.


def test_9_independent_tests_with_the_longest_path_are_biased_but_at_temperature_zero():
    assert bias(IndependentTests(), grow(by_depth(2), replaced, 2)) > VISIBLE
    assert bias(IndependentTests(), grow(by_depth(2), fixed, 2)) > VISIBLE  # with q = 1 as well
    greedy = [random_tables("greedy", 3, 2, seed) for seed in range(5)]
    assert bias(IndependentTests(), grow(by_depth(2), fixed, 2), greedy) < EXACT
