"""The control socket of an instance: ``ask`` is for commands, ``serve`` for the instance."""
