"""Envoy resources: one module a kind of resource."""
