"""Debian's archive by a private apt: nothing is installed, nothing of this system's package state is touched.

So no service starts, no package of another source is in the way, and the system needs no `deb-src` line.
"""

import pathlib

from underpass_lab.command import Failure, run

RELEASE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_S = 300


class Archive:
    """Debian bookworm, with its state in a directory that the caller removes."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        sources = directory / "sources.list"
        # apt drops root's rights to fetch and would not get into a private directory.
        settings = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": directory / "lists",
            "Dir::Cache": directory / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "3",
        }
        self._apt = ("apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
        for name in ("lists/partial", "cache/archives/partial"):
            (directory / name).mkdir(parents=True)
        lines = (f"{kind} [signed-by={KEYRING}] {mirror()} {RELEASE} main\n" for kind in ("deb", "deb-src"))
        sources.write_text("".join(lines), encoding="utf-8")
        run(*self._apt, "update", timeout=FETCH_S)

    def source(self, package: str, version: str) -> pathlib.Path:
        """Fetches a source package; the path of its `.dsc`."""
        run(*(*self._apt, "source", "--download-only", f"{package}={version}"), timeout=FETCH_S, cwd=self.directory)
        return self.directory / f"{package}_{version}.dsc"

    def unpack(self, packages: tuple[str, ...], target: pathlib.Path) -> None:
        """Fetches packages and unpacks their files below `target`."""
        debs = self.directory / "debs" / target.name
        debs.mkdir(parents=True)
        run(*self._apt, "download", *packages, timeout=FETCH_S, cwd=debs)
        for deb in sorted(debs.iterdir()):
            run("dpkg-deb", "--extract", deb, target, timeout=120)
            deb.unlink()

    def unpack_with_dependencies(self, packages: tuple[str, ...], target: pathlib.Path) -> None:
        """The same with everything that these packages need and this system does not have."""
        run(*self._apt, "install", "--download-only", "--no-install-recommends", "--yes", *packages, timeout=FETCH_S)
        for deb in sorted((self.directory / "cache/archives").glob("*.deb")):
            run("dpkg-deb", "--extract", deb, target, timeout=120)
            deb.unlink()
        # What is installed here is not among them.
        missing = tuple(name for name in packages if not list(target.glob(f"usr/share/doc/{name}")))
        if missing:
            self.unpack(missing, target)


def mirror() -> str:
    """The archive that this system takes its own packages from."""
    # Of what is configured, not only of what has been fetched: an image may have no package lists.
    words = ("apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)")
    output = run(*words, "Created-By: Packages")
    lines = [line.split() for line in output.stdout.splitlines()]
    found = [words[2] for words in lines if words[1:2] == ["main"] and words[2].rstrip("/").endswith("/debian")]
    of_release = [words[2] for words in lines if words[:2] == [RELEASE, "main"] and words[2] in found]
    if not found:
        raise Failure("apt knows no Debian archive: add one to /etc/apt/sources.list, this is for Debian systems")
    return (of_release or found)[0]
