"""Nothing is sent, by our code or by the native libraries below it, and nothing is kept in a user's home."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.providers import TELEMETRY_VARIABLE, load_onnxruntime

ROOT = Path(__file__).parents[2]
_SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of the system call."""

_GUARDED = """
import ctypes, struct, sys

NUMBER, ALLOW, KILL = {number}, 0x7FFF0000, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = [  # (code, jump if true, jump if false, value)
    (LOAD, 0, 0, 0),          # the system call's number
    (EQUAL, 0, 3, NUMBER),
    (LOAD, 0, 0, 16),         # its first argument: the kind of address
    (EQUAL, 2, 0, 2),         # AF_INET
    (EQUAL, 1, 0, 10),        # AF_INET6
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, KILL),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter_, 0, 0):
    sys.exit(77)


def use(command, *arguments):
    from click.testing import CliRunner

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output

"""
"""The kernel ends the process at its first internet socket, whatever library asks for it."""


def guarded(body: str, home: Path) -> subprocess.CompletedProcess[str]:
    number = _SOCKET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        pytest.skip("the kernel's filter of system calls is written for Linux on x86-64 and ARM here")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", _GUARDED.format(number=number) + body],
        env={**kept, "HOME": str(home), "MATSEG_REPORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel lets no process filter its system calls")
    return done


def test_the_commands_open_no_connection_and_leave_nothing_at_home(
    model: Path, slices: Path, tmp_path: Path
) -> None:
    """Also not the engine's telemetry, which would keep an identifier and a data base of events in the cache."""
    home = tmp_path / "home"
    home.mkdir()
    body = f"""
from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.cli.quantify import quantify_main

use(inspect_main, {str(model)!r})
use(inspect_main, "zoo:")
use(verify_main, {str(model)!r})
use(run_main, {str(model)!r}, {str(slices)!r}, "-o", {str(tmp_path / "out")!r}, "--quantify")
use(quantify_main, {str(tmp_path / "out")!r})
print("walked")
"""
    done = guarded(body, home)
    assert done.stdout == "walked\n", (done.returncode, done.stderr)
    assert done.returncode == 0
    assert [path.name for path in home.rglob("*") if path.is_file()] == []


def test_a_page_made_again_fetches_nothing_that_its_folder_names(
    model: Path, slices: Path, tmp_path: Path
) -> None:
    """A folder of results may come from anywhere, and say that its input was on any server."""
    out = tmp_path / "out"
    assert CliRunner().invoke(run_main, [str(model), str(slices), "-o", str(out)]).exit_code == 0
    origin = out / ".matseg" / "origin.json"
    document = json.loads(origin.read_text(encoding="utf-8"))
    document["input"] = "http://127.0.0.1:9/scan.zarr"
    origin.write_text(json.dumps(document), encoding="utf-8")
    body = f"""
from matseg_trainer.commands.report import report_main

use(report_main, {str(out)!r})
print("made")
"""
    done = guarded(body, tmp_path)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The input was http://127.0.0.1:9/scan.zarr; to see its slices, name it" in page


def test_the_guard_does_end_a_process_that_connects(tmp_path: Path) -> None:
    done = guarded("import socket; socket.socket(); print('walked')", tmp_path)
    assert done.returncode == -signal.SIGSYS
    assert done.stdout == ""


def test_telemetry_cannot_be_on_by_a_variable_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TELEMETRY_VARIABLE, "0")
    load_onnxruntime()
    assert os.environ[TELEMETRY_VARIABLE] == "1"


def test_only_an_explicit_scheme_makes_an_input_remote(tmp_path: Path, model: Path) -> None:
    """`//host/share` and `host:path` are names of files, not of hosts."""
    for location in ("//nowhere.invalid/share", "nowhere.invalid:scan.zarr"):
        result = CliRunner().invoke(run_main, [str(model), location, "-o", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "there is no such input" in result.stderr


def test_the_engine_is_imported_in_one_place_only() -> None:
    """Imports elsewhere would miss that its telemetry is switched off first."""
    found = [
        path.name
        for folder in ("shared", "runtime", "trainer")
        for path in (ROOT / folder).rglob("*.py")
        if "import onnxruntime" in path.read_text(encoding="utf-8")
    ]
    assert found == []
