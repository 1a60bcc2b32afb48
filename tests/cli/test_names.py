"""Which tunnel a word of the command line means: a file, a name in the directory of configuration files, an
instance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rsock_nf import cli
from rsock_nf.config.places import CONFIG_DIR_VARIABLE
from rsock_nf.config.values import format_secret
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE

KEYS = {"role": "server", "target": "127.0.0.1:9", "cipher": "none", "secret": format_secret(bytes(range(32)))}
Make = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without any file."""
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(tmp_path / "etc"))
    (tmp_path / "etc").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def etc(here: Path) -> Path:
    return here.parent / "etc"


def make(path: Path, **keys: object) -> Path:
    path.write_text(json.dumps(KEYS | keys))
    path.chmod(0o600)
    return path


def leave(name: str) -> None:
    """What is left of an instance whose process is gone."""
    dead = Instance(name)
    dead.directory.mkdir(parents=True)
    dead.directory.chmod(0o700)
    dead.directory.parent.chmod(0o700)
    dead.state_path.write_text(json.dumps({"pid": 4711, "started": "1", "config": "/x", "digest": "y"}))


@pytest.mark.parametrize("suffix", [".json", ".json5", ".yaml", ".yml"])
def test_a_bare_name_is_a_file_in_the_directory(etc: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = make(etc / f"wg{suffix}")
    assert cli.main(["check", "wg"]) == 0
    assert capsys.readouterr().out == f"{path}: valid; instance wg\n"


@pytest.mark.parametrize("word", ["wg.json", "./wg.json", "{here}/wg.json"])
def test_a_path_is_a_path(here: Path, etc: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    make(etc / "wg.json")
    path = make(here / "wg.json", name="mine")
    assert cli.main(["check", word.format(here=here)]) == 0
    assert capsys.readouterr().out == f"{path}: valid; instance mine\n"


def test_what_is_not_there_is_told_with_what_is(here: Path, etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(word: str) -> str:
        assert cli.main(["check", word]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("rsock-nf: ")

    missing = f"wg: there is no {etc}/wg.json"
    assert said("wg") == f"{missing}; `rsock-nf init` and `rsock-nf join` make one"
    make(etc / "office.json")
    assert said("wg") == f"{missing}; there is office"
    make(etc / "wg0.json")
    assert said("wg") == f'{missing} (did you mean "wg0"?)'
    make(here / "wg.toml")
    assert said("wg") == f"{missing}; for the file in this directory say wg.toml"
    (here / "wg.toml").rename(here / "wg")
    assert said("wg") == f"{missing}; for the file in this directory say ./wg"
    assert said("wg0.json") == f"wg0.json: there is no such file here; for {etc}/wg0.json say wg0"
    assert said("./wg0.json") == f"{here}/wg0.json: cannot be read: No such file or directory"
    make(etc / "wg0.yaml")
    assert said("wg0") == f"wg0: there are {etc}/wg0.json and {etc}/wg0.yaml: name the file"
    assert said("a b").startswith('"a b" cannot name an instance')
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == (
        f"rsock-nf: which tunnel? `rsock-nf check FILE`, or `rsock-nf check NAME` for {etc}/NAME.json\n"
    )


@pytest.mark.parametrize("command", ["status", "down", "reconnect"])
def test_an_instance_goes_by_its_name_by_its_file_or_by_the_name_of_its_file(
    here: Path, etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("rsock_nf.ops.instances.leftovers.clear_rules", lambda _: [])
    make(etc / "office.json", name="vpn")
    make(here / "mine.json")
    (etc / "broken.json").write_text("{")
    for word, name in {"office": "vpn", "vpn": "vpn", "mine.json": "mine", "broken": "broken", "x": "x"}.items():
        cli.main([command, word])
        told = "".join(capsys.readouterr())
        assert f"instance {name} is not running" in told or f"{name}: was not running" in told, word


def test_a_name_of_two_things_is_refused(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(etc / "office.json", name="vpn")
    leave("office")
    assert cli.main(["status", "office"]) == 2
    assert capsys.readouterr().err == (
        "rsock-nf: office: that is an instance, and a file of the instance vpn: say --name\n"
    )
    assert cli.main(["status", "--name", "office"]) == 1
    assert capsys.readouterr().out.startswith("office: crashed")
