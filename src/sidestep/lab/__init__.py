"""A real mini mesh on loopback: real Envoys as east-west gateway and sidecars, with sample services behind them."""
