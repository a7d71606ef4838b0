"""The files of the zoo in a source checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.model.zoo import FOLDER_NAME, INDEX_NAME, MODEL_NAME, checkout_root
from matseg_shared.console.help import did_you_mean
from matseg_shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One model's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """As in `zoo:NAME`."""
        return self.folder.name

    @property
    def description(self) -> Path:
        """Written by hand."""
        return self.folder / "model.toml"

    @property
    def classes(self) -> Path:
        """Names and colours of the classes, where the data set has none of its own."""
        return self.folder / "classes.toml"

    @property
    def model(self) -> Path:
        """The file that is used."""
        return self.folder / MODEL_NAME

    @property
    def figures(self) -> Path:
        """Measured figures."""
        return self.folder / "figures.json"

    @property
    def card(self) -> Path:
        """The card, for people."""
        return self.folder / "README.md"


@dataclass(frozen=True, slots=True)
class ZooCheckout:
    """A source checkout with its zoo."""

    root: Path

    @classmethod
    def find(cls) -> ZooCheckout:
        """The checkout that this program runs from.

        Raises:
            UsageError: it was installed from a wheel.
        """
        root = checkout_root()
        if root is None:
            raise UsageError(
                "the models zoo is built in a source checkout, and this matseg was installed from a wheel; clone the "
                "repository and run make models there"
            )
        return cls(root)

    @property
    def folder(self) -> Path:
        """`models_zoo`."""
        return self.root / FOLDER_NAME

    @property
    def readme(self) -> Path:
        """The index for people."""
        return self.folder / "README.md"

    @property
    def sums(self) -> Path:
        """The digests of all models, as `sha256sum` writes them."""
        return self.folder / "SHA256SUMS"

    @property
    def index(self) -> Path:
        """The index for programs; it lies in the package because wheels carry it."""
        return self.root / "runtime" / "matseg_runtime" / INDEX_NAME

    @property
    def entries(self) -> tuple[ZooEntry, ...]:
        """All models that are described, by name."""
        return tuple(ZooEntry(path.parent) for path in sorted(self.folder.glob("*/model.toml")))

    @property
    def built(self) -> tuple[ZooEntry, ...]:
        """Those whose model file is there."""
        return tuple(entry for entry in self.entries if entry.model.is_file())

    def entry(self, name: str) -> ZooEntry:
        """One model.

        Raises:
            UsageError: none of that name is described.
        """
        known = {entry.name: entry for entry in self.entries}
        if name in known:
            return known[name]
        raise UsageError(
            f"{self.folder / name}: expected the description model.toml of a model of the zoo, found none"
            f"{did_you_mean(name, known)}; described are {', '.join(known) or 'none'}"
        )
