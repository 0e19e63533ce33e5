"""One module per group of commands; each function takes the parsed command line and returns an exit code."""
