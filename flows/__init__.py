"""When: order, fan-out, retries and the command line. No arithmetic, no file formats."""

from flows.server.environment import apply_defaults

apply_defaults()
