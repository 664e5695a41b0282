"""The Open vSwitch backend: tunnel ports by OVSDB, flows by OpenFlow.

Pure::

    options.py        the options, checked, as settings
    rows.py           rows, and how they travel in OpenFlow messages
    pipeline.py       flows/*.yaml as values, checked
    dialect.py        what Open vSwitch speaks and the OpenFlow libraries don't
    codec.py          the OpenFlow library: values to bytes and back
    stamps.py         templates compiled once, stamped per row
    render.py         facts to rows
    plan.py           rows to add and to remove → what is written, in which order
    lingering.py      what stays a moment longer, for packets on their way
    reading.py        what a flow tells of itself, whoever wrote it
    sizes.py          what the underlay has room for
    icmp_errors.py    what is answered to a packet that is too large
    columns.py        what the columns of our rows in OVSDB must be

What carries it out::

    transport.py      bytes to and from a bridge: its management socket
    datapath.py       the same by the connection of Neutron's agent
    channel.py        OpenFlow bundles and reads
    looking.py        flows read back beside other work
    packetin.py       packets that are too large, from the switch and answered
    portflags.py      what OpenFlow alone knows of ports
    ovsdb.py          bridges and tunnel ports
    ovsdb_copy.py     the copy of the database that it reads
    ovsdb_commands.py the transactions that it makes
    ovsdb_library.py  what is used of ovs and ovsdbapp
    appctl.py         what ovs-appctl asks
    sightings.py      where the integration bridge believes machines to be
    selfcheck.py      the form in which this Open vSwitch returns flows
    backend.py        all of it behind the shared interface
"""
