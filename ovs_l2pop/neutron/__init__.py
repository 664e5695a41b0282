"""Inside Neutron.

::

    protocol.py   what server and agents of ours say to each other; knows no Neutron
    replica.py    a host's copy of what the server told it; knows no Neutron
    server/       the ML2 mechanism driver
"""
