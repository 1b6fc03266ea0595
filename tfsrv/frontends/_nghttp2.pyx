"""libnghttp2, opened at run time, so that building needs no header and a system without it runs too."""

import ctypes.util
import threading

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)
    char* dlerror()
    int RTLD_NOW
    int RTLD_LOCAL

cdef void* library = NULL           # never closed: sessions may live until the process ends
_lock = threading.Lock()


cdef void* symbol(const char* name) except NULL:
    cdef void* found = dlsym(library, name)
    if found == NULL:
        raise ImportError(f"libnghttp2 is older than 1.43: it has no {name.decode()}")
    return found


cdef int resolve() except -1:
    (<void**>&nghttp2.session_callbacks_new)[0] = symbol("nghttp2_session_callbacks_new")
    (<void**>&nghttp2.session_callbacks_del)[0] = symbol("nghttp2_session_callbacks_del")
    (<void**>&nghttp2.session_callbacks_set_on_begin_headers_callback)[0] = symbol("nghttp2_session_callbacks_set_on_begin_headers_callback")
    (<void**>&nghttp2.session_callbacks_set_on_header_callback)[0] = symbol("nghttp2_session_callbacks_set_on_header_callback")
    (<void**>&nghttp2.session_callbacks_set_on_frame_recv_callback)[0] = symbol("nghttp2_session_callbacks_set_on_frame_recv_callback")
    (<void**>&nghttp2.session_callbacks_set_on_frame_send_callback)[0] = symbol("nghttp2_session_callbacks_set_on_frame_send_callback")
    (<void**>&nghttp2.session_callbacks_set_on_data_chunk_recv_callback)[0] = symbol("nghttp2_session_callbacks_set_on_data_chunk_recv_callback")
    (<void**>&nghttp2.session_callbacks_set_on_stream_close_callback)[0] = symbol("nghttp2_session_callbacks_set_on_stream_close_callback")
    (<void**>&nghttp2.session_callbacks_set_send_data_callback)[0] = symbol("nghttp2_session_callbacks_set_send_data_callback")
    (<void**>&nghttp2.option_new)[0] = symbol("nghttp2_option_new")
    (<void**>&nghttp2.option_del)[0] = symbol("nghttp2_option_del")
    (<void**>&nghttp2.option_set_no_auto_window_update)[0] = symbol("nghttp2_option_set_no_auto_window_update")
    (<void**>&nghttp2.session_server_new2)[0] = symbol("nghttp2_session_server_new2")
    (<void**>&nghttp2.session_del)[0] = symbol("nghttp2_session_del")
    (<void**>&nghttp2.session_mem_recv)[0] = symbol("nghttp2_session_mem_recv")
    (<void**>&nghttp2.session_mem_send)[0] = symbol("nghttp2_session_mem_send")
    (<void**>&nghttp2.session_want_read)[0] = symbol("nghttp2_session_want_read")
    (<void**>&nghttp2.session_want_write)[0] = symbol("nghttp2_session_want_write")
    (<void**>&nghttp2.session_consume)[0] = symbol("nghttp2_session_consume")
    (<void**>&nghttp2.session_consume_connection)[0] = symbol("nghttp2_session_consume_connection")
    (<void**>&nghttp2.session_get_stream_user_data)[0] = symbol("nghttp2_session_get_stream_user_data")
    (<void**>&nghttp2.session_set_stream_user_data)[0] = symbol("nghttp2_session_set_stream_user_data")
    (<void**>&nghttp2.session_set_local_window_size)[0] = symbol("nghttp2_session_set_local_window_size")
    (<void**>&nghttp2.session_get_last_proc_stream_id)[0] = symbol("nghttp2_session_get_last_proc_stream_id")
    (<void**>&nghttp2.session_resume_data)[0] = symbol("nghttp2_session_resume_data")
    (<void**>&nghttp2.session_get_outbound_queue_size)[0] = symbol("nghttp2_session_get_outbound_queue_size")
    (<void**>&nghttp2.submit_settings)[0] = symbol("nghttp2_submit_settings")
    (<void**>&nghttp2.submit_response)[0] = symbol("nghttp2_submit_response")
    (<void**>&nghttp2.submit_trailer)[0] = symbol("nghttp2_submit_trailer")
    (<void**>&nghttp2.submit_rst_stream)[0] = symbol("nghttp2_submit_rst_stream")
    (<void**>&nghttp2.submit_ping)[0] = symbol("nghttp2_submit_ping")
    (<void**>&nghttp2.submit_shutdown_notice)[0] = symbol("nghttp2_submit_shutdown_notice")
    (<void**>&nghttp2.submit_goaway)[0] = symbol("nghttp2_submit_goaway")
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
