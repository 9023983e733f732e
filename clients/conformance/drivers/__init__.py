"""Drivers of the clients that live in this repository's Python package."""
