"""Running commands and waiting for what they bring about, with errors that name the culprit."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

Value = TypeVar("Value")


class Failure(AssertionError):
    """What could not be done, in words for the user. A test in which it is raised has failed."""


class CommandFailed(Failure):
    """A command that did not end with status 0."""

    def __init__(self, command: list[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(command)}: status {status}\n{output}".rstrip())


def brief(failure: Failure) -> str:
    """A failure in one line: what failed, and the last line of what it said, where tools put the reason."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return " ".join(lines[:1] + lines[1:][-1:])


def wait_until(predicate: Callable[[], Value], timeout: float = 5.0, what: str = "the condition") -> Value:
    """Polls until `predicate()` is true and returns its value; Failure after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(0.01)
    return value


def run(*words: object, check: bool = True, timeout: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, without input unless given; Failure with what it printed when it fails."""
    command = [str(word) for word in words]
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False, **options
        )
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if check and result.returncode != 0:
        raise CommandFailed(command, result.returncode, result.stdout + result.stderr)
    return result


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs a program and ends with its status: 130 when it was interrupted, and one line when something failed."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failure:
        sys.exit(f"error: {failure}")
