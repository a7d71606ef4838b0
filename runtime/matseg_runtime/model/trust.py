"""Proofs that a model file must give before it is loaded, because the user asks for it or the site does for everybody.

A variable is a site's policy: every model that is loaded on the machine, by whatever command, must be on the list that
MATSEG_TRUSTED_MODELS names. A list that is not there is an error, never no policy.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from matseg_shared.errors import ModelError, UsageError

LIST_VARIABLE = "MATSEG_TRUSTED_MODELS"
_LARGEST_LIST = 1 << 24
_DIGEST = r"[0-9a-fA-F]{64}"
_LINE = re.compile(rf"\\?(?P<digest>{_DIGEST}) [ *](?P<name>.+)")
"""As `sha256sum` and `shasum -a 256` write it."""
_TAGGED_LINE = re.compile(rf"SHA256 \((?P<name>.+)\) = (?P<digest>{_DIGEST})")
"""As `sha256sum --tag` and BSD's `sha256` write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HasSha256:
    """The demand that a file is a certain one."""

    sha256: str
    """Lower case."""
    source: str
    """Source of it: `--sha256`, ..."""
    refusal: str = "expected {expected}, found {found}; it is another file, or was changed, and is not loaded"
    """Said of any other file."""

    def proof(self, path: Path, sha256: str) -> str:
        if sha256 != self.sha256:
            expected = f"SHA-256 {self.sha256} ({self.source})"
            raise ModelError(f"{path}: {self.refusal.format(expected=expected, found=sha256)}")
        return f"SHA-256 as expected ({self.source})"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsListed:
    """The demand that a file is on a list of SHA-256 digests; under its own name, where the list knows that name."""

    path: Path
    source: str

    def proof(self, path: Path, sha256: str) -> str:
        listed = read_digests(self.path, self.source)
        named = [digest for digest, name in listed if re.split(r"[/\\]", name)[-1] == path.name]
        if sha256 not in (named or [digest for digest, _ in listed]):
            expected = (
                f"SHA-256 {' or '.join(named[:3])}, as listed for {path.name}" if named else "one of those"
            )
            raise ModelError(
                f"{path}: is not on the list of models {self.path} ({self.source}): expected {expected}, found SHA-256 "
                f"{sha256}; it is not loaded"
            )
        return f"listed in {self.path} ({self.source})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """All that a model must prove."""

    demands: tuple[HasSha256 | IsListed, ...] = ()

    @classmethod
    def of_site(cls) -> Trust:
        """The demands that this machine's variables name; a UsageError where one asks for what is no longer there."""
        if os.environ.get("MATSEG_TRUSTED_KEYS"):
            raise UsageError(
                "MATSEG_TRUSTED_KEYS: signatures of models are no longer verified by matseg, so that no model can be "
                f"trusted; list their SHA-256 digests in {LIST_VARIABLE} and unset the variable (docs/security.md)"
            )
        text = os.environ.get(LIST_VARIABLE)
        return cls(demands=(IsListed(path=Path(text), source=LIST_VARIABLE),) if text else ())

    def also(self, demand: HasSha256 | IsListed) -> Trust:
        """These demands and one more."""
        return Trust(demands=(*self.demands, demand))

    def prove(self, path: Path, sha256: str) -> tuple[str, ...]:
        """Half a sentence per demand on how it was met, for the user; a ModelError where one is not.

        Args:
            path: of the model file.
            sha256: of the bytes that will be loaded.
        """
        return tuple(demand.proof(path, sha256) for demand in self.demands)


MADE_HERE = Trust()
"""For files that this program has just written itself, which nobody can vouch for yet."""


def trust_of(sha256: str | None) -> Trust:
    """The demands of the site, and in addition the user's: 64 digits, or the path of a list (else a UsageError)."""
    trust = Trust.of_site()
    if sha256 is None:
        return trust
    if re.fullmatch(_DIGEST, sha256):
        return trust.also(HasSha256(sha256=sha256.lower(), source="--sha256"))
    if not Path(sha256).is_file():
        raise UsageError(
            f"--sha256 {sha256}: expected 64 hexadecimal digits, or a file that lists them as sha256sum writes it; "
            "found neither"
        )
    return trust.also(IsListed(path=Path(sha256), source="--sha256"))


def read_digests(path: Path, source: str) -> tuple[tuple[str, str], ...]:
    """(digest, name) of each line of a list as `sha256sum` writes it, or a UsageError; empty lines and `#` are none."""
    expected = f"{path}: expected a list of SHA-256 digests ({source}), found"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_LIST:
            raise UsageError(f"{expected} no such file, or too large a one")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{expected} that it cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip()) or _TAGGED_LINE.fullmatch(line.rstrip())
        if match is None:
            raise UsageError(
                f"{path}, line {number} ({source}): expected a SHA-256 digest and a file's name, as sha256sum "
                "writes them"
            )
        found.append((match["digest"].lower(), match["name"]))
    return tuple(found)
