"""SQL over the data folder: DuckDB views, run in a sandbox."""
