"""The user's documents: YAML in, checked and resolved models out.

``documents`` reads YAML and knows where everything stands in it, ``model`` says what a document may hold, ``resolve``
brings a workload together with the mesh that it names, ``load`` does all three and reports every problem at once.
"""

from sidestep.spec.inbound import IngressPort
from sidestep.spec.ingress import Ingress, Rule
from sidestep.spec.load import Spec, load, schema
from sidestep.spec.model import Gateway, Mesh, Port, Service, Workload
from sidestep.spec.proxy import Proxy
from sidestep.spec.resolve import EgressPort, Machine
from sidestep.spec.scalars import Listen, Protocol
from sidestep.spec.sockets import LocalAddress, UnixSocket
from sidestep.spec.transcode import Transcode, Transcoding

__all__ = [
    "EgressPort",
    "Gateway",
    "Ingress",
    "IngressPort",
    "Listen",
    "LocalAddress",
    "Machine",
    "Mesh",
    "Port",
    "Protocol",
    "Proxy",
    "Rule",
    "Service",
    "Spec",
    "Transcode",
    "Transcoding",
    "UnixSocket",
    "Workload",
    "load",
    "schema",
]
