"""Photographs in, training batches out."""
