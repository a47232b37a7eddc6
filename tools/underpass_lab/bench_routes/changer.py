"""Changes routes at a rate by the API; a process of its own, in no namespace of a lab.

    changer SOCKET SECONDS RATE PER_REQUEST PROBE_PREFIX

Each request adds routes that are new and deletes as many of those added a while ago. Small requests go out several
at a time, and the answers are read when the next ones are due, as by any client with a stream of changes; one time
in ten they are waited for. Five times a second the probe's prefix is added or deleted, and the time noted. Prints
JSON.
"""

import collections
import itertools
import json
import sys
import time

from underpass_lab.api import Pipeline

LAG = 2000
# Most times a second that the client wakes up.
BURSTS_S = 100
# Of so many bursts of several requests one is waited for.
TIMED = 10
# Until everything that was started beside this runs.
START_S = 0.5


def request(body: str) -> bytes:
    """One request to change routes, as bytes."""
    return Pipeline.post("/v1/routes", body)


def plan(requests: int, per_request: int) -> tuple[list[bytes], list[str]]:
    """(requests as bytes, prefixes that are there after each)."""
    there: collections.deque[str] = collections.deque()
    messages = []
    numbers = itertools.count()
    for first in range(0, requests * per_request, per_request):
        lines = []
        for change in range(first, first + per_request):
            if len(there) > LAG and change % 2:
                lines.append(f"del {there.popleft()}\n")
            else:
                number = next(numbers) & 0x7FFFF
                prefix = f"10.{192 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"
                there.append(prefix)
                lines.append(f"{prefix} via n2\n")
        messages.append(request("".join(lines)))
    return messages, list(there)


def main(path: str, seconds: float, rate: int, per_request: int, probe: str) -> None:
    # What is sent is made before, so that the client takes as little of the processors as it can.
    messages, there = plan(int(seconds * rate) // per_request, per_request)
    announce = (request(f"del {probe}\n"), request(f"{probe} via n2\n"))
    connection = Pipeline(path)
    print("ready", flush=True)
    sys.stdin.readline()
    toggles: list[tuple[float, bool]] = []
    times: list[float] = []
    late = 0.0
    on = False
    used = time.process_time()
    begin = time.monotonic()
    burst = max(1, rate // per_request // BURSTS_S)
    for first in range(0, len(messages), burst):
        due = begin + first * per_request / rate
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
        late = max(late, now - due)
        if (now - begin - START_S) * 5 > len(toggles):
            on = not on
            toggles.append((time.monotonic(), on))
            connection.ask(announce[on])
        connection.finish()
        begun = time.monotonic()
        connection.send(*messages[first : first + burst])
        if burst == 1 or first // burst % TIMED == 0:
            connection.finish()
            times.append(time.monotonic() - begun)
    connection.finish()
    wall = time.monotonic() - begin
    used = time.process_time() - used
    if on:
        connection.ask(announce[False])
    times.sort()
    answers = {"p50_ms": 1e3 * times[len(times) // 2], "p99_ms": 1e3 * times[len(times) * 99 // 100]}
    json.dump(
        {
            "changes": len(messages) * per_request,
            "requests": len(messages),
            "changes_a_second": round(len(messages) * per_request / wall),
            "latest_s": round(late, 3),
            "client_cpus": round(used / wall, 3),
            "answer": {key: round(value, 2) for key, value in answers.items()},
            "toggles": toggles,
            "left": there,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
