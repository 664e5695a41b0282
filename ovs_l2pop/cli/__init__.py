"""The command ``ovs-l2pop``: one module a command, none of which the agent's code knows."""
