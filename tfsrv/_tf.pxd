"""TensorFlow's C API: the functions that are used, as pointers filled in by `_tf.open_library`."""

from libc.stdint cimport int64_t, uint8_t

from tfsrv._status cimport Status


cdef struct TF_Status
cdef struct TF_Tensor
cdef struct TF_Graph
cdef struct TF_Operation
cdef struct TF_Session
cdef struct TF_SessionOptions
cdef struct TF_DeviceList
cdef struct TF_Library

cdef struct TF_Buffer:
    const void* data
    size_t length
    void (*data_deallocator)(void* data, size_t length) noexcept nogil

cdef struct TF_Output:
    TF_Operation* oper
    int index

# DataType of tensorflow/core/framework/types.proto. No type of its own: C would compare it without a sign.
cdef enum:
    DT_INVALID = 0
    DT_FLOAT = 1
    DT_DOUBLE = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 5
    DT_INT8 = 6
    DT_STRING = 7
    DT_COMPLEX64 = 8
    DT_INT64 = 9
    DT_BOOL = 10
    DT_QINT8 = 11
    DT_QUINT8 = 12
    DT_QINT32 = 13
    DT_BFLOAT16 = 14
    DT_QINT16 = 15
    DT_QUINT16 = 16
    DT_UINT16 = 17
    DT_COMPLEX128 = 18
    DT_HALF = 19
    DT_RESOURCE = 20
    DT_VARIANT = 21
    DT_UINT32 = 22
    DT_UINT64 = 23
    DT_FLOAT8_E5M2 = 24
    DT_FLOAT8_E4M3FN = 25

ctypedef void (*tensor_deallocator)(void* data, size_t size, void* arg) noexcept nogil

# Field names are the C functions' names without "TF_". All pointers are set once the library
# is open, NULL before. The library stays open until the process ends.
cdef struct Api:
    const char* (*Version)() noexcept nogil
    size_t (*DataTypeSize)(int dtype) noexcept nogil
    TF_Status* (*NewStatus)() noexcept nogil
    void (*DeleteStatus)(TF_Status*) noexcept nogil
    void (*SetStatus)(TF_Status*, int code, const char* message) noexcept nogil
    int (*GetCode)(const TF_Status*) noexcept nogil
    const char* (*Message)(const TF_Status*) noexcept nogil
    TF_Buffer* (*NewBuffer)() noexcept nogil
    void (*DeleteBuffer)(TF_Buffer*) noexcept nogil
    TF_Tensor* (*NewTensor)(
        int dtype, const int64_t* dims, int rank, void* data, size_t size,
        tensor_deallocator deallocator, void* arg) noexcept nogil
    void (*DeleteTensor)(TF_Tensor*) noexcept nogil
    int (*TensorType)(const TF_Tensor*) noexcept nogil
    int (*NumDims)(const TF_Tensor*) noexcept nogil
    int64_t (*Dim)(const TF_Tensor*, int index) noexcept nogil
    size_t (*TensorByteSize)(const TF_Tensor*) noexcept nogil
    void* (*TensorData)(const TF_Tensor*) noexcept nogil
    int64_t (*TensorElementCount)(const TF_Tensor*) noexcept nogil
    TF_Graph* (*NewGraph)() noexcept nogil
    void (*DeleteGraph)(TF_Graph*) noexcept nogil
    TF_Operation* (*GraphOperationByName)(TF_Graph*, const char* name) noexcept nogil
    int (*OperationNumOutputs)(TF_Operation*) noexcept nogil
    int (*OperationOutputType)(TF_Output) noexcept nogil
    TF_SessionOptions* (*NewSessionOptions)() noexcept nogil
    void (*DeleteSessionOptions)(TF_SessionOptions*) noexcept nogil
    void (*SetConfig)(TF_SessionOptions*, const void* proto, size_t size, TF_Status*) noexcept nogil
    TF_Session* (*NewSession)(TF_Graph*, const TF_SessionOptions*, TF_Status*) noexcept nogil
    TF_Session* (*LoadSessionFromSavedModel)(
        const TF_SessionOptions*, const TF_Buffer* run_options, const char* export_dir,
        const char* const* tags, int tags_size, TF_Graph*, TF_Buffer* meta_graph_def,
        TF_Status*) noexcept nogil
    void (*SessionRun)(
        TF_Session*, const TF_Buffer* run_options,
        const TF_Output* inputs, TF_Tensor* const* input_values, int inputs_size,
        const TF_Output* outputs, TF_Tensor** output_values, int outputs_size,
        const TF_Operation* const* targets, int targets_size, TF_Buffer* run_metadata,
        TF_Status*) noexcept nogil
    void (*CloseSession)(TF_Session*, TF_Status*) noexcept nogil
    void (*DeleteSession)(TF_Session*, TF_Status*) noexcept nogil
    TF_DeviceList* (*SessionListDevices)(TF_Session*, TF_Status*) noexcept nogil
    void (*DeleteDeviceList)(TF_DeviceList*) noexcept nogil
    int (*DeviceListCount)(const TF_DeviceList*) noexcept nogil
    const char* (*DeviceListName)(const TF_DeviceList*, int index, TF_Status*) noexcept nogil
    const char* (*DeviceListType)(const TF_DeviceList*, int index, TF_Status*) noexcept nogil
    TF_Library* (*LoadLibrary)(const char* path, TF_Status*) noexcept nogil
    TF_Buffer (*GetOpList)(TF_Library*) noexcept nogil
    void (*SetPerThreadMaxParallelism)(int threads) noexcept nogil  # NULL if there is none

cdef Api api

cdef int take_status(TF_Status* status, Status* into) noexcept nogil
cdef TF_Status* thread_status() noexcept nogil
cdef bint can_limit_threads() noexcept nogil
cdef void limit_threads(bint to_one) noexcept nogil
