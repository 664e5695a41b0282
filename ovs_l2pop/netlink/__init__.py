"""The kernel's netlink: what the agent and a backend share of it.

::

    messages.py    messages and attributes, to bytes and back
    socket.py      the conversation: packets of many, errors by message, dumps
    addresses.py   the addresses of this host
"""
