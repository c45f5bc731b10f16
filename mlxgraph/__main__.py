"""`python -m mlxgraph`: the command line."""

from mlxgraph.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
