"""Headers on request: the decision where a release gets its headers from, and what is served."""
