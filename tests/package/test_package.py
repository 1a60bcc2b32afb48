"""The wheel: both packages, their type markers, the entry point, the compiled data path if it can be compiled, the
unit, man pages, completions, start scripts, and nothing else; and it imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from rsock_nf.native.build import target
from rsock_nf.native.library import NOT_BUILT

ROOT = Path(__file__).parents[2]
PLATFORM = sysconfig.get_platform().replace("-", "_")


def built(directory: Path, **environment: str) -> tuple[Path, str]:
    """The wheel, and what pip said."""
    # hatchling writes nothing into the source tree; without isolation nothing is downloaded.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--wheel-dir", str(directory), str(ROOT)]
    done = subprocess.run(
        command, check=True, timeout=110, capture_output=True, text=True, env={**os.environ, **environment}
    )
    (wheel,) = directory.glob("*.whl")
    return wheel, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made where there is no C compiler."""
    wheel, said = built(tmp_path_factory.mktemp("pure"), CC="/bin/false")
    assert said == ""
    return wheel


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_it_holds_both_packages_only(pure: Path) -> None:
    names = names_in(pure)
    inside = {name.split("/")[0] for name in names if ".dist-info" not in name and ".data/" not in name}
    assert inside == {"rsock_nf", "rsock_firewall"}
    for path in ("cli.py", "py.typed", "core/types.py", "link/__init__.py", "wire/__init__.py", "lab/demo.py"):
        assert f"rsock_nf/{path}" in names
    assert {"rsock_firewall/__init__.py", "rsock_firewall/py.typed"} <= names


def test_it_has_the_unit_and_what_belongs_below_share(pure: Path) -> None:
    names = names_in(pure)
    assert "rsock_nf/ops/service/rsock-nf@.service" in names
    data = {name.partition(".data/data/")[2] for name in names if ".data/" in name}
    assert data == {
        "share/man/man1/rsock-nf.1",
        "share/man/man5/rsock-nf.json.5",
        "share/bash-completion/completions/rsock-nf",
        "share/zsh/site-functions/_rsock-nf",
        "share/fish/vendor_completions.d/rsock-nf.fish",
        "share/rsock-nf/openrc/rsock-nf",
        "share/rsock-nf/procd/rsock-nf.init",
        "share/rsock-nf/wg-quick@.service.d/rsock-nf.conf",
    }


def test_where_there_is_a_compiler_it_has_the_native_data_path_and_is_for_this_platform(
    wheel: Path, pure: Path
) -> None:
    assert wheel.name.endswith(f"-cp311-abi3-{PLATFORM}.whl")
    more = {name for name in names_in(wheel) ^ names_in(pure) if ".dist-info" not in name}
    assert more == {f"rsock_nf/native/{target().name}"}, "the module, and not its C files"


def test_where_there_is_none_it_is_pure_python_and_says_why_it_has_no_native_data_path(
    pure: Path, tmp_path: Path
) -> None:
    assert pure.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(pure, tmp_path, "zip")
    assert _loaded(tmp_path) == NOT_BUILT


def test_the_native_data_path_of_the_wheel_is_taken(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(wheel, tmp_path, "zip")
    assert _loaded(tmp_path) == "native"


def _loaded(where: Path) -> str:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from rsock_nf.native import library; assert library.__file__.startswith(sys.argv[1])\n"
        "found = library.load(); print(found if isinstance(found, str) else 'native')"
    )
    command = [sys.executable, "-P", "-c", code, str(where)]
    return subprocess.run(command, check=True, cwd="/", timeout=60, capture_output=True, text=True).stdout.strip()


def test_the_source_distribution_has_what_it_takes_to_compile(tmp_path: Path) -> None:
    code = "import sys, hatchling.build as h; h.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, timeout=110, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "rsock_nf/native/c").iterdir()}
    assert len(wanted) > 10
    assert wanted | {"hatch_build.py", "rsock_nf/native/build.py"} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_it_names_the_command_and_needs_no_compiler(pure: Path) -> None:
    archive = zipfile.ZipFile(pure)
    read = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "rsock-nf = rsock_nf.cli:main" in archive.read(read["entry_points.txt"]).decode()
    needed = [
        line for line in archive.read(read["METADATA"]).decode().splitlines() if line.startswith("Requires-Dist:")
    ]
    unconditional = sorted(line.split()[1].split(">")[0] for line in needed if "extra ==" not in line)
    wanted = "cffi cryptography json5 prometheus-client pydantic pyroute2 pyyaml rich segno shtab"
    assert unconditional == wanted.split()


def test_it_imports_and_runs_from_the_wheel_alone(pure: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import rsock_nf, rsock_firewall\n"
        "assert rsock_nf.__file__.startswith(sys.argv[1]) and rsock_firewall.__file__.startswith(sys.argv[1])\n"
        "from rsock_nf.cli import main; sys.exit(main(['genkey']))"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(pure)], check=True, cwd="/", timeout=60)
