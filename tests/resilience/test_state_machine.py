"""Any order of runs, crashes and meddling is one undisturbed run, or a refusal that says why."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import small_jobs
from crashing_disk import CrashingDisk, Loss, PowerCut
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from small_jobs import JOBS, SmallJob
from thoroughness import THOROUGH

from matseg_runtime.ledger import read_key
from matseg_runtime.records import JobKey
from matseg_shared.errors import OutputError
from matseg_shared.system.files import remove

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="follows open files through /proc")

MEMORY = Path("/dev/shm")


class Facility(RuleBasedStateMachine):
    """Events that people and machines cause for one output."""

    job: SmallJob
    inputs: Path
    clean: dict[str, bytes]

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.folder = self.home / "work"
        self.meddled = False
        """Somebody has changed results since the last run that made everything right."""

    @initialize()
    def start(self) -> None:
        small_jobs.fresh_folder(self.inputs, self.folder)

    @rule()
    def run(self) -> None:
        self.judge(small_jobs.run(self.job, self.inputs, self.folder))

    @rule(number=st.integers(1, 2))
    def run_a_part(self, number: int) -> None:
        result = small_jobs.run(self.job, self.inputs, self.folder, "--part", f"{number}/2")
        self.judge(result, whole=False)

    @rule(step=st.integers(0, 160), loss=st.sampled_from(Loss), part=st.sampled_from(["1/1", "1/2", "2/2"]))
    def crash(self, step: int, loss: Loss, part: str) -> None:
        self.crash_with(step, loss, "--part", part)

    @rule(step=st.integers(0, 60), loss=st.sampled_from(Loss))
    def crash_while_replacing(self, step: int, loss: Loss) -> None:
        self.crash_with(step, loss, "--overwrite")

    @rule(step=st.integers(0, 60), loss=st.sampled_from(Loss))
    def crash_while_replacing_with_another_model(self, step: int, loss: Loss) -> None:
        """Labels of that model must not be taken for ours, whatever of it is left."""
        self.meddled = True
        self.crash_with(step, loss, "--overwrite", model="other_v1")

    @rule()
    def run_another_model(self) -> None:
        before = small_jobs.results(self.folder)
        refused = not self.is_free()
        if (found := self.earlier()) is not None and found.model_name == "other_v1":
            return
        result = small_jobs.run(self.job, self.inputs, self.folder, model="other_v1")
        if result.exit_code:
            assert "unexpected" not in result.output
            assert small_jobs.results(self.folder) == before
        else:
            assert not refused, result.output
            small_jobs.fresh_folder(self.inputs, self.folder)
            self.meddled = False

    @rule(setting=st.sampled_from([("--tile", "52"), ("--no-skip-constant",), ("--window", "1,200")]))
    def run_with_another_setting(self, setting: tuple[str, ...]) -> None:
        before = small_jobs.results(self.folder)
        if self.is_free():
            return
        result = small_jobs.run(self.job, self.inputs, self.folder, *setting)
        assert result.exit_code in (1, 2), result.output
        assert small_jobs.results(self.folder) == before

    @rule(seed=st.integers(0, 10_000))
    def delete_a_file(self, seed: int) -> None:
        if path := self.some_file(random.Random(seed)):
            path.unlink()
            self.meddled = True

    @rule(seed=st.integers(0, 10_000))
    def tear_a_file(self, seed: int) -> None:
        choice = random.Random(seed)  # how many files there are is not hypothesis' to know: threads race
        if (path := self.some_file(choice)) and (size := path.stat().st_size):
            with path.open("r+b") as stream:
                stream.truncate(choice.randrange(size))
            self.meddled = True

    @rule()
    def delete_the_output(self) -> None:
        remove(self.folder / self.job.output)
        self.meddled = True

    @rule()
    def delete_the_unfinished_output(self) -> None:
        remove(self.job.side(self.folder) / "partial")
        self.meddled = True

    def earlier(self) -> JobKey | None:
        """The job that the ledger is of."""
        try:
            return read_key(self.job.side(self.folder))
        except OutputError:
            return None

    def is_free(self) -> bool:
        """True where no job has a ledger there."""
        return not (self.job.side(self.folder) / "job.json").exists()

    def some_file(self, choice: random.Random) -> Path | None:
        """A file of results or ledger, not of the image that labels are added to."""
        inputs = self.folder / "image.zarr"
        files = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
            and (not path.is_relative_to(inputs) or path.is_relative_to(self.folder / self.job.output))
        ]
        return choice.choice(files) if files else None

    def crash_with(self, step: int, loss: Loss, *more: object, model: str = "alloy_v1") -> None:
        disk = CrashingDisk(root=self.folder, fail_at=step)
        result = None
        with disk.failing(), contextlib.suppress(PowerCut):
            result = small_jobs.run(self.job, self.inputs, self.folder, *more, model=model)
        if result is None:
            disk.crash(loss, seed=step)
        elif model == "alloy_v1":
            self.judge(result, whole="--part" not in more or "1/1" in more)
        if "--overwrite" in more:
            self.require_whole_files()  # what the user wanted deleted may be gone before the ledger says so
        elif not self.meddled:
            self.require_truth()

    def judge(self, result: Any, *, whole: bool = True) -> None:
        """A run either made everything right, or says in a sentence why not."""
        if result.exit_code == 0 and whole:
            assert small_jobs.results(self.folder) == self.clean, result.output
            self.meddled = False
        elif result.exit_code == 0:
            if not self.meddled:
                self.require_truth()
        else:
            self.require_reason(result)

    def require_reason(self, result: Any) -> None:
        assert result.exit_code in (1, 2), result.output
        assert result.output.startswith("Error: "), result.output
        assert "unexpected" not in result.output
        assert "Traceback" not in result.output
        assert any(word in result.output for word in ("--overwrite", "-o", "run the same command again"))
        # nobody may be refused who found everything as an earlier run had left it
        assert self.meddled, result.output

    def require_whole_files(self) -> None:
        assert self.meddled or small_jobs.wrong_under_final_names(self.job, self.folder, self.clean) == []

    def require_truth(self) -> None:
        self.require_whole_files()
        assert small_jobs.not_what_was_done(self.job, self.folder, self.clean) == []

    def teardown(self) -> None:
        try:
            if self.folder.exists():
                self.judge(self.made_right())
                assert small_jobs.results(self.folder) == self.clean
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def made_right(self) -> Any:
        """By the same command; where that is refused with --overwrite; where that is, too, in a place without ruins."""
        result = small_jobs.run(self.job, self.inputs, self.folder)
        for remedy in ("--overwrite", "ruins"):
            if result.exit_code == 0:
                return result
            self.require_reason(result)
            if remedy == "ruins":
                remove(self.folder / self.job.output)
            result = small_jobs.run(self.job, self.inputs, self.folder, "--overwrite")
        return result


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_any_order_of_events(job: SmallJob, inputs: Path, clean: Any) -> None:
    whole = clean(job)
    machine = type(job.name, (Facility,), {"job": job, "inputs": inputs, "clean": whole})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100 if THOROUGH else 6,
            stateful_step_count=10 if THOROUGH else 6,
            deadline=None,
            derandomize=not THOROUGH,
            print_blob=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
