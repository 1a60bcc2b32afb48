"""A game: Debian's Teeworlds server, and a player who joins it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rsock_nf.lab.tunnel import TARGET
from tests.e2e.route import Route, wait_for_port

PLAYER = str(Path(__file__).with_name("teeworlds_player.py"))
SNAPSHOTS = 75
"""Three seconds of the game."""


@pytest.mark.parametrize("route", ["direct", "tunnel"], indirect=True)
def test_a_player_joins_and_sees_the_game_go_on(route: Route, tmp_path: Path) -> None:
    server = route.lab.server
    with (tmp_path / "teeworlds.log").open("wb") as log:
        server.popen(
            ["/usr/games/teeworlds-server", f"sv_port {TARGET[1]}", "sv_register 0", "sv_map dm1"],
            stdout=log,
            stderr=log,
        )
    wait_for_port(server, TARGET[1], "udp")
    argv = [sys.executable, PLAYER, route.host, str(route.port), str(SNAPSHOTS)]
    assert int(route.lab.client.run(argv, timeout=100).stdout) >= SNAPSHOTS
    route.judge()
