"""Each process under a stepped clock (clock_shim.py) begins with this: libraries loaded later keep the true clock.

librdkafka waits with cnd_timedwait, which libfaketime does not know: the kernel would take a deadline of the stepped
clock for one of the true clock, and wait an hour, or not at all. So librdkafka must see the clock that the kernel sees.
"""

import os
import sys

sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_DEEPBIND)
