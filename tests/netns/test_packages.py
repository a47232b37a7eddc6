"""Everything that the tests and scripts run is installed by them: nothing is there by chance on a new Debian."""

import bootstrap

import ast
import graphlib
import pathlib
import re
import unittest
from typing import Any

from underpass_lab.paths import REPO, TOOLS

# Commands that a minimal Debian may lack, and their packages. What is essential there, as coreutils, is not listed.
PACKAGES = {
    **dict.fromkeys(("ip", "ss", "tc", "bridge"), "iproute2"),
    **dict.fromkeys(("unshare", "nsenter", "setpriv", "taskset", "flock", "findmnt", "prlimit"), "util-linux"),
    **dict.fromkeys(("sysctl", "pgrep", "pkill", "ps", "free", "top"), "procps"),
    **dict.fromkeys(("tshark", "capinfos", "editcap"), "tshark"),
    **dict.fromkeys(("mount", "umount"), "mount"),
    **dict.fromkeys(("pasta", "passt"), "passt"),
    "ping": "iputils-ping",
    "nft": "nftables",
    "ethtool": "ethtool",
    "iperf3": "iperf3",
    "tcpdump": "tcpdump",
    "jq": "jq",
    "git": "git",
    "shellcheck": "shellcheck",
    "curl": "curl",
    "iptables": "iptables",
    "dnsmasq": "dnsmasq-base",
    "socat": "socat",
    "strace": "strace",
    "lsof": "lsof",
    "fuser": "psmisc",
    "bpftool": "bpftool",
    "openssl": "openssl",
}
MODULES = {
    "scapy": "python3-scapy",
    "matplotlib": "python3-matplotlib",
    "jsonschema": "python3-jsonschema",
    "yaml": "python3-yaml",
}
# Who uses what: a script, and the files that run with it; of the package also all that they import.
USERS = {
    "test": [
        "scripts/test",
        "tests/netns/*.py",
        "tests/policy/*.py",
        "tools/underpass_lab/**/*.py",
        "config/rootless/*.sh",
    ],
    "lab": ["scripts/lab", "tools/underpass_lab/lab/*.py"],
    "demo": ["scripts/demo", "tools/underpass_lab/demo/*.py", "tools/underpass_lab/lab/*.py"],
    "bench-routes": ["scripts/bench-routes", "tools/underpass_lab/bench_routes/*.py"],
    "bench-scope": ["scripts/bench-scope", "tools/underpass_lab/bench_scope/*.py"],
    "bench": ["scripts/bench", "tools/underpass_lab/bench/*.py"],
}


def files(patterns: Any) -> list[Any]:
    """The files of these patterns, and those of the package that they import."""
    found, left = set(), [path for pattern in patterns for path in REPO.glob(pattern)]
    while left:
        path = left.pop()
        if path not in found and path != pathlib.Path(__file__):
            found.add(path)
            left += imported(path) if path.suffix == ".py" else []
    return sorted(found)


def names(path: pathlib.Path) -> set[str]:
    """What a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imported(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of the package that a file imports."""
    wanted = (name for name in names(path) if name.startswith("underpass_lab."))
    places = (TOOLS / f"{name.replace('.', '/')}.py" for name in wanted)
    return [place for place in places if place.exists()]


def used(path: Any) -> Any:
    """The packages of what a file runs or imports, as far as it can be seen."""
    text = path.read_text(encoding="utf-8")
    return of_python(text) if path.suffix == ".py" else of_shell(text)


def of_python(text: str) -> Any:
    """Imports, and strings that stand where a command does: first in a call, a tuple or a list, or behind a node."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {MODULES[name] for name in (name.split(".")[0] for name in names) if name in MODULES}
            continue
        words = (
            node.args[:2]
            if isinstance(node, ast.Call)
            else node.elts[:2]
            if isinstance(node, (ast.Tuple, ast.List))
            else []
        )
        for word in words:
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                found |= {PACKAGES[name] for name in (word.value.split(" ")[0],) if name in PACKAGES}
    return found


def of_shell(text: str) -> set[Any]:
    """The first words of commands, comments and the rest of lines aside."""
    lines = (line.split(" # ")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    words = (re.findall(r"(?:^|[|;&(!]|\bexec|\bdo|\bthen)\s*([a-z0-9]+)(?=\s|$)", line) for line in lines)
    return {PACKAGES[word] for line in words for word in line if word in PACKAGES}


def installed(script: str) -> set[Any]:
    """The packages that a script names in its calls of install_packages and need_packages, or a cluster's."""
    text = (REPO / "scripts" / script).read_text(encoding="utf-8").replace("\\\n", " ")
    if "kubernetes_packages" in text or "scripts/kubernetes build" in text:
        library = (REPO / "scripts/lib.sh").read_text(encoding="utf-8").replace("\\\n", " ")
        text += library.split("\nkubernetes_packages() {")[1].split("\n}")[0]
    calls = re.findall(r"\b(?:install|need)_packages ([^\n>]*)", text)
    return {word for call in calls for word in call.split()}


class Packages(unittest.TestCase):
    def test_what_is_used_is_installed(self) -> None:
        for script, patterns in USERS.items():
            self.assertGreater(len(files(patterns)), len(patterns))
            for path in files(patterns):
                with self.subTest(script=script, file=str(path.relative_to(REPO))):
                    self.assertEqual(used(path) - installed(script), set())

    def test_the_package_imports_no_test_and_nothing_in_a_circle(self) -> None:
        graph = {}
        for path in TOOLS.glob("underpass_lab/**/*.py"):
            graph[path] = set(imported(path))
            tests = {test.stem for test in REPO.glob("tests/netns/*.py")}
            self.assertEqual({name.split(".")[0] for name in names(path)} & tests, set(), path)
        # Fails where files import each other.
        self.assertEqual(len(list(graphlib.TopologicalSorter(graph).static_order())), len(graph))

    def test_it_sees_commands_and_imports(self) -> None:
        self.assertEqual(
            of_python('import scapy.utils\nrun("tshark", "-r")\nlab.exec("n1", "ss", "-l")\nx = ["git"]'),
            {"python3-scapy", "tshark", "iproute2", "git"},
        )
        self.assertEqual(of_python('print("the ip of mount")'), set())
        self.assertEqual(of_shell("# jq\nx=$(jq -n 1) && ip netns\n"), {"jq", "iproute2"})


if __name__ == "__main__":
    unittest.main()
