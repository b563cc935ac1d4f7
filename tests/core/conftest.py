"""Settings of the core's tests: hypothesis decides the same on every machine; helpers explain their failures."""

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite(
    "tests.harness.core.side_by_side", "tests.harness.core.by_hand", "tests.harness.core.orders"
)

settings.register_profile(
    "core",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
settings.load_profile("core")
