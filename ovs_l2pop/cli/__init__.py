"""The command ``ovs-l2pop``, none of which the agent's code knows.

::

    main.py       where it begins; `send` goes its own way, for it must start fast
    app.py        the application, its global options
    base.py       what commands share
    agent.py      run the agent
    send.py       hand messages to it; sending.py does it without the application
    show.py       what it holds
    check.py      what differs, and mending that
    why.py        who told it what, and what follows
    trace.py      where a machine's frame goes
    doctor.py     what is wrong at this host
    clean.py      take everything of ours out of the dataplane
    declare.py    all that it holds, as a document
    pipeline.py   the tables and flow templates
    service.py    what a service manager is told
    stderr.py     a log that never waits for its reader
"""
