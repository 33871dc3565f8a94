"""A machine with several gateways."""
