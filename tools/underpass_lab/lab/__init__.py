"""The program behind scripts/lab: networks of nodes, pods and routers from a topology file.

docs/lab.md is its manual.
"""
