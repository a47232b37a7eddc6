"""Running commands and waiting for what they bring about, with errors that name the culprit."""

import subprocess
import time


def wait_until(predicate, timeout=5.0, what="the condition"):
    """Polls until `predicate()` is true and returns its value; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.01)
    return value


def run(*command, check=True, timeout=30, **options):
    """Runs a command to its end; AssertionError with what it printed when it fails."""
    command = [str(word) for word in command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {result.returncode}\n{result.stdout}{result.stderr}")
    return result
