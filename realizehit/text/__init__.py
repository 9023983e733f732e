"""Texts for people and programs: secrets masked, causes and suggestions in words, log lines bounded, surrogates."""
