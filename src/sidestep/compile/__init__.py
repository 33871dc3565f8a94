"""From a machine's spec to what its Envoy is told. Pure: no files, no network, no clock."""

from sidestep.compile.plan import Plan, compile_machine

__all__ = ["Plan", "compile_machine"]
