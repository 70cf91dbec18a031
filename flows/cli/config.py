"""``iedit config``: a profile with a person's changes, as YAML that ``--config`` takes."""

import argparse

from flows.cli.options import add_profile, settings_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_profile(parser)


def run(options: argparse.Namespace) -> int:
    """Print the configuration."""
    from flows.config.overrides import as_yaml
    from flows.config.profiles import resolve

    print(as_yaml(resolve(options.profile, settings_of(options), recipe=options.recipe)), end="")
    return 0
