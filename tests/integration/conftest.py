"""Fixtures of the integration tests: see neutronlab/fixtures.py."""

from neutronlab.fixtures import *  # noqa: F403

# Written ahead of the parts that they test: delete a name to have the file collected.
collect_ignore = ["test_scenarios.py"]
