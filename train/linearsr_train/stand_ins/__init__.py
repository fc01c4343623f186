"""Tiny random components with the interfaces of the published ones, made offline for tests and debug runs."""
