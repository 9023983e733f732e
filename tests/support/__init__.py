"""Helpers for tests of several folders: brokers, servers and clients that a test controls, and oracles."""
