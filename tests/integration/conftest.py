"""Fixtures of the integration tests: see neutronlab/fixtures.py."""

from neutronlab.fixtures import *  # noqa: F403
