"""Topology files as TOML tables, read key by key, with every mistake collected under the key it belongs to."""

import pathlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")
# The key and what is wrong with it.
Found = tuple[str, str]


class Mistakes(Exception):
    """All that is wrong with a file; each line names the file and the key."""

    def __init__(self, path: pathlib.Path, found: Sequence[Found]) -> None:
        super().__init__("\n".join(f"{path}: {key}: {what}" if key else f"{path}: {what}" for key, what in found))


class Table:
    """One table of a file. Taking a key checks it; keys that are left are mistakes, too."""

    def __init__(self, values: Mapping[str, Any], name: str, found: list[Found]) -> None:
        self.name, self.found = name, found
        self._values = dict(values)

    def wrong(self, key: str, what: str) -> None:
        """Notes a mistake."""
        self.found.append((f"{self.name}.{key}" if key else self.name, what))

    def has(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, default: Value, accept: Callable[[Any], Value]) -> Value:
        """The value of a key after `accept`, which raises ValueError for one that cannot be."""
        if key not in self._values:
            return default
        value = self._values.pop(key)
        try:
            return accept(value)
        except ValueError as error:
            self.wrong(key, str(error))
            return default

    def need(self, key: str, accept: Callable[[Any], Value]) -> Value | None:
        """The same for a key that has to be there."""
        if key not in self._values:
            self.wrong(key, "is missing")
            return None
        return self.take(key, None, accept)

    def rest(self) -> dict[str, Any]:
        """All keys that were not taken, for a table that is passed on as it is."""
        values, self._values = self._values, {}
        return values

    def close(self) -> None:
        for key in self._values:
            self.wrong(key, "no such key")


def read(
    path: pathlib.Path, text: str, singles: Sequence[str], arrays: Sequence[str]
) -> tuple[dict[str, Table], dict[str, list[Table]], list[Found]]:
    """The tables named in `singles` and the arrays of tables named in `arrays`, and the list for mistakes."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Mistakes(path, [("", str(error))]) from None
    found: list[Found] = []
    one: dict[str, Table] = {}
    many: dict[str, list[Table]] = {}
    for name in singles:
        value = document.pop(name, {})
        if not isinstance(value, dict):
            found.append((name, f"must be a table: [{name}]"))
            value = {}
        one[name] = Table(value, name, found)
    for name in arrays:
        values = document.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            found.append((name, f"must be an array of tables: [[{name}]]"))
            values = []
        many[name] = [Table(value, f"{name}[{number}]", found) for number, value in enumerate(values, 1)]
    found += [(name, "no such section") for name in document]
    return one, many, found


# --- what a value may be --------------------------------------------------------------------------


def integer(low: int, high: int) -> Callable[[Any], int]:
    def accept(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a number from {low} to {high}, not {value!r}")
        return value

    return accept


def one_of(*words: str) -> Callable[[Any], str]:
    def accept(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    return accept


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be a list of names, not {value!r}")
    return value
