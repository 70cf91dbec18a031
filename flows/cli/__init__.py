"""The command line `iedit`: each command module has `configure(parser)` and `run(options) -> exit code`."""
