"""Evaluation: pictures by several methods, scored against clean ones, with statistics that can be quoted."""
