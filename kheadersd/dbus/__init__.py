"""D-Bus: a connection that survives what others send, and the dispatch of calls to objects."""
