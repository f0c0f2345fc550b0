"""The commands of the command line: each parses, calls one function of the library, and prints."""
