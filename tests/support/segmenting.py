"""One image through a session, as arrays."""

from __future__ import annotations

from typing import Any

from matseg_runtime.inference import tiles


def segment_image(session: Any, image: Any, **options: Any) -> Any:
    """(H, W) labels; with `probabilities` also (K, H, W) float32."""
    found = tiles.segment_image(session, image, **options)
    return (found.labels, found.probabilities) if options.get("probabilities") else found.labels
