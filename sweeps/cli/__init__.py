"""The command line: options, signals, the dry run, and choosing one trial of a finished sweep."""
