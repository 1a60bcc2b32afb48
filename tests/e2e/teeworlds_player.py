"""A player of Teeworlds 0.7 without a screen: joins the game, walks about, counts the server's snapshots of the game.

teeworlds_player.py ADDRESS PORT SNAPSHOTS    prints how many came; an error if the server turns the player away

The server sends a snapshot every 40 ms (sv_high_bandwidth 0), and expects an input as often.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from twnet_parser.constants import NET_MAX_PACKETSIZE, NET_MAX_SEQUENCE
from twnet_parser.messages7.control.connect import CtrlConnect
from twnet_parser.messages7.control.token import CtrlToken
from twnet_parser.messages7.game.cl_start_info import MsgClStartInfo
from twnet_parser.messages7.system.enter_game import MsgEnterGame
from twnet_parser.messages7.system.info import MsgInfo
from twnet_parser.messages7.system.input import MsgInput
from twnet_parser.messages7.system.ready import MsgReady
from twnet_parser.packet import TwPacket7, parse7

TOKEN = b"\x12\x34\x56\x78"
PATIENCE = 30.0
"""Seconds without a packet of the server's."""


class Player:
    """One connection to a server."""

    def __init__(self, address: str, port: int) -> None:
        self.snapshots = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect((address, port))
        self._token = b"\xff\xff\xff\xff"
        self._sent = self._received = 0

    def play(self, snapshots: int) -> None:
        """Join, and stay until so many snapshots have come."""
        self._say(CtrlToken(response_token=TOKEN))
        while self.snapshots < snapshots:
            for message in parse7(self._socket.recv(NET_MAX_PACKETSIZE)).messages:
                self._hear(message)

    def _hear(self, message: Any) -> None:
        header = getattr(message, "header", None)
        if header and header.flags.vital:
            if header.seq != (self._received + 1) % NET_MAX_SEQUENCE:
                return  # sent again, or one before it is missing and will be sent again
            self._received = header.seq
        match message.message_name:
            case "token":
                self._token = message.response_token
                self._say(CtrlConnect(response_token=TOKEN))
            case "accept":
                self._say(MsgInfo(), vital=True)
            case "map_change":  # as if the map were there
                self._say(MsgReady(), vital=True)
            case "con_ready":
                self._say(MsgClStartInfo(), vital=True)
                self._say(MsgEnterGame(), vital=True)
            case "snap" | "snap_single" | "snap_empty":
                self.snapshots += 1
                self._walk()
            case "close":
                sys.exit(f"the server closed the connection: {message.reason}")

    def _walk(self) -> None:
        step = MsgInput(ack_snapshot=0, intended_tick=0, input_size=40)
        step.input.direction = -1 if self.snapshots % 50 < 25 else 1
        self._say(step)

    def _say(self, message: Any, *, vital: bool = False) -> None:
        if vital:
            self._sent += 1
            message.header.flags.vital = True
            message.header.seq = self._sent
        packet = TwPacket7()
        packet.header.token = self._token
        packet.header.ack = self._received
        packet.messages.append(message)
        self._socket.send(packet.pack())


if __name__ == "__main__":
    player = Player(sys.argv[1], int(sys.argv[2]))
    player.play(int(sys.argv[3]))
    print(player.snapshots)  # noqa: T201 - what the test wants to know
