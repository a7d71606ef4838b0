"""A rich console on which nothing that is printed acts on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from matseg_shared.system.names import printable


class PlainConsole(Console):
    """Control characters in names of files, classes and data sets are spelt out, in lines and in tables."""

    def render_str(self, text: str, **more: Any) -> Text:
        """Every string that is printed, or stands in a table, comes by here."""
        return super().render_str(printable(text), **more)
