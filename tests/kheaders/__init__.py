"""Makes real header archives and a real kheaders.ko out of the distribution's kernel packages."""
