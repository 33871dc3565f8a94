"""Keys, certificates and the names in them. Pure: bytes in, bytes out; the moment is always passed in as ``now``.

============== =============================================================================
`pki.spiffe`    `SpiffeId`, the name of a workload (the one module here without cryptography)
`pki.keys`      private keys: made, written, read, compared
`pki.requests`  certificate signing requests: made, and checked by whoever signs
`pki.pem`       certificates out of PEM text; the roots that a document names
`pki.chain`     does a leaf lead to a root, as Envoy would see it?
`pki.authority` a CA that can sign: made, loaded, used
`pki.identity`  `Identity`, what a workload holds: key, chain, roots
============== =============================================================================

Import from the module that has the noun. Nothing is re-exported here, so that whoever needs a name alone does not
pay for loading a crypto library.
"""
