"""A generative synthetic-dataset factory: a recipe becomes a plan, a plan becomes shards, shards become a dataset."""

__version__ = "0.1.0"
