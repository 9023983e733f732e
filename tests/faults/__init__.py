"""What happens when something breaks: real parts, broken on purpose."""
