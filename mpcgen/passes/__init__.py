"""Rewrites between derivatives and text, one a file: each takes functions of the graph and gives equal ones."""
