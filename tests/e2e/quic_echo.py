"""An echo over QUIC (aioquic), both ends in one program.

quic_echo.py server ADDRESS PORT CERTIFICATE KEY    sends back what a stream brought, at its end
quic_echo.py client ADDRESS PORT CERTIFICATE BYTES  sends so many random bytes, and wants the same back
"""

from __future__ import annotations

import asyncio
import os
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

ALPN = ["rsock-nf-test"]
_echoes: set[asyncio.Task[None]] = set()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.write_eof()


def _begin_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    echo = asyncio.ensure_future(_echo(reader, writer))
    _echoes.add(echo)
    echo.add_done_callback(_echoes.discard)


async def server(address: str, port: int, certificate: str, key: str) -> None:
    """Serve until it is ended."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(certificate, key)
    await serve(address, port, configuration=configuration, stream_handler=_begin_echo)
    await asyncio.Event().wait()


async def client(address: str, port: int, certificate: str, size: int) -> None:
    """Exit with an error unless everything comes back as it was."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN, cafile=certificate, server_name="echo.test")
    data = os.urandom(size)
    async with connect(address, port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        writer.write(data)
        writer.write_eof()
        if await reader.read() != data:
            sys.exit("what came back is something else")


if __name__ == "__main__":
    role, host, at, pem, last = sys.argv[1:]
    asyncio.run(server(host, int(at), pem, last) if role == "server" else client(host, int(at), pem, int(last)))
