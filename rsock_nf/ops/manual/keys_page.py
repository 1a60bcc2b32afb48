"""rsock-nf.json(5): every key of the configuration file, from the table of which docs/configuration.md is made, too."""

from __future__ import annotations

from typing import Final

from rsock_nf import __version__
from rsock_nf.config.reference import Row, rows
from rsock_nf.ops.manual import roff

_EXAMPLE: Final = """
{"role": "server", "target": "127.0.0.1:51820", "ports": "10001-10010", "secret": "..."}

{"role": "client", "server": "203.0.113.5", "listen": "127.0.0.1:30000", "ports": "10001-10010", "secret": "..."}
"""


def page(date: str) -> str:
    """Imports pydantic."""
    found = rows()
    sections = (
        ("Keys of both roles", [row for row in found if "." not in row.key and len(row.roles) > 1]),
        ("Keys of a server", [row for row in found if "." not in row.key and row.roles == ("server",)]),
        ("Keys of a client", [row for row in found if "." not in row.key and row.roles == ("client",)]),
        ("Keys of the objects in it", [row for row in found if "." in row.key]),
    )
    lines = [
        roff.title("rsock-nf.json", 5, date, __version__, "File Formats"),
        roff.heading("Name"),
        "rsock\\-nf.json \\- configuration of a tunnel of rsock\\-nf",
        roff.heading("Description"),
        roff.markdown(
            "A configuration file is one JSON object. A key that is not listed here is an error. `rsock-nf check` tells "
            "whether a file is right, `rsock-nf schema` prints the JSON schema for editors. `chmod 600` the file: the "
            "secret is in it."
        ),
    ]
    for heading, listed in sections:
        lines += [roff.heading(heading), *roff.items([(row.key, _text(row)) for row in listed])]
    lines += [roff.heading("Examples"), roff.code(_EXAMPLE), roff.heading("See also"), "rsock\\-nf(1)"]
    return "\n".join([*lines, ""])


def _text(row: Row) -> str:
    default = "must be given" if row.required else f"default: {row.default}" if row.default else "optional"
    return f"{row.type}; {default}. {row.meaning}"
