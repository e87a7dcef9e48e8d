"""Schemas of the custom resources in deploy/kubernetes: the fields that it uses, and no others.

No package has the whole ones in a form that refuses unknown fields. These follow the definitions of Strimzi
(kafka.strimzi.io/v1), KEDA (keda.sh/v1alpha1) and the Prometheus Operator (monitoring.coreos.com/v1). A field that a
manifest begins to use is added here.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(*optional: str, **fields: Schema) -> Schema:
    """An object with these fields, which it must have unless they are `optional`."""
    required = [field for field in fields if field not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def resource(version: str, kind: str, spec: Schema) -> Schema:
    metadata = closed("namespace", "labels", name=TEXT, namespace=TEXT, labels=TEXTS)
    return closed(apiVersion=one_of(version), kind=one_of(kind), metadata=metadata, spec=spec)


ACL = closed(
    resource=closed(type=one_of("topic", "group"), name=TEXT),
    operations=listed(one_of("Read", "Write", "Describe")),
)
QUOTA: Schema = {"type": "integer", "minimum": 0}
SCALING_POLICY = closed(type=one_of("Pods", "Percent"), value=COUNT, periodSeconds=COUNT)
SCALING = closed(
    "policies",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies=listed(SCALING_POLICY),
)

SCHEMAS = {
    "KafkaTopic": resource(
        "kafka.strimzi.io/v1", "KafkaTopic", closed(topicName=TEXT, partitions=COUNT, config=TEXTS)
    ),
    "KafkaUser": resource(
        "kafka.strimzi.io/v1",
        "KafkaUser",
        closed(
            "quotas",
            authentication=closed(type=one_of("tls")),
            authorization=closed(type=one_of("simple"), acls=listed(ACL)),
            quotas=closed(
                "producerByteRate",
                "consumerByteRate",
                producerByteRate=QUOTA,
                consumerByteRate=QUOTA,
                requestPercentage=QUOTA,
            ),
        ),
    ),
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            scaleTargetRef=closed(name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            triggers=listed(
                closed(
                    type=one_of("kafka"),
                    metadata=closed(
                        bootstrapServersFromEnv=TEXT,
                        consumerGroup=TEXT,
                        topic=TEXT,
                        lagThreshold={"type": "string", "pattern": "^[1-9][0-9]*$"},
                        offsetResetPolicy=one_of("earliest", "latest"),
                        limitToPartitionsWithLag=one_of("true", "false"),
                        version=TEXT,
                        tls=one_of("enable", "disable"),
                    ),
                    authenticationRef=closed(name=TEXT),
                )
            ),
            advanced=closed(
                horizontalPodAutoscalerConfig=closed(behavior=closed(scaleUp=SCALING, scaleDown=SCALING))
            ),
        ),
    ),
    "TriggerAuthentication": resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed(
            secretTargetRef=listed(closed(parameter=one_of("ca", "cert", "key"), name=TEXT, key=TEXT)),
        ),
    ),
    "PodMonitor": resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        closed(
            jobLabel=TEXT,
            selector=closed(matchLabels=TEXTS),
            podMetricsEndpoints=listed(
                closed(port=TEXT, path=TEXT, interval={"type": "string", "pattern": "^[0-9]+s$"})
            ),
        ),
    ),
}
