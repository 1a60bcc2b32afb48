"""Every command of README.md and of the guides in docs/ works, typed as it stands there, between two hosts.

A line that cannot run here is in ``NOT_RUN``, with the reason.  A word in ``STANDS_FOR`` is one that the reader
replaces by what another command printed; the test asks that command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.commands import ROOT, Block, blocks, fences, section_of
from tests.e2e.hosts import Host, two_hosts

IN_ONE_GO = ("README.md", "docs/getting-started.md")
"""Documents that are followed from top to bottom."""
BY_SECTION = ("docs/recipes.md",)
"""Documents of which each section stands for itself."""
NOT_RUN = {
    r"^apt-get ": "installs packages on this machine; CI's machine is made by the same command",
    r"^ln -s .* /usr/local/bin/": "a link on this machine; here the command is found by PATH",
    r"^make (demo|test|venv)": "takes minutes; tests/e2e/test_demo.py runs the demo, and CI the other two",
}
"""A line that contains it is left out: the reason."""
NOT_MARKED = {
    ("README.md", "Install"): "installs into this environment; tests/package/test_package.py installs the wheel",
    (
        "README.md",
        "Run it as a service",
    ): "needs systemd as the first process: the test with two virtual machines does it",
}
"""A section whose commands are left out: the reason."""
STANDS_FOR = {
    "SECRET": (
        "server",
        "cat /run/secret 2>/dev/null || rsock-nf genkey | tee /run/secret",
    ),
    "SERVER_FINGERPRINT": (
        "server",
        "openssl x509 -noout -fingerprint -sha256 -in /etc/openvpn/server.crt | cut -d= -f2",
    ),
    "CLIENT_FINGERPRINT": (
        "client",
        "openssl x509 -noout -fingerprint -sha256 -in /etc/openvpn/client.crt | cut -d= -f2",
    ),
    "SERVER_PUBLIC_KEY": ("server", "wg pubkey < /etc/wireguard/private.key"),
    "CLIENT_PUBLIC_KEY": ("client", "wg pubkey < /etc/wireguard/private.key"),
}
"""Word → the host and the command that tells what is written in its place."""
ASKS = re.compile(r"^rsock-nf join\b[^#\n]*", re.MULTILINE)
"""A command that asks for the line which ``init`` printed at the server."""
INVITATION = re.compile(r"^rsock-nf://\S+", re.MULTILINE)
OTHER_LANGUAGES = {"", "ini", "json", "mermaid", "text"}
"""Blocks in these are no commands: files, output, diagrams."""


def parts() -> Iterator[tuple[str, list[Block]]]:
    """What is run as one: a document, or a section of it."""
    for document in IN_ONE_GO:
        yield document, blocks(document)
    for document in BY_SECTION:
        found = blocks(document)
        for section in dict.fromkeys(block.section for block in found):
            yield f"{document}: {section}", [block for block in found if block.section == section]


PARTS = dict(parts())


def without_what_cannot_run(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if not any(re.search(what, line) for what in NOT_RUN))


def filled_in(script: str, hosts: dict[str, Host]) -> str:
    """The script as the reader types it, with what commands on the other host have printed."""
    for word, (host, command) in STANDS_FOR.items():
        if word in script:
            script = script.replace(word, hosts[host].must(command, word).strip())
    if ASKS.search(script):
        line = INVITATION.findall("\n".join(hosts["server"].said))[-1]
        script = ASKS.sub(lambda asks: f"{asks[0].rstrip()} <<< '{line}' ", script)
    return script


@pytest.mark.parametrize("part", PARTS)
def test_commands(part: str) -> None:
    with TemporaryDirectory(prefix="rsnf-") as made, two_hosts(Path(made)) as (lab, hosts):
        for block in PARTS[part]:
            script = filled_in(without_what_cannot_run(block.script), hosts)
            if "rsock-nf down" in script:  # whoever stays behind talks to a host that refuses
                assert lab.rsts() == 0
            for host in block.hosts:
                hosts[host].must(script, block.place, again=block.check)
        counters = lab.counters()
        assert counters["tcp_inside"] > 0, "nothing went through a tunnel"
        assert (counters["invalid"], counters["udp_refused"]) == (0, 0)


def test_what_is_not_run_is_in_the_documents() -> None:
    lines = [line for found in PARTS.values() for block in found for line in block.script.splitlines()]
    assert [what for what in NOT_RUN if not any(re.search(what, line) for line in lines)] == []
    words = [word for word in STANDS_FOR if not any(word in line for line in lines)]
    assert words == []


@pytest.mark.parametrize("document", [*IN_ONE_GO, *BY_SECTION])
def test_a_block_is_commands_or_something_else(document: str) -> None:
    """A block of commands without the mark would never be run."""
    text = (ROOT / document).read_text()
    unknown = [(line, language) for line, language, _ in fences(text) if language not in OTHER_LANGUAGES | {"sh"}]
    assert unknown == []
    commands = re.compile(
        r"^(rsock-nf|make|ip|wg|wg-quick|pip|systemctl|apt-get|kcptun-\w+|ping|openvpn) ", re.MULTILINE
    )
    unmarked = {
        (document, section_of(text, line))
        for line, language, script in fences(text)
        if language != "sh" and commands.search(script)
    }
    assert unmarked == {place for place in NOT_MARKED if place[0] == document}
