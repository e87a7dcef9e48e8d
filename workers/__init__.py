"""The Kafka workers and their loop, the local stack, the client, the web page and the command line."""
