"""A verification rule of one's own, and the prover's verdict on it (also: draftgraph prove --rule own_rule:KeepIfLikelier)."""

import torch

import draftgraph as dg
from draftgraph.verification.base import Accepts


class KeepIfLikelier(dg.Rule):
    """Accept a drafted token whenever the target likes it at least as much as the drafter. Plausible, and wrong."""

    name, source, lossless = "keep-if-likelier", "an example", True
    accepts = Accepts(frozenset({"sampled"}), frozenset({"chain"}))

    def outcome(self, tree: dg.TokenTree, p: torch.Tensor) -> dg.Outcome:
        self.check(tree)
        kept = 0
        for i, token in enumerate(tree.tokens):
            if p[i, token] < tree.laws[tree.law_row[i], token]:
                break
            kept += 1
        stop = [float(i == kept) for i in range(len(tree) + 1)]
        return dg.Outcome(stop, lambda row: p[row])


if __name__ == "__main__":
    proof = dg.prove(KeepIfLikelier(), depth=2, controls=False)
    print(f"{proof.rule}: claims lossless={proof.lossless}, holds={proof.holds}, total variation {proof.max_tv:.3f}")
    assert not proof.holds

    proof = dg.prove("block", depth=2, controls=False)
    print(f"{proof.rule}: claims lossless={proof.lossless}, holds={proof.holds}, total variation {proof.max_tv:.1e}")
    assert proof.holds
