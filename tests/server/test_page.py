"""The chat page in a real browser, with a real server behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal

import pytest

from browsers import CHROMIUM, SHIFT, Browser, browser
from draftgraph.view import tracefile
from held import until
from served import Served, engine, served

HELLO = "write a function that adds two numbers"
IS_DONE = "running === null && turns.length && turns.at(-1).state !== 'writing'"
HOSTILE = """<script>document.title='broken out'</script><img src=x onerror="document.title='out'"> **<b>bold</b>** `</code>`
```
</pre><b>
```"""
"""What a model might write to leave the page's text."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Browser:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(tab: Browser, server: Served):
    """page(**options): the page in a fresh tab. At the end, nothing may have gone wrong in it."""

    def open_page(url: str = server.url, **options) -> Browser:
        tab.open(url, **options)
        return tab

    yield open_page
    server.hold.end()
    assert tab.complaints == []
    assert tab.evaluate("document.documentElement.dataset.errors") == "0"


def ask(tab: Browser, text: str, tokens: int | None = 30) -> None:
    """Write and send with the keyboard alone, and wait for the whole answer."""
    tab.evaluate(f"$('max-tokens').value = {json.dumps(tokens)}")
    tab.type(text)
    tab.press("Enter")
    tab.wait(IS_DONE)


def own(*messages: str, tokens: int = 30):
    roles = ("user", "assistant")
    spoken = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    return engine().generate(engine().chat_prompt(spoken), max_new_tokens=tokens)


def click(tab: Browser, name: str) -> None:
    tab.evaluate(f"[...document.querySelectorAll('button')].find((b) => b.textContent === {json.dumps(name)}).click()")


def replaced(tab: Browser, answer: str) -> None:
    """Let the page's next request go wrong. answer  an expression: what `fetch` gives instead."""
    tab.evaluate(f"{{ const real = fetch; window.fetch = async () => {{ window.fetch = real; {answer}; }}; }}")


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_the_policy_allows_the_page_s_own_parts_and_this_server_alone(server: Served):
    answer = server.http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "innerHTML" not in answer.text
    assert "/* page.js */" not in answer.text
    assert set(re.findall(r"https?://[^\s\"'`]+", answer.text)) == {"http://www.w3.org/2000/svg"}


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_stored(page, server: Served):
    tab = page()
    ask(tab, HELLO)
    loaded = tab.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert set(loaded) == {f"{server.url}/v1/models", f"{server.url}/v1/chat/completions"}
    assert tab.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


# --- a conversation ---------------------------------------------------------------------------------------------------


def test_enter_sends_and_the_answer_is_the_engine_s_own(page):
    tab = page()
    tab.type("first")
    tab.press("Enter", SHIFT)
    assert tab.evaluate("[turns.length, $('say').value]") == [0, "first\n"]
    tab.evaluate("$('say').value = ''")
    ask(tab, HELLO)
    expected = own(HELLO)
    assert tab.evaluate("[turns[0].text, turns[0].state, turns[0].finish]") == [
        expected.text, "whole", expected.finish_reason,
    ]  # fmt: skip
    shown = tab.evaluate("document.querySelector('.answer').innerText")
    assert re.findall(r"[a-z]+", shown) == re.findall(r"[a-z]+", expected.text)
    assert tab.evaluate("[document.activeElement.id, $('say').value]") == ["say", ""]
    said = tab.evaluate("document.querySelector('.numbers').textContent")
    calls = len(expected.token_ids) / tab.evaluate("turns[0].whole.stats.num_rounds")
    assert f"{len(expected.token_ids)} tokens · " in said
    assert float(re.search(r"([\d.]+) tokens per target call", said)[1]) == pytest.approx(calls, abs=0.06)
    assert "The answer is complete" in tab.evaluate("$('status').textContent")


@pytest.mark.parametrize("still", [False, True], ids=["motion", "reduced-motion"])
def test_the_text_grows_while_it_is_written(page, server: Served, still):
    tab = page(still=still)
    server.hold.after(4)
    tab.evaluate("""window.seen = []; $('max-tokens').value = 300;
        new MutationObserver(() => { const body = document.querySelector('.answer');
          if (body && running) seen.push([body.textContent.length, document.getAnimations().length]); })
        .observe($('turns'), {childList: true, subtree: true});""")
    tab.type(HELLO)
    tab.press("Enter")
    for _ in range(5):
        tab.wait("seen.length && seen.at(-1)[0] > (window.before ?? 0)")
        tab.evaluate("window.before = seen.at(-1)[0]")
        server.hold.after(4)
    server.hold.end()
    tab.wait(IS_DONE)
    seen = tab.evaluate("seen")
    lengths = [length for length, _ in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    assert any(motions for _, motions in seen) == (not still)


def test_all_controls_are_reached_with_the_tab_key(page):
    tab = page()
    ask(tab, HELLO, 8)
    reached = []
    for _ in range(14):
        tab.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"marks-on", "new", "open-settings", "talk", "Copy", "How it was drafted", "Regenerate", "say", "send"} <= {
        *reached
    }


def test_a_conversation_has_its_history_and_can_begin_anew(page):
    tab = page()
    ask(tab, HELLO)
    ask(tab, "go on")
    first = own(HELLO).text
    assert tab.evaluate("turns[1].text") == own(HELLO, first, "go on").text
    tab.evaluate("$('seed').value = 3; $('temperature').value = 1")
    click(tab, "Regenerate")
    tab.wait(IS_DONE)
    again = tab.evaluate("turns[1].text")
    assert again != own(HELLO, first, "go on").text
    assert tab.evaluate("turns.length") == 2
    click(tab, "Regenerate")
    tab.wait(IS_DONE)
    assert tab.evaluate("turns[1].text") == again, "the same seed"
    tab.evaluate("$('temperature').value = 0")
    click(tab, "New chat")
    assert tab.evaluate("[turns.length, document.activeElement.id, $('welcome').hidden]") == [0, "say", False]
    ask(tab, HELLO)
    assert tab.evaluate("turns[0].text") == first


def test_a_system_message_and_a_budget_of_nothing_are_heard(page):
    tab = page()
    tab.evaluate("$('system').value = 'be brief'; $('budget').value = '0'")
    ask(tab, HELLO)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": HELLO}]
    assert tab.evaluate("turns[0].text") == engine().generate(engine().chat_prompt(messages), max_new_tokens=30).text
    assert tab.evaluate("turns[0].rounds.every((record) => record.tokens.length === 0)")


def test_settings_that_cannot_be_are_shown_before_anything_is_sent(page):
    tab = page()
    tab.evaluate("$('temperature').value = -1")
    tab.type(HELLO)
    tab.press("Enter")
    assert tab.evaluate("[turns.length, $('settings').open, document.activeElement.id]") == [0, True, "temperature"]
    tab.evaluate("$('temperature').value = 0")
    click(tab, "Done")
    assert tab.evaluate("[$('settings').open, document.activeElement.id, $('say').value]") == [False, "say", HELLO]
    ask(tab, "")
    assert tab.evaluate("turns[0].text") == own(HELLO).text


def metric(server: Served, name: str) -> float:
    told = server.http.get("/metrics").text
    return float(re.search(rf"^draftgraph:{name}\S* (\S+)", told, re.MULTILINE)[1])


@pytest.mark.parametrize("way", ["Escape", "Stop"])
def test_stopping_ends_the_request_at_the_server(page, server: Served, way):
    tab = page()
    before, mark = metric(server, "generation_tokens_total"), server.mark()
    server.hold.after(6)
    tab.evaluate("$('max-tokens').value = 950")
    tab.type(HELLO)
    tab.press("Enter")
    tab.wait("turns.length && turns[0].text")
    if way == "Escape":
        tab.press("Escape")
    else:
        tab.click("#stop")
    tab.wait(IS_DONE)
    assert tab.evaluate("[turns[0].state, document.activeElement.id, $('stop').hidden]") == ["stopped", "say", True]
    kept = tab.evaluate("turns[0].text")
    until(lambda: server.ended("/v1/chat/completions", mark))
    server.hold.end()
    until(lambda: metric(server, "num_requests_running") == 0)
    assert metric(server, "generation_tokens_total") - before < 900
    assert own(HELLO, tokens=tab.evaluate("turns[0].tokens.length")).text.startswith(kept)
    assert "stopped" in tab.evaluate("document.querySelector('.numbers').textContent")
    ask(tab, "go on", 8)
    assert tab.evaluate("turns[1].text") == own(HELLO, kept, "go on", tokens=8).text


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_markup_of_model_and_user_is_shown_not_obeyed(page):
    tab = page()
    tab.evaluate(f"""{{ const real = fetch; window.fetch = (path, options) => {{
        const body = JSON.parse(options.body); body.structured_outputs = {{choice: [{json.dumps(HOSTILE)}]}};
        return real(path, {{...options, body: JSON.stringify(body)}}); }}; }}""")
    before = tab.evaluate("document.querySelectorAll('script, img, b').length")
    ask(tab, HOSTILE, 400)
    assert tab.evaluate("turns[0].text") == HOSTILE
    assert tab.evaluate("[document.title, document.querySelectorAll('script, img, b').length]") == [
        "draftgraph: chat", before,
    ]  # fmt: skip
    assert tab.evaluate("document.querySelector('.asked').textContent") == HOSTILE
    whole = "turns[0].tokens = [{from: 0, to: turns[0].text.length, origin: 'drafter', node: 0, round: 0}]"
    for step in ("0", whole, "$('marks-on').checked = false"):
        tab.evaluate(f"{step}; turns[0].show()")
        shown = tab.evaluate("document.querySelector('.answer').textContent")
        assert shown == re.sub(r"\*\*|`{1,3}|\n", "", HOSTILE)
        assert tab.evaluate("[...document.querySelectorAll('.answer :is(strong, code, pre)')].map((e) => e.localName)") == [
            "strong", "code", "pre", "code",
        ]  # fmt: skip


DRAWN = (
    ("a *b* **c** `*d*`", "<p>a <em>b</em> <strong>c</strong> <code>*d*</code></p>"),
    ("2*3*4 and snake*case*x", "<p>2*3*4 and snake*case*x</p>"),
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("# T\n- a\n- b\n3. c\n4) d", '<h3>T</h3><ul><li>a</li><li>b</li></ul><ol start="3"><li>c</li><li>d</li></ol>'),
    ("```py\nx = '`'\n\n```\nend", "<pre tabindex=\"0\"><code>x = '`'\n</code></pre><p>end</p>"),
    ("~~~\nopen", '<pre tabindex="0"><code>open</code></pre>'),
    ("```", '<pre tabindex="0"><code></code></pre>'),
    ("<b>&amp;", "<p>&lt;b&gt;&amp;amp;</p>"),
    ("a\u202eb\x1b", "<p>a\\u202eb\\u001b</p>"),
    ("", ""),
)
"""Texts and what is made of them."""


def test_a_little_markdown_is_drawn(page):
    tab = page()
    for text, made in DRAWN:
        script = f"""(() => {{ const place = make('div'), text = {json.dumps(text)};
            markdown(place, text, (parent, from, to) => {{ if (to > from) parent.append(harmless(text.slice(from, to))); }});
            return place.innerHTML; }})()"""
        assert tab.evaluate(script) == made, text


def saved(tab: Browser, tmp_path) -> tracefile.Trace:
    """The trace of the first answer, as the page would save it."""
    file = tmp_path / "held.json"
    file.write_text(tab.evaluate("JSON.stringify(turns[0].trace)"), encoding="utf-8")
    return tracefile.load(file)


def test_drafted_tokens_are_marked_by_where_they_came_from(page, tmp_path):
    tab = page()
    ask(tab, HELLO)
    origins = []
    for record in saved(tab, tmp_path).rounds:
        path = [record.origins[node] for node in record.path]
        origins += [*path, "bonus"][: record.emitted]
    assert tab.evaluate("turns[0].tokens.map((token) => token.origin)") == origins
    classes = tab.evaluate("[...new Set([...document.querySelectorAll('.answer span')].map((span) => span.className))]")
    assert set(classes) == {"" if origin == "bonus" else f"o-{origin}" for origin in origins}
    tab.click("#marks-on")
    assert tab.evaluate("document.querySelectorAll('.answer span').length") == 0


def test_the_draft_graph_of_every_round_is_drawn(page, tmp_path):
    tab = page()
    ask(tab, HELLO, 60)
    trace = saved(tab, tmp_path)
    records = trace.rounds
    assert trace.token_ids == own(HELLO, tokens=60).token_ids
    click(tab, "How it was drafted")
    assert tab.evaluate("[document.activeElement.id, $('drafting').hidden]") == ["h-drafting", False]
    drawn = tab.evaluate("""turns[0].rounds.map((record, i) => { choose(i); return [$('where').textContent,
        document.querySelectorAll('#graph .node').length, document.querySelectorAll('#graph .edge.accepted').length,
        document.querySelector('#graph .edge.bonus') !== null, document.querySelectorAll('.answer .now').length]; })""")
    count = len(records)
    assert [each[:4] for each in drawn] == [
        [f"{i} of {count}", len(record.tokens) + 2, len(record.path), True] for i, record in enumerate(records, 1)
    ]
    assert any(marked > 0 for *_, marked in drawn)
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.click("#save")
    until((tmp_path / "trace.json").is_file)
    tab.evaluate("$('graph').focus()")
    where = "[$('where').textContent, document.querySelector('#graph .selected').dataset.node]"
    tab.press("ArrowLeft")
    assert tab.evaluate(where)[0] == f"{count - 1} of {count}"
    first = tab.evaluate(where)[1]
    tab.press("ArrowDown")
    assert tab.evaluate(where)[1] != first
    tab.press("Escape")
    assert tab.evaluate("[$('drafting').hidden, document.activeElement.textContent]") == [True, "How it was drafted"]
    tab.click(".answer span[data-token='7']")
    picked = tab.evaluate("[current, +document.querySelector('#graph .selected').dataset.node, turns[0].tokens[7]]")
    assert picked[:2] == [picked[2]["round"], picked[2]["node"]]


def test_a_graph_can_be_watched_while_it_grows_and_outlives_a_stop(page, server: Served):
    tab = page()
    server.hold.after(6)
    tab.evaluate("$('max-tokens').value = 950")
    tab.type(HELLO)
    tab.press("Enter")
    tab.wait("turns.length && turns[0].opener")
    tab.evaluate("turns[0].opener.click(); window.before = turns[0].rounds.length")
    server.hold.after(6)
    tab.wait("current > before")
    tab.press("Escape")
    tab.wait(IS_DONE)
    server.hold.end()
    assert tab.evaluate("[turns[0].state, $('drafting').hidden, $('save').disabled]") == ["stopped", False, True]
    assert tab.evaluate("document.querySelectorAll('#graph .node').length") == tab.evaluate(
        "turns[0].rounds[current].tokens.length + 2"
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


WRONG = (
    ("throw new TypeError('x')", "cannot be reached"),
    ("return Response.json({error: {message: 'm', code: 'queue_full'}}, {status: 429})", "The server is busy"),
    ("return Response.json({error: {message: 'm', code: 'draining'}}, {status: 503})", "shutting down"),
    ("return Response.json({error: {message: 'no such rule', code: null}}, {status: 400})", "No such rule."),
    ("return new Response('<html>', {status: 502})", "status 502"),
    ("return new Response('data: {\"choices\": []}\\n\\n')", "The connection broke off"),
    ("return new Response('data: {\"error\": {\"message\": \"too late\", \"code\": \"timeout\"}}\\n\\n')", "longer than"),
)  # fmt: skip
"""What `fetch` gives, and what the page says of it."""


def test_what_goes_wrong_is_said_in_words_and_can_be_tried_again(page):
    tab = page()
    for answer, said in WRONG:
        click(tab, "New chat")
        replaced(tab, answer)
        ask(tab, HELLO, 8)
        assert tab.evaluate("turns[0].state") == "failed"
        assert said in tab.evaluate("document.querySelector('.failed').innerText")
        click(tab, "Try again")
        tab.wait(IS_DONE)
        expected = own(HELLO, tokens=8).text
        assert tab.evaluate("[turns[0].text, document.querySelector('.failed').hidden]") == [expected, True]


def test_a_window_that_is_exceeded_is_said_with_the_numbers_and_is_no_part_of_the_history(page):
    tab = page()
    tab.evaluate("$('max-tokens').value = 5000")
    tab.type(HELLO)
    tab.press("Enter")
    tab.wait(IS_DONE)
    said = tab.evaluate("document.querySelector('.failed').innerText")
    assert "does not fit into the model's window" in said
    assert "1024" in said
    tab.complaints = [each for each in tab.complaints if "status of 400" not in each]  # the browser's own line
    ask(tab, "hello")
    assert tab.evaluate("turns[1].text") == own("hello").text


def test_a_server_with_a_key_and_a_model_without_a_template(tab: Browser):
    with served("--api-key", "right", "--max-requests", "1") as running:
        tab.open(running.url)
        assert tab.evaluate("[$('key-form').hidden, document.activeElement.id]") == [False, "key"]
        tab.type("wrong")
        tab.press("Enter")
        tab.wait("$('key-form').textContent.includes('not the server')")
        tab.evaluate("$('key').value = ''")
        tab.type("right")
        tab.press("Enter")
        tab.wait("model !== null && document.activeElement.id === 'say'")
        assert tab.evaluate("$('key-form').hidden")
        assert "no chat template" in tab.evaluate("$('notice').innerText")
        ask(tab, "def add(a, b):")
        expected = engine().generate("def add(a, b):", max_new_tokens=30).text
        assert tab.evaluate("[turns[0].text, document.querySelector('.answer').textContent]") == [expected] * 2
        click(tab, "Go on")
        tab.wait("turns.length === 2 && " + IS_DONE)
        more = engine().generate("def add(a, b):" + expected, max_new_tokens=30).text
        assert tab.evaluate("turns[1].text") == more
        mark = running.mark()
        hold = """(async () => { window.held = (await call('/v1/completions', {method: 'POST',
            body: JSON.stringify({prompt: 'a', max_tokens: 1000, stream: true})})).body; })()"""
        running.hold.after(2)
        tab.evaluate(hold)
        ask(tab, "a", 8)
        assert "The server is busy" in tab.evaluate("turns[2].error")
        tab.evaluate("held.cancel()")
        until(lambda: running.ended("/v1/completions", mark) == 2)
        running.hold.end()
        tab.wait(
            "(async () => (await call('/metrics')).text())().then((told) => /num_requests_running\\S* 0/.test(told))"
        )
        click(tab, "Try again")
        tab.wait(IS_DONE)
        assert tab.evaluate("turns[2].text") == engine().generate("a", max_new_tokens=8).text
        running.hold.after(2)
        tab.evaluate(hold)
        running.process.send_signal(signal.SIGTERM)
        tab.wait("fetch('/health').then((answer) => answer.status === 503)")
        ask(tab, "a", 8)
        assert "shutting down" in tab.evaluate("turns[3].error")
        assert all(re.search("status of (401|429|503)", each) for each in tab.complaints)


# --- every screen -----------------------------------------------------------------------------------------------------

CONTRAST = """[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() &&
    !e.matches('.unseen, option, :disabled') &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((element) => {
  const pen = window.pen ??= document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const isDrawn = element instanceof SVGElement, style = getComputedStyle(element), layers = [];
  for (let e = element; e; e = e.parentElement) {
    const box = e.localName === 'g' && e.querySelector(':scope > rect.box');
    layers.unshift(box ? getComputedStyle(box).fill : getComputedStyle(e).backgroundColor);
  }
  const paint = (colours) => { for (const c of colours) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = ([r, g, b]) => { const f = (c) => c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const [a, b] = [light(paint(layers)), light(paint([...layers, isDrawn ? style.fill : style.color]))];
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), element.outerHTML.slice(0, 90)];
}).sort((a, b) => a[0] - b[0])[0]"""
UNNAMED = """[...document.querySelectorAll('button, input, textarea')].filter((e) => !(e.textContent.trim() || e.ariaLabel ||
    [...e.labels ?? []].some((label) => label.textContent.trim()))).map((e) => e.outerHTML)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390], ids=["desk", "phone"])
def test_every_state_is_readable_and_fits_the_screen(page, tmp_path, width, dark):
    tab = page(width=width, height=780, dark=dark)

    def check(state: str) -> None:
        ratio, element = tab.evaluate(CONTRAST)
        assert ratio >= 4.5, (state, element, ratio)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        assert tab.evaluate("$('talk').scrollWidth <= $('talk').clientWidth"), state
        assert tab.evaluate(UNNAMED) == [], state

    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 3 * 64) == dark
    check("welcome")
    ask(tab, "a" * 300 + " " + HELLO, 60)
    check("answer")
    tab.evaluate("$('talk').scrollTop = 1e6")
    small = tab.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility()).map((b) => b.getBoundingClientRect().height)"
    )
    assert min(small) >= (40 if width < 600 else 32)
    click(tab, "How it was drafted")
    tab.evaluate("document.querySelector('details').open = true")
    check("drafting")
    assert tab.evaluate("$('main').inert") == (width < 1000), "what is covered takes no focus"
    tab.picture(tmp_path / "drafting.png")
    tab.press("Escape")
    tab.evaluate("$('open-settings').click()")
    check("settings")
    assert tab.evaluate("(({left, right, bottom}) => left >= 0 && right <= innerWidth && bottom <= innerHeight)"
                        "($('settings').getBoundingClientRect())")  # fmt: skip
