"""The lab: studies that train, measure and report; needs the extra `hopmix[lab]`."""

import sys

from hopmix.lab._moved import Moved

sys.meta_path.append(Moved())
