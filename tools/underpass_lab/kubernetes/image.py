"""Container images out of files, in the layout of the Open Container Initiative, without any builder or registry."""

import hashlib
import io
import json
import pathlib
import platform
import re
import tarfile
from collections.abc import Mapping, Sequence

from underpass_lab.command import run

BUSYBOX = "docker.io/local/busybox:1"
PAUSE = "docker.io/local/pause:1"
TOOLS = (
    "awk cat chmod cp cut dd echo env grep head hostname httpd id ifconfig ip kill ln ls mkdir mv nc nslookup"
    " netstat ping ping6 ps rm route sed seq sh sha256sum sleep sort stat tail tee test timeout touch tr true wc wget"
).split()
# That of builders.
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PREFIX = "application/vnd.oci.image"


def busybox(archive: pathlib.Path, programs: pathlib.Path) -> None:
    """The image of test pods and of pod sandboxes: busybox with its tools, which sleeps."""
    links = {f"bin/{tool}": "busybox" for tool in TOOLS}
    files = {"bin/busybox": programs / "bin/busybox"}
    make(archive, (BUSYBOX, PAUSE), files, links, command=("/bin/sleep", "2147483647"))


def make(
    archive: pathlib.Path,
    names: Sequence[str],
    files: Mapping[str, pathlib.Path],
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> None:
    """Writes an archive with one image of one layer.

    `names` are full ones, `docker.io/local/NAME:TAG`. `files` is {path in the image: file}; what a program among them
    is linked with is added. `links` is {path in the image: where the symbolic link leads}.
    """
    everything = dict(files)
    for file in files.values():
        everything |= {str(path).lstrip("/"): path for path in libraries(file)}
    layer = _layer(everything, links or {})
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": list(command), "Env": [PATH]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        blobs[_digest(data)] = data
        return {"mediaType": f"{_PREFIX}.{kind}", "digest": _digest(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_PREFIX}.manifest.v1+json",
        "config": blob("config.v1+json", _json(config)),
        "layers": [blob("layer.v1.tar", layer)],
    }
    described = blob("manifest.v1+json", _json(manifest))
    index = {
        "schemaVersion": 2,
        "manifests": [described | {"annotations": {"io.containerd.image.name": name}} for name in names],
    }
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(index))
        for digest, data in blobs.items():
            _add(tar, f"blobs/{digest.replace(':', '/')}", data)


def libraries(file: pathlib.Path) -> list[pathlib.Path]:
    """The shared libraries that a program needs, with the loader; none of a static one or of a script."""
    output = run("ldd", file, check=False).stdout
    return [pathlib.Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", output, re.M)]


def _layer(files: Mapping[str, pathlib.Path], links: Mapping[str, str]) -> bytes:
    """A tar file; the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        parents = {str(parent) for name in (*files, *links, "tmp/x") for parent in pathlib.PurePath(name).parents}
        for name in sorted(parents - {"."}):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, path in sorted(files.items()):
            _add(tar, name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
        for name, target in sorted(links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
