"""The site: it is built without a warning, every document is in it, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r'<(?:script|img|iframe|source|link(?! rel="(?:canonical|next|prev)"))[^>]*(?:src|href)="(https?:)?//'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    built = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return directory


def test_every_document_is_a_page(site: Path) -> None:
    expected = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    expected |= {
        "index.html",
        "architecture.html",
        "contributing.html",
        "changelog.html",
        "security.html",
        "firewall.html",
    }
    assert {page for page in expected if not (site / page).is_file()} == set()


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    """It is read where there is no network, and tells nobody who reads it."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [(page.name, match[0]) for page in pages for match in LOADED.finditer(page.read_text())] == []


def test_links_lead_to_the_same_place_as_in_the_repository(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert 'href="recipes.html#all-routes-into-the-vpn"' in home
    assert 'href="security.html"' in home
    assert 'src="overview.svg"' in home
    assert (site / "source/bench/relay.c").read_bytes() == (ROOT / "bench/relay.c").read_bytes()
    assert 'href="../' not in (site / "operations.html").read_text()


def test_the_navigation_names_each_page_once() -> None:
    text = re.sub(r"!!python/\S+ \{.*\}", "''", (ROOT / "mkdocs.yml").read_text())
    pages = re.findall(r": (\S+\.md)", yaml.safe_dump(yaml.safe_load(text)["nav"]))
    assert len(pages) > 20
    assert len(pages) == len(set(pages))
