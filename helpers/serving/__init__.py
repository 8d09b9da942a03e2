"""Merge an adapter into its base model, and serve models on this machine: lessons 07 and 08."""
# ruff: noqa: F401 (re-exports)

from helpers.serving.merging import Comparison, checked_adapter, compare, megabytes, merge
from helpers.serving.server import Server, checked_port, deploy
