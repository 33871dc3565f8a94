"""What the lab shows: calls that pass, and calls that must not.

Every refusal names who must have refused and for which reason, so that it cannot pass for a wrong one; and every
refusal is the same call as one that passes, but for the one thing that is wrong.
"""

from typing import Final

from sidestep.lab.scenarios import (
    addresses,
    app_tls,
    by_name,
    calls,
    changes,
    gateways,
    impostors,
    ingress,
    policy,
    traffic,
    transcoding,
)
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict

__all__ = ["EGRESS", "SCENARIOS", "SOCKETS", "TUNED", "Call", "Outcome", "Scenario", "Verdict"]

SCENARIOS: Final = (
    *calls.SCENARIOS,
    *by_name.SCENARIOS,
    *addresses.SCENARIOS,
    *app_tls.SCENARIOS,
    *traffic.SCENARIOS,
    *changes.SCENARIOS,
    *gateways.SCENARIOS,
    *policy.SCENARIOS,
    *transcoding.SCENARIOS,
    *impostors.SCENARIOS,
    *ingress.SCENARIOS,
)
EGRESS: Final = tuple(
    dict.fromkeys((*calls.EGRESS, *app_tls.EGRESS, *traffic.EGRESS, *policy.EGRESS, *transcoding.EGRESS))
)
"""The ports of services that the lab's machine calls."""
SOCKETS: Final = by_name.SOCKETS
"""Those that it calls through a unix-domain socket, too."""
TUNED: Final = traffic.TUNED
"""Those whose traffic the machine's spec says something of."""
