"""For mkdocs: links to files outside of `docs/`, which are not on the site, become mere names."""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)[^)\s]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of such a link, without the link."""
    folder = dirname(page.file.src_uri)

    def name(link: re.Match[str]) -> str:
        leaves = normpath(join(folder, link[2])).startswith("..")
        return f"{link[1]} (in a source checkout)" if leaves else link[0]

    return _LINK.sub(name, markdown)
