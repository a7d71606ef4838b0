"""For mkdocs: links from the documentation to other files of the repository become links to the repository's pages."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(\]\()(\.\./[^)#\s]+)(#[^)\s]*)?(\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Files outside of `docs/` are not on the site: name them as paths in a source checkout, without a link."""
    del config

    def path_only(match: re.Match[str]) -> str:
        inside = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(page.file.src_uri), match.group(2))
        )
        return f'](# "{inside} in a source checkout")'

    return _LINK.sub(path_only, markdown)
