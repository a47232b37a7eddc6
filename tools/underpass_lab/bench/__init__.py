"""The program behind scripts/bench: tunnels side by side. docs/benchmarks.md is its manual."""

import logging

# Without a home of its own matplotlib keeps its cache in a temporary directory, which it need not tell.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
