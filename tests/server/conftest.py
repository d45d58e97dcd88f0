"""One server for all tests that only ask; those that hurt it have their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from served import Served, served


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(template=tmp_path_factory.mktemp("server") / "template.jinja") as running:
        yield running
