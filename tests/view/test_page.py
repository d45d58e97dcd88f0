"""The page of a trace: what is in the file, and what a real browser makes of it, where Chromium is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from draftgraph.view import page
from draftgraph.view.tracefile import Trace
from draftgraph.view.why import why
from traces import NASTY, random_trace

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--window-size=1200,900",
)  # fmt: skip
DARK, LIGHT = "--blink-settings=preferredColorScheme=0", "--blink-settings=preferredColorScheme=1"


def test_the_page_holds_the_trace_and_asks_for_nothing():
    trace = random_trace(3, 9)
    source = page.html(trace, 2)
    held = re.search(r'<script type="application/json" id="trace">(.*?)</script>', source, re.DOTALL)
    values = json.loads(held.group(1))
    assert values["words"] == {str(token): word for token, word in trace.words.items()}
    assert (values["seed"], values["start"], len(values["rounds"])) == (str(trace.seed), 2, 3)
    assert len(re.findall("<script", source)) == len(re.findall("</script>", source)) == 2
    assert not re.search(
        r"\b(src|href)=|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\(", source.replace(held.group(), "")
    )
    assert re.findall(r"https?://[^\s\"']+", source) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in source


# --- in a browser -----------------------------------------------------------------------------------------------------

Browse = Callable[..., dict[str, Any]]


class _Root(HTMLParser):
    """The attributes of the page's root element."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.found = dict(attrs)


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """browse(trace, script, *flags): open the page from a file and run a script at its end; what `report` then holds."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")

    def run(trace: Trace, script: str, *flags: str, start: int = 1) -> dict[str, Any]:
        file = tmp_path / "page.html"
        driver = (
            "<script>{const report = {}, key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', "
            "{key: name, bubbles: true, cancelable: true})), where = () => +document.getElementById('slider').value, "
            "nodes = () => [...document.querySelectorAll('#graph .node')], chosen = () => "
            "document.querySelector('#graph .selected').dataset.node;\n"
            f"{script}\ndocument.documentElement.dataset.report = JSON.stringify(report);}}</script></body>"
        )
        file.write_text(page.html(trace, start).replace("</body>", driver), encoding="utf-8")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", file.as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=600, check=True)
        root = _Root()
        root.feed(done.stdout.decode())
        assert root.found.get("data-errors") == "0", done.stderr.decode()
        assert root.found["data-rounds"] == str(len(trace.rounds))
        return json.loads(root.found["data-report"] or "")

    return run


def test_five_hundred_rounds_are_all_drawn(browse):
    trace = random_trace(500, 32)
    report = browse(
        trace,
        """report.drawn = [];
        for (let round = 1; round <= 500; round++) {
          const slider = document.getElementById('slider');
          slider.value = round;
          slider.dispatchEvent(new Event('input', {bubbles: true}));
          report.drawn.push([where(), nodes().length, document.querySelectorAll('#graph .edge.accepted').length,
                             document.querySelectorAll('#graph .merged').length]);
        }""",
    )
    expected = []
    for number, record in enumerate(trace.rounds, 1):
        merged = {
            (parent, at)
            for parent, origin, at in zip(record.parents, record.origins, record.drafted_at, strict=True)
            if origin == "merge" and at is not None
        }
        expected.append(
            [number, 32 + 2, len(record.path), len(merged)]
        )  # the root and the bonus token are drawn as well
    assert report["drawn"] == expected


def test_every_node_says_what_it_is_and_where_it_was_drafted(browse):
    trace = random_trace(1, 40, seed=1)
    record = trace.rounds[0]
    report = browse(
        trace,
        """report.said = {};
        for (const node of nodes()) {
          node.dispatchEvent(new MouseEvent('click', {bubbles: true}));
          report.said[node.dataset.node] = [document.getElementById('details').innerText, node.getAttribute('aria-label'),
            [...document.querySelectorAll('#words span')].findIndex((span) => span.classList.contains('lent'))];
        }""",
    )
    for node, (origin, at) in enumerate(zip(record.origins, record.drafted_at, strict=True)):
        shown, label, lent = report["said"][str(node)]
        place = {
            "drafter": "by the drafter, behind the text so far" if at == -1 else f"by the drafter, behind node {at} ",
            "merge": "left out" if at is None else "text so far; copied" if at == -1 else f"behind node {at} ",
            "own": f"the target's own row for token {at} of the text",
            "context": f"looked up at token {at} of the text",
            "text": f"looked up at token {at} of the predicted text",
            "rejected": f"the round before, by the drafter, behind its node {at};",
            "table": f"copied from row {at} of the token table",
        }[origin]
        verdict = f"verdict: {why(record, node).partition(';')[0]}"
        law = "law: SAMPLED" if record.sampled[node] else "law: FIXED"
        for words in (place, verdict, law, f"id {record.tokens[node]}", f"{record.scores[node]:.3g}"[:4]):
            assert words in label
        told = re.search(r"why: the target gives it p = (\S+), .* probability (\S+)", label)
        above = 1.0 if record.parents[node] == -1 else record.masses[record.parents[node]]
        assert float(told.group(1)) == pytest.approx(record.p[node], rel=0.01)
        assert float(told.group(2)) == pytest.approx(min(1.0, record.masses[node] / above), rel=0.01)
        assert place in shown
        assert lent == (at if origin in ("own", "context") else -1)


def test_keys_touch_and_pointer_move_through_the_rounds(browse):
    report = browse(
        random_trace(40, 12),
        """report.at = {start: where()};
        for (const name of ['ArrowRight', 'ArrowLeft', 'PageDown', 'PageUp', 'End', 'ArrowRight', 'Home', 'ArrowLeft']) {
          key(name);
          (report.keys ??= []).push(where());
        }
        const touch = (kind, x) => {
          const at = new Touch({identifier: 1, target: document.getElementById('graph'), clientX: x, clientY: 100});
          document.getElementById('graph').dispatchEvent(new TouchEvent(kind, {touches: kind === 'touchstart' ? [at] : [],
            changedTouches: [at], bubbles: true}));
        };
        touch('touchstart', 300); touch('touchend', 100); report.swiped = where();
        touch('touchstart', 100); touch('touchend', 300); report.back = where();
        touch('touchstart', 100); touch('touchend', 110); report.tapped = where();
        const box = document.getElementById('accepted').getBoundingClientRect();
        document.getElementById('seconds').setPointerCapture = document.getElementById('accepted').setPointerCapture = () => {};
        document.getElementById('accepted').dispatchEvent(new PointerEvent('pointerdown', {clientX: box.right - 1, buttons: 1}));
        report.chart = where();
        document.querySelector('#words span[data-round="20"]').click(); report.word = where();
        for (const id of ['first', 'next', 'last', 'back']) { document.getElementById(id).click();
          (report.buttons ??= []).push(where()); }
        key('Home');
        const before = chosen(); key('ArrowDown'); const below = chosen(); key('ArrowUp');
        report.nodes = [before !== below, before === chosen()];
        report.help = [document.getElementById('keys').open];
        key('?'); report.help.push(document.getElementById('keys').open);
        key('End'); report.held = where();
        document.getElementById('keys').querySelector('button').click(); report.help.push(document.getElementById('keys').open);
        """,
        start=5,
    )
    assert report["at"] == {"start": 5}
    assert report["keys"] == [6, 5, 15, 5, 40, 40, 1, 1]
    assert (report["swiped"], report["back"], report["tapped"]) == (2, 1, 1)
    assert (report["chart"], report["word"]) == (40, 21)
    assert report["buttons"] == [1, 2, 40, 39]
    assert report["nodes"] == [True, True]
    assert report["help"] == [False, True, False]
    assert report["held"] == 1  # behind the help, keys do nothing


def test_tokens_cannot_break_out(browse):
    """Markup, comments, control and direction characters of tokens are shown, not obeyed."""
    trace = random_trace(12, 40, seed=2)
    report = browse(
        trace,
        """report.title = document.title; report.scripts = document.scripts.length; report.images = document.images.length;
        report.text = document.getElementById('words').textContent; report.choice = document.getElementById('choice').textContent;
        report.numbers = document.getElementById('numbers').textContent;""",
    )
    hidden = {"\x1b": "\\u001b", "\u202e": "\\u202e", "\u2028": "\\u2028"}
    expected = "".join(hidden.get(letter, letter) for letter in trace.prompt + trace.text)
    assert report["text"] == expected
    assert any(word in expected for word in NASTY[2:4])
    assert (report["title"], report["scripts"], report["images"]) == ("draftgraph: a trace", 3, 0)
    assert "of </script> a reason" in report["choice"]
    assert f"{2**60 + 1} seed" in report["numbers"]


@pytest.mark.parametrize(("rounds", "nodes"), [(0, 0), (1, 0)])
def test_traces_of_next_to_nothing(browse, rounds, nodes):
    report = browse(
        random_trace(rounds, nodes), "report.nodes = nodes().length; key('End'); key('ArrowDown'); key('?');"
    )
    assert report == {"nodes": 2 * rounds}


def test_what_an_interruption_left_is_drawn(browse):
    trace = random_trace(3, 6)
    cut = replace(trace.rounds[-1], emitted=0)
    report = browse(
        replace(trace, rounds=[*trace.rounds[:-1], cut], finish_reason=None),
        "key('End'); report.said = document.getElementById('details').innerText;"
        "report.numbers = document.getElementById('numbers').textContent;",
    )
    assert "not emitted" in report["said"]
    assert "interruption ended it" in report["numbers"]


@pytest.mark.parametrize(("scheme", "is_dark"), [(LIGHT, False), (DARK, True)])
def test_text_is_readable_by_day_and_by_night(browse, scheme, is_dark):
    report = browse(
        random_trace(12, 40),
        """const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const paint = (...colours) => {
          for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const ground = getComputedStyle(document.body).backgroundColor;
        report.ground = paint(ground);
        const texts = '#words span:not(.lent), .legend span, #choice, #details dt, button:not(:disabled)';
        report.pairs = [...document.querySelectorAll(texts)]
          .map((element) => { const style = getComputedStyle(element);
            return [element.className, paint(ground, style.backgroundColor), paint(style.color)]; });
        for (const rect of document.querySelectorAll('#graph .node rect.box')) {
          const small = rect.parentElement.querySelector('.small') ?? rect.parentElement.querySelector('text');
          report.pairs.push(['node', paint(ground, getComputedStyle(rect).fill), paint(getComputedStyle(small).fill)]);
        }""",
        scheme,
    )
    assert (sum(report["ground"]) < 3 * 64) == is_dark
    assert {"o-drafter", "o-bonus", "o-merge", "o-own", "node"} <= {name for name, _, _ in report["pairs"]}
    assert min((contrast(a, b), name) for name, a, b in report["pairs"]) >= (4.5, "")


def contrast(a: list[int], b: list[int]) -> float:
    """The contrast ratio of two colours, as the Web Content Accessibility Guidelines define it."""

    def light(colour: list[int]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_a_picture_can_be_taken(browse, tmp_path):
    browse(random_trace(5, 20), "", f"--screenshot={tmp_path / 'page.png'}")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
