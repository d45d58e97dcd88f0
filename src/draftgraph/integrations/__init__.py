"""draftgraph inside other programs."""
