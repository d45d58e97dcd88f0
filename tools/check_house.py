"""The house rules that a machine can check: imports go one way, no model families in the core, files stay short.

    python tools/check_house.py [SOURCE]

Prints every violation as `file:line: what is wrong` and exits with 1 if there is one. Imports under TYPE_CHECKING do
not count: they name types and import nothing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

PACKAGE = "draftgraph"
LAYERS = (
    ("errors", "types", "values", "token_ids", "files", "strictjson", "user_cache"),
    ("sampling",),
    ("verification",),
    ("backends",),
    ("request",),
    ("draft",),
    ("budget",),
    ("engine",),
    ("data", "structures"),
    ("view",),
    ("server",),
    ("integrations",),
    ("lab",),
    ("cli",),
)
"""From the bottom up. A module imports from its own line and from lines above it; only the last imports it whole."""

PURE = (
    "types.py", "sampling/rng.py", "verification/*.py", "verification/published/*.py",
    *(f"lab/prove/{name}.py" for name in (
        "addressing", "bounds", "cases", "controls", "exact", "law", "misdrafted", "misjudged", "slots",
    )),
    "draft/graph.py", "draft/isotonic.py", "draft/structures/*.py", "draft/edges/rows.py", "draft/edges/table.py",
    "budget/score_bins.py", "structures.py",
)  # fmt: skip
"""Files that run without a model, whatever they import inside the package in turn."""
NOT_PURE = ("transformers", "draftgraph.backends.torch_model", "draftgraph.engine.engine", "draftgraph.cli")

NO_FAMILIES = ("engine/*.py", "verification/*.py", "lab/prove/*.py", "draft/*.py", "budget/*.py")
FAMILIES = re.compile(
    r"(?<![\w-])(llama|gemma|qwen|mistral|mixtral|gpt-?2|gpt-?j|gpt_?neox?|opt(?!-)|phi|falcon|bloom|mamba|olmo|deepseek|"
    r"eagle|medusa|hydra)\d*(?![\w])",
    re.IGNORECASE,
)
CITES = {"lab/prove/controls.py": "names who published the mistakes that it shows"}
"""Files that may name families, and why."""

CONCRETE = re.compile(r"[A-Z]\w*Drafter|\w*Model|CausalLM")
"""Names of classes that nobody may test for: a drafter or a backend says what it is."""

VERBS = {"open", "forward", "keep", "close"}
"""A class in backends/ that has them all is a concrete backend, unless it is a Protocol."""
ASSEMBLE = "engine/assemble.py"
"""The file outside of backends/ that may import the module of a concrete backend."""

MAX_LINES = 330
LINES = {
    "engine/round.py": 80,  # the round is read in one screen
}


def modules(source: Path) -> dict[str, Path]:
    """The package's modules by dotted name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imports(path: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import that runs; `from package import submodule` counts as the submodule."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, f"{'.' * node.level}{node.module or ''}"
            else:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield node.lineno, inner if inner in known else str(node.module)
        pending += ast.iter_child_nodes(node)


def check_layers(source: Path) -> Iterator[str]:
    known = modules(source)
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    for module, path in known.items():
        if module == PACKAGE:
            continue  # the public names, nothing else
        own = module.split(".")[1]
        if own not in level:
            yield f"{path}:1: module {own!r} has no layer; enter it in LAYERS of tools/check_house.py"
            continue
        for line, name in imports(path, set(known)):
            if name.startswith("."):
                yield f"{path}:{line}: relative import from {name!r}; write the full name"
            if name.split(".")[0] != PACKAGE:
                continue
            other = name.partition(".")[2].split(".")[0] or PACKAGE
            if level.get(other, len(LAYERS) - 1) > level[own]:
                yield f"{path}:{line}: {own!r} imports {other!r}, which is a layer above it"


def check_pure(source: Path) -> Iterator[str]:
    known = modules(source)
    direct = {module: [name for _, name in imports(path, set(known))] for module, path in known.items()}
    for module, path in known.items():
        if not _matches(path, source, PURE):
            continue
        seen, pending = {module}, [(module, module)]
        while pending:
            current, trail = pending.pop()
            for name in direct.get(current, ()):
                if any(name == banned or name.startswith(f"{banned}.") for banned in NOT_PURE):
                    yield f"{path}:1: must run without a model, but imports {name} ({trail} -> {name})"
                if name in known and name not in seen and name != PACKAGE:
                    seen.add(name)
                    pending.append((name, f"{trail} -> {name}"))


def check_families(source: Path) -> Iterator[str]:
    for path in modules(source).values():
        if _matches(path, source, NO_FAMILIES) and not _matches(path, source, tuple(CITES)):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for match in FAMILIES.finditer(line):
                    family = match.group()
                    yield f"{path}:{number}: names the family {family!r}; let drafter or target say what they need"


def check_types(source: Path) -> Iterator[str]:
    """No isinstance on drafters and backends, and no `if structure == "chain"`."""
    for path in modules(source).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                tested = [name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)]
                for name in filter(CONCRETE.fullmatch, tested):
                    if name != "PreTrainedModel":
                        yield f"{path}:{node.lineno}: tests for the class {name}; ask the object what it is or needs"
            if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] == "structure":
                for value in node.comparators:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value != "auto":
                        yield f"{path}:{node.lineno}: compares a structure with the name {value.value!r}; ask the object"


def check_backends(source: Path) -> Iterator[str]:
    """Only backends/ and engine/assemble name a concrete backend."""
    known = modules(source)
    concrete = {module for module, path in known.items() if _matches(path, source, ("backends/*.py",)) and _runs(path)}
    for path in known.values():
        if _matches(path, source, ("backends/*.py", ASSEMBLE)):
            continue
        for line, name in imports(path, set(known)):
            if name in concrete:
                yield f"{path}:{line}: names the backend {name}; take a CausalLM, or ask {ASSEMBLE} for one"


def _runs(path: Path) -> bool:
    """Whether a file defines a concrete backend."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            verbs = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            if verbs >= VERBS:
                return True
    return False


def check_lengths(source: Path) -> Iterator[str]:
    for path in modules(source).values():
        limit = LINES.get(path.relative_to(source).as_posix(), MAX_LINES)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            yield f"{path}:{limit + 1}: {lines} lines; at most {limit}: a file holds one idea"


def _matches(path: Path, source: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.relative_to(source).as_posix(), pattern) for pattern in patterns)


def violations(source: Path) -> list[str]:
    """Every violation of the house rules in a source tree of the package."""
    checks = (check_layers, check_pure, check_families, check_types, check_backends, check_lengths)
    return [violation for check in checks for violation in check(source)]


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    found = violations(Path(sys.argv[1]) if len(sys.argv) > 1 else root / "src" / PACKAGE)
    print("\n".join(found) or "house rules: imports, families and lengths are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
