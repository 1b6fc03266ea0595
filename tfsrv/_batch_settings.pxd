"""BatchingParameters as the batch scheduler reads them."""

from tfsrv._batching cimport BatchSettings

cdef int batch_settings_read(BatchSettings* settings, object parameters) except -1
