"""Inside Neutron.

::

    protocol.py   what server and agents of ours say to each other; knows no Neutron
    replica.py    a host's copy of what the server told it; knows no Neutron
    server/       the ML2 mechanism driver
    agent/        a host on which Neutron's own agent runs
    daemon/       a host without one: the daemon listens to the server
"""
