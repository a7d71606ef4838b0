"""For mkdocs: links to files outside of `docs/`, which are not on the site, become mere names."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./[^)\s]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of such a link, without the link."""
    return _LINK.sub(r"\1 (in a source checkout)", markdown)
