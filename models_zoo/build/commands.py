"""Our own commands, run as a user would type them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from matseg_shared.console.command import console
from matseg_shared.errors import MatsegError
from matseg_shared.installation import install_command


def run_command(words: Sequence[str], folder: Path) -> None:
    """Print and run one of our commands in `folder`; a failure ends this program as it ended the command.

    Raises:
        MatsegError: it is not installed beside this interpreter.
    """
    program, *arguments = words
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise MatsegError(f"{program}: not installed beside {sys.executable}; {install_command('train,cpu')}")
    console().print(f"\n$ {shlex.join(words)}", style="bold", markup=False)
    done = subprocess.run([found, *arguments], cwd=folder, check=False)
    if done.returncode:
        sys.exit(done.returncode)
