"""The ML2 mechanism driver ``ovs_l2pop``.

What happens to a port goes through these, top to bottom::

    driver.py      ML2's hooks: what a port was before and is now
    decisions.py   which entries appear, change or go with that (pure)
    publisher.py   who must know, in which language
    queries.py     where ports are, who has a network (SQL)
    agents.py      what an agent's report says of its host (pure)
    memory.py      which hosts this process has brought into which networks
    segments.py    as far as a tunnel reaches (pure)
    roster.py      hosts whose agent's row is gone though the agent lives
    liveness.py    hosts whose agent is dead
    states.py      places of ports as states of our protocol (pure)
    upstream.py    upstream's tables, as messages of bounded size (pure)
    notifier.py    RPC to agents
    sync.py        RPC from agents of ours
    pictures.py    what they are answered from: networks, read again when something has changed
    wiring.py      what Neutron tells the driver `l2population` only
    options.py     the driver's options
"""
