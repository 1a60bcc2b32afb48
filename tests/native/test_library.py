"""Which compiled module is loaded, and what is said where there is none: in a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rsock_nf
from rsock_nf.native.build import is_made, target
from rsock_nf.native.library import NOT_BUILT, OTHER_SOURCES

PACKAGE = Path(rsock_nf.__file__).parent
SAY = "from rsock_nf.native.library import load; found = load(); print(found if isinstance(found, str) else 'native')"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What ``load`` needs of the package, with the module."""
    assert is_made(), "python -m rsock_nf.native.build"
    (tmp_path / "rsock_nf").mkdir()
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "rsock_nf")
    return Path(shutil.copytree(PACKAGE / "native", tmp_path / "rsock_nf/native"))


def said(copy: Path, code: str = SAY, **environment: str) -> str:
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(copy.parents[1])!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.stderr == ""
    return done.stdout.strip()


def test_it_is_loaded_from_its_place(copy: Path) -> None:
    assert said(copy) == "native"


def test_without_it_the_line_says_what_to_install(copy: Path) -> None:
    (copy / target().name).unlink()
    assert said(copy) == NOT_BUILT


def test_one_of_other_c_files_is_not_taken(copy: Path) -> None:
    with (copy / "c" / "in.c").open("a") as file:
        file.write("/* another one */\n")
    assert said(copy) == OTHER_SOURCES
    made = "from rsock_nf.native.build import is_made; print(is_made())"
    assert said(copy, made) == "False", "so make builds it again"


def test_one_for_a_single_version_of_python_is_built_again(copy: Path) -> None:
    """It would come first, and nobody would notice that it is an old one."""
    shutil.copy(copy / target().name, copy / f"_hot{sysconfig.get_config_var('EXT_SUFFIX')}")
    made = "from rsock_nf.native.build import is_made; print(is_made())"
    assert said(copy, made) == "False"


def test_one_from_before_there_were_fingerprints_is_not_taken(copy: Path) -> None:
    (copy / target().name).unlink()
    (copy / "_hot.py").write_text("class lib: pass\nclass ffi: pass\n")
    assert said(copy) == OTHER_SOURCES


def test_of_an_installed_wheel_which_has_no_c_files_it_is_taken(copy: Path) -> None:
    shutil.rmtree(copy / "c")
    assert said(copy) == "native"


def test_a_damaged_one_is_told_in_one_line(copy: Path) -> None:
    (copy / target().name).write_bytes(b"no ELF file" * 100)
    assert said(copy).startswith("it cannot be loaded: ")
    assert "invalid ELF header" in said(copy)


def test_no_variable_of_the_environment_names_another_file(copy: Path, tmp_path: Path) -> None:
    """The process may be root's, with the environment of a user."""
    (copy / target().name).unlink()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copy(target(), foreign)
    names = {"PATH": str(foreign), "LD_LIBRARY_PATH": str(foreign), "RSOCK_NF_NATIVE": str(foreign)}
    assert said(copy, **names) == NOT_BUILT
