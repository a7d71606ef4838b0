"""Virtual environments that a test installs things into."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment without anything of the project's own."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.folder / ("Scripts" if sys.platform == "win32" else "bin")

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(
            self.call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        )

    def call(self, command: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, outside of the project's folder."""
        done = subprocess.run(
            [str(self.scripts / command), *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command} {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done
