"""The HTTP server of `factstream serve`: the web page, and the APIs, each in a folder of its own."""
