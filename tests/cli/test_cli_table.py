"""draftgraph table: a table is built, shown and used; what is no table is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import draftgraph as dg
from draftgraph.cli import app
from draftgraph.draft.ngrams.file import read_table
from models import byte_tokenizer
from pairs import save_pair

TEXT = "to be or not to be, that is the question\n" * 20


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pair(tmp_path_factory.mktemp("pair"))[0])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"text": TEXT}) + "\n", encoding="utf-8")
    (folder / "c.bin").write_bytes(b"\x80\xfe\xfd")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


def built(corpus: Path, target: str, out: Path) -> Path:
    done = run("table", "build", corpus, "--model", target, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    return out


def refused(done: Result, code: int, *words: str) -> None:
    assert done.exit_code == code, done.output
    told = done.stderr.splitlines()
    assert told[-1].startswith("error: ")
    for word in words:
        assert word in told[-1]


def test_a_table_is_built_shown_and_used(corpus: Path, target: str, tmp_path: Path) -> None:
    out = tmp_path / "a.table"
    done = run("table", "build", corpus, "--model", target, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["vocab"], said["tokens"], said["files_left_out"]) == (256, 2 * len(TEXT), 1)
    assert "c.bin" in done.stderr
    shown = run("table", "show", out, "--json")
    assert json.loads(shown.stdout) == said | {"files_left_out": 0}
    told = run("table", "show", out).stdout
    assert "rows behind two" in told
    assert "drafter='search'" in told
    options = ["--model", target, "--max-new-tokens", "20", "--budget", "8", "--json"]
    texts = [
        json.loads(run("generate", "to be or", *options, *more).stdout)
        for more in (["--table", out], ["--drafter", "search"], ["--budget", "0"])
    ]
    assert len({tuple(each["token_ids"]) for each in texts}) == 1
    assert texts[0]["stats"]["num_draft_tokens"] > 0


def test_a_table_is_as_the_tokenizer_reads(corpus: Path, target: str, tmp_path: Path) -> None:
    stored = read_table(built(corpus, target, tmp_path / "a.table"))
    ids = byte_tokenizer()("to be")["input_ids"]
    row = stored.counts.pairs.find(ids[0] << 21 | ids[1])
    assert row is not None
    assert row.tokens[0] == ids[2]
    engine = dg.Engine.from_pretrained(target, backend="torch", drafter="search", table=tmp_path / "a.table", budget=6)
    assert engine.generate("to be or", max_new_tokens=12).stats.num_draft_tokens > 0


def test_what_is_misused_is_refused_before_anything_is_counted(corpus: Path, target: str, tmp_path: Path) -> None:
    build = ["table", "build"]
    refused(run(*build, corpus, "--model", target, "--out", tmp_path / "no" / "a"), 2, "cannot write")
    refused(run(*build, tmp_path / "absent", "--model", target, "--out", tmp_path / "a"), 2, "there is no")
    refused(run(*build, corpus / "c.bin", "--model", target, "--out", tmp_path / "a"), 2, "c.bin", "not UTF-8")
    refused(run(*build, "--model", target, "--out", tmp_path / "a"), 2, "table build --help")
    refused(run("table", "shwo"), 2, "unknown command 'shwo'", "Did you mean 'show'?")
    refused(run("table"), 2, "table --help")
    (tmp_path / "x.txt").write_text("x", encoding="utf-8")
    refused(run(*build, tmp_path / "x.txt", "--model", target, "--out", tmp_path / "a"), 2, "no two tokens")
    assert not (tmp_path / "a").exists()


def test_what_is_no_table_is_refused(corpus: Path, target: str, tmp_path: Path) -> None:
    file = built(corpus, target, tmp_path / "a.table")
    file.write_bytes(file.read_bytes()[:-1])
    refused(run("table", "show", file), 1, "a.table", "damaged")
    refused(run("table", "show", corpus), 1, "a folder")
    refused(run("generate", "x", "--model", target, "--table", file), 1, "a.table", "damaged")
    refused(run("generate", "x", "--model", target, "--table", file, "--drafter", "lookup"), 2, "drafter='search'")


def test_a_table_of_another_model_is_refused(corpus: Path, target: str, tmp_path: Path) -> None:
    file = built(corpus, target, tmp_path / "a.table")
    refused(run("generate", "x", "--table", file), 1, "another tokenizer", "draftgraph table build")


def test_a_broken_disk_takes_nothing(
    corpus: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = built(corpus, target, tmp_path / "a.table")
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("draftgraph.files.os.fsync", full)
    refused(run("table", "build", corpus, "--model", target, "--out", file), 1, "No space left", "is whole")
    assert file.read_bytes() == before


def test_bench_measures_it_as_one_of_ours() -> None:
    from draftgraph.lab.bench.field import parse_spec

    assert parse_spec("drafter=search,table=a.table,table_shared=true").options == {
        "drafter": "search",
        "table": "a.table",
        "table_shared": True,
    }
