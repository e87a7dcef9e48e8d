"""Every message on every topic, and the columns of the history: one module a message.

Knows what a valid message is. Knows nothing of models, memories or Kafka clients.
"""
