"""The build hook of hatchling: a wheel gets the native data path where a C compiler and headers are there.

Where they are not, the wheel is pure Python, and nobody is told: rsock-nf works without, and `rsock-nf doctor` says why
there is none.

A wheel has the compiled module without its C files: nothing is compiled where it is installed.  It is for one kind of
processor, and for every CPython from 3.11 on (abi3).  The source distribution has the C files.  An editable
installation gets the module beside its sources.
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

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The module is in the wheel."""
        del version, build_data, artifact_path
        self._directory.cleanup()
