"""When: order, fan-out, retries and the command line. No arithmetic, no file formats."""
