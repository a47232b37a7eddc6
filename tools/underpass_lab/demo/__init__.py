"""The program behind scripts/demo: every promise of the first page, shown on the wire of a lab."""
