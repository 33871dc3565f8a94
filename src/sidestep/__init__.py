"""Put any machine into an Istio mesh without connecting it to istiod."""

__version__ = "0.1.0"
