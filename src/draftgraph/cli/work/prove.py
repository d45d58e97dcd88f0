"""draftgraph prove at work: by enumeration, or by Monte Carlo on a pair of the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from draftgraph.cli.options import Chosen, Drafting
from draftgraph.cli.work.engines import find_rule, load_engine, make_config, place
from draftgraph.errors import OptionError
from draftgraph.lab.audit.audit import audit
from draftgraph.lab.audit.report import audit_report, progress_bar
from draftgraph.lab.prove import bounds
from draftgraph.lab.prove.exact import CaseRow, ControlRow, Proof, Setting, prove_all
from draftgraph.lab.prove.report import Part, proof_report, proofs_report, rules_table
from draftgraph.sampling.params import SamplingParams
from draftgraph.verification.registry import rules
from draftgraph.view.console import print_report
from draftgraph.view.sheet import to_markdown
from draftgraph.view.status import status
from draftgraph.view.tracefile import write_report

BUNDLED_PROMPT = "def "


def sampling(tokens: int, temperature: float, top_p: float, seed: int | None) -> SamplingParams:
    """Checked options of the sampled texts. Raises OptionError."""
    return SamplingParams(max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed)


def run_audit(
    chosen: Chosen,
    drafting: Drafting,
    params: SamplingParams,
    prompts: Sequence[str],
    samples: int,
    as_json: bool,
    markdown: Path | None,
) -> bool:
    """Audit a pair and report; whether it held. Raises OptionError, for a target of the user's without a prompt too."""
    place(chosen)
    config = make_config(drafting)
    if chosen.named and not prompts:
        raise OptionError('a prompt is needed; write --prompt "text as your users write it" (may be repeated)')
    engine = load_engine(chosen, config, quiet=as_json)
    with progress_bar("auditing", as_json) as told:
        found = audit(engine, list(prompts) or [BUNDLED_PROMPT], params, n=samples, progress=told)
    _show(audit_report(found), found.to_dict(), as_json, markdown)
    return found.held


def run_proof(rule: str | None, vocab: int, depth: int, verbose: bool, as_json: bool, markdown: Path | None) -> bool:
    """Prove one rule, or all, by enumeration (with bounds if their solver is installed), and report; whether all hold."""
    chosen = list(rules().values()) if rule is None else [find_rule(rule)]
    setting = Setting(vocab, depth, bounds=bounds.available())
    with status("proving", as_json) as say:

        def tell(row: CaseRow | ControlRow) -> None:
            at = f"{row.structure}, {row.laws}" if isinstance(row, CaseRow) else f"control: {row.name}"
            say(f"proving {rule or 'all rules'}: {at}")

        proofs = prove_all(chosen, setting, tell)
    report = proofs_report(proofs, verbose) if rule is None else proof_report(proofs[0])
    _show(report, _json(proofs) if rule is None else proofs[0].to_dict(), as_json, markdown)
    return all(proof.holds for proof in proofs)


def list_rules() -> None:
    print_report([rules_table(rules())])


def _json(proofs: Sequence[Proof]) -> dict[str, Any]:
    return {"holds": all(proof.holds for proof in proofs), "proofs": [proof.to_dict() for proof in proofs]}


def _show(report: Sequence[Part], found: dict[str, Any], as_json: bool, markdown: Path | None) -> None:
    """The one place that prints: a report on the terminal or its figures as JSON, and the report in a file."""
    if markdown is not None:
        write_report(markdown, to_markdown("draftgraph prove", report))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_report(report, apart=True)
