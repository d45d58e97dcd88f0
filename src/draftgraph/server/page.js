const root = document.documentElement, $ = (id) => document.getElementById(id);
let errors = 0;
const countError = () => { root.dataset.errors = ++errors; };
root.dataset.errors = 0;
addEventListener("error", countError);
addEventListener("unhandledrejection", countError);

/* What would steer the text around it is written as its number; everything else is shown as it is. */
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\u{d800}-\u{dfff}\u{e0000}-\u{e007f}]/gu;
const harmless = (text) => text.replace(STEERING, code);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });

/* ---- the server ------------------------------------------------------------------------------------------------- */

let model = null, apiKey = "";
const chats = () => model === null || model.draftgraph.has_chat_template;

class Refusal extends Error {
  constructor(status, error) {
    super((error && error.message) || `the server answered with status ${status}`);
    Object.assign(this, { status, code: (error && error.code) || "" });
  }
}
const SAID = {
  queue_full: "The server is busy: as many requests are running and waiting as may be. Try again in a moment.",
  draining: "The server is shutting down and takes no new requests.",
  context_length_exceeded: "This does not fit into the model's window. Start a new chat, write less, or ask for fewer tokens in the settings.",
  invalid_api_key: "The server asks for an API key, and this one is missing or wrong.",
  timeout: "The answer took longer than the server allows.",
  request_too_large: "This is more text than the server takes at once.",
};
/* An error in words, and the server's own words where they add something. */
function words(error) {
  if (error instanceof Refusal) {
    const own = error.message[0].toUpperCase() + error.message.slice(1) + ".";
    if (!SAID[error.code]) return own;
    return error.code === "context_length_exceeded" ? `${SAID[error.code]} ${own}` : SAID[error.code];
  }
  return error instanceof Broken ? error.message : "The server cannot be reached. Is draftgraph serve still running?";
}
class Broken extends Error {}

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) headers.Authorization = "Bearer " + apiKey;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  let said = null;
  try { said = (await response.json()).error; } catch { /* the status says it */ }
  throw new Refusal(response.status, said);
}

/* The chunks of a stream of server-sent events. */
async function* chunksOf(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Broken("The connection broke off; the answer is not complete.");
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Refusal(0, chunk.error);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function meet() {
  try {
    model = (await (await call("/v1/models")).json()).data[0];
  } catch (error) {
    if (error.status === 401) askForKey(apiKey ? "This key is not the server's. " : "");
    else tell(words(error));
    return;
  }
  $("key-form").hidden = true;
  const { drafter, backend } = model.draftgraph, window = model.max_model_len;
  $("model").textContent = harmless(`${model.id} · ${backend} · drafts from ${drafter}` + (window ? ` · window of ${number(window)} tokens` : ""));
  $("model").title = $("model").textContent;
  document.body.classList.toggle("is-completion", !chats());
  tell(chats() ? "" : "This model has no chat template: it was not trained to answer. What you write is continued as it stands, and each text is on its own.");
  $("system-field").hidden = !chats();
  $("say-label").textContent = chats() ? "Message" : "Text to continue";
  $("say").placeholder = $("say-label").textContent;
  $("send").textContent = chats() ? "Send" : "Continue";
  $("new").textContent = chats() ? "New chat" : "Clear";
  if (!chats()) $("max-tokens").placeholder = `${COMPLETION_TOKENS}`;
  welcome();
}
function askForKey(before) {
  $("key-form").hidden = false;
  $("key-form").querySelector("label").textContent = before + "This server asks for an API key.";
  $("key").select();
  $("key").focus();
}
function tell(text) {
  $("notice").textContent = harmless(text);
  $("notice").hidden = text === "";
}
const COMPLETION_TOKENS = 256;
const EXAMPLES = { true: ["What is a draft graph?", "Write a haiku about patience."], false: ["def add(a, b):", "class Stack:\n    def __init__(self):"] };
function welcome() {
  $("welcome-title").textContent = chats() ? "Ask something" : "Begin a text";
  $("welcome-text").textContent = "Tokens are drafted ahead, and the model checks every one of them. Each answer shows how.";
  $("examples").replaceChildren(...EXAMPLES[chats()].map((text) => {
    const button = make("button", { type: "button" }, text.replace(/\s*\n\s*/g, " ⏎ "));
    button.addEventListener("click", () => { $("say").value = text; grow(); $("say").focus(); });
    return button;
  }));
}

/* ---- the conversation ------------------------------------------------------------------------------------------- */

let turns = [], running = null;

class Turn {
  constructor(asked) {
    this.asked = asked;
    this.row = make("li");
    this.body = make("div", { class: "answer" });
    this.failure = make("p", { class: "failed", role: "alert" });
    this.numbers = make("p", { class: "soft numbers" });
    this.tools = make("div", { class: "row tools" });
    const said = make("div", { class: "asked" });
    said.textContent = harmless(asked);
    this.row.append(said, this.body, this.failure, this.numbers, this.tools);
    $("turns").append(this.row);
    this.clear();
  }
  /* state: writing, whole, stopped or failed. tokens: of the answer, as places in its text. */
  clear() {
    Object.assign(this, { state: "writing", text: "", error: "", finish: null, tokens: [], rounds: [], words: {}, whole: null, pieces: 0,
                          first: 0, last: 0, atFirst: 0, isDirty: false, opener: null });
  }
  take(chunk) {
    const choice = chunk.choices[0], told = chunk.draftgraph;
    if (choice) {
      this.text += (chats() ? choice.delta.content : choice.text) || "";
      this.finish = choice.finish_reason || this.finish;
    }
    if (!told) return;
    if (told.trace) { this.whole = told.trace; return; }
    Object.assign(this.words, told.words);
    const record = told.round;
    if (record) this.rounds.push(record);
    told.pieces.forEach((piece, j) => {
      const node = record && j < record.path.length ? record.path[j] : BONUS;
      const origin = node === BONUS ? "bonus" : record.origins[node];
      this.tokens.push({ from: this.pieces, to: this.pieces += piece.length, origin, node, round: this.rounds.length - 1 });
    });
    this.last = performance.now();
    if (!this.first) { this.first = this.last; this.atFirst = this.tokens.length; }
  }
  /* What was told so far, in the form of a trace: the whole one comes at the end, and the prompt's length is known before. */
  get trace() {
    const length = this.rounds.length ? this.rounds[0].length : 0;
    return this.whole || { prompt_ids: Array(length).fill(-1), token_ids: [], words: this.words, rounds: this.rounds };
  }
  get speed() {
    const after = this.tokens.length - this.atFirst;
    return after > 0 && this.last > this.first ? 1000 * after / (this.last - this.first) : null;
  }

  write(parent, from, to) {
    if (from >= to) return;
    if (!$("marks-on").checked || !this.tokens.length) {
      parent.append(harmless(this.text.slice(from, to)));
      return;
    }
    while (this.next && this.tokens[this.next].from > from) this.next--;
    let at = from;
    for (let i = this.next; i < this.tokens.length && at < to; i++) {
      const token = this.tokens[i], end = Math.min(token.to, to);
      if (end <= at) continue;
      const span = make("span", token.node === BONUS ? {} : { class: "o-" + token.origin });
      span.textContent = harmless(this.text.slice(at, end));
      span.title = `round ${token.round + 1}, ${ORIGINS[token.origin] || token.origin}`;
      span.dataset.token = i;
      parent.append(span);
      this.next = i;
      at = end;
    }
    if (at < to) parent.append(harmless(this.text.slice(at, to)));
  }
  show() {
    this.next = 0;
    this.body.replaceChildren();
    this.body.className = `answer ${chats() ? "" : "plain "}${$("marks-on").checked ? "words " : ""}${this.state === "writing" ? "writing" : ""}`;
    if (chats()) markdown(this.body, this.text, (...place) => this.write(...place));
    else this.write(this.body, 0, this.text.length);
    this.failure.hidden = !this.error;
    this.failure.textContent = harmless(this.error);
    this.numbers.textContent = this.said();
    this.row.setAttribute("aria-busy", this.state === "writing");
  }
  said() {
    const count = this.tokens.length;
    if (!count) return this.state === "writing" ? "Waiting for the first token" : this.state === "stopped" ? "Stopped" : "";
    const parts = [plural(count, "token")];
    if (this.speed) parts.push(`${number(this.speed)} tokens/s`);
    parts.push(`${number(count / Math.max(1, this.rounds.length))} tokens per target call`);
    if (this.state === "stopped") parts.push("stopped");
    if (this.finish === "length") parts.push("ended at the limit of tokens");
    return parts.join(" · ");
  }
  /* The buttons below an answer. */
  offer() {
    const hadFocus = this.tools.contains(document.activeElement), isWritten = this.state !== "writing";
    const isLast = turns[turns.length - 1] === this, offered = [];
    const add = (name, action) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => action(button));
      offered.push(button);
      return button;
    };
    if (isWritten && this.text) add("Copy", (button) => copy(this.text, button));
    if (this.rounds.length) {
      this.opener = add("How it was drafted", () => open(this));
      this.opener.setAttribute("aria-expanded", inspected === this);
      this.opener.setAttribute("aria-controls", "drafting");
    }
    if (isWritten && isLast) add(this.state === "failed" ? "Try again" : "Regenerate", () => again(this));
    if (isWritten && isLast && !chats() && this.text) add("Go on", () => { send(this.asked + this.text); $("say").focus(); });
    this.tools.replaceChildren(...offered);
    if (hadFocus) (this.opener || $("say")).focus();
  }
}

/* Settings as fields of a request; null if one of them is none, which the form then says. */
function options() {
  const wrong = ["temperature", "max-tokens", "seed", "budget"].map($).find((field) => !field.checkValidity());
  if (wrong) {
    if (!$("settings").open) $("settings").showModal();
    wrong.reportValidity();
    return null;
  }
  const fields = { temperature: +$("temperature").value }, most = $("max-tokens").value, budget = $("budget").value.trim();
  if (most || !chats()) fields.max_tokens = +most || COMPLETION_TOKENS;
  if ($("seed").value) fields.seed = +$("seed").value;
  if (budget) fields.budget = budget === "auto" ? budget : +budget;
  return fields;
}
/* The conversation up to a turn. What failed is no part of it. */
function conversation(turn) {
  const messages = [], system = $("system").value.trim();
  if (system) messages.push({ role: "system", content: system });
  for (const before of turns.slice(0, turns.indexOf(turn))) {
    if (before.state === "failed") continue;
    messages.push({ role: "user", content: before.asked }, { role: "assistant", content: before.text });
  }
  return [...messages, { role: "user", content: turn.asked }];
}

function send(text) {
  const fields = options();
  if (fields === null || running) return false;
  const turn = new Turn(text);
  turns.push(turn);
  $("welcome").hidden = $("notice").hidden = true;
  turns.slice(-2).forEach((each) => each.offer());
  $("talk").scrollTop = $("talk").scrollHeight;
  run(turn, fields);
  return true;
}
function again(turn) {
  const fields = options();
  if (fields === null || running) return;
  if (inspected === turn) close(false);
  turn.clear();
  turn.offer();
  $("say").focus();
  run(turn, fields);
}

async function run(turn, fields) {
  const stopper = new AbortController(), own = running = { turn, stopper };
  busy(true);
  turn.show();
  announce(chats() ? "The answer begins" : "The text goes on");
  try {
    if (model === null) await meet();
    const asked = chats() ? { messages: conversation(turn) } : { prompt: turn.asked };
    const body = { ...asked, ...fields, stream: true, draftgraph: { trace: true } };
    const path = chats() ? "/v1/chat/completions" : "/v1/completions";
    const response = await call(path, { method: "POST", body: JSON.stringify(body), signal: stopper.signal });
    for await (const chunk of chunksOf(response)) {
      turn.take(chunk);
      refresh(turn);
    }
    turn.state = "whole";
  } catch (error) {
    turn.state = stopper.signal.aborted ? "stopped" : "failed";
    if (turn.state === "failed") turn.error = words(error) + (turn.text ? " What came before is shown." : "");
    if (error.status === 401) askForKey("");
    if (!(error instanceof Refusal || error instanceof Broken || error instanceof TypeError || stopper.signal.aborted)) throw error;
  } finally {
    if (running === own) finish(turn);
  }
}
function finish(turn) {
  running = null;
  busy(false);
  keepEnd(() => { turn.show(); turn.offer(); });
  if (inspected === turn) follow(turn);
  announce({ whole: `The answer is complete: ${turn.said()}`, stopped: "Stopped", failed: "" }[turn.state]);
}
function stop() {
  if (!running) return;
  running.stopper.abort();
  $("say").focus();
}
function busy(is) {
  $("stop").hidden = !is;
  $("send").hidden = is;
}
/* One drawing for all chunks of a moment, in tabs that nobody sees too. */
const MOMENT_MILLISECONDS = 50;
function refresh(turn) {
  if (turn.isDirty) return;
  turn.isDirty = true;
  setTimeout(() => {
    turn.isDirty = false;
    if (!running || running.turn !== turn) return;
    keepEnd(() => {
      turn.show();
      if (!turn.opener) turn.offer();
    });
    if (inspected === turn) follow(turn);
  }, MOMENT_MILLISECONDS);
}
/* Who reads the end goes on reading it; who has scrolled up stays there. */
function keepEnd(change) {
  const pane = $("talk"), isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 60;
  change();
  if (isAtEnd) pane.scrollTop = pane.scrollHeight;
}
function announce(text) { $("status").textContent = text; }

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // browsers offer the clipboard to secure pages alone
    const field = document.body.appendChild(make("textarea", { class: "unseen" }));
    field.value = text;
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function anew() {
  if (running) { const { stopper } = running; running = null; stopper.abort(); busy(false); }
  close(false);
  turns = [];
  $("turns").replaceChildren();
  $("welcome").hidden = false;
  tell($("notice").textContent);
  announce("A new conversation");
  $("say").focus();
}

/* ---- how an answer was drafted ---------------------------------------------------------------------------------- */

let inspected = null, current = 0, isFollowing = false;
const pane = new GraphPane($("graph"), $("details"));
const isNarrow = matchMedia("(max-width: 999.98px)");

/* token  whose node is wanted; without one, opening what is open closes it. */
function open(turn, token = null) {
  if (inspected === turn && token === null) { close(true); return; }
  if (inspected) close(false);
  inspected = turn;
  turn.opener.setAttribute("aria-expanded", "true");
  keepEnd(() => {
    $("drafting").hidden = false;
    $("app").classList.add("is-split");
  });
  cover();
  isFollowing = turn.state === "writing" && token === null;
  current = token ? token.round : Math.max(0, turn.rounds.findIndex((record) => record.path.length));
  follow(turn);
  go(isFollowing ? turn.rounds.length - 1 : current);
  if (token) { pane.select(token.node); pane.reveal(); } else $("h-drafting").focus();
}
/* On narrow screens the pane covers the conversation, which then takes no focus. */
function cover() { $("main").inert = document.querySelector("header").inert = isNarrow.matches && inspected !== null; }
isNarrow.addEventListener("change", cover);

function close(isAsked) {
  if (!inspected) return;
  const { opener } = inspected;
  unmark();
  inspected = null;
  $("drafting").hidden = true;
  $("app").classList.remove("is-split");
  cover();
  if (opener) opener.setAttribute("aria-expanded", "false");
  if (isAsked) (opener && opener.isConnected ? opener : $("say")).focus();
}
/* Once an answer has grown: what is said of all rounds, and the last of them if nobody has chosen another. */
function follow(turn) {
  const { rounds, whole, tokens } = turn, verified = rounds.reduce((sum, record) => sum + record.tokens.length, 0);
  const kept = rounds.reduce((sum, record) => sum + accepted(record), 0);
  const parts = [`${plural(tokens.length, "token")} in ${plural(rounds.length, "round")}`, `${number(tokens.length / Math.max(1, rounds.length))} tokens per target call`,
                 `${kept} of ${plural(verified, "drafted token")} accepted`];
  if (whole) parts.push(`rule ${whole.choice.rule}, structure ${whole.choice.structure}`, whole.stats.lossless ? "lossless" : "NOT lossless");
  $("summary").textContent = harmless(parts.join(" · "));
  $("slider").max = Math.max(1, rounds.length);
  $("save").disabled = !whole;
  describe($("marks"), $("origins"), rounds);
  if (isFollowing) go(rounds.length - 1);
  else { bounds(); mark(); }
  if (turn.state !== "writing") isFollowing = false;
}
function go(to) {
  const { rounds } = inspected;
  current = Math.max(0, Math.min(rounds.length - 1, to));
  const record = rounds[current];
  $("h-graph").textContent = heading(record, current + 1);
  $("why").textContent = record.reason ? harmless(`Budget: ${record.reason}.`) : "";
  pane.show(new Round(inspected.trace, record));
  bounds();
  mark();
}
function bounds() {
  const { rounds } = inspected;
  $("slider").value = current + 1;
  $("slider").setAttribute("aria-valuetext", `round ${current + 1} of ${rounds.length}`);
  $("where").textContent = `${current + 1} of ${rounds.length}`;
  $("back").disabled = current === 0;
  $("next").disabled = current >= rounds.length - 1;
}
/* The tokens of the round that is shown are outlined in the answer. */
function mark() {
  unmark();
  for (const span of inspected.body.querySelectorAll("span[data-token]")) {
    if (inspected.tokens[span.dataset.token].round === current) span.classList.add("now");
  }
}
function unmark() {
  for (const span of $("turns").querySelectorAll(".now")) span.classList.remove("now");
}
function choose(to) {
  if (!inspected) return;
  isFollowing = false;
  go(to);
}
function save() {
  const file = new Blob([JSON.stringify(inspected.trace)], { type: "application/json" }), link = make("a", { download: "trace.json" });
  link.href = URL.createObjectURL(file);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);  // some browsers read it after the click
  announce("The trace is saved; draftgraph view draws it");
}

/* ---- keys and buttons ------------------------------------------------------------------------------------------- */

function grow() {
  const field = $("say");
  field.style.height = "auto";
  field.style.height = field.scrollHeight + 2 + "px";
}
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("say").value;
  if (text.trim() && send(text)) { $("say").value = ""; grow(); }
  if (!$("settings").open) $("say").focus();
});
$("say").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) $("composer").requestSubmit();
});
$("say").addEventListener("input", grow);
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", anew);
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  apiKey = $("key").value.trim();
  await meet();
  if (model !== null) $("say").focus();
});
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("settings-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (options() !== null) $("settings").close();
});
$("settings").addEventListener("close", () => $("say").focus());
$("defaults").addEventListener("click", () => $("settings-form").reset());
$("marks-on").addEventListener("change", () => {
  turns.forEach((turn) => turn.show());
  if (inspected) mark();
});
$("turns").addEventListener("click", (event) => {
  const span = event.target.closest("span[data-token]");
  if (!span || !getSelection().isCollapsed) return;
  const turn = turns.find((each) => each.row.contains(span)), token = turn.tokens[span.dataset.token];
  if (turn.rounds[token.round] && turn.opener) open(turn, token);
});
$("close").addEventListener("click", () => close(true));
$("save").addEventListener("click", save);
$("back").addEventListener("click", () => choose(current - 1));
$("next").addEventListener("click", () => choose(current + 1));
$("slider").addEventListener("input", () => choose(+$("slider").value - 1));
$("graph").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = {
    ArrowLeft: () => choose(current - 1), ArrowRight: () => choose(current + 1), Home: () => choose(0), End: () => choose(inspected.rounds.length - 1),
    ArrowUp: () => pane.step(-1), ArrowDown: () => pane.step(1),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  moves[event.key]();
});
swipes($("graph"), (by) => choose(current + by));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("settings").open || event.isComposing) return;
  if (running) stop();
  else close(true);
});

welcome();
meet().finally(() => { root.dataset.ready = ""; });
