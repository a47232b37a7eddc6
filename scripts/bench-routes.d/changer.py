"""Changes routes at a rate by the API; a process of its own, run inside no namespace.

    changer.py SOCKET SECONDS RATE PER_REQUEST PROBE_PREFIX

Each request adds routes that are new and deletes as many of those added a while ago. Five times a second the
probe's prefix is added or deleted, and the time noted. Prints JSON.
"""

import collections
import itertools
import json
import socket
import sys
import time

LAG = 2000
# Until everything that was started beside this runs.
START_S = 0.5


class Connection:
    """One kept-alive connection."""

    def __init__(self, path):
        self._path = path
        self._socket = self._open()

    def _open(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(self._path)
        return stream

    def send(self, body):
        """Sends one request; raises unless it is answered with 200."""
        headers = f"Host: x\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: {len(body)}"
        self._socket.sendall(f"POST /v1/routes HTTP/1.1\r\n{headers}\r\n\r\n{body}".encode())
        answer = b""
        while not answer.endswith(b"}"):
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError(f"closed; so far {answer!r}")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(answer.decode())


def main(path, seconds, rate, per_request, probe):
    connection = Connection(path)
    numbers = itertools.count()
    there = collections.deque()
    toggles, times = [], []
    begin = time.monotonic()
    sent = requests = 0
    late = 0.0
    on = False
    while (elapsed := time.monotonic() - begin) < seconds:
        due = sent / rate
        if due > elapsed:
            time.sleep(due - elapsed)
        else:
            late = max(late, elapsed - due)
        if (elapsed - START_S) * 5 > len(toggles):
            on = not on
            toggles.append((time.monotonic(), on))
            connection.send(f"{probe} via n2\n" if on else f"del {probe}\n")
        lines = []
        for _ in range(per_request):
            if len(there) > LAG and (sent + len(lines)) % 2:
                lines.append(f"del {there.popleft()}\n")
            else:
                number = next(numbers) & 0x7FFFF
                prefix = f"10.{192 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"
                there.append(prefix)
                lines.append(f"{prefix} via n2\n")
        begun = time.monotonic()
        connection.send("".join(lines))
        times.append(time.monotonic() - begun)
        sent += per_request
        requests += 1
    wall = time.monotonic() - begin
    if on:
        connection.send(f"del {probe}\n")
    times.sort()
    answers = {"p50_ms": 1e3 * times[len(times) // 2], "p99_ms": 1e3 * times[len(times) * 99 // 100]}
    json.dump(
        {
            "changes": sent,
            "requests": requests,
            "changes_a_second": round(sent / wall),
            "latest_s": round(late, 3),
            "answer": {key: round(value, 2) for key, value in answers.items()},
            "toggles": toggles,
            "left": list(there),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
