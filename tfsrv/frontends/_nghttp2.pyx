"""libnghttp2, opened at run time: building needs no header, and a system without it runs too."""

import ctypes.util
import threading

from libc.stdint cimport uint64_t

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)
    char* dlerror()
    int RTLD_NOW
    int RTLD_LOCAL

ctypedef void (*set_rate_limit)(
    nghttp2_option* option, uint64_t burst, uint64_t rate) noexcept

cdef void* library = NULL           # never closed: sessions may live until the process ends
_lock = threading.Lock()


cdef int find(void** slot, const char* name) except -1:
    """Set `slot` to the function of that name."""
    slot[0] = dlsym(library, name)
    if slot[0] == NULL:
        raise ImportError(f"libnghttp2 is older than 1.43: it has no {name.decode()}")
    return 0


cdef int resolve() except -1:
    find(<void**>&nghttp2.session_callbacks_new, "nghttp2_session_callbacks_new")
    find(<void**>&nghttp2.session_callbacks_del, "nghttp2_session_callbacks_del")
    find(
        <void**>&nghttp2.session_callbacks_set_on_begin_headers_callback,
        "nghttp2_session_callbacks_set_on_begin_headers_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_on_header_callback,
        "nghttp2_session_callbacks_set_on_header_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_on_frame_recv_callback,
        "nghttp2_session_callbacks_set_on_frame_recv_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_on_frame_send_callback,
        "nghttp2_session_callbacks_set_on_frame_send_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_on_data_chunk_recv_callback,
        "nghttp2_session_callbacks_set_on_data_chunk_recv_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_on_stream_close_callback,
        "nghttp2_session_callbacks_set_on_stream_close_callback")
    find(
        <void**>&nghttp2.session_callbacks_set_send_data_callback,
        "nghttp2_session_callbacks_set_send_data_callback")
    find(<void**>&nghttp2.option_new, "nghttp2_option_new")
    find(<void**>&nghttp2.option_del, "nghttp2_option_del")
    find(
        <void**>&nghttp2.option_set_no_auto_window_update,
        "nghttp2_option_set_no_auto_window_update")
    find(<void**>&nghttp2.session_server_new2, "nghttp2_session_server_new2")
    find(<void**>&nghttp2.session_del, "nghttp2_session_del")
    find(<void**>&nghttp2.session_mem_recv, "nghttp2_session_mem_recv")
    find(<void**>&nghttp2.session_mem_send, "nghttp2_session_mem_send")
    find(<void**>&nghttp2.session_want_read, "nghttp2_session_want_read")
    find(<void**>&nghttp2.session_want_write, "nghttp2_session_want_write")
    find(<void**>&nghttp2.session_consume, "nghttp2_session_consume")
    find(<void**>&nghttp2.session_consume_connection, "nghttp2_session_consume_connection")
    find(<void**>&nghttp2.session_consume_stream, "nghttp2_session_consume_stream")
    find(<void**>&nghttp2.session_get_stream_user_data, "nghttp2_session_get_stream_user_data")
    find(<void**>&nghttp2.session_set_stream_user_data, "nghttp2_session_set_stream_user_data")
    find(<void**>&nghttp2.session_set_local_window_size, "nghttp2_session_set_local_window_size")
    find(
        <void**>&nghttp2.session_get_last_proc_stream_id,
        "nghttp2_session_get_last_proc_stream_id")
    find(<void**>&nghttp2.session_resume_data, "nghttp2_session_resume_data")
    find(
        <void**>&nghttp2.session_get_outbound_queue_size,
        "nghttp2_session_get_outbound_queue_size")
    find(<void**>&nghttp2.submit_settings, "nghttp2_submit_settings")
    find(<void**>&nghttp2.submit_response, "nghttp2_submit_response")
    find(<void**>&nghttp2.submit_trailer, "nghttp2_submit_trailer")
    find(<void**>&nghttp2.submit_rst_stream, "nghttp2_submit_rst_stream")
    find(<void**>&nghttp2.submit_ping, "nghttp2_submit_ping")
    find(<void**>&nghttp2.submit_shutdown_notice, "nghttp2_submit_shutdown_notice")
    find(<void**>&nghttp2.submit_goaway, "nghttp2_submit_goaway")
    nghttp2.option_set_stream_reset_rate_limit = <set_rate_limit>dlsym(
        library, "nghttp2_option_set_stream_reset_rate_limit")
    return 0


def open_library(path: str | None = None) -> None:
    """Open libnghttp2 once; ImportError says what to install when there is none.

    `path` names another library than the system's.
    """
    global library
    with _lock:
        if library != NULL:
            return
        for candidate in (path,) if path else ("libnghttp2.so.14", ctypes.util.find_library("nghttp2")):
            if candidate is None:
                continue
            library = dlopen(candidate.encode(), RTLD_NOW | RTLD_LOCAL)
            if library != NULL:
                break
        else:
            raise ImportError("libnghttp2 is not installed (Debian: apt-get install libnghttp2-14)")
        try:
            resolve()
        except ImportError:
            library = NULL
            raise
