"""Every command of the guides in docs/ works, typed as it stands there, between two hosts.

A line that cannot run here is in ``NOT_RUN``, with the reason.  A word in ``STANDS_FOR`` is one that the reader replaces
by what another command printed; the test asks that command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.commands import ROOT, Block, blocks, fences
from tests.e2e.hosts import Host, two_hosts

IN_ONE_GO = ("docs/getting-started.md",)
"""Documents that are followed from top to bottom."""
BY_SECTION = ("docs/recipes.md",)
"""Documents of which each section stands for itself."""
NOT_RUN = {
    r"^apt-get ": "installs packages on this machine; CI's machine is made by the same command",
    r"^ln -s .* /usr/local/bin/": "a link on this machine; here the command is found by PATH",
    r"^make venv": "takes minutes; CI makes the environment of these tests so",
}
"""A line that contains it is left out: the reason."""
STANDS_FOR = {
    "SECRET": (
        "server",
        "cat /etc/rsock-nf/secret 2>/dev/null || (umask 077; rsock-nf genkey | tee /etc/rsock-nf/secret)",
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
    unmarked = [line for line, language, script in fences(text) if language != "sh" and commands.search(script)]
    assert unmarked == []
