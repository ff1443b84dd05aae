"""Teller: exactly-once deposits and withdrawals over HTTP."""

from importlib.metadata import version

__version__ = version("teller")
