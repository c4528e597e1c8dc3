"""The last look at what leaves the machine: no token, no home folder and no path of the run in any byte of it."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.publish.names import SECRETS

_BLOCK = 16 << 20
_OVERLAP = 4096  # bytes of a block that are looked at again with the next


class Watch:
    """Knows what must not leave: tokens, the home folder, and the given folders."""

    def __init__(self, folders: list[Path]):
        from huggingface_hub import get_token

        token = get_token()
        needles = {re.escape(token.encode()): "your access token"} if token else {}
        needles[SECRETS.pattern.encode()] = "an access token or a private key"
        for folder in folders:
            needles[re.escape(str(folder).encode())] = f"the path of {folder.name!r} on this machine"
        home = str(Path.home())
        if len(home) > 3:
            needles[re.escape(home.encode()) + rb"(?=[/\\\"'\s])"] = "the path of your home folder"
        self.needles = [(re.compile(pattern), what) for pattern, what in needles.items()]

    def check(self, name: str, content: Path | bytes) -> None:
        """Look through one file, through compressed columns too. Raises UserError, which says where but not what."""
        for place, data in _looked_at(content):
            for pattern, what in self.needles:
                if pattern.search(data):
                    raise UserError(
                        f"not pushed: {what} is in {name}{place}; take it out of the recipe, or of the "
                        "captions and columns of its images, and make the dataset again"
                    )


def _looked_at(content: Path | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(content, bytes):
        yield "", content
    elif content.suffix == ".parquet":
        yield from _columns(content)
    else:
        yield from (("", block) for block in _blocks(content))
        if content.suffix == ".tar":
            yield from _member_names(content)


def _blocks(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield rest + block
            rest = block[-_OVERLAP:]


def _member_names(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        yield " (names of its members)", "\n".join(tar.getnames()).encode()


def _columns(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every column of a Parquet file, uncompressed, a row group at a time, and the metadata of its schema."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = {**(file.schema_arrow.metadata or {}), **(file.metadata.metadata or {})}
        yield " (metadata)", b"\n".join(part for pair in metadata.items() for part in pair)
        for batch in file.iter_batches(batch_size=256):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                yield from ((f" (column {name})", data) for data in _bytes(column))


def _bytes(column: Any) -> Iterator[bytes]:
    """What a column holds: strings and images a line each, since a key is known by where it begins; of anything else the memory."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _bytes(part)
        return
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _bytes(column.flatten())
        return
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        yield b"\n".join(value for value in column.cast(pa.large_binary()).to_pylist() if value is not None)
        return
    for buffer in column.buffers():
        if buffer is not None:
            yield memoryview(buffer).tobytes()
