"""``iedit serve``: server, work pool, deployments and worker on this machine, in one command."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address of the server (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="its port (default: %(default)s)")
    parser.add_argument("--pool", default="iedit", help="work pool of the deployments (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1, help="flow runs of the worker at a time (default: %(default)s)")
    parser.add_argument(
        "--once", action="store_true", help="leave when the worker has no flow run left, instead of at Ctrl-C"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from flows.server.serve import ServeConfig, serve

    serve(ServeConfig(host=options.host, port=options.port, pool=options.pool, limit=options.limit, once=options.once))
    return 0
