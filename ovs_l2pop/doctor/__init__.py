"""What is wrong at this host, in plain words.

* :mod:`~ovs_l2pop.doctor.evidence`: what was seen, as values
* :mod:`~ovs_l2pop.doctor.findings`: what follows from it; pure
* :mod:`~ovs_l2pop.doctor.gather`: looks: asks the agent, the switch, the kernel and the underlay
* :mod:`~ovs_l2pop.doctor.probes`: packets to other VTEPs, and what comes back
* :mod:`~ovs_l2pop.doctor.tracing`: what becomes of one frame
* :mod:`~ovs_l2pop.doctor.tools`: programs that are run for it
"""
