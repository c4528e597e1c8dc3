"""Signed provenance: a C2PA manifest in each exported image, which says that it was generated and who says so (C2PA 2.x specification)."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from factory import __version__, images
from factory.errors import UserError
from factory.exporters import _xmp

Sign = Callable[[bytes, images.ImageFormat], bytes]
_TOOL = {"name": "synthetic-dataset-factory", "version": __version__}
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}  # a thumbnail would outweigh a small image a hundred times


class Signing(BaseModel):
    """Whose signature an export carries. The files stay where they are: neither they nor their names travel with the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: str = Field(description="PEM file of the certificate chain, the signer's own first.")
    key: str = Field(description="PEM file of the signer's private key (PKCS #8, without a passphrase).")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = Field("es256", description="What the key is for.")
    timestamp: str | None = Field(None, description="URL of an RFC 3161 time-stamp authority; null signs without asking anyone.")

    @field_validator("certificate", "key")
    @classmethod
    def _is_a_file(cls, value: str) -> str:
        if "-----BEGIN" in value or "\n" in value:
            raise ValueError("name a PEM file; a key has no place in a recipe")
        return value

    def open(self, source_type: _xmp.DigitalSourceType) -> Sign:
        """A function that signs an image file's bytes, from any thread. Raises UserError, also for keys that do not go together."""
        try:
            import c2pa
        except ImportError:
            raise UserError("export.c2pa: signing needs the extra c2pa; pip install 'synthetic-dataset-factory[c2pa]'") from None
        certificate, key = (_read(getattr(self, name), name) for name in ("certificate", "key"))
        manifest = _manifest(source_type)
        own = threading.local()  # a signer serves one thread at a time

        def sign(data: bytes, format: images.ImageFormat) -> bytes:
            out = io.BytesIO()
            try:
                if not hasattr(own, "signer"):
                    authority = None if self.timestamp is None else self.timestamp.encode()
                    own.signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(self.algorithm, certificate, key, authority))
                    own.context = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
                c2pa.Builder(manifest, context=own.context).sign(own.signer, f"image/{format}", io.BytesIO(data), out)
            except c2pa.C2paError as error:
                raise UserError(
                    f"export.c2pa: cannot sign: {error}; the key must belong to the first certificate, be for {self.algorithm}, and the chain "
                    "must be one that C2PA allows (key usage digitalSignature, an extended key usage such as emailProtection)"
                ) from error
            return out.getvalue()

        return sign


def _manifest(source_type: _xmp.DigitalSourceType) -> str:
    created: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": _xmp.VOCABULARY + source_type, "softwareAgent": _TOOL}
    return json.dumps(
        {"claim_generator_info": [_TOOL], "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]},
    )


def _read(file: str, key: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"export.c2pa.{key}: {file} cannot be read ({error.strerror}); name a PEM file") from error
