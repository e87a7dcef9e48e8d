"""The Kafka clients: the only folder that imports `kafka`."""

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, TopicPartition

__all__ = ["ConsumerRebalanceListener", "KafkaAdminClient", "KafkaConsumer", "TopicPartition"]
