"""What the demo tells: cases, the checks in each, and a verdict."""

import contextlib
import time
from collections.abc import Callable, Iterator
from subprocess import SubprocessError

from underpass_lab.command import Failure


def say(text: str) -> None:
    """One line or more, at once."""
    print(text, flush=True)


class Story:
    """Counts the cases. A failed check shows why and does not keep the next ones from running."""

    def __init__(self) -> None:
        self.passed = self.failed = 0
        self._wrong = 0
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def case(self, title: str) -> Iterator[None]:
        """One case: any number of checks."""
        begun, self._wrong = time.monotonic(), 0
        say(f"\n== {title}")
        yield
        took = f"{time.monotonic() - begun:.1f} s"
        if self._wrong:
            self.failed += 1
            say(f"FAIL  {title} ({took}, {self._wrong} checks failed)")
        else:
            self.passed += 1
            say(f"PASS  {title} ({took})")

    def check(self, what: str, action: Callable[[], str | None]) -> bool:
        """Whether `action` raises no Failure; what it returns is shown."""
        try:
            said = action()
        except (Failure, OSError, SubprocessError) as error:
            say(f"  FAIL  {what}")
            say("\n".join(f"        {line}" for line in str(error).splitlines()))
            self._wrong += 1
            return False
        say(f"  ok    {what}" + (f": {said}" if said else ""))
        return True

    def summary(self) -> int:
        """The last lines, and the exit status."""
        took = time.monotonic() - self._begun
        say(f"\n== summary\n{self.passed} cases passed, {self.failed} failed; {took:.0f} s")
        return 1 if self.failed else 0
