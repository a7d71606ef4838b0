"""Where pages go."""

from __future__ import annotations

from pathlib import Path


def page_path(source: Path) -> Path:
    """`plots/<name>.html` for what lies in `log/`, else beside it.

    Args:
        source: the log of a training, or the document of an evaluation.
    """
    name = f"{source.stem}.html"
    if source.absolute().parent.name != "log":
        return source.with_name(name)
    folder = source.parent.parent if source.parent.name == "log" else source.absolute().parent.parent
    return folder / "plots" / name
