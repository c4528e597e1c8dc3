"""What travels with a dataset: its card, its recipe and plan, and the facts of how it was made. No token and no local path reaches them."""

from factory.publish.dataset_card import card
from factory.publish.facts import gather, images, is_filtered, write
from factory.publish.names import generator_names, public_name

__all__ = ["card", "gather", "generator_names", "images", "is_filtered", "public_name", "write"]
