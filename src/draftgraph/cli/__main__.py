"""python -m draftgraph.cli"""

from draftgraph.cli import main

main()
