"""What the lab shows: calls that pass, and calls that must not.

Every refusal names who must have refused and for which reason, so that it cannot pass for a wrong one; and every
refusal is the same call as one that passes, but for the one thing that is wrong.
"""

from typing import Final

from sidestep.lab.scenarios import (
    addresses,
    by_name,
    calls,
    changes,
    forwarder,
    impostors,
    ingress,
    policy,
    transcoding,
)
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict

__all__ = ["EGRESS", "SCENARIOS", "SOCKETS", "Call", "Outcome", "Scenario", "Verdict"]

SCENARIOS: Final = (
    *calls.SCENARIOS,
    *by_name.SCENARIOS,
    *addresses.SCENARIOS,
    *changes.SCENARIOS,
    *policy.SCENARIOS,
    *transcoding.SCENARIOS,
    *impostors.SCENARIOS,
    *ingress.SCENARIOS,
    *forwarder.SCENARIOS,
)
EGRESS: Final = tuple(dict.fromkeys((*calls.EGRESS, *policy.EGRESS, *transcoding.EGRESS)))
"""The ports of services that the lab's machine calls."""
SOCKETS: Final = by_name.SOCKETS
"""Those that it calls through a unix-domain socket, too."""
