"""Threads of a daemon that make no progress."""

import bootstrap

import os
import subprocess
import sys
import unittest

# Stops one thread of a process, as no signal can, for as long as this runs; a tracer also has to take note of its end.
_STOP = """
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
thread, libc = int(sys.argv[1]), ctypes.CDLL(None)
if libc.ptrace(SEIZE, thread, None, None) or libc.ptrace(INTERRUPT, thread, None, None):
    sys.exit("ptrace")
print("stopped", flush=True)
while True:
    os.waitpid(thread, WALL)
"""


def worker_of(pid: int) -> int:
    """The thread of the first worker."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii") as name:
            if name.read().strip() == "worker-0":
                return int(thread)
    raise AssertionError("no worker")


def stopped(test: unittest.TestCase, thread: int) -> subprocess.Popen[str]:
    """Stops a thread until the process that this returns is killed, with the test at the latest."""
    command = [sys.executable, "-c", _STOP, str(thread)]
    tracer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    test.addCleanup(tracer.communicate)
    test.addCleanup(tracer.kill)
    assert tracer.stdout
    test.assertEqual(tracer.stdout.readline(), "stopped\n")
    return tracer
