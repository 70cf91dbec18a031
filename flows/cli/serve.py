"""``iedit config`` and ``iedit serve``: what a run is made with, and the server that runs it."""

import argparse
from typing import Any

from flows.cli.options import Command, add_config, config_of


def configure_config(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser, recipe=True, training=True)


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration."""
    from flows.config.profiles import ALL

    return config_of(options, ALL)


def run_config(options: argparse.Namespace) -> int:
    """Print the configuration."""
    from flows.config.overrides import as_yaml
    from flows.config.profiles import resolve

    resolved = resolve(options.profile, changes(options), recipe=options.recipe, training=options.training)
    print(as_yaml(resolved), end="")
    return 0


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address of the server (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="its port (default: %(default)s)")
    parser.add_argument("--pool", default="iedit", help="work pool of the deployments (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1, help="flow runs of the worker at a time (default: %(default)s)")
    parser.add_argument(
        "--once", action="store_true", help="leave when the worker has no flow run left, instead of at Ctrl-C"
    )


def run_serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from flows.serve import ServeConfig, serve

    serve(ServeConfig(host=options.host, port=options.port, pool=options.pool, limit=options.limit, once=options.once))
    return 0


COMMANDS = {"config": Command(configure_config, run_config, changes), "serve": Command(configure_serve, run_serve)}
