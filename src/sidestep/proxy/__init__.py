"""One Envoy: found, asked whether it takes a configuration, run, watched and stopped.

================= =====================================================================
`proxy.binary`     `find` an Envoy: which one, how old, why that one
`proxy.validation` does it take this configuration? If not, why, in a line
`proxy.process`    `Process`: start, become ready, drain, stop
`proxy.admin`      its admin interface, over a unix socket or TCP
`proxy.complaints` what matters in its log
`proxy.limits`     how many open files it needs, and whether it may have them
================= =====================================================================

Import from the module that has the noun: `proxy.process` loads asyncio, and who validates only need not.
"""
