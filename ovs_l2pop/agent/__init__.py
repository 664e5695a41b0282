"""The agent of a host: one worker, and what it owns.

::

    worker.py      takes messages in, keeps the table, has the dataplane follow; one thread
    jobs.py        what others hand to it
    keeping.py     the table is on disk before anything is acknowledged
    store.py       that file
    dataplane.py   the dataplane in line, or why not and when that is tried again
    watch.py       when to look for what somebody else changed
    telling.py     what the log says of messages
    history.py     what it was told lately
    counters.py    what it has done so far
    metrics.py     that, and what it holds, for Prometheus
    control.py     the control socket
    views.py       what an agent shows of itself there
    client.py      the other side of the socket
"""
