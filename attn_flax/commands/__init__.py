"""One file for each `--mode` of the command line."""
