"""`factory filter`: a corpus that exists, cut into shards, scored, and decided from the stored scores."""

from factory.filtering.recipe import FilterRecipe, load
from factory.filtering.story import run

__all__ = ["FilterRecipe", "load", "run"]
