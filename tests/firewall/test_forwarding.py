"""Who drops what a host forwards: asked of the kernel, with the chains that Docker and ufw make."""

from __future__ import annotations

import pytest

from rsock_firewall.nftables.forwarding import who_drops
from tests.firewall.lab import Lab


def _chain(name: str) -> tuple[str, ...]:
    return "iptables-nft -P FORWARD DROP", f"iptables-nft -N {name}", f"iptables-nft -A FORWARD -j {name}"


DOCKER, UFW = _chain("DOCKER-USER"), _chain("ufw-before-forward")
SOMEBODY = (
    "nft add table inet mine",
    "nft add chain inet mine f { type filter hook forward priority 0 ; policy drop ; }",
)


def asked(lab: Lab, *commands: str, device: str = "wg0") -> str | None:
    try:
        for command in commands:
            lab.run(command)
        with lab.inside():
            return who_drops(device)
    finally:
        lab.run("nft flush ruleset")


@pytest.mark.parametrize(
    ("commands", "who"),
    [(DOCKER, "docker"), (UFW, "ufw"), (SOMEBODY, ""), ((), None)],
    ids=["docker", "ufw", "another", "nobody"],
)
def test_whose_policy_it_is(lab: Lab, commands: tuple[str, ...], who: str | None) -> None:
    assert asked(lab, *commands) == who


@pytest.mark.parametrize("rule", ["-i wg0", "-i wg+", "-o wg0"])
def test_a_rule_for_the_device_is_somebodys_decision(lab: Lab, rule: str) -> None:
    assert asked(lab, *DOCKER, f"iptables-nft -A DOCKER-USER {rule} -j ACCEPT") is None
    assert asked(lab, *DOCKER, f"iptables-nft -A DOCKER-USER {rule} -j ACCEPT", device="tun0") == "docker"


def test_a_policy_that_accepts_and_one_of_ipv6_drop_nothing(lab: Lab) -> None:
    assert asked(lab, "iptables-nft -N DOCKER-USER", "iptables-nft -A FORWARD -j DOCKER-USER") is None
    assert asked(lab, "ip6tables-nft -P FORWARD DROP") is None
