"""The processes on Kafka, the loop that they share, the local stack and the command line."""
