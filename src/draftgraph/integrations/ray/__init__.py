"""draftgraph on Ray (extra `ray`): offline generation with Ray Data, and the server as a Serve application."""

from __future__ import annotations

from draftgraph.integrations.ray.job import generate_rows
from draftgraph.integrations.ray.rows import Generate
from draftgraph.integrations.ray.serving import application

__all__ = ["Generate", "application", "generate_rows"]
