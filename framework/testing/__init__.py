"""testing: checks for plugin authors, one pytest id for each component and check.

A plugin's test file:

    from framework.testing import plugin_checks

    import my_policy

    test_plugin = plugin_checks(my_policy)
"""

from framework.testing.case import Case, Check, check
from framework.testing.kit import failures, plugin_checks

__all__ = ["Case", "Check", "check", "failures", "plugin_checks"]
