"""What the lab, the benches and the namespace tests share: network namespaces, daemons, their API.

    paths vtep userns traffic           import no module of the package
    command                             running commands, waiting, Failure
    machine                             what figures were measured on
    netns                               entering namespaces, their sysctls, mounts
    api configuration                   how a daemon is asked and what it is told
    daemon capture                      a daemon or a tcpdump on a node
    network                             Lab: namespaces, links and processes that end with a `with` block
    nodes                               NodeLab: nodes with pods, a switch, a router, daemons
    lab bench bench_routes              the programs behind scripts/lab, scripts/bench, scripts/bench-routes
    bench_scope                         the program behind scripts/bench-scope
    demo                                the program behind scripts/demo

Each imports only those above it, and none a test. Run with `python3 -P -m underpass_lab.lab` and this folder's parent
in PYTHONPATH, as the scripts do; nothing has to be installed.
"""

import logging

# On being imported scapy tells which routes it misses.
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
