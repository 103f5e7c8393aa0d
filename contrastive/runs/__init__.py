"""Composition: what a command does, from its arguments to its files. The only code that knows every part."""
