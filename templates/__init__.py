"""Jinja templates and C runtime headers, shipped as package data."""
