"""A million routes from a file: time, memory, list against input, and ten rounds of adding and deleting."""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

from underpass_lab.command import wait_until
from underpass_lab.daemon import Daemon

POOL = "10.0.0.0/8"


def write_routes(path: pathlib.Path, count: int) -> str:
    """`count` routes inside 11 bits of the pool, as a full table mixes them: /24 and some longer; returns the text."""
    lines: list[str] = []
    number = 0
    while len(lines) < count:
        # Sixteen /28 in every eighth /24, so that neighbours differ.
        a, b, c = 16 + (number >> 16), number >> 8 & 255, number & 255
        if number % 8:
            lines.append(f"10.{a}.{b}.{c}/32 via {('n2', 'n3')[number % 2]}\n")
        else:
            lines.append(f"10.{a}.{b}.{c}/{29 + number // 8 % 4} via n2,n3\n")
        number += 1
    # The list comes in the order of addresses, so the input does too.
    text = "".join(lines)
    path.write_text(text, encoding="ascii")
    return text


class Memory:
    """The memory of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def _read(self, key: str) -> float:
        text = pathlib.Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        found = re.search(rf"{key}:\s+(\d+)", text)
        return round(int(found[1]) / 1024, 1) if found else 0.0

    def now(self) -> float:
        """What is resident."""
        return self._read("VmRSS")

    def peak(self) -> float:
        """The most that was."""
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        """Counts the peak from here on."""
        pathlib.Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="ascii")

    def settled(self, seconds: float = 1.5) -> float:
        """What is resident once freed memory has been given back."""
        low = self.now()
        for _ in range(int(seconds * 10)):
            time.sleep(0.1)
            low = min(low, self.now())
        return low


def client(daemon: Daemon, *arguments: object) -> tuple[float, str]:
    """(seconds, output) of a client command."""
    begin = time.monotonic()
    output = daemon.command(*arguments, timeout=120).stdout
    return round(time.monotonic() - begin, 2), output


def timed(daemon: Daemon, *arguments: object) -> float:
    """Seconds that a client command takes."""
    return client(daemon, *arguments)[0]


def measure(
    daemon: Daemon, directory: pathlib.Path, count: int, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """All figures of this part."""
    file = directory / "routes.txt"
    text = write_routes(file, count)
    memory = Memory(daemon.pid)
    result: dict[str, Any] = {
        "routes": count,
        "file_mib": round(len(text) / (1 << 20), 1),
        "idle_mib": memory.settled(),
    }
    memory.forget_peak()
    result["load_s"] = timed(daemon, "route", "replace", "--file", file)
    result["load_peak_mib"] = memory.peak()
    result["loaded_mib"] = memory.settled()
    result["list_s"], listed = client(daemon, "route", "list", "--source", "control", "-o", "lines")
    result["list_equals_input"] = listed == text
    say(f"loaded in {result['load_s']} s: {result['loaded_mib']} MiB, peak {result['load_peak_mib']} MiB")
    result["rounds"] = []
    for number in range(rounds):
        deleted = timed(daemon, "route", "del", "--file", file)
        empty = memory.settled()
        added = timed(daemon, "route", "add", "--file", file)
        figures = {"del_s": deleted, "empty_mib": empty, "add_s": added, "full_mib": memory.settled()}
        result["rounds"].append(figures)
        say(f"round {number + 1}: {figures}")
    result["peak_mib"] = memory.peak()
    result["replace_s"] = timed(daemon, "route", "replace", "--file", file)
    result["replace_peak_mib"] = memory.peak()
    timed(daemon, "route", "replace", "--file", "/dev/null")
    wait_until(lambda: daemon.json("status")["routes"] < 10, 10, "an empty table")
    result["end_mib"] = memory.settled(7)
    return result
