"""A zarr folder whose documents survive a power cut: for groups that hold more than what this run could make again."""

from __future__ import annotations

import asyncio

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from matseg_shared.system.files import atomic_write


class DurableStore(LocalStore):
    """Zarr's own store renames what it has not synced, so that a power cut leaves an empty document under the name."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one document, whole or not at all."""
        self._check_writable()
        await asyncio.to_thread(self._write, key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write one document unless it is there."""
        if not await self.exists(key):
            await self.set(key, value)

    def _write(self, key: str, content: bytes) -> None:
        with atomic_write(self.root / key) as stream:
            stream.write(content)


def durable_store(folder: str) -> Store:
    """For functions of zarr that take a store."""
    return DurableStore(folder)
