"""Changes to the images that a request is conditioned on."""
