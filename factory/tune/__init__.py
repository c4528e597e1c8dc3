"""Searching the few settings that matter: which there are, what one of them is worth, and the search itself."""
