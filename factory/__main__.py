"""`python -m factory` and `accelerate launch -m factory` are the `factory` command."""

from factory.cli import main

main()
