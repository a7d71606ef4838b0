"""Virtual environments that a test installs things into."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_NOTHING_COMPILED = {"PIP_NO_COMPILE": "0"}
"""Has pip leave compiling to the first import, for most modules never come to one; of this option pip takes the 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment without anything of the project's own."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Folder of its commands."""
        return self.folder / ("Scripts" if sys.platform == "win32" else "bin")

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(
            self.call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        )

    def type(self, line: str, folder: Path) -> None:
        """Run a line in a shell, in `folder`, as a person types it into the activated environment."""
        path = os.pathsep.join([str(self.scripts), os.environ["PATH"]])
        variables = {
            "PATH": path,
            "VIRTUAL_ENV": str(self.folder),
            "PIP_REQUIRE_VIRTUALENV": "1",
            "PIP_QUIET": "1",
        }
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=folder,
            env=os.environ | variables | _NOTHING_COMPILED,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line} ended with {done.returncode}:\n{done.stdout}{done.stderr}"

    def call(self, command: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, outside of the project's folder."""
        done = subprocess.run(
            [str(self.scripts / command), *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | _NOTHING_COMPILED,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command} {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done
