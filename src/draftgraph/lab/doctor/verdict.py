"""A diagnosis in words: whether it pays, why not, and what to try. Nothing is promised that was not measured."""

from __future__ import annotations

import math

from draftgraph.lab.doctor.checks import Checkup, cores
from draftgraph.lab.doctor.diagnosis import Diagnosis, Finding
from draftgraph.lab.doctor.ways import Measured, Spread

HEAVY = 0.35
"""A part of a round that takes this share of its time is worth naming."""
WIDE = 1.5
"""A pass over a draft is dear if it costs so many times plain decoding's pass."""
RARE = 1.5
"""Tokens per target call below this: drafts are rarely right."""
FEW_TURNS = 4


def verdict(finding: Finding, busy: bool = False) -> str:
    """One finding in a sentence or two, with what was predicted beside what was measured; busy says that it means little."""
    best, at = finding.chosen, f"at temperature {finding.temperature:g}"
    if busy:
        told = (
            f"No verdict {at}: the machine was busy. As timed, {best.name} came out first at {times(best.speedup)} plain "
            f"decoding; {best.tokens:.2f} tokens per target call, and {best.break_even:.2f} would break even."
        )
    elif finding.pays == "no":
        told = (
            f"It does not pay here {at}: the best way that was tried, {best.name}, runs at {times(best.speedup)} plain "
            f"decoding, with {best.tokens:.2f} tokens per target call where {best.break_even:.2f} would break even. "
            f"Why: {'; '.join(reasons(best))}."
        )
    else:
        heads = {"yes": "It pays", "mostly": "It pays in the median, but not on every prompt,"}
        told = (
            f"{heads[finding.pays]} {at}: {times(best.speedup)} plain decoding with {asked(best)}; {best.tokens:.2f} tokens per "
            f"target call, and {best.break_even:.2f} would break even."
        )
    return told + ("" if best.predicted is None else f" Predicted: {best.predicted:.2f}x.")


def times(speedup: Spread) -> str:
    return f"{speedup.median:.2f}x ({speedup.low:.2f}–{speedup.high:.2f} over {speedup.turns} turns)"


def asked(way: Measured) -> str:
    """How to ask the engine for it."""
    return ", ".join(f"{name}={value!r}" for name, value in way.options.items()) or "the default options"


def reasons(way: Measured) -> list[str]:
    """What eats the gain, the heaviest first."""
    whole = way.drafter + way.target + way.own
    found = [
        (way.drafter / whole, f"the drafter takes {way.drafter / whole:.0%} of a round"),
        (
            way.own / whole,
            f"the target is so fast ({1e3 * way.plain:.1f} ms per token) that draftgraph's own {1e3 * way.own:.1f} ms per round "
            f"weigh {way.own / whole:.0%} of it",
        ),
    ]
    kept = sorted((entry for entry in found if entry[0] > HEAVY), reverse=True)
    told = [words for _, words in kept]
    if way.target > WIDE * way.plain:
        told.append(f"a pass over a draft costs {way.target / way.plain:.1f} times one token of plain decoding")
    if way.tokens < RARE:
        told.append(f"drafts are rarely right ({way.tokens:.2f} tokens per target call)")
    return told or [f"{way.tokens:.2f} tokens per target call are too few for what a round costs"]


def advice(checkup: Checkup, diagnosis: Diagnosis) -> list[str]:
    """What to try next, from what was measured; suggestions, not promises."""
    told: list[str] = []
    if diagnosis.busy:
        told.append("The machine was busy: trust no figure above, and ask again when it is idle.")
    for finding in diagnosis.findings:
        told += _alternatives(finding, checkup.drafter is not None)
    if checkup.on_cpu and diagnosis.threads < cores():
        told.append(f"{diagnosis.threads} of {cores()} cores were used: ask again with --threads {cores()}.")
    if diagnosis.dtype in ("bfloat16", "float16") and checkup.on_cpu:
        told.append(f"{diagnosis.dtype} is often slower than float32 on a CPU: ask again with --dtype float32.")
    if checkup.drafter is not None and diagnosis.costs is None:
        told.append("The time limit left no room for a prediction: ask again with a longer --limit.")
    turns = min(finding.chosen.speedup.turns for finding in diagnosis.findings)
    if turns <= FEW_TURNS:
        told.append(
            f"Only {turns} turns fit into the time limit, so the spread says little: ask with a longer --limit."
        )
    return list(dict.fromkeys(told))


def _alternatives(finding: Finding, has_drafter: bool) -> list[str]:
    best, told = finding.chosen, []
    if not has_drafter:
        if finding.pays != "yes":
            told.append(
                "Lookup repeats what was said before; for other text, give a drafter with the target's tokenizer."
            )
        return told
    drafted = best.name != "lookup"
    if not drafted and finding.pays != "no":
        told.append(
            f"At temperature {finding.temperature:g} lookup, which needs no drafter, did best on these prompts; its gain depends "
            "on how much a text repeats, so ask again with --prompt or --text of your own."
        )
    if finding.pays != "no":
        return told
    whole = best.drafter + best.target + best.own
    if drafted and best.drafter / whole > HEAVY:
        told.append("Try a smaller drafter, of fewer layers above all, or a shorter draft (num_speculative_tokens).")
    if drafted and finding.prediction is not None and _unlike(finding):
        told.append(
            "Try a drafter that is more like the target: distilled from it, or of the same family and fine-tuning."
        )
    if best.own / whole > HEAVY:
        told.append(
            "A target this fast gains nothing from speculation; decode plainly (budget=0), or use a larger target."
        )
    if best.target > WIDE * best.plain:
        told.append("Try a smaller budget (budget=4), more --threads, or a GPU, where wide passes cost less.")
    return told or ["Decode plainly (budget=0), or try another drafter."]


def _unlike(finding: Finding) -> bool:
    assert finding.prediction is not None
    needed = finding.needed if finding.needed is not None else math.inf
    return finding.prediction.profile.overlap.value < needed


def acceptance(finding: Finding) -> str | None:
    """The acceptance that the pair has beside the one it needs, from the prediction."""
    if finding.prediction is None or finding.needed is None:
        return None
    has = finding.prediction.profile.overlap
    needs = "none would break even" if finding.needed == math.inf else f"{finding.needed:.2f} breaks even"
    at = f"temperature {finding.temperature:g}"
    return f"{at}: one drafted token is kept with chance {has.value:.2f} ± {has.error:.2f}; {needs}"
