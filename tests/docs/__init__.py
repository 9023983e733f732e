"""What a newcomer reads and follows: the pages, their snippets, the examples and the recipes, run as they stand."""
