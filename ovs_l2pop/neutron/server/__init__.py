"""The ML2 mechanism driver ``ovs_l2pop``.

What happens to a port goes through these, top to bottom::

    driver.py      ML2's hooks: what a port was before and is now
    decisions.py   which entries appear, change or go with that (pure)
    publisher.py   who must know, in which language
    queries.py     where ports are, who has a network (SQL)
    agents.py      what an agent's report says of its host (pure)
    memory.py      which hosts this process has brought into which networks (pure)
    upstream.py    upstream's messages (pure); ours are in ovs_l2pop.sync.protocol
    notifier.py    RPC to agents
    sync.py        RPC from agents of ours
    wiring.py      what Neutron tells the driver `l2population` only
"""
