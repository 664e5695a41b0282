"""What a host and a server with our driver say to each other; knows no Neutron.

::

    protocol.py   the calls, and what they carry
    replica.py    a host's copy of what the server told it
    follower.py   what the server tells: updates, and asking for all
    endpoint.py   the follower's end of RPC
"""
