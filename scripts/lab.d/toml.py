"""Topology files as TOML tables, read key by key, with every mistake collected under the key it belongs to."""

import tomllib


class Mistakes(Exception):
    """All that is wrong with a file; each line names the file and the key."""

    def __init__(self, path, found):
        super().__init__("\n".join(f"{path}: {key}: {what}" if key else f"{path}: {what}" for key, what in found))


class Table:
    """One table of a file. Taking a key checks it; keys that nobody took are mistakes, too."""

    def __init__(self, values, name, found):
        self.name, self.found = name, found
        self._values = dict(values)

    def wrong(self, key, what):
        """Notes a mistake."""
        self.found.append((f"{self.name}.{key}" if key else self.name, what))

    def has(self, key):
        return key in self._values

    def take(self, key, default, accept):
        """The value of a key after `accept`, which raises ValueError for one that cannot be."""
        if key not in self._values:
            return default
        value = self._values.pop(key)
        try:
            return accept(value)
        except ValueError as error:
            self.wrong(key, str(error))
            return default

    def need(self, key, accept):
        """The same for a key that has to be there."""
        if key not in self._values:
            self.wrong(key, "is missing")
            return None
        return self.take(key, None, accept)

    def rest(self):
        """All keys that were not taken, for a table that is passed on as it is."""
        values, self._values = self._values, {}
        return values

    def close(self):
        for key in self._values:
            self.wrong(key, "no such key")


def read(path, text, singles, arrays):
    """The tables named in `singles` and the arrays of tables named in `arrays`, and the list for mistakes."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Mistakes(path, [("", str(error))]) from None
    found, tables = [], {}
    for name in singles:
        value = document.pop(name, {})
        if not isinstance(value, dict):
            found.append((name, f"must be a table: [{name}]"))
            value = {}
        tables[name] = Table(value, name, found)
    for name in arrays:
        values = document.pop(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            found.append((name, f"must be an array of tables: [[{name}]]"))
            values = []
        tables[name] = [Table(value, f"{name}[{number}]", found) for number, value in enumerate(values, 1)]
    found += [(name, "no such section") for name in document]
    return tables, found


# --- what a value may be --------------------------------------------------------------------------


def integer(low, high):
    def accept(value):
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a number from {low} to {high}, not {value!r}")
        return value

    return accept


def one_of(*words):
    def accept(value):
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {value!r}")
        return value

    return accept


def boolean(value):
    if type(value) is not bool:
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def strings(value):
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be a list of names, not {value!r}")
    return value
