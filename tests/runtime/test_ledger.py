"""The ledger: what counts as done, and who may write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.records import ExcludedSlice, JobKey, SliceRecord
from matseg_shared.errors import OutputError, UsageError

KEY = JobKey(
    model_name="alloy_v1",
    model_sha256="ab" * 32,
    input_kind="folder",
    input_name="scan",
    input_content="",
    output_format="png",
    tile=None,
    unit=1,
    provider="cpu",
)


def _record(index: int) -> SliceRecord:
    return SliceRecord(
        name=f"s{index}",
        index=index,
        where=f"s{index}.png",
        identity="1 bytes, changed 2",
        shape=(3, 4),
        counts=(5, 7),
        bytes=99,
        drift=0.25,
    )


def _open(folder: Path, part: Part | None = None, key: JobKey = KEY) -> Ledger:
    ledger = Ledger(folder, part or Part())
    ledger.open(key)
    return ledger


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    first = _open(tmp_path)
    first.append([_record(0), _record(1)])
    first.append([_record(2)], [ExcludedSlice(name="s3", index=3, where="s3.png", reason="torn")])
    first.close()
    second = _open(tmp_path)
    assert second.done == {f"s{n}": _record(n) for n in range(3)}
    assert set(second.excluded) == {"s3"}
    second.append([_record(3)])
    assert not second.excluded
    second.close()
    assert read_key(tmp_path) == KEY


@pytest.mark.parametrize("lost", range(1, 200, 7))
def test_a_torn_line_counts_for_nothing_and_spoils_nothing(tmp_path: Path, lost: int) -> None:
    first = _open(tmp_path)
    first.append([_record(0)])
    first.append([_record(1)])
    first.close()
    path = tmp_path / "done-1-of-1.jsonl"
    content = path.read_bytes()
    line = len(content) // 2
    path.write_bytes(content[: len(content) - min(lost, line - 1)])
    second = _open(tmp_path)
    assert set(second.done) == ({"s0", "s1"} if lost == 1 else {"s0"})
    second.append([_record(2)])
    second.close()
    third = _open(tmp_path)
    assert {"s0", "s2"} <= set(third.done)
    third.close()


def test_another_job_is_refused_with_every_difference(tmp_path: Path) -> None:
    _open(tmp_path).close()
    other = KEY.model_copy(update={"window": "1,2", "tile": (64, 64)})
    with pytest.raises(UsageError, match=r"tile: none then, \(64, 64\) now; window: none then, 1,2 now"):
        _open(tmp_path, key=other)
    _open(tmp_path).close()  # the refusal left no lock behind


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ledger_version": 2}', "\x00\x01"])
def test_a_damaged_ledger(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(OutputError, match="--overwrite"):
        _open(tmp_path)


def test_parts_share_one_ledger(tmp_path: Path) -> None:
    first, second = _open(tmp_path, Part(number=1, total=2)), _open(tmp_path, Part(number=2, total=2))
    first.append([_record(0)])
    second.append([_record(1)])
    first.reload()
    assert set(first.done) == {"s0", "s1"}
    first.close()
    second.close()


def test_two_processes_on_one_part(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom matseg_runtime.ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1]), Part())\n"
        "ledger.open(JobKey.model_validate_json(sys.argv[2]))\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), KEY.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UsageError, match="another matseg-run works on part 1-of-1"):
            _open(tmp_path)
        with pytest.raises(UsageError, match="cut into 1 parts instead of 3"):
            _open(tmp_path, Part(number=2, total=3))
        other.kill()
        other.wait()
    _open(tmp_path).close()  # killed, it holds nothing any more


def test_parts_own_every_unit_once() -> None:
    parts = [Part.parse(f"{n}/5") for n in range(1, 6)]
    for unit in range(40):
        assert sum(part.owns(unit) for part in parts) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/4/2", "1.5/4"])
def test_a_bad_part(text: str) -> None:
    with pytest.raises(UsageError, match="expected K/N"):
        Part.parse(text)
