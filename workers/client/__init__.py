"""The client library: publish facts, wait until they are decided, and ask the model.

from workers import client

client.publish(settings, [("default", Fact(text="The Harlow desk lamp is made of walnut."))], wait=True)
for piece in client.ask(settings, GenerationRequest(prompt="The Harlow desk lamp is made of")):
    ...
"""

from workers.client.asking import Client, ask
from workers.client.errors import Busy, ClientError
from workers.client.on_loop import LoopClient
from workers.client.publishing import Published, publish

__all__ = ["Busy", "Client", "ClientError", "LoopClient", "Published", "ask", "publish"]
