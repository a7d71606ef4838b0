"""The JSON Schema of the document in every model file, for implementers in other languages.

`python docs/metadata_schema.py > docs/model-metadata.schema.json` writes it; a test holds the file to the code.
"""

from __future__ import annotations

import ast
import inspect
import json
from typing import Any

from matseg_shared.contract import metadata
from matseg_shared.contract.onnx_properties import DOCUMENT_KEY


def metadata_schema() -> str:
    """JSON Schema (draft 2020-12) of `ModelMetadata`, with what its source says of each field."""
    schema = metadata.ModelMetadata.model_json_schema()
    said = _docstrings(inspect.getsource(metadata))
    for name, part in [("ModelMetadata", schema), *schema["$defs"].items()]:
        for field, described in part.get("properties", {}).items():
            if text := said.get((name, field)):
                described["description"] = text
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"metadata_props[{DOCUMENT_KEY!r}] of a model file",
    }
    return json.dumps(head | schema, indent=1, ensure_ascii=False) + "\n"


def _docstrings(source: str) -> dict[tuple[str, str], str]:
    """(class, field) to the string that stands below the field."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = _string(below)
                    if text is not None:
                        found[node.name, field.target.id] = " ".join(text.split())
    return found


def _string(node: Any) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


if __name__ == "__main__":
    print(metadata_schema(), end="")
