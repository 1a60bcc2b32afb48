"""Man pages and completions, made of the parsers of the command line and of the table of configuration keys."""
