"""When a request is sent again, by method: what may be repeated once the service has heard it, and what may not."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from sidestep.compile.envoy.gateways import Others
from sidestep.compile.envoy.resources import extension
from sidestep.spec.traffic import SAFE_FOR_ANY_METHOD, Duration, Retries, RetryOn

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort

_HEDGE_AFTER: Final = "2s"
"""A GET without an answer for so long is asked once more, by another gateway: this one may hang."""


class Methods(NamedTuple):
    """Requests that are retried alike: the match, and the part of the route's action that says so."""

    match: Resource
    action: Resource


def by_method(port: EgressPort, others: Others) -> list[Methods]:
    """Every request, with its retries: each entry matches what those before it do not, the last one whatever is left.

    ``others`` are the gateways that are left for a second try.
    """
    retries = port.traffic.retries
    may_hang = bool(others) and not port.is_http2_upstream
    if retries is None:
        return _default(others, may_hang)
    return _made(retries, others, may_hang) if retries.attempts else [Methods(_ANY, {})]


@cache
def _default(others: Others, may_hang: bool) -> list[Methods]:
    return _made(Retries.model_construct(attempts=2), others, may_hang)


def _made(retries: Retries, others: Others, may_hang: bool) -> list[Methods]:
    wanted = retries.retry_on or _WHEN_IDEMPOTENT
    hedged = retries.hedge_on_per_try_timeout or (
        may_hang and retries.hedge_on_per_try_timeout is None and retries.per_try_timeout is None
    )
    repeated = _action(retries, wanted, others)
    safe = [Methods(_methods(*SAFE), {**repeated, **_hedge(repeated)})] if hedged else []
    if retries.unsafe_any_method:
        return [*safe, Methods(_ANY, repeated)]
    nothing_sent = RetryOn(tuple(each for each in wanted.conditions if each in SAFE_FOR_ANY_METHOD))
    idempotent = REPEATABLE if hedged else (*SAFE, *REPEATABLE)
    left = Methods(_ANY, _action(retries, nothing_sent, others))
    return [*safe, Methods(_methods(*idempotent), repeated), left]


def _action(retries: Retries, when: RetryOn, others: Others) -> Resource:
    base = retries.backoff.milliseconds if retries.backoff else _BACKOFF.milliseconds
    policy: Resource = {
        "retry_on": ",".join(when.conditions),
        "num_retries": retries.attempts,
        "retry_back_off": {"base_interval": str(Duration(base)), "max_interval": str(Duration(20 * base))},
        **({"retriable_status_codes": when.codes} if when.codes else {}),
        **({"per_try_timeout": str(retries.per_try_timeout)} if retries.per_try_timeout else {}),
        **(_ANOTHER_OF_EQUALS if Others.EQUAL in others else {}),
        **(_THE_NEXT if Others.NEXT in others else {}),
    }
    return {"retry_policy": policy}


def _hedge(action: Resource) -> Resource:
    """The same, asking again without giving up what has been asked: the first good answer counts."""
    policy = action["retry_policy"]
    assert isinstance(policy, dict)
    return {
        "retry_policy": {"per_try_timeout": _HEDGE_AFTER, **policy},
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }


def _methods(*names: str) -> Resource:
    matcher: Resource = {"safe_regex": {"regex": "|".join(names)}}
    return {"prefix": "/", "headers": [{"name": ":method", "string_match": matcher}]}


SAFE: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
"""Methods that change nothing (RFC 9110 §9.2.1): two of them under way at once are as good as one."""
REPEATABLE: Final = ("PUT", "DELETE")
"""The others that may be sent twice, one after the other (RFC 9110 §9.2.2)."""
_ANY: Final[Resource] = {"prefix": "/"}
_WHEN_IDEMPOTENT: Final = RetryOn(("connect-failure", "refused-stream", "reset-before-request", "reset"))
_BACKOFF: Final = Duration(5)
# Each of these costs thousands of services, so none is there that could not change where a second try goes.
_ANOTHER_OF_EQUALS: Final[Resource] = {
    "retry_host_predicate": [
        extension("envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")
    ],
    # Of two gateways, one draw in four is of the same one again.
    "host_selection_retry_max_attempts": 10,
}
_THE_NEXT: Final[Resource] = {
    "retry_priority": extension(
        "envoy.retry_priorities.previous_priorities",
        "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        update_frequency=1,
    ),
}
