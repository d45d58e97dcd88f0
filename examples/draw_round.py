"""Draw one round's draft with matplotlib: python examples/draw_round.py [IMAGE]"""

import sys

import matplotlib

import draftgraph as dg
from draftgraph.data import bundled_pair

matplotlib.use("Agg")
from matplotlib import pyplot as plt

target, drafter = bundled_pair()
engine = dg.Engine.from_pretrained(target, draft_model=drafter, budget=20, num_speculative_tokens=6)
prompt = "class Stack:\n    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n"
result = engine.generate(prompt, dg.SamplingParams(max_new_tokens=64, temperature=0.8, seed=3))
record = max(result.rounds, key=lambda r: (len(r.path) >= 4, sum(r.parents.count(i) > 1 for i in set(r.parents))))
place, leaves = {}, 0


def lay_out(node: int, depth: int) -> float:
    """Leaves get rows from top to bottom; a parent sits beside its first child."""
    global leaves
    rows = [lay_out(i, depth + 1) for i, parent in enumerate(record.parents) if parent == node]
    leaves += not rows
    place[node] = (depth * 1.5, rows[0] if rows else leaves - 1)
    return place[node][1]


def word(token: int) -> str:
    return engine.tokenizer.decode([token]).replace("\n", "⏎")


lay_out(-1, 0)
axes = plt.subplots(figsize=(11, 0.42 * leaves + 0.6))[1]
for i, parent in enumerate(record.parents):
    style = {"color": "tab:green", "lw": 3} if i in record.path else {"color": "lightgray", "lw": 1.3}
    axes.plot(*zip(place[parent], place[i], strict=True), zorder=1, **style)
for i, (x, y) in place.items():
    box = {"boxstyle": "round", "fc": "white" if i < 0 else "#d7ecff" if record.sampled[i] else "#ffe9c7"}
    box["ec"] = "tab:green" if i in record.path else "gray"
    axes.text(x, y, "…" if i < 0 else word(record.tokens[i]), ha="center", va="center", family="monospace", bbox=box)
legend = "blue: SAMPLED slot, orange: FIXED slot, green: accepted path"
axes.set_title(f"one round ({legend}); the bonus token is “{word(record.bonus)}”", fontsize=10)
axes.invert_yaxis()
axes.axis("off")
axes.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "round.png", dpi=110, bbox_inches="tight")
