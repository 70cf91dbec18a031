"""Two modules of img2dataset 1.47.0 (Romain Beaumont, MIT licence), byte for byte; see docs/decisions/0002.

The package itself requires the ``dataclasses`` backport, which ends Prefect's server, and does not import on Python 3.13.
"""
