"""The network: attention, layers, transformer, experts."""
