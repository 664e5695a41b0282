"""How long an example takes says something of the machine: no test of hypothesis fails for that."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
