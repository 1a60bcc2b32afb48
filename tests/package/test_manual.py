"""Man pages and completions: they know every command, option and key, and the shells complete names with them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsock_nf import cli
from rsock_nf.config.places import CONFIG_DIR_VARIABLE, SUFFIXES
from rsock_nf.config.reference import rows
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from rsock_nf.ops.manual import completion, roff
from rsock_nf.ops.manual.completion import SHELLS

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "release" / "pages.py"


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As below /usr/share."""
    spec = importlib.util.spec_from_file_location("pages", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    directory = tmp_path_factory.mktemp("share")
    module.write(directory)
    return directory


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """The environment of a host that has some files and instances."""
    for name in ("etc/wg-home.json", "etc/wg-work.yaml", "etc/other.txt", "run/wg-lost/state.json", "here.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    variables = {"RSOCK_NF_CONFIG_DIR": str(tmp_path / "etc"), "RSOCK_NF_RUN_DIR": str(tmp_path / "run")}
    return {**os.environ, **variables, "HOME": str(tmp_path), "TERM": "dumb"}


INSTANCES = ["wg-home", "wg-lost", "wg-work"]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The long ones that ``--help`` shows."""
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.dest != "help":
            yield from (option for option in action.option_strings if option.startswith("--"))


COMMANDS = {parser.prog.split()[-1]: parser for group in cli.parsers_by_heading().values() for parser in group}


def plain(page: Path) -> str:
    """As it is read, in one line, with ASCII's hyphens."""
    environment = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c", "GROFF_NO_SGR": "1"}
    done = subprocess.run(
        ["man", "--warnings", "-l", "-P", "cat", str(page)], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout).replace("\u2010", "-")


@pytest.mark.parametrize("page", ["man1/rsock-nf.1", "man5/rsock-nf.json.5"])
def test_mandoc_has_nothing_to_object_to(share: Path, page: str) -> None:
    command = ["mandoc", "-T", "lint", "-W", "warning", str(share / "man" / page)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if "referenced manual not found" not in line] == []


def test_the_page_of_the_command_has_every_command_and_option(share: Path) -> None:
    text = plain(share / "man/man1/rsock-nf.1")
    assert len(COMMANDS) > 14
    for name, parser in COMMANDS.items():
        found = re.search(rf"^       rsock-nf {name}( |$)", text, re.MULTILINE)
        assert found is not None, name
        start = found.start()
        following = re.compile(r"^       rsock-nf |^[A-Z]", re.MULTILINE).search(text, start + 10)
        part = text[start : following.start() if following else None]
        for option in options(parser):
            assert re.search(rf"^ +(-\w, )?{option}\b", part, re.MULTILINE), f"{option} of {name}"
    for needed in ("EXIT STATUS", "SIGNALS", "FILES", "ENVIRONMENT", "EXAMPLES", "SEE ALSO", "/etc/rsock-nf/NAME.json"):
        assert needed in text


def test_the_page_of_the_file_has_every_key_and_its_meaning(share: Path) -> None:
    text = " ".join(plain(share / "man/man5/rsock-nf.json.5").split())
    for row in rows():
        meaning = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", row.meaning).replace("`", "")
        assert f" {row.key} " in text
        assert " ".join(meaning.split()) in text, row.key


def test_what_roff_would_expand_is_escaped() -> None:
    assert roff.markdown(r"`a\n` or [b](c): it's `--x`") == r"\fBa\en\fR or b: it\(aqs \fB\-\-x\fR"
    assert roff.markdown(".TH x").startswith(r"\&.TH")
    assert r"\&.so /etc/passwd" in roff.code(".so /etc/passwd")


# -- completions


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_what_the_package_has(share: Path, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    (packaged,) = [path for path in share.rglob("*") if path.is_file() and shell in str(path.relative_to(share))]
    assert capsys.readouterr().out == packaged.read_text()


def bash(share: Path, environment: dict[str, str], *words: str) -> list[str]:
    script = f"""
        source {share}/bash-completion/completions/rsock-nf
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); compopt() {{ :; }}
        _shtab_rsock_nf
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = ["bash", "--norc", "-uc", script, "bash", "rsock-nf", *words]
    done = subprocess.run(command, env=environment, cwd=environment["HOME"], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.splitlines()))


def fish(share: Path, environment: dict[str, str], *words: str) -> list[str]:
    line = " ".join(["rsock-nf", *words])
    script = f"source {share}/fish/vendor_completions.d/rsock-nf.fish; complete -C '{line}'"
    command = ["fish", "--no-config", "-c", script]
    done = subprocess.run(command, env=environment, cwd=environment["HOME"], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return sorted(found.partition("\t")[0] for found in done.stdout.splitlines())


def zsh(share: Path, environment: dict[str, str], *words: str) -> list[str]:
    """Zsh completes only in its line editor: in a terminal of ours, by the key that lists what is possible."""
    terminal, other = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "zsh", "-f", "-i"],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=environment["HOME"],
        env={**environment, "PS1": "", "COLUMNS": "500", "LINES": "500"},
    )
    os.close(other)
    said = ""

    def until(marker: str, times: int = 1) -> None:
        nonlocal said
        while said.count(marker) < times:
            assert select.select([terminal], [], [], 60)[0], said
            said += os.read(terminal, 65536).decode(errors="replace")

    try:
        start = f"fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; "
        start += "stty -echo; setopt no_beep; LISTMAX=0; zstyle ':completion:*' list-prompt ''; bindkey -e; bindkey '^T' list-choices; "
        os.write(terminal, f"{start} print be''gun\n".encode())
        until("begun")
        said = ""
        line = " ".join(["rsock-nf", *words])
        os.write(terminal, line.encode())
        until(line)
        os.write(terminal, b"\x14")
        until(line, times=2)  # it is written again below the list
    finally:
        os.close(terminal)
        process.kill()
        process.wait()
    return sorted(re.findall(r"(?<=[\s])[a-z-][\w.-]*(?=[\s])", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", f" {said} ")))


COMPLETION_FILES = {
    "bash-completion/completions/rsock-nf": "bash",
    "zsh/site-functions/_rsock-nf": "zsh",
    "fish/vendor_completions.d/rsock-nf.fish": "fish",
}
COMPLETES = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_names(share: Path, names: dict[str, str], shell: str) -> None:
    complete = COMPLETES[shell]
    assert {"status", "up", "down", "install-service"} <= set(complete(share, names, ""))
    assert {"--config", "--name"} <= set(complete(share, names, "down", "--"))
    found = complete(share, names, "down", "--name", "wg-")
    assert [name for name in found if name.startswith("wg-") and name != "wg-"] == INSTANCES
    assert "here.json" in complete(share, names, "up", "--config", "he")
    if shell != "zsh":  # which inserts the only one
        assert complete(share, names, "stat") == ["status"]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_are_looked_for_where_this_system_and_this_user_have_them(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: in /etc and /run, on macOS too; and only with root's instances."""
    places = SimpleNamespace(config_directory=tmp_path / "etc", run_directory=tmp_path / "run")
    monkeypatch.setattr(completion, "system", lambda: places)
    (script,) = [path for path, of in COMPLETION_FILES.items() if of == shell]
    written = tmp_path / script
    written.parent.mkdir(parents=True)
    written.write_text(completion.completion(cli.whole_parser(), shell))
    for number, suffix in enumerate(SUFFIXES):
        (tmp_path / f"etc/rsock-nf/wg-{number}{suffix}").parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / f"etc/rsock-nf/wg-{number}{suffix}").touch()
    for at in ("run/rsock-nf/wg-root", "user/rsock-nf/wg-mine"):
        (tmp_path / at).mkdir(parents=True)
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "XDG_RUNTIME_DIR": str(tmp_path / "user")}
    for name in (CONFIG_DIR_VARIABLE, RUN_DIR_VARIABLE):
        environment.pop(name, None)
    found = COMPLETES[shell](tmp_path, environment, "down", "--name", "wg-")
    expected = [*(f"wg-{number}" for number in range(len(SUFFIXES))), "wg-mine", "wg-root"]
    assert [name for name in found if name.startswith("wg-") and name != "wg-"] == expected
