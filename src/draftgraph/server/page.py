"""The chat page: one HTML document that needs nothing else and talks to this server alone.

Browsers hold it to that: its policy allows the page's own script and style, by their hashes, and requests to its own origin.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response

from draftgraph.view.page import with_drawing, with_files

_PARTS = ("page.css", "markdown.js", "page.js")


def page_response() -> Response:
    """The page, with its policy."""
    html, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(html, media_type="text/html", headers=headers)


@cache
def _page() -> tuple[str, str]:
    folder = files("draftgraph.server")
    template = with_drawing(folder.joinpath("page.html").read_text(encoding="utf-8"))
    html = with_files(template, "draftgraph.server", _PARTS)
    policy = (
        f"default-src 'none'; script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash(html: str, tag: str) -> str:
    """The one element of this name, as a policy names it."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
