"""Upstream's own cases, from the neutron that is installed, against our driver."""

from typing import ClassVar

from neutron.tests.unit.plugins.ml2.drivers.l2pop import test_mech_driver as upstream


class TestUpstreamCases(upstream.TestL2PopulationRpcTestCase):  # type: ignore[misc]
    """Mocked at the RPC boundary, as upstream does it."""

    _mechanism_drivers: ClassVar[list[str]] = ["openvswitch", "fake_agent", "ovs_l2pop"]


del upstream
