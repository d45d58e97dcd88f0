"""Rules and proofs as reports for someone who has not read the code. Pure functions: nothing here prints or proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from rich.text import Text

from draftgraph.lab.prove.bounds import INSTALL
from draftgraph.lab.prove.exact import CaseRow, ControlRow, Proof
from draftgraph.verification.base import Rule
from draftgraph.view.sheet import Cell, Sheet

Part = Sheet | Text

GOOD, BAD, HONEST, FAINT = "bold green", "bold red", "bold yellow", "dim"
_STYLES = {"proven": GOOD, "refuted": BAD, "lossy, as labelled": HONEST, "unproven": BAD}


def rules_table(rules: Mapping[str, Rule]) -> Sheet:
    """The rules, what they accept and where they come from."""
    rows = [(name, _claim(rule), str(rule.accepts), rule.source) for name, rule in rules.items()]
    return Sheet("", ("rule", "lossless", "accepts", "source"), rows)


def _claim(rule: Rule) -> str:
    if rule.continues:
        return "with its continuation"
    return "yes" if rule.lossless else "no"


def proof_report(proof: Proof) -> list[Part]:
    """One rule: the verdict, what it amounts to, its cases, and the controls."""
    return [conclusion(proof), summary([proof]), *_details(proof), *_controls([proof])]


def proofs_report(proofs: Sequence[Proof], verbose: bool = False) -> list[Part]:
    """Several rules on the same cases: verdicts, expected tokens side by side, what that amounts to.

    verbose adds every rule's own table of cases, and the controls.
    """
    parts: list[Part] = []
    if verbose:
        parts += [part for proof in proofs for part in _details(proof)] + _controls(proofs)
    parts += [_verdicts(proofs), *_matrix(proofs), summary(proofs)]
    parts += [conclusion(proof) for proof in proofs if not proof.holds]
    held = sum(proof.holds for proof in proofs)
    counts = [(sum(proof.status == status for proof in proofs), status) for status in _STYLES]
    told = ", ".join(f"{count} {status}" for count, status in counts if count)
    return [*parts, Text(f"{len(proofs)} rules: {told}", GOOD if held == len(proofs) else BAD)]


def conclusion(proof: Proof) -> Text:
    """The verdict as a sentence."""
    rule, held = f"rule {proof.rule!r}", f"largest TV {proof.max_tv:.1e}, tolerance {proof.tolerance:.0e}"
    if proof.status == "proven":
        given = ", if the loop draws later positions from its continuation" if proof.continues else ""
        text = f"{rule} is lossless on every draft that it accepts{given} ({held})"
    elif proof.status == "refuted":
        text = f"{rule} is NOT lossless, although it claims to be ({held})"
    elif proof.status == "lossy, as labelled":
        seen = "is lossy" if proof.max_tv > proof.tolerance else "shows no bias on these drafts"
        text = f"{rule} says that it is not lossless, and {seen} ({held}); nothing is proven of it"
    elif missed := _missed(proof.controls):
        text = f"nothing is proven of {rule}: the prover misjudged {', '.join(missed)}"
    else:
        text = f"nothing is proven of {rule}: it accepts none of these drafts"
    return Text(text, _STYLES[proof.status])


def summary(proofs: Sequence[Proof]) -> Text:
    """What was proven, how, and what was not, in plain words."""
    first = proofs[0]
    sizes = {(row.vocab, row.depth) for row in first.cases}
    small = " and ".join(f"{vocab} tokens and drafts {depth} deep" for vocab, depth in sorted(sizes))
    drafts = sum(max(row.drafts for row in rows) for rows in _by_case(proofs).values())
    proven = [
        f"{proof.rule}{' with its continuation' * proof.continues}" for proof in proofs if proof.status == "proven"
    ]
    told = (
        [f"Proven: on every draft here that it accepts, {_listed(proven)} emits exactly the target's law."]
        if proven
        else []
    )
    told += [
        f"How: for models of {small}, with {', '.join(first.tables)} tables of probabilities, every draft that can occur was "
        f"enumerated ({drafts} drafts), the rule's own random choices were integrated, and the exact law of the emitted text "
        "was compared with the law of the target alone. TV is their total variation: 0 for the same law, and about 1e-16 "
        "where only rounding is left.",
    ]
    if first.controls:
        mistakes = [row for row in first.controls if row.must_fail]
        caught = sum(row.failed for row in mistakes)
        passed = sum(not row.failed for row in first.controls if not row.must_fail)
        told.append(
            f"Controls: of {len(mistakes)} known mistakes, put through the same test, {caught} were caught, and of "
            f"{len(first.controls) - len(mistakes)} correct versions {passed} passed."
        )
    if any(row.bound is not None for proof in proofs for row in proof.cases):
        told.append(
            "Bound: the most tokens per round that any such rule could emit on the same drafts, even one that knows "
            "everything, by linear programming; gap: the share of it that the rule leaves. Only text of another law can "
            "be beyond it."
        )
    else:
        told.append(f"Bounds were not computed: {INSTALL} adds them.")
    told.append(
        "Not proven: larger vocabularies and deeper drafts, which rules treat in the same way (docs/layer_rule.md proves the "
        "layer rule for every size); the rounding of 16-bit models; and that a drafter of yours draws from the laws it states."
    )
    return Text(" ".join(told))


def _listed(names: Sequence[str]) -> str:
    return f"each of {', '.join(names)}" if len(names) > 1 else names[0]


def _details(proof: Proof) -> list[Part]:
    size = f" ({proof.cases[0].vocab} tokens, drafts {proof.cases[0].depth} deep)" if proof.cases else ""
    refused: dict[str, list[str]] = {}
    for row in proof.cases:
        if row.refused is not None:
            refused.setdefault(row.refused, []).append(f"{row.structure} {row.laws}")
    return [
        Sheet(
            f"rule {proof.rule}: law of the emitted text against the target's{size}",
            ("structure", "laws", "TV", "drafts", "tokens/round", "bound", "gap"),
            [_case(row, proof.tolerance) for row in proof.cases if row.refused is None],
            numbers=5,
        ),
        *(Text(f"refused: {reason} ({'; '.join(cases)})", FAINT) for reason, cases in refused.items()),
    ]


def _case(row: CaseRow, tolerance: float) -> list[Cell]:
    cells = [
        row.structure,
        row.laws,
        "—" if row.tv is None else f"{row.tv:.1e}",
        str(row.drafts),
        _number(row.expected_tokens),
        _number(row.bound),
        _percent(row.gap),
    ]
    biased = row.tv is not None and row.tv > tolerance
    return [Text(cell, "red" if biased else "") for cell in cells]


def _controls(proofs: Sequence[Proof]) -> list[Part]:
    rows = proofs[0].controls
    title = "controls: known mistakes must be caught, their repairs must pass"
    return (
        [Sheet(title, ("control", "source", "found", "TV"), [_control(row) for row in rows], numbers=1)] if rows else []
    )


def _control(row: ControlRow) -> list[Cell]:
    found = "biased" if row.failed else "exact"
    right = row.failed == row.must_fail
    verdict = Text(found if right else f"{found} (wrong)", "green" if right else "red")
    return [row.name, Text(row.source, FAINT), verdict, f"{row.tv:.1e}"]


def _verdicts(proofs: Iterable[Proof]) -> Sheet:
    """A line for every rule; the gaps are over the cases that it accepts."""
    rows: list[list[Cell]] = []
    for proof in proofs:
        accepted = [row for row in proof.cases if row.tv is not None]
        gaps = [row.gap for row in accepted if row.gap is not None]
        rows.append(
            [
                proof.rule,
                Text(proof.status, _STYLES[proof.status]),
                f"{len(accepted)} of {len(proof.cases)}",
                f"{proof.max_tv:.1e}",
                _percent(fmean(gaps) if gaps else None),
                _percent(max(gaps, default=None)),
            ]
        )
    columns = ("rule", "verdict", "accepts", "worst TV", "mean gap", "worst gap")
    return Sheet("is each rule what it says it is?", columns, rows, numbers=4)


def _matrix(proofs: Sequence[Proof]) -> list[Part]:
    """Structure x laws by rules: expected tokens of a round."""
    cells = {(proof.rule, _key(row)): row for proof in proofs for row in proof.cases}
    rows: list[list[Cell]] = []
    for number, (key, found) in enumerate(_by_case(proofs).items(), 1):
        bound = min((row.bound for row in found if row.bound is not None), default=None)
        mine = [_tokens(cells.get((proof.rule, key)), proof.tolerance) for proof in proofs]
        rows.append([str(number), *key, _number(bound), *mine])
    columns = ("#", "structure", "laws", "bound", *(proof.rule for proof in proofs))
    title = "expected tokens of a round on the same drafts, mean over the random models"
    parts: list[Part] = [Sheet(title, columns, rows, numbers=len(proofs) + 1, keys=1)]
    biased = [proof.rule for proof in proofs if proof.max_tv > proof.tolerance]
    if biased:
        parts.append(Text(f"* emitted with another law than the target's ({', '.join(biased)})", FAINT))
    later = [proof.rule for proof in proofs if proof.continues]
    if later:
        parts.append(Text(f"{', '.join(later)}: sets the law of later tokens too, and has a higher bound", FAINT))
    return parts


def _tokens(row: CaseRow | None, tolerance: float) -> Text:
    if row is None or row.tv is None:
        return Text("refused" if row else "—", FAINT)
    biased = row.tv > tolerance
    return Text(_number(row.expected_tokens) + "*" * biased, "red" if biased else "")


def _by_case(proofs: Iterable[Proof]) -> dict[tuple[str, str], list[CaseRow]]:
    """Structure and laws -> the rows of all rules, of cases in which tokens are counted."""
    found: dict[tuple[str, str], list[CaseRow]] = {}
    for proof in proofs:
        for row in proof.cases:
            found.setdefault(_key(row), []).append(row)
    return {key: rows for key, rows in found.items() if any(row.expected_tokens is not None for row in rows)}


def _key(row: CaseRow) -> tuple[str, str]:
    return row.structure, row.laws


def _missed(rows: Iterable[ControlRow]) -> list[str]:
    return [row.name for row in rows if row.failed != row.must_fail]


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    """One decimal; rounding errors of the solver do not show as a minus."""
    return "—" if share is None else f"{100 * share:.1f} %".replace("-0.0 ", "0.0 ")
