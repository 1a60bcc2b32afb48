"""A module for each command, of the same name.

``run`` does it and returns the exit status; ``add_arguments`` declares its arguments, if it has any.  A command calls
``config``, ``daemon`` and ``ops``, and prints.  Everything heavy is imported where it is needed, so that ``status``
feels instant.  Not here: the list of the commands, and their headings (``cli``).
"""
