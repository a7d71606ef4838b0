"""Labels, and beside them a volume that says for each voxel how many axes' own class is another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Block, LabelInfo, Result, Sink
from matseg_runtime.sink.volume import VolumeSink
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.system.files import write_text

_VALUES = (
    ("all axes agree", (0, 0, 0)),
    ("one axis differs", (254, 217, 118)),
    ("two axes differ", (253, 141, 60)),
    ("three axes differ", (189, 0, 38)),
)


def disagreement_info(info: LabelInfo) -> LabelInfo:
    """Description of the volume's files: numbers of axes in place of the labels' classes."""
    classes = tuple(
        ClassInfo(index=index, name=name, colour=colour, label_value=index)
        for index, (name, colour) in enumerate(_VALUES)
    )
    return replace(info, metadata=info.metadata.model_copy(update={"classes": classes}))


class DisagreementSink(Sink):
    """Two sinks as one: the labels', whose ledger and report it has, and a volume's."""

    whole_units = True

    def __init__(self, labels: Sink, beside: VolumeSink) -> None:
        self.labels, self.beside = labels, beside
        self.path, self.ledger_folder = labels.path, labels.ledger_folder
        self.report_folder = labels.report_folder

    def check_place(self, *, overwrite: bool) -> None:
        self.labels.check_place(overwrite=overwrite)
        self.beside.check_place(overwrite=overwrite)

    def remove_earlier(self, names: Sequence[str]) -> None:
        self.labels.remove_earlier(names)
        self.beside.remove_earlier(names)

    def clean(self, *, is_new: bool) -> None:
        self.labels.clean(is_new=is_new)
        self.beside.clean(is_new=is_new)

    def start(self) -> None:
        self.labels.start()
        self.beside.start()
        # by which a later run knows that the volume is ours
        write_text(self.beside.ledger_folder / "job.json", self.beside.info.provenance + "\n")

    def lost(self, records: Iterable[SliceRecord]) -> tuple[str, ...]:
        records = list(records)
        unsized = [record.model_copy(update={"bytes": 0}) for record in records]  # bytes are the labels'
        return tuple(dict.fromkeys((*self.labels.lost(records), *self.beside.lost(unsized))))

    def withdraw(self, record: SliceRecord) -> None:
        self.labels.withdraw(record)

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        self.beside.write(block, [_disagreement(result) for result in results])
        return self.labels.write(block, results)

    def finish(self) -> None:
        self.beside.finish()
        self.labels.finish()


def _disagreement(result: Result) -> Result:
    """The same slice with the number of axes that differ in place of labels."""
    found = result.segmentation
    if found is None or found.disagreement is None:
        return result
    return replace(result, segmentation=replace(found, labels=found.disagreement, probabilities=None))
