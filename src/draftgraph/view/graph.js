/* One round's draft graph as a picture, and words about its nodes. `trace` is a trace as in view/tracefile.py. */

const ORIGINS = {
  drafter: "drafted by the drafter", merge: "merge: copied from a row of the same round", own: "own: copied from the target's row at an earlier place",
  context: "context: looked up in the text so far", text: "text: looked up in the predicted text",
  rejected: "rejected: copied from a row of a branch that the last round rejected", table: "table: copied from the token table of all requests",
  search: "search: found in the table of n-grams",
  bonus: "bonus: the target's own token",
};
const BONUS = -2;
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{d800}-\u{dfff}\u{e0000}-\u{e007f}]/gu;
const code = (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0");
const shown = (text) => text.replace(HIDDEN, code);
const quoted = (text) => "“" + shown(text).replace(/\n/g, "⏎").replace(/\t/g, "⇥") + "”";
const clipped = (text, most) => { const all = [...text]; return all.length > most ? all.slice(0, most - 1).join("") + "…" : text; };
const make = (name, attributes = {}, text = "") => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = shown(text);
  return element;
};
const draw = (name, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = shown(text);
  return element;
};
const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const ROW = 34, HIGH = 26, GAP = 34, LETTER = 7.6, MOST = 18;

class Round {
  constructor(trace, record) {
    Object.assign(this, { trace, record });
    this.end = record.path.length ? record.path[record.path.length - 1] : -1;
  }
  word(node) { return this.trace.words[node === BONUS ? this.record.bonus : this.record.tokens[node]]; }
  label(node) { return node === -1 ? "text so far" : clipped(quoted(this.word(node)), MOST); }
  mark(node) {
    const record = this.record;
    if (node === -1) return "";
    if (node === BONUS) return "bonus";
    const at = record.drafted_at[node], origin = record.origins[node];
    const copied = origin === "drafter" ? "" : " ↩" + (["merge", "rejected", "table", "search"].includes(origin) || at === null ? "" : at);
    return (record.sampled[node] ? "S" : "F") + (record.path.includes(node) ? "✓" : "") + copied;
  }
  width(node) {
    const mark = this.mark(node).length;
    return [...this.label(node)].length * LETTER + 16 + (mark ? mark * 6.6 + 6 : 0);
  }

  /* Places: a column for every depth, as wide as its widest token; a row for every leaf, the likeliest children on top. */
  layOut() {
    const record = this.record, children = new Map([[-1, []]]), depth = new Map([[-1, 0]]);
    record.parents.forEach((parent, node) => {
      children.set(node, []);
      children.get(parent).push(node);
      depth.set(node, depth.get(parent) + 1);
    });
    for (const nodes of children.values()) nodes.sort((a, b) => record.scores[b] - record.scores[a] || a - b);
    children.get(this.end).unshift(BONUS);
    depth.set(BONUS, depth.get(this.end) + 1);
    const widths = [], row = new Map(), visit = [];
    for (const [node, at] of depth) widths[at] = Math.max(widths[at] || 40, this.width(node));
    const left = [4];
    widths.forEach((width, at) => { left[at + 1] = left[at] + width + GAP; });
    let rows = 0;
    const stack = [[-1, 0]];
    while (stack.length) {
      const [node, rank] = stack.pop();
      if (rank > 0) rows++;
      row.set(node, rows);
      visit.push(node);
      (children.get(node) || []).map((child, i) => [child, i]).reverse().forEach((pair) => stack.push(pair));
    }
    const place = new Map(visit.map((node) => [node, { x: left[depth.get(node)], y: 6 + row.get(node) * ROW, w: this.width(node) }]));
    return { place, visit, width: left[left.length - 1], height: 12 + (rows + 1) * ROW };
  }

  /* The picture, and its nodes by their number, in the order in which keys walk through them. */
  picture() {
    const record = this.record, { place, visit, width, height } = this.layOut();
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "presentation" });
    const lines = draw("g", {}), boxes = draw("g", {}), nodes = new Map(), path = new Set(record.path);
    for (const node of visit) {
      const { x, y, w } = place.get(node);
      if (node !== -1) {
        const from = place.get(node === BONUS ? this.end : record.parents[node]);
        const x0 = from.x + from.w, y0 = from.y + HIGH / 2, y1 = y + HIGH / 2, bend = x - GAP / 2;
        lines.append(draw("path", {
          class: "edge" + (node === BONUS ? " bonus" : path.has(node) ? " accepted" : ""),
          d: `M${x0} ${y0}H${bend - 6}C${bend + 2} ${y0} ${bend - 8} ${y1} ${x} ${y1}`,
        }));
      }
      const group = this.box(node, w, path.has(node));
      group.setAttribute("transform", `translate(${x} ${y})`);
      boxes.append(group);
      if (node !== -1) nodes.set(node, group);
    }
    for (const [parent, lender] of this.merges()) lines.append(this.merged(place, parent, lender));
    svg.append(lines, boxes);
    return { svg, nodes };
  }
  box(node, w, isAccepted) {
    const record = this.record;
    const kind = node === -1 ? "root" : node === BONUS ? "accepted o-bonus"
      : `${isAccepted ? "accepted " : ""}${record.sampled[node] ? "sampled " : ""}${isAccepted || record.origins[node] !== "drafter" ? "o-" + record.origins[node] : ""}`;
    const group = draw("g", { class: "node " + kind, role: "img", "aria-label": this.spoken(node) });
    group.dataset.node = node;
    group.append(draw("title", {}, this.spoken(node)), draw("rect", { class: "box", width: w, height: HIGH, rx: 6 }));
    if (node >= 0) group.append(draw("rect", { class: "chance", x: 4, y: HIGH - 4, width: Math.max(1, (w - 8) * Math.min(1, record.scores[node])), height: 2.5, rx: 1 }));
    group.append(draw("text", { x: 7, y: 16 }, this.label(node)));
    if (node !== -1) group.append(draw("text", { x: w - 6, y: 16, "text-anchor": "end", class: "small" }, this.mark(node)));
    return group;
  }
  merged(place, parent, lender) {
    const a = place.get(parent), b = place.get(lender), x0 = a.x + a.w - 10, x1 = b.x + b.w - 10;
    const down = a.y >= b.y, y0 = a.y + (down ? 0 : HIGH), y1 = b.y + (down ? HIGH : 0), lift = parent === lender ? 20 : (y0 + y1) / 2;
    const line = draw("path", { class: "merged", d: `M${x0} ${y0}C${x0} ${lift} ${x1} ${lift} ${x1} ${y1}` });
    line.dataset.parent = parent;
    line.dataset.lender = lender;
    return line;
  }

  /* Where a branch goes on as another node did: pairs (node whose children are copies, node that lent its row). */
  merges() {
    const record = this.record, pairs = new Map();
    record.origins.forEach((origin, node) => {
      const lender = record.drafted_at[node], parent = record.parents[node];
      if (origin === "merge" && lender !== null) pairs.set(parent + " " + lender, [parent, lender]);
    });
    return pairs.values();
  }

  named(node) { return node === -1 ? "the text so far" : `node ${node} ${quoted(this.word(node))}`; }
  drafted(node) {
    const record = this.record, at = record.drafted_at[node], origin = record.origins[node];
    if (origin === "drafter") return `this round, by the drafter, behind ${this.named(at)}`;
    if (origin === "merge") return at === null ? "this round, behind a node that was left out of the verified graph" : `this round, behind ${this.named(at)}; copied from there`;
    if (origin === "search") return "not drafted: found in the table of n-grams";
    if (at === null) return `copied (${origin}), the place is not recorded`;
    if (origin === "rejected") return `the round before, by the drafter, behind its node ${at}; copied from there`;
    if (origin === "table") return `not drafted: copied from row ${at} of the token table`;
    if (origin === "text") return `not drafted: looked up at token ${at} of the predicted text`;
    const { prompt_ids, token_ids } = this.trace;
    const there = at < prompt_ids.length ? prompt_ids[at] : token_ids[at - prompt_ids.length];
    const stands = there === record.tokens[node] ? ", where it stands" : "";
    return origin === "own" ? `not drafted: copied from the target's own row for token ${at} of the text${stands}`
      : `not drafted: looked up at token ${at} of the text${stands}`;
  }
  fate(node) {
    const record = this.record, step = node === BONUS ? record.path.length : record.path.indexOf(node);
    if (step >= record.emitted) return "accepted, and not emitted: the text had ended";
    if (node === BONUS) return "emitted after the accepted path";
    if (step >= 0) return "accepted";
    const parent = record.parents[node];
    if (parent !== -1 && !record.path.includes(parent)) return "not reached: a token above it was rejected";
    return record.path.some((other) => record.parents[other] === parent) ? "rejected: another token was accepted in its place" : "rejected: the path ended above it";
  }
  /* As in view/why.py: what the rule read of a node. Traces of earlier versions have no figures. */
  why(node) {
    const record = this.record;
    if (!record.masses.length) return [];
    const parent = record.parents[node], above = parent === -1 ? 1 : record.masses[parent], q = record.q[node];
    const chance = above > 0 ? Math.min(1, record.masses[node] / above) : 0;
    const drawn = q === null ? "it was chosen, not drawn" : `it was drawn with q = ${q.toPrecision(3)}`;
    return [["why", `the target gives it p = ${record.p[node].toPrecision(3)}, ${drawn}; given this draft, the rule accepts it behind its parent with probability ${chance.toPrecision(3)}`]];
  }
  facts(node) {
    const record = this.record;
    if (node === BONUS) {
      return [["token", `${quoted(this.word(node))} (id ${record.bonus})`], ["origin", ORIGINS.bonus],
              ["drafted", "not drafted: the rule drew it from the target's law where the path ends"], ["verdict", this.fate(node)]];
    }
    return [
      ["token", `${quoted(this.word(node))} (id ${record.tokens[node]})`],
      ["node", `${node}, behind ${this.named(record.parents[node])}`],
      ["chance", `${record.scores[node].toPrecision(3)} to be reached, as the drafter estimates`],
      ["law", record.sampled[node] ? "SAMPLED: one fresh draw from the drafter's law" : "FIXED: chosen, copied or looked up"],
      ["origin", ORIGINS[record.origins[node]] || record.origins[node]],
      ["drafted", this.drafted(node)],
      ["verdict", this.fate(node)],
      ...this.why(node),
    ];
  }
  spoken(node) { return node === -1 ? "the text so far" : shown(this.facts(node).map(([name, value]) => `${name}: ${value}`).join("\n")); }
}

const accepted = (record) => Math.min(record.path.length, record.emitted);
const heading = (record, number) => `Draft graph of round ${number}: ${plural(record.tokens.length, "node")} verified, ${accepted(record)} accepted, ${plural(record.emitted, "token")} out`;
const within = (pane, x, y, w, h) => {
  if (x < pane.scrollLeft) pane.scrollLeft = x - 20; else if (x + w > pane.scrollLeft + pane.clientWidth) pane.scrollLeft = x + w + 20 - pane.clientWidth;
  if (y < pane.scrollTop) pane.scrollTop = y - 20; else if (y + h > pane.scrollTop + pane.clientHeight) pane.scrollTop = y + h + 20 - pane.clientHeight;
};

/* The pane with the picture of a round, where one node is selected. onselect  told of the round, the node and who lent its row. */
class GraphPane {
  constructor(place, details, onselect = () => {}) {
    Object.assign(this, { place, details, onselect, chosen: null, nodes: new Map() });
    const at = (event) => event.target.closest(".node:not(.root)");
    place.addEventListener("click", (event) => { if (at(event)) this.select(+at(event).dataset.node); });
    place.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse" && at(event)) this.select(+at(event).dataset.node); });
  }
  show(round) {
    const { svg, nodes } = round.picture();
    Object.assign(this, { round, nodes, chosen: null });
    this.place.replaceChildren(svg);
    this.select(round.record.path.length ? round.record.path[0] : BONUS);
    this.place.scrollTo(0, 0);
  }
  select(node) {
    if (!this.nodes.has(node)) return;
    const record = this.round.record;
    if (this.chosen !== null) this.nodes.get(this.chosen).classList.remove("selected");
    this.chosen = node;
    this.nodes.get(node).classList.add("selected");
    const list = make("dl");
    for (const [name, value] of this.round.facts(node)) list.append(make("dt", {}, name), make("dd", {}, value));
    this.details.replaceChildren(list);
    const lender = node >= 0 && record.origins[node] !== "drafter" ? record.drafted_at[node] : null;
    for (const line of this.place.querySelectorAll(".merged")) {
      line.classList.toggle("selected", record.origins[node] === "merge" && +line.dataset.parent === record.parents[node] && +line.dataset.lender === lender);
    }
    this.onselect(record, node, lender);
  }
  step(by) {
    const order = [...this.nodes.keys()];
    if (!order.length) return;
    this.select(order[Math.max(0, Math.min(order.length - 1, order.indexOf(this.chosen) + by))]);
    this.reveal();
  }
  reveal() {
    const group = this.nodes.get(this.chosen), matrix = group.transform.baseVal.consolidate().matrix;
    within(this.place, matrix.e, matrix.f, group.querySelector("rect").width.baseVal.value, HIGH);
  }
}

/* A swipe over a pane that did not scroll. go  told by how many rounds. */
function swipes(pane, go) {
  let start = null;
  pane.addEventListener("touchstart", (event) => {
    const touch = event.touches[0];
    start = event.touches.length === 1 ? { x: touch.clientX, y: touch.clientY, left: pane.scrollLeft } : null;
  }, { passive: true });
  pane.addEventListener("touchend", (event) => {
    if (!start) return;
    const touch = event.changedTouches[0], x = touch.clientX - start.x, y = touch.clientY - start.y;
    if (Math.abs(x) > 50 && Math.abs(x) > 2 * Math.abs(y) && pane.scrollLeft === start.left) go(x < 0 ? 1 : -1);
    start = null;
  }, { passive: true });
}

/* The legends of marks in a graph, and of the origins that `records` have. */
function describe(marks, origins, records) {
  const used = new Set(records.flatMap((record) => record.origins));
  const shownOrigins = Object.entries(ORIGINS).filter(([origin]) => origin === "bonus" || origin === "drafter" || used.has(origin));
  origins.replaceChildren(...shownOrigins.map(([origin, meaning]) => {
    const item = make("li");
    item.append(make("span", { class: "o-" + origin }, meaning));
    return item;
  }));
  marks.replaceChildren(...[["fixed", "F: FIXED slot"], ["sampled", "S: SAMPLED slot"]].map(([name, meaning]) => {
    const item = make("li");
    item.append(make("i", { class: name }), meaning);
    return item;
  }), make("li", {}, "✓ and filled: accepted; others: rejected"), make("li", {}, "bar: chance to be reached, as estimated"),
      make("li", {}, "↩ copied: dotted line to a node, or number of a token in the text"));
}
