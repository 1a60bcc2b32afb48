"""JSON with comments, YAML and TOML: what each file becomes, and the one line for what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config import formats
from rsock_nf.config.formats import FormError
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ConfigError

SECRET = format_secret(bytes(range(32)))
KEYS = {
    "role": "client",
    "server": ["203.0.113.5", "203.0.113.6"],
    "listen": "127.0.0.1:30000",
    "secret": SECRET,
    "flow_age": 3600,
    "log": {"level": "debug"},
}
COMMENTED = f"""\
// one tunnel
{{
  "$schema": "https://example.org/rsock-nf.json",
  "role": "client",  // this side
  "server": ["203.0.113.5", "203.0.113.6",],
  /* where the application
     sends */
  "listen": "127.0.0.1:30000",
  "secret": "{SECRET}", "flow_age": 3600, "log": {{"level": "debug",}},
}}
"""
YAML = f"""\
role: client
server: [203.0.113.5, 203.0.113.6]
listen: 127.0.0.1:30000
secret: {SECRET}
flow_age: 3600
log:
  level: debug
"""
TOML = f"""\
role = "client"
server = ["203.0.113.5", "203.0.113.6"]
listen = "127.0.0.1:30000"
secret = "{SECRET}"
flow_age = 3600
[log]
level = "debug"
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edge.json", COMMENTED),
        ("edge.json5", COMMENTED),
        ("edge.conf", json.dumps(KEYS)),
        ("edge.yaml", YAML),
        ("edge.yml", YAML),
        ("edge.TOML", TOML),
    ],
)
def test_every_form_means_the_same(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "strict.json"
    path.write_text(json.dumps(KEYS))
    strict = config.load(path).settings
    path = tmp_path / name
    path.write_text(text)
    settings = config.load(path).settings
    assert (settings.name, settings.digest) == ("edge", strict.digest)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"a": 1, // x\n "b" 2}', "not JSON: line 2, column 5: a colon or a comma is missing"),
        ("a.json", '{"a": 1 "b": 2}', "not JSON: line 1, column 8: a comma is missing"),
        ("a.json", '{\n "a": 1\n "b": 2\n}', "not JSON: line 2, column 8: a comma is missing"),
        ("a.json", '{ // x\n "a": "1" // , y\n\n /* , */ b: 2\n}', "not JSON: line 2, column 10: a comma is missing"),
        ("a.json", '{"a" 1}', "not JSON: line 1, column 5: a colon is missing"),
        ("a.json", '{"a": [1 2]}', "not JSON: line 1, column 9: a comma is missing"),
        ("a.json", '{"a": {"b": 1}\n\n "c": 1}', "not JSON: line 1, column 15: a comma is missing"),
        (
            "a.json",
            '{\n "a": "b,\n "c": 1}',
            "not JSON: line 2, column 10: a quote is missing, in this line or before it",
        ),
        ("a.json", '{"a": [1, 2\n', "not JSON: line 1, column 12: the file ends here: a bracket or a quote is missing"),
        ("a.json", '{"a": 1} x', "not JSON: line 1, column 10: something stands behind the end"),
        ("a.json", '{"a": 01}', "not JSON: line 1, column 8: expecting ',' delimiter"),
        ("a.json", " \n", "not JSON: line 2, column 1: expecting value"),
        ("a.json", '{"a": 1, "a": 2,}', "a: given twice"),
        ("a.json", '{"a": NaN,}', "NaN is not a JSON number"),
        ("a.json", '{"a": 1' + "0" * 30 + ",}", "a number of 31 digits"),
        ("a.json", "//\n" + "[" * 5000, "not JSON that anyone wrote: nested too deeply"),
        ("a.json", "{'a': \x1b}", r'not JSON: line 1, column 7: unexpected "\u001b"'),
        (
            "a.json",
            "{" + " " * formats.LENIENT_BYTES + "}//",
            (
                "not JSON: line 1, column 65539: something stands behind the end "
                "(with comments or trailing commas, 64 KiB is the most)"
            ),
        ),
        ("a.yaml", "a: 1\na: 2", "a: given twice"),
        ("a.yaml", "a: &x 1\nb: *x", "not YAML that is read here: line 2: an alias (*x): write it out"),
        ("a.yaml", "1: 2", "1: a key has to be a text"),
        ("a.yaml", "a: .nan", "a: nan is not a number that is used here"),
        ("a.yaml", "a: !!binary aGVsbG8=", "a: no text, number, list or object: put it into quotes"),
        ("a.yaml", 'a: "x', "not YAML: line 1, column 6: found unexpected end of stream"),
        ("a.yaml", "a: 1\n---\nb: 2", "not YAML: line 2, column 1: but found another document"),
        ("a.yaml", "a: [" * 40, "not YAML that anyone wrote: nested too deeply"),
        ("a.yaml", "a: " + "x" * formats.LENIENT_BYTES, "larger than 64 KiB, the most for YAML"),
        ("a.toml", "a = 2024-01-01", "a: no text, number, list or object: put it into quotes"),
        ("a.toml", "a = 1\nb =\n", "not TOML: line 2, column 4: invalid value"),
        ("a.toml", "a = " + "[" * 5000, "not TOML that anyone wrote: nested too deeply"),
        ("a.toml", "#" * (formats.LENIENT_BYTES + 1), "larger than 64 KiB, the most for TOML"),
    ],
)
def test_one_line_for_what_is_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(FormError) as caught:
        formats.read(Path(name), text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "a: !!python/object/apply:os.system [x]"), ("a.yaml", "\x07")])
def test_no_tag_makes_an_object(name: str, text: str) -> None:
    with pytest.raises(FormError, match=r"^not YAML: "):
        formats.read(Path(name), text)


@pytest.mark.parametrize(
    "text",
    [
        "//" + "x" * (formats.LENIENT_BYTES - 2),
        "{" + '"a": 1,' * (formats.LENIENT_BYTES // 8) + "}",
        "'" + "\\" * (formats.LENIENT_BYTES - 1),
        "/*" * (formats.LENIENT_BYTES // 2),
    ],
)
def test_the_most_that_is_read_leniently_takes_no_long_time(text: str) -> None:
    before = time.process_time()
    with pytest.raises(FormError):
        formats.read(Path("a.json"), text)
    assert time.process_time() - before < 20, "it takes 0.5 s"


def test_a_list_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"edge.yaml: a YAML mapping is wanted, not \[1\]$"):
        config.load(path)


def test_the_schema_has_the_key_that_names_it() -> None:
    schema: dict[str, Any] = config.schema()
    for role in ("ServerKeys", "ClientKeys"):
        assert schema["$defs"][role]["properties"]["$schema"]["type"] == "string"
