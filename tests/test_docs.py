"""The docs: every block of Python runs as it stands, every public name and command has its place, the site builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from transformers import AutoModelForCausalLM

import draftgraph as dg
from draftgraph.cli import app
from draftgraph.data import bundled_pair
from served import served

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE_SECONDS = 600
PREPARED = {"server", "grammars", "ray"}
"""Pages whose blocks need something before they can run; each has a test of its own."""


def page(name: str) -> str:
    """A page's text, with what it includes."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    return re.sub(r'^--8<-- "(.+)"$', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text, flags=re.M)


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page(name), re.DOTALL | re.M)


def run(name: str, code: list[str], names: dict[str, object]) -> None:
    for block in code:
        exec(compile(block, f"docs/{name}.md", "exec"), names)


@pytest.mark.parametrize("name", sorted({path.stem for path in DOCS.glob("*.md")} - PREPARED))
def test_blocks_run_one_after_the_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(f"page_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look for what their fields name
    run(name, blocks(name), module.__dict__)


def test_the_examples_of_grammars_run() -> None:
    pytest.importorskip("llguidance")
    target, drafter = map(AutoModelForCausalLM.from_pretrained, bundled_pair())  # loaded: nothing is converted
    code = blocks("grammars")
    assert len(code) == 3
    assert code[-1].startswith("xgrammar = ")
    ready = code[:-1] if importlib.util.find_spec("xgrammar") is None else code
    run("grammars", ready, {"target": target, "drafter": drafter})


def test_the_client_of_the_servers_page_talks_to_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [client] = blocks("server")
    with served(template=tmp_path / "template.jinja") as server:
        [model] = server.client.models.list()
        code = client.replace("http://127.0.0.1:8000", server.url).replace("NAME", model.id)
        code = code.replace("stream=True", "stream=True, max_tokens=8")
        assert code.count(server.url) == code.count("max_tokens=8") == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        run("server", [code], {})
    assert capsys.readouterr().out


def test_the_job_of_rays_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    run("ray", blocks("ray"), {})
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8


def test_every_public_name_is_in_the_reference() -> None:
    named = set(re.findall(r"^::: draftgraph\.(\w+)$", page("reference"), re.M))
    assert set(dg.__all__) - named <= {"DraftgraphError"}  # among all errors
    assert "::: draftgraph.errors" in page("reference")


def test_every_command_is_on_its_page() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^\| `([\w-]+)", page("commands"), re.M)) == commands


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r": ([\w/]+\.md)$", navigation, re.M))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links within the pages are followed, and every name of the reference is found."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SITE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    for name in dg.__all__:
        assert f'id="draftgraph.{name}"' in reference or name == "DraftgraphError", name
