"""Building the native data path: no compiler warns, other processors and C libraries take it, all else is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsock_nf.native import build as building
from rsock_nf.native.build import FLAGS, HARDENING, WARNINGS, BuildError, build, sources
from rsock_nf.native.sources import SOURCES, fingerprint

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
TARGETS = {
    "aarch64-linux-gnu": (),
    "aarch64-linux-musl": ("-Wno-sign-compare",),  # musl's own CMSG_NXTHDR
    "x86_64-linux-musl": ("-Wno-sign-compare",),
}
LOOK = (
    "import importlib.machinery as m, importlib.util as u, sys\n"
    "loader = m.ExtensionFileLoader('_hot', sys.argv[1])\n"
    "hot = u.module_from_spec(u.spec_from_loader('_hot', loader)); loader.exec_module(hot)\n"
    "print(hot.lib.hot_has_crypto(), hot.ffi.string(hot.lib.hot_sources()).decode())\n"
)


def looked_at(module: Path) -> tuple[bool, str]:
    """Has it ciphers, and of which sources is it?  Another process loads it: ours has one already."""
    done = subprocess.run([sys.executable, "-c", LOOK, module], capture_output=True, text=True, check=True, timeout=60)
    ciphers, made_of = done.stdout.split()
    return ciphers == "1", made_of


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_compiler_takes_it_without_a_warning(compiler: str, tmp_path: Path) -> None:
    built = build(tmp_path / "hot.so", compiler=compiler, flags=(*FLAGS, *HARDENING, *WARNINGS))
    assert looked_at(built) == (True, fingerprint())


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_number_is_cut_in_silence(compiler: str, tmp_path: Path) -> None:
    """-Wconversion, for our own files: the code that cffi writes is not made for it."""
    flags = [*FLAGS, *WARNINGS, "-Wconversion", f"-I{SOURCES}", "-fsyntax-only"]
    command = [compiler, *flags, *map(str, sources())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_other_processors_and_c_libraries_take_it(target: str, tmp_path: Path) -> None:
    """To objects; there are no headers of OpenSSL for them here."""
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, *WARNINGS, *TARGETS[target]]
    command += [building.WITHOUT_CIPHERS, f"-I{SOURCES}", "-c"]
    for file in sources():  # of several files it would compile the first
        done = subprocess.run([*command, file], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in tmp_path.glob("*.o")} == {path.stem for path in sources()}


def test_without_the_headers_of_openssl_it_has_no_ciphers(tmp_path: Path) -> None:
    (tmp_path / "openssl").mkdir()
    (tmp_path / "openssl/evp.h").write_text("#error openssl/evp.h is not here\n")
    built = build(tmp_path / "hot.so", flags=(*FLAGS, *HARDENING, f"-I{tmp_path}"))
    assert looked_at(built) == (False, fingerprint())


def test_without_the_headers_of_python_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(BuildError, match=r"fatal error: (Python|pyconfig)\.h: No such file"):
        build(tmp_path / "hot.so", compiler="gcc")
    assert not (tmp_path / "hot.so").exists()


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("/bin/false", "the C compiler /bin/false ended with status 1"),
        ("/no/such/cc", "no C compiler: /no/such/cc: No such file or directory"),
    ],
)
def test_without_a_compiler_there_is_none(
    compiler: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(BuildError) as raised:
        build(tmp_path / "hot.so")
    assert str(raised.value) == why
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_c_files_is_told_and_not_taken_for_missing_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = shutil.copytree(SOURCES, tmp_path / "c")
    (copy / "sealed.c").write_text("int wrong(void) { return nothing; }\n")
    monkeypatch.setattr(building, "SOURCES", copy)
    with pytest.raises(BuildError, match=r"sealed\.c:1:\d+: error: .nothing. undeclared"):
        build(tmp_path / "hot.so", compiler="gcc")


def test_where_it_cannot_be_written_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match=r"cannot write .*/file/hot\.so: Not a directory"):
        build(tmp_path / "file" / "hot.so")
