"""Commands that the daemon does not trust, or may not run itself: in units, or in confined children."""
