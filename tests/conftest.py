"""Settings that every test shares."""

from hypothesis import HealthCheck, settings

# Machines are noisy: how long one example takes is no property of the code.
settings.register_profile(
    "project", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")
