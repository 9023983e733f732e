"""The description of the API for machines, served at ``/openapi.json``: OpenAPI 3.1, one file for each subject."""
