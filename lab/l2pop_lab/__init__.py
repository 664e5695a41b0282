"""The laboratory: hosts in network namespaces, with real switches, real agents and real frames.

::

    topology/      hosts, machines and what connects them; frames sent and captured
    flowtable.py   where a frame goes, asked of rows instead of a switch
    demo/          ``ovs-l2pop demo``
    compare/       ``ovs-l2pop compare``
    cli/           both as commands
    errors.py      what can go wrong
"""
