"""``ovs-l2pop demo``: shows, measured, what L2 population does on real switches and bridges.

::

    layout.py     which hosts, networks and machines there are         pure
    feed.py       the messages that a server would send for them       pure
    observe.py    captured frames → who answered, what was in vain     pure
    results.py    what was measured, and what of it was promised       pure
    report.py     results → text                                       pure
    stage.py      the laboratory with its machines and agents          I/O
    measure.py    traffic on that stage                                I/O
    play.py       the whole demonstration, in order                    I/O
"""
