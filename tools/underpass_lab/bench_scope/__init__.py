"""The program behind scripts/bench-scope: what it costs to judge the traffic inside of a node."""
