"""The ledger: what counts as done, and who may write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import at_work

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


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    with at_work(tmp_path, KEY) as first:
        first.append([_record(0), _record(1)])
        first.append([_record(2)], [ExcludedSlice(name="s3", index=3, where="s3.png", reason="torn")])
        assert first.labelled == {"s0", "s1", "s2"}
    with at_work(tmp_path, KEY) as second:
        assert second.done == {f"s{n}": _record(n) for n in range(3)}
        assert set(second.excluded) == {"s3"}
        second.append([_record(2), _record(3)])
        assert second.labelled == {"s3"}, "the other was labelled before, from the same image"
        assert not second.excluded
    assert read_key(tmp_path) == KEY


@pytest.mark.parametrize("lost", range(1, 200, 7))
def test_a_torn_line_counts_for_nothing_and_spoils_nothing(tmp_path: Path, lost: int) -> None:
    with at_work(tmp_path, KEY) as first:
        first.append([_record(0)])
        first.append([_record(1)])
    path = tmp_path / "done-1-of-1.jsonl"
    content = path.read_bytes()
    line = len(content) // 2
    path.write_bytes(content[: len(content) - min(lost, line - 1)])
    with at_work(tmp_path, KEY) as second:
        assert set(second.done) == ({"s0", "s1"} if lost == 1 else {"s0"})
        second.append([_record(2)])
    with at_work(tmp_path, KEY) as third:
        assert {"s0", "s2"} <= set(third.done)


def test_a_line_says_all_that_it_means(tmp_path: Path) -> None:
    """A default that is another one day must not change what was recorded before."""
    with at_work(tmp_path, KEY) as ledger:
        plain = _record(0).model_copy(update={"drift": 0.0, "bytes": 0})
        ledger.append([plain])
    (line,) = (tmp_path / "done-1-of-1.jsonl").read_text(encoding="utf-8").splitlines()
    (found,) = json.loads(line)["done"]
    assert found == {
        name: value for name, value in plain.model_dump(mode="json").items() if value is not None
    }
    assert (found["drift"], found["bytes"], found["constant"], found["clipped"]) == (0.0, 0, 0, 0)


def test_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They leave out what had its default, and call excluded slices set aside."""
    record = _record(0).model_dump(mode="json", exclude_defaults=True)
    lines = [
        {"done": [record]},
        {"turn": 1, "set_aside": [{"name": "s1", "index": 1, "where": "s1.png", "reason": "torn"}]},
    ]
    (tmp_path / "done-1-of-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = Ledger(tmp_path, Part())
    ledger.reload()
    assert ledger.done == {"s0": _record(0)}
    assert set(ledger.excluded) == {"s1"}


def test_a_job_that_uses_nothing_new_is_written_as_before() -> None:
    """Labels carry the job: those of a run without no data, picked channels or named axes keep their bytes."""
    first = (
        "ledger_version model_name model_sha256 input_kind input_name input_content output_format tile unit provider "
        "window stored_dtype axis slices level probabilities skip_constant layout"
    )
    assert list(KEY.model_dump()) == first.split()
    used = KEY.model_copy(update={"no_data": "circle"})
    assert JobKey(**used.model_dump()) == used
    assert JobKey.model_validate_json(KEY.model_dump_json()) == KEY


def test_a_folder_of_many_slices_is_one_digest_in_the_job(tmp_path: Path) -> None:
    """Jobs that were begun when all names stood there go on."""
    names = [f"slice_{number:06}" for number in range(50_000)]
    volume = KEY.model_dump() | {"output_format": "zarr", "input_content": "\n".join(names)}
    key = JobKey(**volume)
    assert len(key.model_dump_json()) < 1000
    (tmp_path / "job.json").write_text(json.dumps(volume))
    with at_work(tmp_path, key):
        pass
    other = JobKey(**volume | {"input_content": "\n".join(names[1:])})
    with (
        pytest.raises(UsageError, match=r"input content: 50000 slices, names \w+\.\.\. then, 49999 slices"),
        at_work(tmp_path, other),
    ):
        pass


def test_another_job_is_refused_with_every_difference(tmp_path: Path) -> None:
    with at_work(tmp_path, KEY):
        pass
    other = KEY.model_copy(update={"window": "1,2", "tile": (64, 64)})
    with (
        pytest.raises(UsageError, match=r"tile: none then, \(64, 64\) now; window: none then, 1,2 now"),
        at_work(tmp_path, other),
    ):
        pass
    with at_work(tmp_path, KEY):  # the refusal left no lock behind
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ledger_version": 2}', "\x00\x01"])
def test_a_damaged_ledger(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(OutputError, match="--overwrite"), at_work(tmp_path, KEY):
        pass


def _take_all(ledger: Ledger) -> None:
    with ledger.job_lock():
        ledger.take_part()
        ledger.require_alone()


def test_parts_share_one_ledger(tmp_path: Path) -> None:
    with (
        at_work(tmp_path, KEY, Part(number=1, total=2)) as first,
        at_work(tmp_path, KEY, Part(number=2, total=2)) as second,
    ):
        first.append([_record(0)])
        second.append([_record(1)])
        first.reload()
        assert set(first.done) == {"s0", "s1"}
        assert first.others_at_work() == ["part-2-of-2.lock"]


def test_who_is_refused_is_not_at_work_once_others_may_look(tmp_path: Path) -> None:
    with at_work(tmp_path, KEY, Part(number=1, total=2)):
        refused = Ledger(tmp_path, Part(number=2, total=2))
        with refused.exclusive():
            with pytest.raises(UsageError, match="another matseg-run works"):
                _take_all(refused)
            looking = Ledger(tmp_path, Part())
            with looking.job_lock():
                assert looking.others_at_work() == ["part-1-of-2.lock"]


def test_two_processes_on_one_part(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from ledgers import at_work\nfrom matseg_runtime.records import JobKey\n"
        "with at_work(Path(sys.argv[1]), JobKey.model_validate_json(sys.argv[2])):\n"
        "    print('open', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), KEY.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with (
            pytest.raises(UsageError, match="another matseg-run works on part 1-of-1"),
            at_work(tmp_path, KEY),
        ):
            pass
        with (
            pytest.raises(UsageError, match="cut into 1 parts instead of 3"),
            at_work(tmp_path, KEY, Part(number=2, total=3)),
        ):
            pass
        other.kill()
        other.wait()
    with at_work(tmp_path, KEY):  # killed, it holds nothing any more
        pass


def test_parts_own_every_block_once() -> None:
    parts = [Part.parse(f"{n}/5") for n in range(1, 6)]
    for block in range(40):
        assert sum(part.owns(block) for part in parts) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/4/2", "1.5/4"])
def test_a_bad_part(text: str) -> None:
    with pytest.raises(UsageError, match="expected K/N"):
        Part.parse(text)
