"""For the docs site: our docstrings name one field per line, `name  phrase`; a page shows them as a list.

mkdocstrings loads this file as an extension of griffe (see mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^([A-Za-z_*][\w*]*(?:[ ,]+(?:and )?[A-Za-z_*][\w*]*){0,4}) {2,}(\S.*)$")
"""A line that begins a field: names, at least two spaces, and what they mean. Its further lines are indented."""


def listed(text: str) -> str:
    """The docstring with its fields as a Markdown list; code blocks stay as they are."""
    lines: list[str] = []
    in_field = in_code = False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        field = None if in_code else FIELD.match(line)
        if field:
            if lines and lines[-1].strip() and not in_field:
                lines.append("")
            names = re.sub(r"([*\w]+)", lambda name: name[0] if name[0] == "and" else f"`{name[0]}`", field[1])
            lines.append(f"* {names}: {field[2]}")
            in_field = True
        elif in_field and line.startswith(" ") and line.strip():
            lines.append(f"    {line.strip()}")
        else:
            if in_field and line.strip():
                lines.append("")
            in_field = False
            lines.append(line)
    return "\n".join(lines)


class DocstringFields(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = listed(obj.docstring.value)
