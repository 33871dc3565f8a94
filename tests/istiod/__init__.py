"""Sidestep's bundle in a mesh whose gateway and sidecars the real istiod configures."""
