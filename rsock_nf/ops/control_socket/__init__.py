"""The control socket of an instance: ``ask`` is the side of who asks, ``serve`` that of the instance."""
