"""The command line. One command per file, each thin: it builds a plan, calls the engine, shows the result."""
