"""The card of a dataset that was filtered out of a corpus. No token and no local path reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory import __version__
from factory.filter_recipe import FilterRecipe
from factory.publish import names
from factory.publish.facts import yaml
from factory.select import Selection


def card(recipe: FilterRecipe, facts: dict[str, Any], selection: Selection, folder: Path) -> str:
    """README.md of a dataset folder: a YAML header that `load_dataset` and the Hub viewer read, then the facts."""
    dataset, _ = names.public(str(getattr(recipe.corpus, "dataset", recipe.corpus.kind)), "dataset")
    rules = [f"| {name} | {_rule(f)} | {facts['refused'].get(name, 0)} |" for name, f in recipe.named_filters()]
    others = [f"| {slug} | | {count} |" for slug, count in facts["refused"].items() if slug not in dict(recipe.named_filters())]
    lines = [
        "---",
        _header(recipe, folder, facts["kept"]).strip(),
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"{facts['kept']} of the {facts['rows']} rows of `{dataset}`, chosen by the filters below with the synthetic-dataset factory {__version__}. "
        "Files and columns are those of the corpus; each filter's score is a column of its name.",
        "",
        "| class | images |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in facts["per_class"].items()),
        "",
        "| filter | keeps | refused |",
        "|---|---|---|",
        *rules,
        *others,
        "",
    ]
    return "\n".join(lines)


def _rule(f: Any) -> str:
    low, high = f.bounds()
    kept = [f"at least {low:g}"] if low > float("-inf") else []
    kept += [f"at most {high:g}"] if high < float("inf") else []
    kept += [f"the best {f.keep_top}"] if f.keep_top is not None else []
    return ", ".join(kept) or "all"


def _header(recipe: FilterRecipe, folder: Path, rows: int) -> str:
    """The sizes matter: `datasets` names its cache of a local folder by this header, and would else serve one dataset for another."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    splits = [{"name": "train", "num_bytes": size, "num_examples": rows}]
    header = {
        "pretty_name": recipe.name,
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": recipe.export.data_files("train")}]}],
        "dataset_info": [{"config_name": "default", "splits": splits, "download_size": size, "dataset_size": size}],
    }
    return yaml(header)
