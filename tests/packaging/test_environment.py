"""What ``.venv`` must hold so that no test is skipped for want of a library."""

import pytest


@pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")
def test_second_openflow_library_is_there() -> None:
    """``make venv`` builds ryu's wheel; the tests that compare its bytes with os-ken's need it."""
    from ryu.ofproto import nx_actions, ofproto_v1_3, ofproto_v1_3_parser

    assert ofproto_v1_3.OFP_VERSION == 4
    assert ofproto_v1_3_parser.OFPFlowMod
    assert nx_actions.generate
