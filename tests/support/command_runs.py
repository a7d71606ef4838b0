"""Runs of matseg-run by its command, and what they leave."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from matseg_runtime.cli.run import run_main
from matseg_runtime.measure.report import Report, read_report


def run(model: Path, source: Path, output: Path, *options: object, exit_code: int = 0) -> str:
    """Run the command, and return all that it said."""
    arguments = [model, source, "-o", output, "--provider", "cpu", "--threads", 1, *options]
    result = CliRunner().invoke(run_main, [str(item) for item in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


def report_of(output: Path) -> Report:
    """The report of a run into a folder or volume."""
    side = output if output.is_dir() and output.suffix == "" else output.with_name(f"{output.name}.matseg")
    return read_report(side / "report.json")
