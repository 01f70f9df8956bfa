"""For property tests: what a machine that is busy with other things takes long for has not failed."""

from hypothesis import HealthCheck, settings

at_any_pace = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Decorates a test with `given`."""
