"""Neutron's tests choose oslo.service's backend, native threads; that comes before all else."""

import pytest

pytest.importorskip("neutron.tests.unit", reason="needs the extra `neutron` and its test packages")
