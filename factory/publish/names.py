"""Names for strangers: what a recipe says, without the paths of the machine that it was written on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from factory.recipe import Recipe

_PLACES = {"dataset", "model"}  # keys whose value may be a folder without a slash in its name
_OWN = {"c2pa"}  # where the signer keeps certificate and key is nobody else's business
_SECRET_KEYS = re.compile(r"(^|_)(password|passwd|secret|credentials?|api_?key|private_?key|(access|auth|hf|hub)_?token)$", re.IGNORECASE)
# Tokens and keys of known services. Every branch begins with a letter, and looks back only after it, so that gigabytes are searched fast.
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-(?<![\w-]sk-)[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|AKIA(?<!\wAKIA)[0-9A-Z]{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)


def public_name(model: str) -> str:
    """A model's name for strangers: a Hub id (one slash at most, and no such folder here) as it is, a folder by its last part only."""
    is_folder = model.count("/") > 1 or model.startswith((".", "~", "/")) or "\\" in model or Path(model).exists()
    return Path(model.replace("\\", "/")).name if is_folder else model


def generator_names(recipe: Recipe) -> list[str]:
    """Each generator's model, or its kind where it has none, for strangers."""
    return [public_name(str(getattr(generator, "model", generator.kind))) for generator in recipe.generator]


def public(value: Any, key: str = "") -> tuple[Any, list[str]]:
    """JSON values for strangers, and the dotted keys of those that named a place on this machine.

    A local path is cut to its last part, a URL loses its user, password and query. Keys named like a password or a token are left out,
    and what has the form of a known service's token is taken out of any text.
    """
    if isinstance(value, dict):
        open_to_all = {name: own for name, own in value.items() if name not in _OWN and not _is_secret(name, own)}
        pairs = {name: public(own, f"{key}.{name}".lstrip(".")) for name, own in open_to_all.items()}
        return {name: own for name, (own, _) in pairs.items()}, [place for _, places in pairs.values() for place in places]
    if isinstance(value, list | tuple):
        items = [public(own, f"{key}[{i}]") for i, own in enumerate(value)]
        return [own for own, _ in items], [place for _, places in items for place in places]
    if not isinstance(value, str):
        return value, []
    value = SECRETS.sub("(removed)", value)
    kind, colon, place = value.partition(":")
    if colon and kind.isidentifier() and len(kind) > 1 and place.startswith(("/", "~/", "../")) and not place.startswith("//"):
        return f"{kind}:{Path(place).name}", [key]  # an encoder such as transformers:/models/dino
    if "://" in value and "::" in value:  # a file in an archive
        parts = [public(part, key) for part in value.split("::")]
        return "::".join(part for part, _ in parts), [place for _, places in parts for place in places[:1]][:1]
    if "://" in value:
        return _public_url(value), []
    if _is_local(value, key.rpartition(".")[2]):
        return Path(value.replace("\\", "/")).name, [key]
    return value.replace(str(Path.home()), "~"), []


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str) and _SECRET_KEYS.search(name) is not None


def _public_url(text: str) -> str:
    """Several URLs may stand in one text, as in a cascade of file systems or a sentence; all lose what may be secret."""

    def cleaned(match: re.Match[str]) -> str:
        parts = urlsplit(match[0])
        if parts.scheme in ("file", "local"):
            return Path(parts.path).name
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+", cleaned, text)


def _is_local(text: str, key: str) -> bool:
    if not text.strip() or "\n" in text or len(text) > 1024:
        return False
    if text.startswith(("/", "~/", "./", "../", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    if key in _PLACES and re.search(r"[*?\[]", text):  # a pattern of files
        return True
    return ("/" in text or key in _PLACES) and Path(text).exists()
