"""The tests of the core once more, with the native pump in front of every endpoint."""

from __future__ import annotations

import pytest

from tests.core.test_answers import *  # noqa: F403
from tests.core.test_attacks import *  # noqa: F403
from tests.core.test_carriers import *  # noqa: F403
from tests.core.test_conversations import *  # noqa: F403
from tests.core.test_flows import *  # noqa: F403
from tests.core.test_path_mtu import *  # noqa: F403
from tests.core.test_rekey import *  # noqa: F403
from tests.core.test_session import *  # noqa: F403
from tests.core.test_traffic import *  # noqa: F403
from tests.core.test_weather import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("native_ends")
