"""The laboratory's commands: ``ovs-l2pop demo`` and ``ovs-l2pop compare``."""
