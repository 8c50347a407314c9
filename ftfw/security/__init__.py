"""Authentication and freshness of frames, and link keys.  Sans-I/O."""
