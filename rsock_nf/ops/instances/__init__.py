"""The instances of this host: their directories, the processes that hold them, and what dead ones have left."""
