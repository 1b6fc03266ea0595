"""libnghttp2, opened at run time: the functions and types of its 1.43 that are used.

https://nghttp2.org/documentation/apiref.html
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    typedef struct nghttp2_session nghttp2_session;
    typedef struct nghttp2_session_callbacks nghttp2_session_callbacks;
    typedef struct nghttp2_option nghttp2_option;
    """
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_option:
        pass

cdef struct nghttp2_nv:
    const uint8_t* name
    const uint8_t* value
    size_t namelen
    size_t valuelen
    uint8_t flags

cdef struct nghttp2_settings_entry:
    int32_t settings_id
    uint32_t value

cdef struct nghttp2_frame_hd:
    size_t length
    int32_t stream_id
    uint8_t type
    uint8_t flags
    uint8_t reserved

cdef struct nghttp2_priority_spec:
    int32_t stream_id
    int32_t weight
    uint8_t exclusive

cdef struct nghttp2_headers:
    nghttp2_frame_hd hd
    size_t padlen
    nghttp2_priority_spec pri_spec
    nghttp2_nv* nva
    size_t nvlen
    int cat

cdef struct nghttp2_ping:
    nghttp2_frame_hd hd
    uint8_t opaque_data[8]

cdef union nghttp2_frame:
    nghttp2_frame_hd hd
    nghttp2_headers headers
    nghttp2_ping ping

cdef union nghttp2_data_source:
    int fd
    void* ptr

ctypedef ssize_t (*data_source_read)(
    nghttp2_session* session, int32_t stream_id, uint8_t* target, size_t size, uint32_t* data_flags,
    nghttp2_data_source* source, void* user_data) noexcept

cdef struct nghttp2_data_provider:
    nghttp2_data_source source
    data_source_read read_callback

ctypedef int (*on_frame)(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) noexcept
ctypedef int (*on_header)(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
    const uint8_t* value, size_t value_size, uint8_t flags, void* user_data) noexcept
ctypedef int (*on_data_chunk)(
    nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data, size_t size,
    void* user_data) noexcept
ctypedef int (*on_stream_close)(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data) noexcept
ctypedef int (*send_data)(
    nghttp2_session* session, nghttp2_frame* frame, const uint8_t* frame_head, size_t size,
    nghttp2_data_source* source, void* user_data) noexcept

cdef enum:
    NGHTTP2_DATA = 0
    NGHTTP2_HEADERS = 1
    NGHTTP2_RST_STREAM = 3
    NGHTTP2_SETTINGS = 4
    NGHTTP2_PING = 6
    NGHTTP2_GOAWAY = 7

    NGHTTP2_FLAG_NONE = 0
    NGHTTP2_FLAG_END_STREAM = 1
    NGHTTP2_FLAG_ACK = 1

    NGHTTP2_HCAT_REQUEST = 0

    NGHTTP2_NV_FLAG_NO_COPY_NAME = 2
    NGHTTP2_NV_FLAG_NO_COPY_VALUE = 4

    NGHTTP2_DATA_FLAG_EOF = 1
    NGHTTP2_DATA_FLAG_NO_END_STREAM = 2
    NGHTTP2_DATA_FLAG_NO_COPY = 4

    NGHTTP2_SETTINGS_HEADER_TABLE_SIZE = 1
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS = 3
    NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE = 4
    NGHTTP2_SETTINGS_MAX_FRAME_SIZE = 5
    NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE = 6

    NGHTTP2_NO_ERROR = 0
    NGHTTP2_PROTOCOL_ERROR = 1
    NGHTTP2_INTERNAL_ERROR = 2
    NGHTTP2_CANCEL = 8
    NGHTTP2_ENHANCE_YOUR_CALM = 11

    NGHTTP2_ERR_WOULDBLOCK = -504
    NGHTTP2_ERR_DEFERRED = -508
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE = -521
    NGHTTP2_ERR_BAD_CLIENT_MAGIC = -903


# Fields are named as the functions are, without "nghttp2_". NULL until `open_library`.
cdef struct Api:
    int (*session_callbacks_new)(nghttp2_session_callbacks** made) noexcept
    void (*session_callbacks_del)(nghttp2_session_callbacks* callbacks) noexcept
    void (*session_callbacks_set_on_begin_headers_callback)(
        nghttp2_session_callbacks* callbacks, on_frame callback) noexcept
    void (*session_callbacks_set_on_header_callback)(
        nghttp2_session_callbacks* callbacks, on_header callback) noexcept
    void (*session_callbacks_set_on_frame_recv_callback)(
        nghttp2_session_callbacks* callbacks, on_frame callback) noexcept
    void (*session_callbacks_set_on_frame_send_callback)(
        nghttp2_session_callbacks* callbacks, on_frame callback) noexcept
    void (*session_callbacks_set_on_data_chunk_recv_callback)(
        nghttp2_session_callbacks* callbacks, on_data_chunk callback) noexcept
    void (*session_callbacks_set_on_stream_close_callback)(
        nghttp2_session_callbacks* callbacks, on_stream_close callback) noexcept
    void (*session_callbacks_set_send_data_callback)(
        nghttp2_session_callbacks* callbacks, send_data callback) noexcept
    int (*option_new)(nghttp2_option** made) noexcept
    void (*option_del)(nghttp2_option* option) noexcept
    void (*option_set_no_auto_window_update)(nghttp2_option* option, int value) noexcept
    # Since 1.57, and in distributions' corrected older ones: NULL elsewhere.
    void (*option_set_stream_reset_rate_limit)(
        nghttp2_option* option, uint64_t burst, uint64_t rate) noexcept
    int (*session_server_new2)(
        nghttp2_session** made, const nghttp2_session_callbacks* callbacks, void* user_data,
        const nghttp2_option* option) noexcept
    void (*session_del)(nghttp2_session* session) noexcept
    ssize_t (*session_mem_recv)(nghttp2_session* session, const uint8_t* data, size_t size) noexcept
    ssize_t (*session_mem_send)(nghttp2_session* session, const uint8_t** data) noexcept
    int (*session_want_read)(nghttp2_session* session) noexcept
    int (*session_want_write)(nghttp2_session* session) noexcept
    int (*session_consume)(nghttp2_session* session, int32_t stream_id, size_t size) noexcept
    int (*session_consume_connection)(nghttp2_session* session, size_t size) noexcept
    int (*session_consume_stream)(nghttp2_session* session, int32_t stream_id, size_t size) noexcept
    void* (*session_get_stream_user_data)(nghttp2_session* session, int32_t stream_id) noexcept
    int (*session_set_stream_user_data)(
        nghttp2_session* session, int32_t stream_id, void* data) noexcept
    int (*session_set_local_window_size)(
        nghttp2_session* session, uint8_t flags, int32_t stream_id, int32_t size) noexcept
    int32_t (*session_get_last_proc_stream_id)(nghttp2_session* session) noexcept
    int (*session_resume_data)(nghttp2_session* session, int32_t stream_id) noexcept
    size_t (*session_get_outbound_queue_size)(nghttp2_session* session) noexcept
    int (*submit_settings)(
        nghttp2_session* session, uint8_t flags, const nghttp2_settings_entry* entries,
        size_t size) noexcept
    int (*submit_response)(
        nghttp2_session* session, int32_t stream_id, const nghttp2_nv* headers, size_t size,
        const nghttp2_data_provider* provider) noexcept
    int (*submit_trailer)(
        nghttp2_session* session, int32_t stream_id, const nghttp2_nv* headers,
        size_t size) noexcept
    int (*submit_rst_stream)(
        nghttp2_session* session, uint8_t flags, int32_t stream_id, uint32_t error_code) noexcept
    int (*submit_ping)(nghttp2_session* session, uint8_t flags, const uint8_t* opaque) noexcept
    int (*submit_shutdown_notice)(nghttp2_session* session) noexcept
    int (*submit_goaway)(
        nghttp2_session* session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
        const uint8_t* opaque, size_t size) noexcept

cdef Api nghttp2
