"""What the cards of made and of filtered datasets share: the YAML header, and the sections that read the same for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from factory.publish.facts import yaml
from factory.publish.markdown import table

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def header(parts: Sequence[dict[str, Any]], size: int, tags: list[str]) -> str:
    """The YAML header that `load_dataset` and the Hub viewer read. size: bytes of the data files."""
    first, licence, rows = parts[0], _licence(parts), sum(part["rows"] for part in parts)
    split = first["split"]
    # The sizes matter: `datasets` names its cache of a local folder by this header, and would else serve one dataset for another.
    splits = [{"name": split, "num_bytes": size, "num_examples": rows}]
    values: dict[str, Any] = {"pretty_name": first["name"]}
    if licence:
        values["license"] = licence
    if first["class_names"]:
        values["task_categories"] = ["image-classification"]
    values |= {
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "10M<n<100M")],
        **({"tags": tags} if tags else {}),
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": first["data_files"]}]}],
        "dataset_info": [{"config_name": "default", "splits": splits, "download_size": size, "dataset_size": size}],
    }
    return f"---\n{yaml(values).strip()}\n---\n"


def _licence(parts: Sequence[dict[str, Any]]) -> str | None:
    """The licence that the parts' owner gave, if it is one."""
    given = {part.get("licence") for part in parts}
    return given.pop() if len(given) == 1 else None


def title(part: dict[str, Any], several: bool) -> str:
    """What stands above a part where there are several."""
    return f"### {part['name']}, plan `{part['plan']}`\n\n" if several else ""


def classes(parts: Sequence[dict[str, Any]], start: str) -> str:
    """How many images of each class stayed of those that were there at the start: "generated" or "read", as `facts` call it."""
    kept: Counter[str] = Counter()
    begun: Counter[str] = Counter()
    for part in parts:
        kept.update({name: counts["kept"] for name, counts in part["classes"].items()})
        begun.update({name: counts[start] for name, counts in part["classes"].items()})
    total = ("**all**", sum(kept.values()), sum(begun.values()))
    return table(("class", "images", f"of {start}"), [*((name, kept[name], begun[name]) for name in begun), total])


def models(part: dict[str, Any]) -> str:
    """Every model with its role, revision and licence."""
    rows = [
        (
            model["role"],
            f"`{model['name']}`",
            f"`{model.get('commit') or model.get('revision') or 'not pinned'}`",
            model["licence"] or "not stated",
        )
        for model in part["models"]
    ]
    return table(("role", "model", "revision", "licence"), rows)


def refused(part: dict[str, Any], several: bool, start: str, count: int) -> str:
    """Each rule in its order, from the `count` rows that there were at the start."""
    rows = [(start, "", "", count)]
    rows += [(f"`{rule['name']}`", rule["asks"], rule["refused"], rule["left"]) for rule in part["rules"]]
    return title(part, several) + table(("rule", "asks for", "refused", "kept"), rows)


def licences(parts: Sequence[dict[str, Any]]) -> str:
    """Of the dataset and of the models."""
    given = dict.fromkeys(part.get("licence") or "not stated by its owner" for part in parts)
    seen = dict.fromkeys((model["name"], model["licence"] or "not stated; see its page") for part in parts for model in part["models"])
    lines = [f"- This dataset: {', '.join(given)}.", *(f"- `{name}`: {what}." for name, what in seen)]
    return "\n".join(lines) + "\n"


def sets(keys: Sequence[str]) -> str:
    """Options of a command for keys whose values the reader has to give."""
    return "".join(f" --set '{key}=…'" for key in keys)


def places(part: dict[str, Any]) -> str:
    """A sentence on the keys that named folders of the machine where it was made; empty where there are none."""
    if not part["local"]:
        return ""
    return (
        f"These keys named folders of the machine that it was built on; give your own: {', '.join(f'`{key}`' for key in part['local'])}. "
    )
