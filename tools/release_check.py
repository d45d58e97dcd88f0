"""Is this commit fit for a package index? Builds it, and uses what was built as a stranger would.

    python -m pip install build twine
    python tools/release_check.py [--extras] [--keep FOLDER]

Steps: the sdist builds; the wheel is built from the sdist; its size, its metadata, its licences and the links of its
description are right; a clean environment installs the wheel, and runs the first lines of the README. `--extras` also
installs every extra in an environment of its own, and imports the code that uses it (a quarter of an hour or more).
Ends with 1 at the first step that fails, and says how long each step took.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MEGABYTES = 32
"""The largest wheel that we would ask people to download."""
STEP_SECONDS = 1800

USED_BY = {
    "bench": "import draftgraph.lab.bench.plot, psutil",
    "openvino": "import openvino, draftgraph.backends.openvino.load",
    "quantised": "import nncf, draftgraph.backends.openvino.quantise",
    "openvino-genai": "import openvino_genai, draftgraph.lab.bench.peers.openvino",
    "economize": "import economize, draftgraph.lab.bench.peers",
    "llama-cpp": "import llama_cpp, draftgraph.lab.bench.peers",
    "train": "import tokenizers, draftgraph.lab.train",
    "gguf": "import gguf, accelerate, draftgraph.backends.gguf",
    "view": "import matplotlib, draftgraph.view.page",
    "prove": "import scipy, draftgraph.lab.prove.bounds",
    "batch": "import greenlet, draftgraph.draft.joined",
    "grammar": "import llguidance, draftgraph.sampling.grammar",
    "xgrammar": "import xgrammar, draftgraph.sampling.xgrammar_matcher",
    "eval": "import lm_eval; from draftgraph.integrations.lm_eval import model_class; model_class()",
    "server": "import draftgraph.server.app",
    "ray": "import ray, draftgraph.integrations.ray",
    "docs": "import mkdocs, material, mkdocstrings",
    "dev": "import pytest, xdist, hypothesis",
}
"""For every extra, what only works with it. An extra without a line here is refused."""


@contextmanager
def step(name: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"{name} …", flush=True)
    yield
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=STEP_SECONDS
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def require(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"not fit: {what}")


def built(folder: Path) -> Path:
    """The wheel, which is built from the sdist: what is missing there shows."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir())
    return next(folder.glob("*.whl"))


def look_at(wheel: Path) -> None:
    megabytes = wheel.stat().st_size / 1e6
    require(megabytes <= MOST_MEGABYTES, f"the wheel has {megabytes:.1f} MB; at most {MOST_MEGABYTES} are allowed")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_string(archive.read(next(n for n in names if n.endswith("METADATA"))).decode())
    for weights in (name for name in names if name.endswith(".safetensors")):
        folders = [str(parent) for parent in Path(weights).parents]
        require(
            any(f"{folder}/LICENSE" in names for folder in folders), f"{weights} has no LICENSE in a folder above it"
        )
    require(any(name.endswith("licenses/LICENSE") for name in names), "the wheel lacks the licence")
    for field in ("Summary", "Author", "Keywords", "License-Expression", "Requires-Python"):
        require(bool(metadata[field]), f"the metadata lack {field}")
    require(len(metadata.get_all("Project-URL", [])) >= 3, "the metadata lack addresses")
    require(len(metadata.get_all("Classifier", [])) >= 5, "the metadata lack classifiers")
    links = re.findall(r"\]\(([^)]+)\)", str(metadata.get_payload()))
    relative = [link for link in links if not link.startswith(("https://", "#"))]
    require(not relative, f"links of the description lead nowhere on an index: {relative}")
    print(f"  {wheel.name}: {megabytes:.1f} MB, {len(names)} files, {len(links)} links")


def clean(folder: Path) -> Path:
    """The interpreter of a new environment."""
    venv.create(folder, with_pip=True, clear=True)
    return folder / "bin" / "python"


def install(python: Path, wheel: Path, extra: str = "") -> None:
    chosen = f"{wheel}[{extra}]" if extra else str(wheel)
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", chosen, cwd=wheel.parent)


def first_lines() -> str:
    """The README's first program, on the bundled pair."""
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    for asked, folder in (('"path/or/hub-name"', "target"), ('"path/or/smaller-model"', "drafter")):
        require(asked in program, f"README's first program no longer names {asked}")
        program = program.replace(asked, f"{folder}_folder")
    return f"from draftgraph.data import bundled_pair\ntarget_folder, drafter_folder = bundled_pair()\n{program}"


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = list(project["optional-dependencies"])
    require(set(names) == set(USED_BY), f"USED_BY differs from the extras: {sorted(set(names) ^ set(USED_BY))}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", metavar="NAME", help="also try these extras, or all of them")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the sdist and the wheel here")
    asked = parser.parse_args()
    known = extras()
    tried = [] if asked.extras is None else asked.extras or known
    require(set(tried) <= set(known), f"unknown extras: {sorted(set(tried) - set(known))}; known: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as work:
        folder = asked.keep or Path(work, "dist")
        folder.mkdir(parents=True, exist_ok=True)
        require(not any(folder.iterdir()), f"{folder} is not empty")
        with step("build sdist and wheel"):
            wheel = built(folder)
        look_at(wheel)
        with step("install the wheel in a clean environment"):
            python = clean(Path(work, "plain"))
            install(python, wheel)
        with step("the README's first lines"):
            run(python, "-c", first_lines(), cwd=Path(work))
            run(python, "-m", "draftgraph.cli", "--version", cwd=Path(work))
        for extra in tried:
            with step(f"extra {extra}"):
                python = clean(Path(work, "extra"))
                install(python, wheel, extra)
                run(python, "-c", USED_BY[extra], cwd=Path(work))
    print("fit for a package index")


if __name__ == "__main__":
    main()
