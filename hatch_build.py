"""The build hook of hatchling: a wheel gets man pages and completions.

Where a C compiler and headers are there, it also gets the native data path.

Where they are not, the wheel is pure Python, and nobody is told: rsock-nf works without, and `rsock-nf doctor` says why
there is none.

A wheel has the compiled module without its C files: nothing is compiled where it is installed.  It is for one kind of
processor, and for every CPython from 3.11 on (abi3).  The source distribution has the C files.  An editable
installation gets the module beside its sources.

Man pages and completions are made by ``release/pages.py``.  pip puts them below ``share`` of the environment.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeDataPath(BuildHookInterface[Any]):
    """Called by hatchling before and after each build of a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile.  ``version``: "editable", or "standard"."""
        sys.path.insert(0, self.root)
        from rsock_nf.native.build import BuildError, build, target

        self._directory = tempfile.TemporaryDirectory()
        editable = version == "editable"
        if not editable:
            self._add_pages(build_data)
        to = target() if editable else Path(self._directory.name) / target().name
        try:
            build(to)
        except BuildError as problem:
            self.app.display_debug(f"no native data path: {problem}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if not editable:
            build_data["force_include"][str(to)] = f"rsock_nf/native/{to.name}"

    def _add_pages(self, build_data: dict[str, Any]) -> None:
        sys.path[1:1] = [str(Path(self.root, name)) for name in ("firewall", "release")]
        try:
            from pages import write
        except ImportError as problem:  # built without what they are made with
            self.app.display_debug(f"no man pages and no completions: {problem}")
            return
        share = Path(self._directory.name, "share")
        for name in write(share):
            build_data["shared_data"][str(share / name)] = f"share/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """All is in the wheel."""
        del version, build_data, artifact_path
        self._directory.cleanup()
