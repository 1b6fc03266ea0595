"""Atomic operations, one declaration for each type that needs it (see _atomic.h)."""

from libc.stdint cimport int64_t, uint64_t


cdef extern from "_atomic.h" nogil:
    int load_relaxed_int "tfsrv_load_relaxed"(const int* p)
    int load_acquire_int "tfsrv_load_acquire"(const int* p)
    int load_seq_cst_int "tfsrv_load_seq_cst"(const int* p)
    void store_relaxed_int "tfsrv_store_relaxed"(int* p, int value)
    void store_release_int "tfsrv_store_release"(int* p, int value)
    void store_seq_cst_int "tfsrv_store_seq_cst"(int* p, int value)
    int add_relaxed_int "tfsrv_add_relaxed"(int* p, int value)
    int add_acq_rel_int "tfsrv_add_acq_rel"(int* p, int value)
    int add_seq_cst_int "tfsrv_add_seq_cst"(int* p, int value)
    int exchange_int "tfsrv_exchange"(int* p, int value)
    bint cas_strong_int "tfsrv_cas_strong"(int* p, int* expected, int value)

    int64_t load_relaxed_i64 "tfsrv_load_relaxed"(const int64_t* p)
    int64_t load_acquire_i64 "tfsrv_load_acquire"(const int64_t* p)
    int64_t load_seq_cst_i64 "tfsrv_load_seq_cst"(const int64_t* p)
    void store_relaxed_i64 "tfsrv_store_relaxed"(int64_t* p, int64_t value)
    void store_release_i64 "tfsrv_store_release"(int64_t* p, int64_t value)
    void store_seq_cst_i64 "tfsrv_store_seq_cst"(int64_t* p, int64_t value)
    int64_t add_relaxed_i64 "tfsrv_add_relaxed"(int64_t* p, int64_t value)
    int64_t add_acq_rel_i64 "tfsrv_add_acq_rel"(int64_t* p, int64_t value)
    int64_t add_seq_cst_i64 "tfsrv_add_seq_cst"(int64_t* p, int64_t value)
    bint cas_weak_i64 "tfsrv_cas_weak"(int64_t* p, int64_t* expected, int64_t value)
    bint cas_strong_i64 "tfsrv_cas_strong"(int64_t* p, int64_t* expected, int64_t value)

    uint64_t load_relaxed_u64 "tfsrv_load_relaxed"(const uint64_t* p)
    uint64_t load_acquire_u64 "tfsrv_load_acquire"(const uint64_t* p)
    void store_relaxed_u64 "tfsrv_store_relaxed"(uint64_t* p, uint64_t value)
    void store_release_u64 "tfsrv_store_release"(uint64_t* p, uint64_t value)
    uint64_t add_relaxed_u64 "tfsrv_add_relaxed"(uint64_t* p, uint64_t value)
    bint cas_weak_u64 "tfsrv_cas_weak"(uint64_t* p, uint64_t* expected, uint64_t value)

    void* load_relaxed_ptr "tfsrv_load_relaxed"(void* const* p)
    void* load_acquire_ptr "tfsrv_load_acquire"(void* const* p)
    void* load_seq_cst_ptr "tfsrv_load_seq_cst"(void* const* p)
    void store_relaxed_ptr "tfsrv_store_relaxed"(void** p, void* value)
    void store_release_ptr "tfsrv_store_release"(void** p, void* value)
    void store_seq_cst_ptr "tfsrv_store_seq_cst"(void** p, void* value)
    void* exchange_ptr "tfsrv_exchange"(void** p, void* value)
    bint cas_weak_ptr "tfsrv_cas_weak"(void** p, void** expected, void* value)
    bint cas_strong_ptr "tfsrv_cas_strong"(void** p, void** expected, void* value)

    void fence "tfsrv_fence"()
    void pause "tfsrv_pause"()
