"""No circle of imports: those for types and those inside functions count, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"rsock_nf": ROOT, "rsock_firewall": ROOT / "firewall"}


def modules(package: str) -> dict[str, Path]:
    """Each module of a package, by its dotted name."""
    above = PACKAGES[package]
    found = {}
    for path in sorted((above / package).rglob("*.py")):
        parts = path.relative_to(above).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules among ``known`` that a file imports, wherever in the file."""
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            wanted |= (below & known.keys()) or {node.module}
        elif isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
    return wanted & known.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_through_others(package: str) -> None:
    known = modules(package)
    assert len(known) > 20
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def f():\n    from two import g\n")
    (tmp_path / "two.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import one\n")
    known = {name: tmp_path / f"{name}.py" for name in ("one", "two")}
    assert {name: imports(path, known) for name, path in known.items()} == {"one": {"two"}, "two": {"one"}}


def test_an_instance_without_metrics_loads_nothing_for_terminals_and_scrapers() -> None:
    """It would cost some megabytes of each tunnel."""
    code = (
        "import sys, rsock_nf.daemon, rsock_nf.runtime.client, rsock_nf.runtime.server, rsock_nf.runtime.tunnel;"
        "print(sorted({'rich', 'prometheus_client'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
