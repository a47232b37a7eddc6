"""The program behind scripts/bench-routes: the routing table under load."""
