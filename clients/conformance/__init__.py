"""The conformance kit: one set of cases that the clients of every language pass. See README.md beside this file."""
