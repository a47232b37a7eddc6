"""Progress on standard error: one line for each finished run, and on a terminal a bar with the time left."""

import sys
import time
from typing import TextIO

BAR = 28
# A first guess is worth as much as this many seconds of experience.
TRUST_S = 20


class Progress:
    """Knows what all runs should take, and learns from those that have ended how long they really take."""

    def __init__(self, total_s: float, stream: TextIO = sys.stderr) -> None:
        self.total_s, self.stream = total_s, stream
        self.done_s = self.spent_s = 0.0
        self.doing = ""
        self.mark = time.monotonic()
        self.bar = stream.isatty()

    def begin(self, what: str) -> None:
        self.doing = what
        self._draw()

    def end(self, planned_s: float, text: str | None = None, skipped: bool = False) -> None:
        """Something that should take `planned_s` has ended; what was skipped teaches nothing."""
        now = time.monotonic()
        if skipped:
            self.total_s -= planned_s
        else:
            self.done_s += planned_s
            self.spent_s += now - self.mark
        self.mark = now
        if text:
            self.say(text)
        else:
            self._draw()

    def say(self, text: str) -> None:
        self._wipe()
        left = "" if self.bar else f"[{clock(self.left())} left] "
        print(f"{left}{text}", file=self.stream, flush=True)
        self._draw()

    def left(self) -> float:
        pace = (self.spent_s + TRUST_S) / (self.done_s + TRUST_S)
        return max(self.total_s - self.done_s, 0) * pace

    def finish(self) -> None:
        self._wipe()
        self.bar = False

    def _draw(self) -> None:
        if self.bar:
            share = min(self.done_s / self.total_s, 1) if self.total_s > 0 else 1
            full = round(BAR * share)
            line = f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%}  {clock(self.left())} left  {self.doing}"
            self.stream.write(f"\r\x1b[K{line[:100]}")
            self.stream.flush()

    def _wipe(self) -> None:
        if self.bar:
            self.stream.write("\r\x1b[K")


def clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"
