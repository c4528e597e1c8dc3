"""The commands, one a file: parse, call, print. Stories are imported when a command runs, so that `--help` is quick."""
