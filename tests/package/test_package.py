"""The wheel: both packages, their type markers, the entry point, and nothing else; and it imports."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    # hatchling writes nothing into the source tree; without isolation nothing is downloaded.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--no-cache-dir", "--wheel-dir", str(directory), str(ROOT)],
        check=True, timeout=110,
    )  # fmt: skip
    (built,) = directory.glob("*.whl")
    return built


def test_it_is_pure_python_and_holds_both_packages_only(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"rsock_nf", "rsock_firewall"}
    for path in ("cli.py", "py.typed", "core/types.py", "link/__init__.py", "wire/__init__.py", "lab/demo.py"):
        assert f"rsock_nf/{path}" in names
    assert {"rsock_firewall/__init__.py", "rsock_firewall/py.typed"} <= set(names)


def test_it_names_the_command_and_needs_no_compiler(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    read = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "rsock-nf = rsock_nf.cli:main" in archive.read(read["entry_points.txt"]).decode()
    needed = [
        line for line in archive.read(read["METADATA"]).decode().splitlines() if line.startswith("Requires-Dist:")
    ]
    unconditional = sorted(line.split()[1].split(">")[0] for line in needed if "extra ==" not in line)
    assert unconditional == ["cryptography", "pydantic", "pyroute2"]


def test_it_imports_and_runs_from_the_wheel_alone(wheel: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import rsock_nf, rsock_firewall\n"
        "assert rsock_nf.__file__.startswith(sys.argv[1]) and rsock_firewall.__file__.startswith(sys.argv[1])\n"
        "from rsock_nf.cli import main; sys.exit(main(['genkey']))"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(wheel)], check=True, cwd="/", timeout=60)
