"""The program behind scripts/fleet: a daemon in a fleet of thousands of nodes."""
