"""Text for requests."""
