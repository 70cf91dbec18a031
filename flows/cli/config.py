"""``iedit config``: a profile with the user's changes, as YAML that every command takes by ``--config``."""

import argparse

from flows.cli.options import add_config, config_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser, recipe=True, training=True)


def run(options: argparse.Namespace) -> int:
    """Print the configuration."""
    from flows.config.overrides import as_yaml
    from flows.config.profiles import ALL, resolve

    changes = config_of(options, ALL)
    print(as_yaml(resolve(options.profile, changes, recipe=options.recipe, training=options.training)), end="")
    return 0
