"""Hook of mkdocs: documents outside of docs/ are pages of the site, too, and every link leads where it does on disk.

Documents link to each other by their paths in the repository, which a code host follows.  The site has other paths, so
each link is resolved in the repository and written anew.  A linked file that is no page (a unit file, a C file) is
copied to ``source/`` of the site; a folder is shown by the code host.  A link that leads nowhere is a warning, and the
build is strict.
"""

from __future__ import annotations

import logging
import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "firewall/README.md": "firewall.md",
    "vagrant/README.md": "vagrant.md",
}
"""Path in the repository → page of the site.  The others are in ``docs/`` and keep their names."""
SOURCES = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^( *```[^\n]*\n.*?^ *```[ \t]*$)", re.MULTILINE | re.DOTALL)
WRAPPED = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n *(?=[\u3000-\u9fff\uff00-\uffef])")
"""The end of a line between two Chinese characters: no blank belongs there."""
MERMAID = re.compile(r"^```mermaid$", re.MULTILINE)

log = logging.getLogger(f"mkdocs.hooks.{__name__}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose documents are outside of docs/."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the links of a page anew; a diagram that only a code host draws is shown as its text."""
    here = page.file.src_uri
    document = SOURCES.get(here, f"docs/{here}")
    parts = FENCE.split(markdown)
    for index in range(0, len(parts), 2):  # outside of code blocks
        parts[index] = LINK.sub(lambda link: _translated(link[1], document, here, config, files), parts[index])
        parts[index] = WRAPPED.sub("", parts[index])
    return MERMAID.sub("```text", "".join(parts))


def _repository() -> str:
    """The address of the code host."""
    home: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    return home


def _translated(target: str, document: str, here: str, config: MkDocsConfig, files: Files) -> str:
    path, mark, anchor = target.partition("#")
    if not path or ":" in path:
        return target
    repository_path = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
    there = PAGES.get(repository_path) or repository_path.removeprefix("docs/")
    if files.get_file_from_path(there) is None:
        if (ROOT / repository_path).is_dir():
            return f"{_repository()}/tree/main/{repository_path}"
        if not (ROOT / repository_path).is_file():
            log.warning("%s: %s is no file of the repository", document, target)
            return target
        there = f"source/{repository_path}"
        if files.get_file_from_path(there) is None:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / repository_path)))
    return posixpath.relpath(there, posixpath.dirname(here) or ".") + mark + anchor
