"""The programs of the cluster: built once from Debian's source package, or taken from Debian's packages, into a cache.

    CACHE/kubernetes-VERSION-RECIPE/bin    the programs
                                   /cni    the stock CNI plugins

CACHE is $UNDERPASS_CACHE or ~/.cache/underpass. RECIPE is a hash of what decides about the result. The directory gets
its name when all is in it, so one that is there is whole.
"""

import hashlib
import json
import os
import pathlib
import shutil
import time

from underpass_lab.cache import Say, cache, once
from underpass_lab.command import Failure, run
from underpass_lab.debian import Archive

VERSION = "1.20.2"
SOURCE_VERSION = "1.20.5+really1.20.2-1.1+deb12u1"
DSC_SHA256 = "19fa1da5aefcef673894ac9511986bd98a14410cf8eea0b626613c30df435257"
BUILT = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
# No drivers of clouds and no dockershim: half of the code, and nothing of it is used here.
TAGS = "providerless,dockerless,notest"
BUILD_PACKAGES = ("golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev")
# Package: the files taken from it.
PACKAGES = {
    "etcd-server": ("usr/bin/etcd",),
    "containerd": ("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"),
    "runc": ("usr/sbin/runc",),
    "kubernetes-client": ("usr/bin/kubectl",),
    "busybox-static": ("bin/busybox",),
    "containernetworking-plugins": tuple(
        f"usr/lib/cni/{name}" for name in ("bandwidth", "host-local", "loopback", "portmap", "ptp")
    ),
}
ROOT = "k8s.io/kubernetes"
OPENAPI = "pkg/generated/openapi"
COMPILE_S = 3000


def recipe() -> str:
    """A hash of all that decides about the result; the number grows when the steps below change."""
    what = json.dumps((1, SOURCE_VERSION, DSC_SHA256, BUILT, TAGS, BUILD_PACKAGES, PACKAGES))
    return hashlib.sha256(what.encode()).hexdigest()[:8]


def directory() -> pathlib.Path:
    """Where the programs are, once they are built."""
    return cache() / f"kubernetes-{VERSION}-{recipe()}"


def needed() -> pathlib.Path:
    """The directory of the programs; Failure when they have not been built."""
    if not directory().is_dir():
        raise Failure(f"there is no {directory()}: 'scripts/kubernetes build' makes it, in some minutes")
    return directory()


def build(say: Say = print) -> pathlib.Path:
    """Builds the programs unless that has been done; their directory."""

    def make(work: pathlib.Path) -> pathlib.Path:
        begun = time.monotonic()
        result = _build(work, say)
        say(f"built in {time.monotonic() - begun:.0f} s: {directory()}")
        return result

    return once("kubernetes", directory(), make)


def _build(work: pathlib.Path, say: Say) -> pathlib.Path:
    say("fetching Debian's packages and the source of Kubernetes")
    (work / "apt").mkdir()
    archive = Archive(work / "apt")
    archive.unpack(BUILD_PACKAGES, work / "tools")
    archive.unpack(tuple(PACKAGES), work / "debs")
    tree = _unpack_source(archive, work)
    result = work / "result"
    for name in ("bin", "cni"):
        (result / name).mkdir(parents=True)
    go = Go(work, tree)
    say("compiling the generator of OpenAPI definitions, and generating them")
    go.generate_openapi()
    say(f"compiling {', '.join(BUILT)}: some minutes")
    go.compile()
    for name in BUILT:
        shutil.copy(go.bin / name, result / "bin")
    for files in PACKAGES.values():
        for file in files:
            shutil.copy(work / "debs" / file, result / ("cni" if "/cni/" in file else "bin"))
    return result


def _unpack_source(archive: Archive, work: pathlib.Path) -> pathlib.Path:
    dsc = archive.source("kubernetes", SOURCE_VERSION)
    found = hashlib.sha256(dsc.read_bytes()).hexdigest()
    if found != DSC_SHA256:
        raise Failure(f"{dsc.name} has SHA-256 {found}, not {DSC_SHA256}: it is another source, nothing is built")
    tree = work / "src"
    # The .dsc, known by its hash, has the hashes of the rest.
    run("dpkg-source", "--no-check", "--require-strong-checksums", "-x", dsc, tree, timeout=120)
    _replace_reflect2(tree, work / "tools/usr/share/gocode/src")
    return tree


def _replace_reflect2(tree: pathlib.Path, packaged: pathlib.Path) -> None:
    """With Go 1.18 and newer the vendored reflect2 1.0.1 panics on custom resources; Debian's 1.0.2 does not."""
    name = "github.com/modern-go/reflect2"
    for pattern in ("*.go", "*.s"):
        for old in (tree / "vendor" / name).glob(pattern):
            old.unlink()
        for new in (packaged / name).glob(pattern):
            shutil.copy(new, tree / "vendor" / name)


class Go:
    """Debian's Go over the source: no network, no C, and without the `make` of Kubernetes, which spends minutes on
    finding out that generated files, which the source has, are up to date."""

    def __init__(self, work: pathlib.Path, tree: pathlib.Path) -> None:
        gopath = tree / ".go"
        self.bin = gopath / "bin"
        link = gopath / "src" / ROOT
        link.parent.mkdir(parents=True)
        link.symlink_to(tree)
        # The link, not what it leads to, is the place that Go knows the package by.
        self.tree = link
        go = work / "tools/usr/lib/go-1.19"
        self.environment = {
            "PATH": f"{go}/bin:{os.environ.get('PATH', os.defpath)}",
            "PWD": str(link),
            "HOME": str(work),
            "GOROOT": str(go),
            "GOPATH": str(gopath),
            "GOCACHE": str(work / "gocache"),
            "TMPDIR": str(work),
            "GO111MODULE": "off",
            "GOPROXY": "off",
            "CGO_ENABLED": "0",
            "LC_ALL": "C",
        }

    def run(self, *command: object) -> None:
        run(*command, timeout=COMPILE_S, cwd=self.tree, env=self.environment)

    def generate_openapi(self) -> None:
        """The one generated file that the source lacks."""
        self.run("go", "install", f"{ROOT}/vendor/k8s.io/kube-openapi/cmd/openapi-gen")
        self.run(
            *(self.bin / "openapi-gen", "-i", ",".join(self._openapi_packages()), "-p", f"{ROOT}/{OPENAPI}"),
            *("-O", "zz_generated.openapi", "-r", "/dev/null"),
            *("-h", "staging/src/k8s.io/code-generator/hack/boilerplate.go.txt"),
        )

    def _openapi_packages(self) -> list[str]:
        """Those that ask for definitions, by the names that the API server knows them by."""
        staging = "staging/src/k8s.io"
        words = ("grep", "-rl", "--include=*.go", "^// +k8s:openapi-gen=", "pkg", "cmd", "plugin", staging)
        output = run(*words, timeout=60, cwd=self.tree).stdout
        paths = {pathlib.PurePath(line).parent for line in output.splitlines() if "/zz_generated" not in line}
        others = {"code-generator", "sample-apiserver", "testdata"}
        names = sorted(str(path) for path in paths if not others & set(path.parts))
        return [f"{ROOT}/{name.replace(staging, 'vendor/k8s.io')}" for name in names]

    def compile(self) -> None:
        """The programs, with the version that they tell."""
        major, minor, _ = VERSION.split(".")
        values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
        flags = ["-s", "-w", "-buildid="]
        for package in ("client-go/pkg/version", "component-base/version"):
            flags += [f"-X {ROOT}/vendor/k8s.io/{package}.{key}={value}" for key, value in values.items()]
        self.run(
            *("go", "install", "-trimpath", "-tags", TAGS, "-ldflags", " ".join(flags)),
            *(f"{ROOT}/cmd/{name}" for name in BUILT),
        )
