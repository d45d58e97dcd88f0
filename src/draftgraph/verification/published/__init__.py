"""Rules of other papers: baselines, and rows for research."""
