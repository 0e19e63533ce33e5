"""What the tests of degradation run over: every protocol, every crop convention, crops of one small size."""

from __future__ import annotations

import pytest

from components.degrade.protocol import protocols
from components.pose.crop import CONVENTIONS

PROTOCOLS = tuple(protocols())
SIZE = (32, 24)  # height, width, px
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
each_convention = pytest.mark.parametrize("convention", CONVENTIONS)
