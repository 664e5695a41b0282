"""The Open vSwitch backend: tunnel ports by OVSDB, flows by OpenFlow.

::

    pipeline.py   flows/*.yaml as values, checked
    codec.py      the OpenFlow library: values to bytes and back
    stamps.py     templates compiled once, stamped per row
    selfcheck.py  the same in the form in which this Open vSwitch returns flows
    render.py     facts to rows
    transport.py  bytes to and from a bridge: its management socket
    channel.py    OpenFlow bundles and reads
    columns.py    what the columns of our rows in OVSDB must be
    ovsdb.py      bridges and tunnel ports: ovsdb_copy.py reads, ovsdb_commands.py writes
    portflags.py  what OpenFlow alone knows of ports
    backend.py    all of it behind the shared interface
"""
