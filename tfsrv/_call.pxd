"""One request in flight, whatever protocol it came by, and the loop that answers it."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._message cimport Message
from tfsrv._serving_map cimport Servable
from tfsrv._session cimport Signature
from tfsrv._status cimport Status
from tfsrv._tf cimport TF_Tensor
from tfsrv._wire cimport PredictView
