"""What the bytes look like: one folder for each wire.  Each implements the interfaces of ``core`` (``ends.wire``)."""
