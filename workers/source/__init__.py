"""The source worker: upstream records in, facts out; the mapping between is YAML and Jinja."""
