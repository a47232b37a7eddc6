"""The program behind scripts/bench-kubernetes: a daemon in a cluster of thousands of nodes."""
