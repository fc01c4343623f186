"""One module a command; each parses, calls one core function and prints."""
