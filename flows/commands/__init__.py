"""The commands of ``iedit``: each module has ``configure(parser)`` and ``run(options) -> exit code``."""
